"""Vectors that the user brings along, one with each record, as a store."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.errors import DataError
from tinsmith.text.building import FORMAT, Item, build_shards, digest_items
from tinsmith.text.digests import value_digest
from tinsmith.text.records import Records, read_records
from tinsmith.text.shards import Array
from tinsmith.text.store import SHARD_ROWS, VectorStore, default_cache, open_store


def store_from_records(
    folder: str | Path | None,
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    fingerprint: str | None = None,
    size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> VectorStore:
    """A store of the vectors in a file of records ``{"text": "...", "teacher": [0.1, ...]}``.

    The rows are in the order of the records; ``VectorStore.rows_of`` finds them by text. The file is read
    twice and never held in memory.

    Args:
        folder: holds stores, each in a folder named by its key; None: ``default_cache() / "vectors"``.
        path: JSONL or JSON.
        columns: the file's own names of ``text`` and ``teacher``.
        fingerprint: names the model that made the vectors, so that a student is never trained on with
            those of another; None: a digest of the data, which any change of the data changes.
        size: Z; None: that of the first record.
        progress: called with (done, N).

    Raises:
        DataError: a bad record, or a vector of another size, empty, zero or not finite; names the line.
        ResourceError: the folder cannot be written.
    """
    records = read_records(path, {"text": str, "teacher": list}, columns)

    def items() -> Iterator[Item]:
        expected = size
        for record in records:
            vector = _vector(record["teacher"], records, expected)
            expected = len(vector)
            yield record["text"], vector

    digest = digest_items(items())
    named = fingerprint or f"given-{digest.hexdigest()}"
    plan = {"format": FORMAT, "fingerprint": named, "dtype": "float32"}
    plan |= {"texts": digest.hexdigest(), "count": digest.count}
    home = (Path(folder) if folder is not None else default_cache() / "vectors") / value_digest(plan)
    try:
        return open_store(home, named, size)
    except DataError:
        build_shards(home, plan, items, _stacked, SHARD_ROWS, progress)
    return open_store(home, named, size, verify=False)


def _stacked(chunk: list[Item], report: Callable[[int, int], None]) -> dict[str, Array]:
    vectors = np.stack([vector for _, vector in chunk if vector is not None])
    report(len(chunk), len(chunk))
    return {"vectors": vectors}


def _vector(values: list[Any], records: Records, size: int | None) -> NDArray[np.float32]:
    where = f"{records.where()}: field '{records.columns.get('teacher', 'teacher')}'"
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise DataError(f"{where} holds what is not a number; a vector is a flat list of numbers")
    with np.errstate(over="ignore"):
        wide = [min(max(value, -1e300), 1e300) for value in values]  # an integer of 400 digits is no float
        vector = np.array(wide, np.float64).astype(np.float32)
    if not len(vector) or len(vector) != (size or len(vector)):
        raise DataError(f"{where} has {len(vector)} numbers, expected {size or 'at least one'}")
    if not np.isfinite(vector).all():
        column = int(np.flatnonzero(~np.isfinite(vector))[0]) + 1
        raise DataError(f"{where} is not finite in float32: number {column} is {values[column - 1]}")
    if not vector.any():
        raise DataError(f"{where} is all zeros: it has no direction")
    return vector
