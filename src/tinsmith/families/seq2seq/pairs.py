"""Pairs of texts: from files, line by line or in columns; and the byte pairs of both languages together."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tinsmith.errors import ConfigError, DataError
from tinsmith.families.seq2seq.config import DataConfig
from tinsmith.families.seq2seq.made import made_pairs
from tinsmith.text.corpora import split_rows
from tinsmith.text.plain import read_lines
from tinsmith.text.prose import normalised
from tinsmith.text.records import read_records
from tinsmith.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of each split: (source, target)."""

    train: list[Pair]
    valid: list[Pair]
    test: list[Pair]


def train_joint_bpe_tokenizer(
    src_texts: Iterable[str],
    tgt_texts: Iterable[str],
    vocab_size: int = 8000,
    min_frequency: int = 2,
    save_dir: str | Path | None = None,
    split_digits: bool = False,
) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016, section 3.2) over both languages: every text round-trips.

    Args:
        src_texts, tgt_texts: the texts of both sides.
        vocab_size: ids in all, 256 bytes and PAD 0, BOS 1, EOS 2, UNK 3 among them.
        min_frequency: how often a pair must occur to be merged.
        save_dir: folder for the tokenizer; ``Tokenizer.load(save_dir)`` reads it.
        split_digits: each digit is a token of its own.

    Raises:
        ConfigError: an impossible size. DataError: no texts. MissingExtraError: no package ``tokenizers``.
    """
    texts = chain(src_texts, tgt_texts)
    tokenizer = Tokenizer.fit(texts, vocab_size, "bpe", min_frequency, split_digits)
    if save_dir is not None:
        Path(save_dir).mkdir(parents=True, exist_ok=True)
        tokenizer.save(save_dir)
    return tokenizer


def load_pairs(cfg: DataConfig, seed: int) -> Pairs:
    """The pairs of a run; a source that a held-out split has too is left out of training.

    Raises:
        DataError: files that cannot be read, do not belong together, or hold too little.
        ConfigError: columns, but no file.
    """
    if not cfg.path:
        if cfg.columns:  # here, so that a preset of columns is valid before a path is
            raise ConfigError(
                f"data.columns={dict(cfg.columns)} says how a file is read: set data.path to it"
            )
        return _split(made_pairs(cfg.pairs, seed, cfg.tables), cfg, seed)
    train = read_pairs(cfg.path, cfg.target, cfg)
    held = {
        name: read_pairs(getattr(cfg, name), getattr(cfg, f"{name}_target"), cfg)
        if getattr(cfg, name)
        else []
        for name in ("valid", "test")
    }
    if not held["valid"]:
        rest = _split(train, cfg, seed, test=not held["test"])
        return Pairs(_without(rest.train, held["test"]), rest.valid, held["test"] or rest.test)
    return Pairs(_without(train, held["valid"] + held["test"]), held["valid"], held["test"])


def read_pairs(path: str, target: str, cfg: DataConfig) -> list[Pair]:
    """The pairs of a file, or of two aligned ones; swapped where ``cfg.reverse``.

    Raises:
        DataError: unaligned files (both counts are named), an empty line, a missing column.
    """
    if target:
        pairs = _aligned(Path(path), Path(target), cfg.on_bad_record)
    elif cfg.columns and all(name.isdigit() for name in cfg.columns.values()):
        pairs = _numbered(Path(path), cfg)
    else:
        columns = {field: name for field, name in cfg.columns.items() if field != name}
        records = read_records(path, {"source", "target"}, columns, cfg.on_bad_record)  # type: ignore[arg-type]
        pairs = [(str(row["source"]), str(row["target"])) for row in records]
    return [(b, a) for a, b in pairs] if cfg.reverse else pairs


def _aligned(source: Path, target: Path, on_bad: str) -> list[Pair]:
    left, right = read_lines(source), read_lines(target)
    if len(left) != len(right):
        raise DataError(
            f"{source} has {len(left):,} lines and {target} {len(right):,}: line i of one belongs to line i "
            "of the other, so they must have as many"
        )
    rows = [(number, a, b) for number, (a, b) in enumerate(zip(left, right, strict=True), 1)]
    return _checked(rows, (source, target), on_bad)


def _numbered(path: Path, cfg: DataConfig) -> list[Pair]:
    """A file without a header row, its columns between tabs."""
    places = [int(cfg.columns.get(field, default)) for field, default in (("source", "1"), ("target", "2"))]
    if min(places) < 1:
        raise DataError(f"data.columns={cfg.columns}: columns count from 1")
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split("\t")
        if len(fields) < max(places):
            fields += [""] * (max(places) - len(fields))
        rows.append((number, fields[places[0] - 1], fields[places[1] - 1]))
    return _checked(rows, (path, path), cfg.on_bad_record)


def _checked(rows: list[tuple[int, str, str]], files: tuple[Path, Path], on_bad: str) -> list[Pair]:
    """The pairs of which both sides have a text."""
    pairs, skipped = [], 0
    for number, *sides in rows:
        empty = [file for file, text in zip(files, sides, strict=True) if not text.strip()]
        if not empty:
            pairs.append((sides[0].strip(), sides[1].strip()))
        elif on_bad == "skip":
            skipped += 1
        else:
            raise DataError(
                f"{empty[0]}:{number}: an empty line, or no such column; give both sides of the pair a text, "
                "or leave it out (data.on_bad_record=skip)"
            )
    if skipped:
        log.warning("%s: skipped %d pairs with an empty side", files[0], skipped)
    if not pairs:
        raise DataError(f"{files[0]}: no pairs")
    return pairs


def _split(pairs: list[Pair], cfg: DataConfig, seed: int, test: bool = True) -> Pairs:
    """By a hash of (seed, source): all targets of a source stay together."""
    rows = [{"text": source, "target": target} for source, target in pairs]
    corpus = split_rows(rows, cfg.valid_share, cfg.test_share if test else 0.0, seed)
    parts = (
        [(row["text"], row["target"]) for row in getattr(corpus, name)] for name in ("train", "valid", "test")
    )
    return Pairs(*parts)


def _without(pairs: list[Pair], held: list[Pair]) -> list[Pair]:
    known = {normalised(source) for source, _ in held}
    kept = [pair for pair in pairs if normalised(pair[0]) not in known]
    if len(kept) < len(pairs):
        log.warning("dropped %d training pairs whose source a held-out split has too", len(pairs) - len(kept))
    if not kept:
        raise DataError("no training pair is left: every source is in a held-out split too")
    return kept
