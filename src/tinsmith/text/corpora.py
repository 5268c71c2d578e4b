"""Corpora of sentences: one embedded in every Python installation, files, and splits without leaks.

A row is ``{"text", "domain", "group"}``; rows of one group (a module, a dialogue) stay in one split.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import xxhash

from tinsmith.errors import ConfigError, DataError
from tinsmith.text import prose
from tinsmith.text.embedded import Row, embedded_corpus
from tinsmith.text.records import read_records

log = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, slots=True)
class Shares:
    """How ``split_rows`` divides: shares of the groups in [0, 1), and the seed of the division."""

    valid: float = 0.05
    test: float = 0.05
    seed: int = 42

    def validate(self) -> None:
        """Raise ``ConfigError`` unless the shares leave something to train on."""
        for name in ("valid", "test"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"share of {name}={getattr(self, name)}: allowed are 0 to below 1")
        if self.valid + self.test >= 1:
            raise ConfigError(f"shares valid={self.valid} and test={self.test} leave nothing to train on")


@dataclass(frozen=True, slots=True)
class Corpus:
    """Three splits of rows; ``skipped`` bad records, ``dropped`` rows whose text another split holds."""

    train: list[Row]
    valid: list[Row]
    test: list[Row]
    source: str
    skipped: int = 0
    dropped: int = 0

    def counts(self) -> dict[str, int]:
        """Rows per split, and what was skipped and dropped."""
        sizes = {name: len(getattr(self, name)) for name in SPLITS}
        return {**sizes, "skipped": self.skipped, "dropped": self.dropped}


def load_corpus(
    path: str | Path | None = None,
    valid: str | Path | None = None,
    test: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    on_bad: Literal["error", "skip"] = "error",
    shares: Shares = Shares(),
    cache_dir: str | Path | None = None,
) -> Corpus:
    """The sentences of a file, or the embedded ones, in three splits without a text in common.

    Args:
        path: file of texts (``read_records``); None: ``embedded_corpus``.
        valid: file of the validation split. With ``valid`` or ``test`` given, nothing is split off ``path``.
        test: file of the test split.
        columns: field -> column of the files (``text``, ``domain``, ``group``).
        on_bad: raise on a bad record, or skip and count it.
        shares: what to split off where neither ``valid`` nor ``test`` is given.
        cache_dir: where the embedded corpus is kept between runs; None: nowhere.

    Raises:
        ConfigError: ``valid`` or ``test`` without ``path``, impossible shares.
        DataError: a file cannot be read, or all of its rows are in another split too.
    """
    if path is None:
        if valid is not None or test is not None:
            raise ConfigError("a validation or test file needs a training file: set data.train=<file>")
        return _split(embedded_corpus(cache_dir), shares, "embedded")
    files = dict(zip(SPLITS, (path, valid, test), strict=True))
    parts: dict[str, list[Row]] = {name: [] for name in SPLITS}
    skipped = 0
    for name, file in files.items():
        if file is not None:
            parts[name], bad = _read(Path(file), columns, on_bad)
            skipped += bad
    if valid is None and test is None:
        split = _split(parts["train"], shares, str(path))
        return Corpus(split.train, split.valid, split.test, str(path), skipped, split.dropped)
    return _without_leaks(parts, str(path), skipped)


def split_rows(rows: Iterable[Row], valid: float = 0.05, test: float = 0.05, seed: int = 42) -> Corpus:
    """Split by group: a group's split is a hash of (seed, group), so that new rows move no old ones.

    A row without ``group`` is its own group. A text (case and spaces aside) that two splits hold stays in
    the one held out most (test, then valid). A split that is wanted gets at least one group where there are
    enough; the shares are of groups, so the counts of rows only come near them.

    Args:
        rows: ``{"text", ...}``.
        valid: share of the groups for validation, in [0, 1).
        test: share of the groups for the test.
        seed: of the division.

    Raises:
        ConfigError: impossible shares.
        DataError: there is nothing left to train on.
    """
    return _split(rows, Shares(valid, test, seed), "rows")


def _split(rows: Iterable[Row], shares: Shares, source: str) -> Corpus:
    shares.validate()
    rows = list(rows)
    groups = [row.get("group") or prose.normalised(row["text"]) for row in rows]
    split_of = _assign({*groups}, shares)
    parts: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for row, group in zip(rows, groups, strict=True):
        parts[split_of[group]].append(row)
    return _without_leaks(parts, source, 0)


def _assign(groups: set[str], shares: Shares) -> dict[str, str]:
    """The split of each group."""
    place = {group: _fraction(f"{shares.seed}\0{group}") for group in groups}
    split_of = {}
    for group, at in place.items():
        held_out = "test" if at < shares.test else "valid" if at < shares.test + shares.valid else "train"
        split_of[group] = held_out
    wanted = ["train", *(name for name in ("valid", "test") if getattr(shares, name))]
    ordered = sorted(groups, key=lambda group: (place[group], group))
    for name in wanted if len(groups) >= len(wanted) else ():
        if name not in split_of.values():  # so few groups: take one of the split with the most
            ((donor, _),) = Counter(split_of.values()).most_common(1)
            split_of[next(group for group in ordered if split_of[group] == donor)] = name
    return split_of


def _fraction(key: str) -> float:
    """A hash of ``key``, spread evenly over [0, 1)."""
    return float(xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass")) / 2**64)


def _without_leaks(parts: dict[str, list[Row]], source: str, skipped: int) -> Corpus:
    """Drop from train what valid or test holds, and from valid what test holds."""
    held: set[str] = set()
    kept: dict[str, list[Row]] = {}
    dropped = 0
    for name in reversed(SPLITS):
        texts = [prose.normalised(row["text"]) for row in parts[name]]
        kept[name] = [row for row, text in zip(parts[name], texts, strict=True) if text not in held]
        held.update(texts)
        dropped += len(texts) - len(kept[name])
        if not kept[name] and (texts or name == "train"):
            why = (
                "every text is in valid or test too"
                if texts
                else f"the split left no rows of {len(held)} texts"
            )
            raise DataError(
                f"{source}: nothing is left of the {name} split: {why}; give more, or other, texts"
            )
    if dropped:
        log.warning("%s: dropped %d rows whose text a held-out split holds too", source, dropped)
    return Corpus(kept["train"], kept["valid"], kept["test"], source, skipped, dropped)


def _read(
    path: Path, columns: Mapping[str, str] | None, on_bad: Literal["error", "skip"]
) -> tuple[list[Row], int]:
    """The rows of a file; a row without a domain gets the name of the file."""
    given = dict(columns or {})
    fields = {"text", *given}
    records = read_records(path, fields, given, on_bad)
    name = path.name.split(".")[0]
    rows = []
    for record in records:
        row = {"text": record["text"], "domain": str(record.get("domain", name))}
        if record.get("group") is not None:
            row["group"] = str(record["group"])
        rows.append(row)
    return rows, records.skipped
