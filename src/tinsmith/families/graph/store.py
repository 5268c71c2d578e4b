"""Arrays that are computed once: a folder named by what they depend on, with a digest of each file.

Two processes that compute the same arrays write the same files, each whole or absent; the manifest comes
last. A damaged folder is computed anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.durable import is_full, publish, replace_bytes
from tinsmith.errors import DataError, ResourceError
from tinsmith.sealed import MANIFEST, manifest_of, read_manifest
from tinsmith.text.digests import file_digest, value_digest
from tinsmith.text.store import default_cache

log = logging.getLogger(__name__)

Array = NDArray[Any]


def cache_folder(given: str = "") -> Path:
    """``given``, or else ``graph`` in the user's cache."""
    return Path(given).expanduser() if given else default_cache() / "graph"


def cached(root: Path, key: Mapping[str, Any], make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
    """The arrays that ``make`` computes, from the folder of ``key`` if they are there; memory-mapped.

    Args:
        root: holds the folders.
        key: all that the arrays depend on, as JSON can hold it.
        make: computes them: name -> array.

    Raises:
        ResourceError: they cannot be written.
    """
    home = root / value_digest(dict(key))
    try:
        return read_arrays(home)
    except FileNotFoundError:
        pass
    except DataError as error:
        log.warning("%s; computed again", error)
    arrays = make()
    write_arrays(home, arrays)
    return read_arrays(home, verify=False)


def write_arrays(home: Path, arrays: Mapping[str, Array]) -> None:
    """Write each array as ``<name>.npy``, and the manifest of them.

    Raises:
        ResourceError: the disk is full, or the folder cannot be written.
    """
    entries = {}
    try:
        (home / MANIFEST).unlink(missing_ok=True)
        for name, array in arrays.items():
            with publish(home / f"{name}.npy") as temporary, temporary.open("wb") as file:
                np.save(file, np.ascontiguousarray(array), allow_pickle=False)
                file.flush()
                entries[f"{name}.npy"] = _entry(temporary)
        replace_bytes(home / MANIFEST, manifest_of(entries))
    except OSError as error:
        hint = "free space, or name another folder" if is_full(error) else "is it writable?"
        raise ResourceError(f"{home}: cannot be written: {error.strerror or error}; {hint}") from None


def read_arrays(home: Path, verify: bool = True) -> dict[str, Array]:
    """The arrays of a folder, memory-mapped.

    Raises:
        FileNotFoundError: there are none.
        DataError: a file is not the one that was written; names it.
    """
    (home / MANIFEST).stat()
    arrays = {}
    for name, entry in read_manifest(home, "cache", ()).items():
        path = home / name
        try:
            found = _entry(path) if verify else entry
            arrays[path.stem] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"damaged cache: {path} cannot be read ({error})") from None
        if found != entry:
            raise DataError(f"damaged cache: the content of {path} does not match its digest")
    return arrays


def _entry(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "xxh3_128": file_digest(path)}
