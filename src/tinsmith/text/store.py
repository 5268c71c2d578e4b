"""The store of teacher vectors: computed once, memory-mapped ever after, never those of another teacher.

A store is a folder named by its key, the digest of the texts, the teacher's fingerprint and the options.
Its rows lie in shards; ``manifest.json``, with the digest of every file, is written last. A build that was
interrupted goes on after its last whole shard.
"""

import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from tinsmith.durable import replace_bytes
from tinsmith.errors import DataError
from tinsmith.text.building import (
    FORMAT,
    MANIFEST,
    Item,
    Items,
    build_shards,
    digest_items,
    known_shards,
    read_manifest,
    text_keys,
)
from tinsmith.text.digests import file_digest, value_digest
from tinsmith.text.shards import Array, damage, load_array, read_shards

log = logging.getLogger(__name__)

SHARD_ROWS = 8192  # half a minute of a small teacher on a CPU; 13 MB of 384 numbers each
FLOAT16_BYTES = 8 << 30  # what would be larger in float32 is kept in float16

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]


class Teacher(Protocol):
    """What a store needs of a teacher; ``EmbeddingLoader`` has it."""

    @property
    def fingerprint(self) -> str:
        """Tells apart teachers that give other vectors."""

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        """[B, Z] float32."""


class VectorStore:
    """An opened store of N vectors.

    Attributes:
        vectors: [N, Z] float32 (float16 in a store that would exceed 8 GB), memory-mapped, in the order of
            the texts.
        fingerprint: the teacher's.
        size: Z.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Map the arrays of a verified manifest; use ``open_store``."""
        self.folder = folder
        self.fingerprint: str = manifest["fingerprint"]
        self._shards = len(manifest["shards"])
        self.vectors = read_shards(folder, "vectors", self._shards)
        if len(self.vectors.shape) != 2:
            raise DataError(
                f"{folder}: the vectors are {self.vectors.shape}, not [N, Z]; build the store again"
            )
        self.size: int = self.vectors.shape[1]

    def __len__(self) -> int:
        return len(self.vectors)

    def rows_of(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The row of each text, wherever the store has it: [B] int64.

        Raises:
            DataError: a text is not in the store.
        """
        ordered, order = self._index
        wanted = text_keys(texts)
        places = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        lacking = np.flatnonzero(ordered[places] != wanted)
        if len(lacking):
            text = texts[int(lacking[0])]
            raise DataError(f"{self.folder}: no vector for {len(lacking)} texts, the first: {text[:60]!r}")
        rows: NDArray[np.int64] = order[places]
        return rows

    @cached_property
    def _index(self) -> tuple[Array, NDArray[np.int64]]:
        keys = np.asarray(read_shards(self.folder, "keys", self._shards))
        order = np.argsort(keys, kind="stable")
        return keys[order], order


def default_cache() -> Path:
    """Where caches lie: $TINSMITH_CACHE, else $XDG_CACHE_HOME/tinsmith, else ~/.cache/tinsmith."""
    if own := os.environ.get("TINSMITH_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tinsmith"


def build_store(
    folder: str | Path | None,
    texts: Iterable[str],
    teacher: Teacher,
    progress: Progress | None = None,
    dtype: Literal["auto", "float32", "float16"] = "auto",
) -> VectorStore:
    """The teacher's vectors of the texts: from the store below ``folder`` if it is there, else computed.

    Two processes that build the same store take turns; the second finds it done.

    Args:
        folder: holds stores, each in a folder named by its key; None: ``default_cache() / "vectors"``.
        texts: N texts, gone through twice and never all in memory: a list, or what can be iterated anew.
        teacher: computes shard by shard.
        progress: called with (done, N).
        dtype: of the vectors; ``auto``: float32, but float16 where they would exceed 8 GB.

    Raises:
        DataError: no texts, texts that change on the way, or a vector of a wrong size or not finite.
        ResourceError: the disk is full, or the folder cannot be written.
    """
    if isinstance(texts, Iterator):
        raise TypeError("build_store goes through the texts twice: give a list, or what can be iterated anew")
    items: Items = lambda: ((text, None) for text in texts)  # noqa: E731
    digest = digest_items(items())
    if not digest.count:
        raise DataError("no texts to compute vectors of")
    plan = {"format": FORMAT, "fingerprint": teacher.fingerprint, "dtype": dtype}
    plan |= {"texts": digest.hexdigest(), "count": digest.count}
    home = (Path(folder) if folder is not None else default_cache() / "vectors") / value_digest(plan)
    try:
        return open_store(home, teacher.fingerprint)
    except DataError as error:
        if known_shards(home):
            log.info("%s: going on with it (%s)", home, error)
    compute = partial(_computed, teacher, dtype, digest.count)
    build_shards(home, plan, items, compute, SHARD_ROWS, progress)
    return open_store(home, teacher.fingerprint, verify=False)


def open_store(
    folder: str | Path, teacher_fingerprint: str | None = None, size: int | None = None, verify: bool = True
) -> VectorStore:
    """Open a store's own folder, after checking that it is whole and the right one.

    Args:
        folder: ``VectorStore.folder``.
        teacher_fingerprint: what the store must have been made by; None: anything.
        size: the Z it must have; None: anything.
        verify: compare the digest of every file (a gigabyte in well under a second).

    Raises:
        DataError: unfinished, damaged, of another teacher or size; names the file.
    """
    folder = Path(folder)
    manifest = read_manifest(folder / MANIFEST)
    if teacher_fingerprint is not None and manifest["fingerprint"] != teacher_fingerprint:
        raise DataError(
            f"{folder}: vectors of another teacher (fingerprint {manifest['fingerprint']}, "
            f"expected {teacher_fingerprint}); build the store with this one, or use that teacher"
        )
    for number, entry in enumerate(manifest["shards"]):
        if wrong := damage(folder, number, entry, verify):
            raise DataError(f"{wrong}; build the store again, whole shards are kept")
    store = VectorStore(folder, manifest)
    if len(store) != manifest["count"] or size not in (None, store.size):
        raise DataError(
            f"{folder}: {len(store)} vectors of size {store.size}, expected {manifest['count']} "
            f"of size {size or store.size}"
        )
    return store


def cached_token_table(folder: str | Path | None, teacher: Any, progress: Progress | None = None) -> Floats:
    """``teacher.token_table()`` [V, Z], computed once per fingerprint; the file's name holds its digest.

    Args:
        folder: holds the tables; None: ``default_cache() / "tables"``.
        teacher: an ``EmbeddingLoader``.
        progress: called with (done, V) while it is computed.
    """
    home = Path(folder) if folder is not None else default_cache() / "tables"
    for path in home.glob(f"{teacher.fingerprint}-*.npy"):
        try:
            if file_digest(path) == path.stem.rpartition("-")[2]:
                return load_array(path)
            log.warning("%s: damaged; computed again", path)
        except (DataError, OSError) as error:
            log.warning("%s; computed again", error)
        path.unlink(missing_ok=True)
    table: Floats = teacher.token_table(progress)
    file = io.BytesIO()
    np.save(file, table, allow_pickle=False)
    digest = xxhash.xxh3_128_hexdigest(file.getbuffer())
    replace_bytes(home / f"{teacher.fingerprint}-{digest}.npy", file.getvalue())
    return table


def _computed(
    teacher: Teacher, dtype: str, total: int, chunk: list[Item], report: Progress
) -> dict[str, Array]:
    """The arrays of a shard."""
    texts = [text for text, _ in chunk]
    vectors = teacher.encode(texts, report)
    if vectors.shape[:-1] != (len(texts),):
        raise DataError(f"the teacher gave an array {vectors.shape} for {len(texts)} texts, not [B, Z]")
    large = dtype == "auto" and 4 * total * vectors.shape[1] > FLOAT16_BYTES
    with np.errstate(over="ignore"):
        array: Array = vectors.astype(np.float16 if large or dtype == "float16" else np.float32)
    bad = np.flatnonzero(~np.isfinite(array).all(1))
    if len(bad):
        text = texts[int(bad[0])]
        raise DataError(f"the teacher's output is not finite in {array.dtype} for the text {text[:60]!r}")
    return {"vectors": array}
