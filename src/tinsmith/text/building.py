"""Building a store shard by shard: one process at a time, and on from where the last one stopped."""

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tinsmith.durable import replace_bytes
from tinsmith.errors import DataError, ResourceError
from tinsmith.text.digests import TextDigest, value_digest
from tinsmith.text.shards import Array, Entry, damage, shard_path, write_shard

log = logging.getLogger(__name__)

FORMAT = 1
MANIFEST, PROGRESS, LOCK = "manifest.json", "progress.json", ".lock"

Progress = Callable[[int, int], None]
Item = tuple[str, Array | None]  # a text, and the vector that came with it
Items = Callable[[], Iterator[Item]]
Compute = Callable[[list[Item], Progress], Mapping[str, Array]]


def digest_items(items: Iterable[Item]) -> TextDigest:
    """The digest of all texts and their vectors."""
    digest = TextDigest()
    for _ in _watched(items, digest):
        pass
    return digest


def text_keys(texts: Iterable[str]) -> NDArray[np.uint64]:
    """xxh3-64 of each text: what finds a text's row."""
    return np.array([xxhash.xxh3_64_intdigest(text.encode()) for text in texts], np.uint64)


def build_shards(
    home: Path,
    plan: Mapping[str, Any],
    items: Items,
    compute: Compute,
    shard_rows: int,
    progress: Progress | None = None,
) -> None:
    """Compute the shards that ``home`` does not have, and its manifest.

    Args:
        home: the store's folder.
        plan: what the manifest says besides the shards; ``texts`` and ``count`` are checked at the end.
        items: gives the texts from the start.
        compute: the arrays of a shard; it has a row per item in ``vectors``.
        shard_rows: texts per shard.
        progress: called with (done, count).

    Raises:
        DataError: the texts are not those of the plan; from ``compute``.
        ResourceError: the folder cannot be written.
    """
    with _turn(home):
        known = known_shards(home)
        digest, entries, done = TextDigest(), list[Entry](), 0
        stream = _watched(items(), digest)
        while chunk := list(islice(stream, shard_rows)):
            number = len(entries)
            keys = text_keys(text for text, _ in chunk)
            if number < len(known) and _same(home, number, known[number], keys):
                entries.append(known[number])
            else:
                arrays = compute(chunk, _shifted(progress, done, plan["count"]))
                entries.append(write_shard(home, number, len(chunk), {"keys": keys, **arrays}))
                if len(known) <= number + 1:  # an older list of more shards is worth more
                    _write_manifest(home / PROGRESS, plan, entries)
            done += len(chunk)
            if progress:
                progress(done, plan["count"])
        if (digest.hexdigest(), digest.count) != (plan["texts"], plan["count"]):
            raise DataError(f"{home}: the texts changed while their vectors were computed; run it again")
        _write_manifest(home / MANIFEST, plan, entries)
        (home / PROGRESS).unlink(missing_ok=True)


def read_manifest(path: Path) -> dict[str, Any]:
    """What ``path`` says of a store.

    Raises:
        DataError: it is missing, damaged (it holds its own digest) or of another format.
    """
    try:
        manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
        whole = manifest.pop("digest") == value_digest(manifest)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; not a store, or one whose build was interrupted") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: damaged: {error}; build the store again") from None
    if not whole or manifest.get("format") != FORMAT:
        why = f"format {manifest.get('format')}, not {FORMAT}" if whole else "damaged: its digest is another"
        raise DataError(f"{path}: {why}; build the store again")
    if not _is_manifest(manifest):
        raise DataError(f"{path}: not the manifest of a store; build the store again")
    return manifest


def _is_manifest(manifest: dict[str, Any]) -> bool:
    """Whether it says all that is relied on: what it does not name would be read without a check."""
    try:
        return (
            isinstance(manifest["fingerprint"], str)
            and isinstance(manifest["count"], int)
            and all(
                {"keys", "vectors"} <= set(entry["files"])
                and all(Path(name).name == name for name in entry["files"])
                and all({"digest", "bytes"} <= set(file) for file in entry["files"].values())
                for entry in manifest["shards"]
            )
        )
    except (KeyError, TypeError, AttributeError):
        return False


def known_shards(home: Path) -> list[Entry]:
    """The shards that a manifest, or an interrupted build, says are there."""
    for name in (MANIFEST, PROGRESS):
        with contextlib.suppress(DataError):
            return list(read_manifest(home / name)["shards"])
    return []


def _same(home: Path, number: int, entry: Entry, keys: NDArray[np.uint64]) -> bool:
    """Whether a shard is whole and of these very texts."""
    wrong = damage(home, number, entry)
    if wrong:
        log.warning("%s; computed again", wrong)
        return False
    return np.array_equal(np.load(shard_path(home, "keys", number), allow_pickle=False), keys)


def _watched(items: Iterable[Item], digest: TextDigest) -> Iterator[Item]:
    for text, vector in items:
        digest.update(text, b"" if vector is None else vector.tobytes())
        yield text, vector


def _shifted(progress: Progress | None, start: int, total: int) -> Progress:
    """Report a shard's progress as that of the whole."""

    def report(done: int, _: int) -> None:
        if progress:
            progress(start + done, total)

    return report


def _write_manifest(path: Path, plan: Mapping[str, Any], entries: list[Entry]) -> None:
    value = {**plan, "shards": entries}
    replace_bytes(path, json.dumps({**value, "digest": value_digest(value)}, indent=1).encode())


@contextlib.contextmanager
def _turn(home: Path) -> Iterator[None]:
    """Wait until no other process builds in ``home``, and sweep what a killed one left.

    The lock dies with its process. Where there are no such locks (Windows), unique temporary names and
    renames still keep every file whole; the work is then done twice.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / LOCK).open("w")
    except OSError as error:
        hint = "set TINSMITH_CACHE to a folder that can be written"
        raise ResourceError(f"{home}: cannot be made: {error.strerror or error}; {hint}") from None
    with lock:
        try:
            import fcntl
        except ImportError:
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log.info("%s: waiting for another process that builds it", home)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for litter in home.glob(".*.tmp"):
            litter.unlink(missing_ok=True)
        yield
