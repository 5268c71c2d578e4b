"""Folders that show any damage: ``MANIFEST.json``, written last, has the size and digest of each file."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from tinsmith.durable import replace_bytes
from tinsmith.errors import DataError

MANIFEST = "MANIFEST.json"
Entry = dict[str, Any]  # {"size": bytes, "xxh3_128": digest in hexadecimal}


def entry_of(*data: bytes | memoryview) -> Entry:
    """Size and xxh3-128 digest of a file that consists of ``data``."""
    digest = xxhash.xxh3_128()
    for part in data:
        digest.update(part)
    return {"size": sum(len(part) for part in data), "xxh3_128": digest.hexdigest()}


def manifest_of(files: dict[str, Entry]) -> bytes:
    """The content of a ``MANIFEST.json``."""
    return json.dumps({"format": 1, "files": files}, indent=1).encode()


def read_manifest(folder: Path, what: str, needs: Iterable[str]) -> dict[str, Entry]:
    """The entries of a folder's manifest.

    Args:
        what: the folder is, for the message: ``checkpoint``.
        needs: names that must be among them.

    Raises:
        DataError: it is missing or malformed, names a file elsewhere, or lacks one.
    """
    path = folder / MANIFEST
    try:
        files: dict[str, Entry] = json.loads(path.read_bytes())["files"]
        ok = all(name in files for name in needs) and all(
            isinstance(entry["size"], int)
            and isinstance(entry["xxh3_128"], str)
            and Path(name).name == name
            and name.isprintable()  # a NUL or half a surrogate pair is no name of a file
            for name, entry in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"damaged {what}: {path} is missing or unreadable.") from error
    if not ok:
        raise DataError(f"damaged {what}: {path} does not describe a {what}.")
    return files


def read_entry(path: Path, entry: Entry, what: str) -> bytes:
    """The content of a file that must be the one of ``entry``.

    Raises:
        DataError: it cannot be read, or is another; names it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"damaged {what}: {path} cannot be read ({error.strerror}).") from error
    found = entry_of(data)
    if found["size"] != entry["size"]:
        raise DataError(f"damaged {what}: {path} has {found['size']} bytes of {entry['size']}.")
    if found["xxh3_128"] != entry["xxh3_128"]:
        raise DataError(f"damaged {what}: the content of {path} does not match its digest.")
    return data


def seal(folder: Path, names: Iterable[str]) -> None:
    """Write the manifest of the files ``names``, which are in ``folder`` already."""
    files = {name: entry_of((folder / name).read_bytes()) for name in names}
    replace_bytes(folder / MANIFEST, manifest_of(files))


def read_sealed(folder: Path, what: str, names: Iterable[str]) -> dict[str, bytes]:
    """The content of the files ``names``, each as it was when ``seal`` saw it.

    Raises:
        FileNotFoundError: the manifest or a file is not there.
        DataError: a file is another than that of the manifest, or the manifest does not have it; names it.
    """
    names = list(names)
    for name in (MANIFEST, *names):
        (folder / name).stat()
    known = read_manifest(folder, what, names)
    return {name: read_entry(folder / name, known[name], what) for name in names}


def model_folder(path: str | Path) -> Path:
    """A ``model/`` folder, given it or the run folder that holds it."""
    return Path(path) / "model" if (Path(path) / "model").is_dir() else Path(path)


@contextmanager
def reading_model(folder: Path, what: str) -> Iterator[None]:
    """Whatever fails while a model's folder is read becomes one message that names it and ``what`` it is not.

    Raises:
        DataError: in place of every other error.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(
            f"no {what} in {folder}: {Path(str(error.filename)).name} is missing. "
            "A run writes model/ when it ends."
        ) from None
    except Exception as error:  # settings and weights that do not fit fail in too many kinds to name
        why = " ".join((str(error) or repr(error)).split())
        raise DataError(f"{folder}: not a {what}, or a damaged one: {why}") from None
