"""Arrays in shards: written whole or not at all, verified by digest, read as one memory-mapped array."""

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tinsmith.durable import is_full, publish
from tinsmith.errors import DataError, ResourceError
from tinsmith.text.digests import file_digest

Array = NDArray[Any]
Entry = dict[str, Any]  # {"rows": texts in the shard, "files": {name: {"digest", "bytes"}}}


class Rows:
    """Several arrays of equal width as one, along the first axis. Reads like a numpy array; read-only.

    ``rows[3]``, ``rows[10:20]``, ``rows[indices]`` give arrays of the rows asked for and touch no others;
    ``np.asarray(rows)`` gives all (without a copy where there is one shard).
    """

    def __init__(self, parts: Sequence[Array]) -> None:
        self._parts = list(parts)
        self._starts = np.cumsum([0, *map(len, parts)])
        self.shape: tuple[int, ...] = (int(self._starts[-1]), *parts[0].shape[1:])
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        one = len(self._parts) == 1
        array = np.asarray(self._parts[0] if one else np.concatenate(self._parts), dtype)
        return array.copy() if copy and one else array

    def __getitem__(self, index: Any) -> Array:
        if isinstance(index, slice):
            return self._slice(*index.indices(len(self)))
        if isinstance(index, int | np.integer):
            row: Array = self._take(np.array([operator.index(index)]))[0]
            return row
        indices = np.asarray(index)
        return self._take(np.flatnonzero(indices) if indices.dtype == bool else indices.astype(np.int64))

    def _slice(self, start: int, stop: int, step: int) -> Array:
        part = int(np.searchsorted(self._starts, start, side="right")) - 1
        if step == 1 and start < stop <= self._starts[part + 1]:
            first = int(self._starts[part])
            return np.asarray(self._parts[part][start - first : stop - first])
        return self._take(np.arange(start, stop, step))

    def _take(self, indices: Array) -> Array:
        if len(indices) and not -len(self) <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"row {indices.max()} or {indices.min()} of {len(self)} rows")
        indices = np.where(indices < 0, indices + len(self), indices)
        out = np.empty((len(indices), *self.shape[1:]), self.dtype)
        owners = np.searchsorted(self._starts, indices, side="right") - 1
        for part in np.unique(owners):
            chosen = owners == part
            out[chosen] = self._parts[part][indices[chosen] - self._starts[part]]
        return out


def shard_path(folder: Path, name: str, number: int) -> Path:
    """The file of one array of one shard."""
    return folder / f"{name}-{number:05d}.npy"


def write_shard(folder: Path, number: int, rows: int, arrays: Mapping[str, Array]) -> Entry:
    """Write the arrays of a shard durably; returns what a manifest needs to verify them.

    Raises:
        ResourceError: the disk is full, or the folder cannot be written.
    """
    files = {}
    for name, array in arrays.items():
        path = shard_path(folder, name, number)
        try:
            with publish(path) as temporary, temporary.open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                files[name] = {"digest": file_digest(temporary), "bytes": temporary.stat().st_size}
        except OSError as error:
            hint = (
                "free space, or set TINSMITH_CACHE to a folder on a larger disk"
                if is_full(error)
                else "is it writable?"
            )
            raise ResourceError(f"{path}: cannot be written: {error.strerror or error}; {hint}") from None
    return {"rows": rows, "files": files}


def damage(folder: Path, number: int, entry: Entry, verify: bool = True) -> str | None:
    """What is wrong with a shard's files, with the name of the first bad one; None if nothing is."""
    for name, file in entry["files"].items():
        path = shard_path(folder, name, number)
        size = path.stat().st_size if path.exists() else -1
        if size != file["bytes"]:
            found = "is missing" if size < 0 else f"is cut or changed: {size} bytes"
            return f"{path}: {found}, expected {file['bytes']}"
        if verify and file_digest(path) != file["digest"]:
            return f"{path}: is damaged: its digest is not the one in the manifest"
    return None


def read_shards(folder: Path, name: str, count: int) -> Rows:
    """The memory-mapped array of ``count`` shards.

    Raises:
        DataError: there are none, a file is not an array, or its rows are as wide as nobody else's.
    """
    parts: list[Array] = []
    for number in range(count):
        path = shard_path(folder, name, number)
        part = load_array(path, mmap_mode="r")
        if parts and (part.shape[1:], part.dtype) != (parts[0].shape[1:], parts[0].dtype):
            raise DataError(f"{path}: rows {part.shape[1:]} of {part.dtype}, the first shard has other ones")
        parts.append(part)
    if not parts:
        raise DataError(f"{folder}: a store without a shard; build it again")
    return Rows(parts)


def load_array(path: Path, mmap_mode: Literal["r"] | None = None) -> Array:
    """The numbers in an ``.npy`` file; a pickle in it is refused and never read.

    Raises:
        DataError: it is none, or it holds something else.
    """
    try:
        with path.open("rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise ValueError("it does not begin as one")
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except Exception as error:  # numpy parses the header as Python: it fails in too many kinds to name
        raise DataError(f"{path}: not an array: {error}") from None
    if array.dtype.kind not in "fu" or not array.ndim:
        raise DataError(f"{path}: not an array of numbers, as a store has them")
    loaded: Array = array
    return loaded
