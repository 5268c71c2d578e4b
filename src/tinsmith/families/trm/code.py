"""Functions with their documentation, as a corpus for code completion: Python's own sources by default."""

from __future__ import annotations

import ast
import io
import itertools
import json
import sysconfig
import textwrap
import tokenize
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinsmith.errors import DataError, did_you_mean

Snippet = dict[str, str]  # context, code, group

_SKIPPED = {"__phello__", "dist-packages", "ensurepip", "idlelib", "lib-dynload", "lib2to3"}
_SKIPPED |= {"pydoc_data", "site-packages", "test", "tests", "turtledemo"}
_SHORTEST = 24  # characters of a function that is worth a sample


def standard_library(count: int, seed: int = 0, of_module: int = 16) -> list[Snippet]:
    """``count`` functions of the standard library, the first ``of_module`` of modules in random order.

    Copyright Python Software Foundation, under the PSF licence.

    Raises:
        DataError: the installation has no sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = [f for f in sorted(root.rglob("*.py")) if not _SKIPPED & set(f.relative_to(root).parts)]
    if not files:
        raise DataError(f"no sources of the standard library in {root}: set data.path")
    found: list[Snippet] = []
    for i in np.random.default_rng(seed).permutation(len(files)):
        made = functions(files[i].read_bytes(), str(files[i].relative_to(root)))
        found += itertools.islice(made, of_module)
        if len(found) >= count:
            break
    return found[:count]


def functions(source: bytes, group: str) -> Iterator[Snippet]:
    """The functions of a module; what cannot be parsed has none. The docstring becomes the context."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
            text = source.decode(encoding)
            tree = ast.parse(text)
    except (SyntaxError, ValueError, LookupError, RecursionError):
        return
    lines = text.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            code = _without_docstring(node, lines)
            if len(code) >= _SHORTEST:
                doc = (ast.get_docstring(node) or "").split("\n\n")[0]
                yield {"context": " ".join(doc.split()), "code": code, "group": group}


def _without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    end = node.end_lineno or node.lineno
    rows = list(range(node.lineno - 1, end))
    if ast.get_docstring(node, clean=False) is not None:
        first = node.body[0]
        rows = [r for r in rows if not first.lineno - 1 <= r < (first.end_lineno or first.lineno)]
    return textwrap.dedent("\n".join(lines[r] for r in rows)).strip("\n")


def read_snippets(path: Path, columns: Mapping[str, str], skip_bad: bool = False) -> list[Snippet]:
    """Snippets of a JSONL file (columns ``text``, the context, and ``code``), a Python file or a folder.

    Args:
        columns: ``text``, ``code``, ``group`` -> names in the file.
        skip_bad: leave out lines that are not such rows.

    Raises:
        DataError: nothing there, or a line that is no such row; names it.
    """
    if path.is_dir():
        found = [s for file in sorted(path.rglob("*.py")) for s in functions(file.read_bytes(), str(file))]
    elif path.suffix == ".py":
        found = list(functions(path.read_bytes(), path.stem))
    else:
        found = list(_rows(path, columns, skip_bad))
    if not found:
        raise DataError(f"{path}: no functions, and no rows with code")
    return found


def _rows(path: Path, columns: Mapping[str, str], skip_bad: bool) -> Iterator[Snippet]:
    names = {key: columns.get(key, key) for key in ("text", "code", "group")}
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = _row(line)
        code = row.get(names["code"])
        if not isinstance(code, str) or not code.strip():
            if skip_bad:
                continue
            hint = did_you_mean(names["code"], row) if row else ""
            raise DataError(f"{path}:{number}: no text under '{names['code']}'.{hint} See data.columns.")
        code = code.replace("\r\n", "\n").strip("\n")
        yield {
            "context": " ".join(str(row.get(names["text"], "")).split()),
            "code": code,
            "group": str(row.get(names["group"], number)),
        }


def _row(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}
