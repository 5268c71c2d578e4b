"""Checkpoint folders that are whole or not there, and that show any damage.

A folder holds ``<part>.safetensors`` files, ``state.json`` and, written last, ``MANIFEST.json`` with the
size and the xxh3-128 digest of each. It is built under a temporary name: every file synced, the folder
synced, renamed, the parent synced. Nothing is trusted that does not match its manifest, and no pickle is
read or written.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from tinsmith.durable import is_full, make_folder, sync_folder, write_synced
from tinsmith.errors import DataError, ResourceError
from tinsmith.sealed import MANIFEST as MANIFEST
from tinsmith.sealed import Entry, entry_of, manifest_of, read_entry, read_manifest

log = logging.getLogger(__name__)

STATE = "state.json"
_WHAT = "checkpoint"
_TEMPORARY = ".tmp-"
_building: set[str] = set()  # names of what this process is writing, maybe in another thread
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
Parts = dict[str, dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint on disk as its manifest and state describe it, contents not yet verified."""

    path: Path
    run_id: str
    step: int
    saved_at: float
    metric: float | None


def write_checkpoint(folder: Path, parts: Parts, state: dict[str, Any]) -> None:
    """Write a checkpoint durably; on return it is on disk, before that no reader sees it.

    Args:
        folder: its final path; must not exist.
        parts: file stem -> named tensors (any device; tied and non-contiguous ones are taken apart).
        state: what JSON can hold, NaN excluded.

    Raises:
        ResourceError: the disk is full or refuses. What was there before is untouched.
    """
    temporary = folder.parent / f"{_TEMPORARY}{folder.name}-{os.getpid()}"
    _building.add(temporary.name)
    try:
        make_folder(folder.parent)
        _delete(temporary)  # of a killed process with the same number (as in a container), or a failed save's
        temporary.mkdir()
        _write_files(temporary, parts, state)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        hint = "Free some space there" if is_full(error) else "See that this disk works and may be written"
        raise ResourceError(
            f"could not save the checkpoint {folder}: {error.strerror or error}. "
            f"Earlier checkpoints are untouched. {hint}, then resume."
        ) from error
    finally:
        _building.discard(temporary.name)


def _write_files(temporary: Path, parts: Parts, state: dict[str, Any]) -> None:
    aliases: dict[str, dict[str, str]] = {}
    files: dict[str, Entry] = {}
    for stem, tensors in parts.items():
        unique, aliases[stem] = _untie(tensors)
        name = f"{stem}.safetensors"
        files[name] = _write_file(temporary, name, _serialised(unique))
    record = {**state, "aliases": {stem: names for stem, names in aliases.items() if names}}
    files[STATE] = _write_file(temporary, STATE, [json.dumps(record, allow_nan=False).encode()])
    write_synced(temporary / MANIFEST, manifest_of(files))
    sync_folder(temporary)


def _write_file(folder: Path, name: str, data: Sequence[bytes | memoryview]) -> Entry:
    write_synced(folder / name, *data)
    return entry_of(*data)


def _serialised(tensors: dict[str, Tensor]) -> list[bytes | memoryview]:
    """A safetensors file in pieces: its header, then the tensors' own memory.

    The library's ``save`` copies all of it twice while no other thread can run: 90 ms a 100 MB.
    """
    header: dict[str, Any] = {}
    data: list[bytes | memoryview] = []
    end = 0
    # Larger items first, so that each tensor is aligned in the file, as readers that map it expect.
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        data.append(tensor.reshape(-1).view(torch.uint8).numpy().data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *data]


def memory_of(tensor: Tensor) -> tuple[Any, ...]:
    """What two names of one tensor have in common (but for empty ones, which are all alike)."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _untie(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that safetensors takes, and the names that mean the same tensor as an earlier name."""
    first: dict[tuple[Any, ...], str] = {}
    unique: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        key = memory_of(tensor)
        if tensor.numel() and key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
            unique[name] = tensor.cpu().contiguous()
            if tensor.numel() and unique[name].untyped_storage().nbytes() != tensor.nbytes:
                unique[name] = unique[name].clone()  # a view into something larger
    return unique, aliases


def read_checkpoint(folder: Path) -> tuple[Parts, dict[str, Any]]:
    """Read and verify a checkpoint.

    Returns:
        The tensors by file stem (on the CPU), and the state.

    Raises:
        DataError: a file is missing, short or altered. The message names it.
    """
    files = dict(_verified(folder))
    try:
        return _parsed(files)
    except Exception as error:  # digests that are right say nothing of a file that somebody made
        raise DataError(
            f"damaged checkpoint: {folder} does not hold a trainer's state ({error!r})."
        ) from error


