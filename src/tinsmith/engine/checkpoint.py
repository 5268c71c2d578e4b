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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import xxhash
from torch import Tensor

from tinsmith.durable import sync_folder, write_synced
from tinsmith.errors import DataError, ResourceError

log = logging.getLogger(__name__)

MANIFEST = "MANIFEST.json"
STATE = "state.json"
_TEMPORARY = ".tmp-"
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
    try:
        temporary.mkdir(parents=True)
        _write_files(temporary, parts, state)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ResourceError(
            f"could not save the checkpoint {folder}: {error.strerror or error}. "
            "Earlier checkpoints are untouched. Free some space there, then resume."
        ) from error


def _write_files(temporary: Path, parts: Parts, state: dict[str, Any]) -> None:
    aliases: dict[str, dict[str, str]] = {}
    files: dict[str, bytes] = {}
    for stem, tensors in parts.items():
        unique, aliases[stem] = _untie(tensors)
        files[f"{stem}.safetensors"] = safetensors.torch.save(unique)
    record = {**state, "aliases": {stem: names for stem, names in aliases.items() if names}}
    files[STATE] = json.dumps(record, allow_nan=False).encode()
    manifest = {name: {"size": len(data), "xxh3_128": _digest(data)} for name, data in files.items()}
    for name, data in files.items():
        write_synced(temporary / name, data)
    write_synced(temporary / MANIFEST, json.dumps({"format": 1, "files": manifest}, indent=1).encode())
    sync_folder(temporary)


def _untie(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that safetensors takes, and the names that mean the same tensor as an earlier name."""
    first: dict[tuple[Any, ...], str] = {}
    unique: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
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
    files = _verified_files(folder)
    state: dict[str, Any] = json.loads(files.pop(STATE))
    parts = {name.removesuffix(".safetensors"): safetensors.torch.load(data) for name, data in files.items()}
    for stem, names in state.pop("aliases", {}).items():
        for name, target in names.items():
            parts[stem][name] = parts[stem][target]
    return parts, state


def _verified_files(folder: Path) -> dict[str, bytes]:
    manifest = _manifest(folder)
    files = {}
    for name, entry in manifest.items():
        path = folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"damaged checkpoint: {path} cannot be read ({error.strerror}).") from error
        if len(data) != entry["size"]:
            raise DataError(f"damaged checkpoint: {path} has {len(data)} bytes of {entry['size']}.")
        if _digest(data) != entry["xxh3_128"]:
            raise DataError(f"damaged checkpoint: the content of {path} does not match its digest.")
        files[name] = data
    return files


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    try:
        files = json.loads(path.read_bytes())["files"]
        ok = STATE in files and all(
            isinstance(entry["size"], int) and isinstance(entry["xxh3_128"], str) and Path(name).name == name
            for name, entry in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"damaged checkpoint: {path} is missing or unreadable.") from error
    if not ok:
        raise DataError(f"damaged checkpoint: {path} does not describe a checkpoint.")
    result: dict[str, dict[str, Any]] = files
    return result


def _digest(data: bytes) -> str:
    return str(xxhash.xxh3_128_hexdigest(data))


def find_checkpoints(root: Path) -> list[Found]:
    """The checkpoints under ``root``: those of the run that saved last, newest step first, then the others'.

    Found by scanning; links are never followed. A folder without a readable state is named in the log.
    """
    found = []
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        if path.is_symlink() or not path.is_dir() or path.name.startswith(_TEMPORARY):
            continue
        try:
            state = json.loads((path / STATE).read_bytes())
            found.append(
                Found(path, state["run_id"], state["global_step"], state["saved_at"], state["best_here"])
            )
        except (OSError, ValueError, KeyError, TypeError):
            log.warning("skipping %s: not a whole checkpoint", path)
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
    mine = [item for item in found if item.run_id == found[0].run_id]
    for item in mine:
        try:
            return (item.path, *read_checkpoint(item.path))
        except DataError as error:
            log.warning("%s Using the one before it.", error)
    if mine:
        raise DataError(f"every checkpoint in {root} is damaged: {', '.join(i.path.name for i in mine)}.")
    return None


def best_checkpoint(root: Path) -> Path | None:
    """The newest whole checkpoint that holds the last run's best weights, or None."""
    found = find_checkpoints(root)
    for item in found:
        if item.run_id == found[0].run_id and item.metric is not None:
            try:
                _verified_files(item.path)
                return item.path
            except DataError as error:
                log.warning("%s", error)
    return None


def prune(root: Path, run_id: str, keep: int) -> None:
    """Delete this run's older checkpoints: all but the ``keep`` newest and the newest best one.

    Also sweeps what killed runs left half-built. Failing to delete is logged, never raised.
    """
    mine = [item for item in find_checkpoints(root) if item.run_id == run_id]
    best = next((item for item in mine if item.metric is not None), None)
    doomed = [item.path for item in mine[max(2, keep) :] if item != best]
    doomed += [path for path in root.glob(f"{_TEMPORARY}*") if not path.name.endswith(f"-{os.getpid()}")]
    for path in doomed:
        try:
            # The manifest goes first: a deletion cut short must not look like a damaged checkpoint's truth.
            (path / STATE).unlink(missing_ok=True)
            shutil.rmtree(path)
        except OSError as error:
            log.warning("could not delete the old checkpoint %s: %s", path, error)


def link(root: Path, name: str, target: Path) -> None:
    """Point ``root/name`` at a checkpoint, for people's eyes; tinsmith itself never reads the link."""
    temporary = root / f"{_TEMPORARY}{name}-{os.getpid()}"
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.name)
        temporary.replace(root / name)
    except OSError as error:  # a file system without links
        log.debug("no link %s: %s", name, error)
