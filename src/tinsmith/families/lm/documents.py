"""The text of a run: files of any kind, or what every Python installation carries."""

from __future__ import annotations

import logging
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from tinsmith.errors import DataError
from tinsmith.families.lm.config import DataConfig
from tinsmith.text.corpora import split_rows
from tinsmith.text.embedded import embedded_corpus
from tinsmith.text.plain import read_text
from tinsmith.text.records import read_records
from tinsmith.text.store import default_cache

log = logging.getLogger(__name__)

_RECORDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
# Not the library proper, generated, or full of sample data.
_SKIPPED = {"__phello__", "dist-packages", "encodings", "ensurepip", "idlelib", "lib-dynload", "lib2to3"}
_SKIPPED |= {"pydoc_data", "site-packages", "test", "tests", "turtledemo"}


@dataclass(frozen=True, slots=True)
class Documents:
    """The documents of each split; a file of plain text is one document."""

    train: list[str]
    valid: list[str]
    test: list[str]


def load_documents(cfg: DataConfig, seed: int) -> Documents:
    """Read the text and split it.

    Several documents are split by a hash of (seed, document), so that new ones move no old ones. Of a single
    one the end is set apart: first the validation share, behind it the test share.

    Raises:
        DataError: a file that cannot be read or is no text, or too little of it.
    """
    if cfg.path:
        documents = read_documents(Path(cfg.path), cfg)
    else:
        documents = _limited(_embedded(cfg.source), cfg.max_bytes)
    if not cfg.valid and not cfg.test:
        return _split(documents, cfg, seed)
    valid, test = ([*read_documents(Path(name), cfg)] if name else [] for name in (cfg.valid, cfg.test))
    if not valid:
        rest = _split(documents, cfg, seed, test=False)
        return Documents(rest.train, rest.valid, test)
    return Documents(documents, valid, test)


def read_documents(path: Path, cfg: DataConfig) -> list[str]:
    """The documents of a file: records with a column of texts, else the whole file as one."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in _RECORDS:
        columns = {"text": cfg.column} if cfg.column != "text" else {}
        records = read_records(path, {"text"}, columns, cfg.on_bad_record)  # type: ignore[arg-type]
        return _limited((str(row["text"]) for row in records), cfg.max_bytes)
    return _limited([read_text(path)], cfg.max_bytes)


def _limited(documents: Iterator[str] | list[str], max_bytes: int) -> list[str]:
    """The documents up to a number of bytes (0: all), the last one cut."""
    if not max_bytes:
        return list(documents)
    kept, left = [], max_bytes
    for text in documents:
        data = text.encode("utf-8", "replace")
        kept.append(text if len(data) <= left else data[:left].decode("utf-8", "ignore"))
        left -= len(data)
        if left <= 0:
            break
    return kept


def _embedded(source: str) -> list[str]:
    """``docs``: a document for each module and topic; ``code``: one for each source file.

    Copyright Python Software Foundation, under the PSF licence.
    """
    if source == "code":
        return list(_sources(Path(sysconfig.get_path("stdlib"))))
    by_group: dict[str, list[str]] = {}
    for row in embedded_corpus(default_cache() / "corpora"):
        by_group.setdefault(row["group"], []).append(row["text"])
    return ["\n".join(lines) + "\n" for lines in by_group.values()]


def _sources(root: Path) -> Iterator[str]:
    found = False
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        parts = path.relative_to(root).with_suffix("").parts
        if _SKIPPED.intersection(parts) or any(part.startswith("config-") for part in parts):
            continue
        text = path.read_text("utf-8", "replace").replace("\r\n", "\n")
        if text.strip():
            found = True
            yield text
    if not found:
        raise DataError(f"{root}: this Python has no sources of its standard library; set data.path=<file>")


def _split(documents: list[str], cfg: DataConfig, seed: int, test: bool = True) -> Documents:
    share = cfg.test_share if test else 0.0
    if len(documents) == 1:
        return _split_one(documents[0], cfg.valid_share, share)
    rows = [
        {"text": text, "group": xxhash.xxh3_128_hexdigest(text.encode("utf-8", "replace"))}
        for text in documents
    ]
    corpus = split_rows(rows, cfg.valid_share, share, seed)
    parts = ([row["text"] for row in getattr(corpus, name)] for name in ("train", "valid", "test"))
    return Documents(*parts)


def _split_one(text: str, valid: float, test: float) -> Documents:
    first, second = int(len(text) * (1 - valid - test)), int(len(text) * (1 - test))
    rest = [text[second:]] if test else []
    if not text[:first].strip() or not text[first:second].strip() or (test and not rest[0].strip()):
        raise DataError(f"a text of {len(text)} characters is too short to set {valid + test:.0%} apart")
    return Documents([text[:first]], [text[first:second]], rest)