def _parsed(files: dict[str, bytes]) -> tuple[Parts, dict[str, Any]]:
    state: dict[str, Any] = json.loads(files.pop(STATE))
    parts = {name.removesuffix(".safetensors"): safetensors.torch.load(data) for name, data in files.items()}
    for stem, names in state.pop("aliases", {}).items():
        for name, target in names.items():
            parts[stem][name] = parts[stem][target]
    return parts, state


def _verified(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, one at a time, once it matches the manifest."""
    for name, entry in read_manifest(folder, _WHAT, [STATE]).items():
        yield name, read_entry(folder / name, entry, _WHAT)


def _is_whole(folder: Path) -> bool:
    try:
        for _ in _verified(folder):
            pass
    except DataError as error:
        log.warning("%s", error)
        return False
    return True


def _folders(root: Path) -> list[Path]:
    """What may be a checkpoint under ``root``. Links are never followed."""
    paths = sorted(root.iterdir()) if root.is_dir() else []
    return [p for p in paths if not p.is_symlink() and p.is_dir() and not p.name.startswith(_TEMPORARY)]


def find_checkpoints(root: Path) -> list[Found]:
    """The checkpoints under ``root``: those of the run that saved last, newest step first, then the others'.

    Found by scanning. A folder whose state does not match its manifest is named in the log: the order
    must not hang on damaged numbers.
    """
    found = []
    for path in _folders(root):
        try:
            entry = read_manifest(path, _WHAT, [STATE])[STATE]
            state = json.loads(read_entry(path / STATE, entry, _WHAT))
            found.append(
                Found(
                    path,
                    str(state["run_id"]),
                    int(state["global_step"]),
                    float(state["saved_at"]),
                    state["best_here"],
                )
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            log.warning("skipping %s: not a whole checkpoint (%s)", path, error)
    latest: dict[str, float] = {}
    for item in found:
        latest[item.run_id] = max(latest.get(item.run_id, 0.0), item.saved_at)
    return sorted(found, key=lambda item: (latest[item.run_id], item.step, item.saved_at), reverse=True)


def read_newest(root: Path) -> tuple[Path, Parts, dict[str, Any]] | None:
    """The newest checkpoint under ``root`` that is whole. A damaged one is named, skipped, and the one
    before it in the same run is used. None where there is no checkpoint at all.

    Raises:
        DataError: there are checkpoints, and every one of the last run's is damaged.
    """
    found = find_checkpoints(root)
    mine = [item.path for item in found if item.run_id == found[0].run_id]
    for path in mine:
        try:
            return (path, *read_checkpoint(path))
        except DataError as error:
            log.warning("%s Using the one before it.", error)
    damaged = mine or [path for path in _folders(root) if path.name.startswith("step-")]
    if damaged:
        raise DataError(
            f"every checkpoint in {root} is damaged: {', '.join(path.name for path in damaged)}. "
            "Put back a copy of one, or move that folder away to start anew."
        )
    return None


def best_checkpoint(root: Path) -> Path | None:
    """The newest whole checkpoint that holds the last run's best weights, or None."""
    found = find_checkpoints(root)
    best = (item.path for item in found if item.run_id == found[0].run_id and item.metric is not None)
    return next((path for path in best if _is_whole(path)), None)


def prune(root: Path, run_id: str, keep: int) -> None:
    """Delete this run's older checkpoints: all but the ``keep`` newest whole ones and the newest whole best.

    Also sweeps what killed runs left half-built. Failing to delete is logged, never raised.
    """
    try:
        superseded = _superseded(root, run_id, max(2, keep))
        # Renamed first, durably: one that is deleted in part is never found under its own name.
        for path in superseded:
            path.rename(root / f"{_TEMPORARY}{path.name}-{os.getpid()}")
        if superseded:
            sync_folder(root)
        litter = [path for path in root.glob(f"{_TEMPORARY}*") if path.name not in _building]
    except OSError as error:
        log.warning("could not delete old checkpoints in %s: %s", root, error)
        return
    for path in litter:
        try:
            _delete(path)
        except OSError as error:
            log.warning("could not delete %s: %s", path, error)


def _superseded(root: Path, run_id: str, keep: int) -> list[Path]:
    """What is older than enough whole ones. A damaged one counts for nothing: it keeps no other one out."""
    whole, best, superseded = 0, False, []
    for item in find_checkpoints(root):
        if item.run_id != run_id:
            continue
        if whole >= keep and (best or item.metric is None):
            superseded.append(item.path)
        elif _is_whole(item.path):
            whole, best = whole + 1, best or item.metric is not None
    return superseded


def _delete(path: Path) -> None:
    """Delete a file, a link (not what it points to) or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link(root: Path, name: str, target: Path) -> None:
    """Point ``root/name`` at a checkpoint, for people's eyes; tinsmith itself never reads the link."""
    temporary = root / f"{_TEMPORARY}{name}-{os.getpid()}"
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.name)
        temporary.replace(root / name)
    except OSError as error:  # a file system without links
        log.debug("no link %s: %s", name, error)
