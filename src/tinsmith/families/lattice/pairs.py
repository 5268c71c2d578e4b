"""Pairs of a question and its answer: from files, from the Python installation, and split without leaks.

A pair is ``{"question", "answer"}``, where it is known also ``{"group"}``: pairs of one group (a dialogue, a
module) stay in one split.
"""

from __future__ import annotations

import ast
import gzip
import json
import logging
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import xxhash

from tinsmith.durable import replace_bytes
from tinsmith.errors import DataError
from tinsmith.text import embedded
from tinsmith.text.corpora import SPLITS, Shares, split_rows
from tinsmith.text.embedded import _SKIPPED, _parsed
from tinsmith.text.prose import normalised
from tinsmith.text.records import read_records

log = logging.getLogger(__name__)

Pair = dict[str, str]
SIDES = ("question", "answer")

_GROUPS = ("group", "dialogue")  # columns that say which pairs belong together
_LONGEST = 240  # characters of an embedded question: a signature may go on for a page
_FEWEST_WORDS = 3  # of an embedded answer


def load_pairs(path: str | Path, question: str = "question", answer: str = "answer") -> list[Pair]:
    """The pairs of a file, in its order; a column ``group`` or ``dialogue`` becomes the group.

    Args:
        path: ``.json``, ``.jsonl``, ``.csv`` or ``.tsv``, also with ``.gz`` (``read_records``).
        question, answer: the names of the two columns.

    Raises:
        DataError: a column is missing, a text is empty or broken, or there are no pairs; names file and line.
    """
    records = read_records(path, SIDES, {"question": question, "answer": answer})
    pairs = []
    try:
        for row in records:
            pair = {side: row[side] for side in SIDES}
            group = next((row[name] for name in _GROUPS if isinstance(row.get(name), str | int)), "")
            pairs.append({**pair, "group": str(group)} if group != "" else pair)
    except DataError as error:  # the columns of pairs have settings of their own
        text = str(error).replace("data.columns.", "dialogue_data.").partition(", for example ")[0]
        raise DataError(text.replace(" (data.on_bad_record=skip)", "")) from None
    return pairs


def embedded_pairs(cache_dir: str | Path | None = None) -> list[Pair]:
    """What the objects of Python's standard library are called, and what their docstrings say first.

    A question is a qualified name with its signature (``json.dumps(obj, *, indent=None)``), an answer the
    first line of the docstring, the group the module. No question and no answer comes twice. Copyright Python
    Software Foundation, under the PSF licence; the same installation always gives the same pairs in the same
    order.

    Args:
        cache_dir: folder that keeps the pairs, keyed by Python's version and this code; None: not kept.

    Raises:
        DataError: the installation has no sources of the standard library.
    """
    if cache_dir is None:
        return _collect()
    code = xxhash.xxh3_128(sys.version.encode())
    for module in (__file__, embedded.__file__):
        code.update(Path(module).read_bytes())
    path = Path(cache_dir) / f"embedded-pairs-{code.hexdigest()}.jsonl.gz"
    if path.exists():
        try:
            return load_pairs(path)
        except DataError as error:
            log.warning("made anew: %s", error)
    pairs = _collect()
    lines = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
    replace_bytes(path, gzip.compress(lines.encode(), mtime=0))
    return pairs


def split_pairs(pairs: Sequence[Pair], shares: Shares, source: str) -> dict[str, list[Pair]]:
    """Train, valid and test: by group, and without a question or an answer that two splits have in common.

    Raises:
        DataError: there is nothing left to train on.
    """
    rows = [{"text": pair["question"], **pair} for pair in pairs]
    corpus = split_rows(rows, shares.valid, shares.test, shares.seed)
    return without_leaks({name: getattr(corpus, name) for name in SPLITS}, source)


def without_leaks(parts: Mapping[str, Sequence[Pair]], source: str) -> dict[str, list[Pair]]:
    """Drop from train the pairs of which valid or test holds either side, and from valid those of test.

    Raises:
        DataError: nothing is left of a split that had pairs, or of train.
    """
    held: dict[str, set[str]] = {side: set() for side in SIDES}
    kept: dict[str, list[Pair]] = {}
    for name in reversed(SPLITS):
        rows = [(pair, {side: normalised(pair[side]) for side in SIDES}) for pair in parts[name]]
        kept[name] = [pair for pair, keys in rows if not any(keys[side] in held[side] for side in SIDES)]
        for side in SIDES:
            held[side].update(keys[side] for _, keys in rows)
        if dropped := len(rows) - len(kept[name]):
            log.warning(
                "%s: dropped %d pairs of the %s split: a held-out one has their question or answer",
                source,
                dropped,
                name,
            )
        if not kept[name] and (rows or name == "train"):
            raise DataError(
                f"{source}: nothing is left of the {name} split: every question or answer of it is in a "
                "held-out one too; give more, or other, pairs"
            )
    return {name: kept[name] for name in SPLITS}


def _collect() -> list[Pair]:
    root = Path(sysconfig.get_path("stdlib"))
    seen: dict[str, set[str]] = {side: set() for side in SIDES}
    pairs = []
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        parts = path.relative_to(root).with_suffix("").parts
        if _SKIPPED.intersection(parts) or any(part.startswith("config-") for part in parts):
            continue
        module = ".".join(parts).removesuffix(".__init__")
        for question, answer in _documented(_parsed(path.read_bytes()), module):
            keys = {"question": normalised(question), "answer": normalised(answer)}
            if not any(keys[side] in seen[side] for side in SIDES):
                for side in SIDES:
                    seen[side].add(keys[side])
                pairs.append({"question": question, "answer": answer, "group": module})
    if not pairs:
        raise DataError(
            f"{root}: this Python has no sources of its standard library; set "
            "dialogue_data.source_file=<file>"
        )
    return pairs


def _documented(node: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    """Name with signature, and first line of the docstring, of each class and function below ``node``.

    Those inside functions are left out: nobody can name them.
    """
    for part in ("body", "orelse", "handlers", "finalbody"):
        children = getattr(node, part, None)
        for child in children if isinstance(children, list) else ():
            if isinstance(child, ast.ClassDef):
                bases = ", ".join(map(ast.unparse, child.bases))
                yield from _pair(child, f"class {prefix}.{child.name}({bases})")
                yield from _documented(child, f"{prefix}.{child.name}")
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _pair(child, f"{prefix}.{child.name}({ast.unparse(child.args)})")
            else:
                yield from _documented(child, prefix)


def _pair(
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, question: str
) -> Iterator[tuple[str, str]]:
    lines = (ast.get_docstring(node) or "").strip().splitlines()
    answer = " ".join(lines[0].split()) if lines else ""
    if len(answer.split()) >= _FEWEST_WORDS and answer[0].isalpha() and "->" not in answer:
        yield question[:_LONGEST], answer
