"""The embedded corpus: English sentences that every Python installation carries."""

import ast
import gzip
import json
import logging
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import xxhash

from tinsmith.durable import replace_bytes
from tinsmith.errors import DataError
from tinsmith.text import prose
from tinsmith.text.records import read_records

log = logging.getLogger(__name__)

Row = dict[str, str]

# Not the standard library proper, generated, or full of sample data.
_SKIPPED = {"__phello__", "dist-packages", "encodings", "ensurepip", "idlelib", "lib-dynload", "lib2to3"}
_SKIPPED |= {"pydoc_data", "site-packages", "test", "tests", "turtledemo"}


def embedded_corpus(cache_dir: str | Path | None = None) -> list[Row]:
    """English sentences of Python's own documentation: about 15,000 of 4 to 40 words, each once.

    Domains ``reference`` (the help topics), ``docstring`` and ``comment`` (the standard library's sources,
    parsed and never imported); the group is the topic or module. Copyright Python Software Foundation,
    under the PSF licence. The same installation always gives the same rows in the same order.

    Args:
        cache_dir: folder that keeps the rows, keyed by Python's version and this code; None: not kept.

    Raises:
        DataError: the installation has no sources of the standard library.
    """
    if cache_dir is None:
        return _collect()
    code = xxhash.xxh3_128(sys.version.encode())
    for module in (__file__, prose.__file__):
        code.update(Path(module).read_bytes())
    path = Path(cache_dir) / f"embedded-{code.hexdigest()}.jsonl.gz"
    if path.exists():
        try:
            return list(read_records(path, {"text", "domain", "group"}))
        except DataError as error:
            log.warning("made anew: %s", error)
    rows = _collect()
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    replace_bytes(path, gzip.compress(lines.encode(), mtime=0))
    return rows


def _collect() -> list[Row]:
    root = Path(sysconfig.get_path("stdlib"))
    seen: set[str] = set()
    rows = []
    for domain, group, document in _documents(root):
        for paragraph in prose.paragraphs(document):
            for sentence in prose.sentences(paragraph):
                key = prose.normalised(sentence)
                if key not in seen:
                    seen.add(key)
                    rows.append({"text": sentence, "domain": domain, "group": group})
    if not rows:
        raise DataError(f"{root}: this Python has no sources of its standard library; set data.train=<file>")
    return rows


def _documents(root: Path) -> Iterator[tuple[str, str, str]]:
    """(domain, group, document) for each topic, docstring and block of comments below ``root``."""
    for topic, text in _topics(root / "pydoc_data" / "topics.py"):
        yield "reference", f"topic {topic}", text
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        parts = path.relative_to(root).with_suffix("").parts
        if _SKIPPED.intersection(parts) or any(part.startswith("config-") for part in parts):
            continue
        source = path.read_bytes()
        module = ".".join(parts).removesuffix(".__init__")
        for document in _docstrings(_parsed(source)):
            yield "docstring", module, document
        for block in _comments(source):
            yield "comment", module, block


def _parsed(source: bytes) -> ast.Module:
    """The syntax tree, empty where the source has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in somebody else's source
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError):
            return ast.Module([], [])


def _docstrings(node: ast.AST) -> Iterator[str]:
    """The docstrings in the statements below ``node``; half a million expressions are not looked at."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield ast.get_docstring(node) or ""
    for part in ("body", "orelse", "handlers", "finalbody"):
        children = getattr(node, part, None)
        for child in children if isinstance(children, list) else ():
            yield from _docstrings(child)


def _topics(path: Path) -> list[tuple[str, str]]:
    """The help topics: ``topics = {name: text, ...}``."""
    for node in _parsed(path.read_bytes() if path.exists() else b"").body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            table: dict[str, str] = ast.literal_eval(node.value)
            return sorted(table.items())
    return []


def _comments(source: bytes) -> Iterator[str]:
    """Blocks of whole-line comments, without their marks."""
    block: list[str] = []
    for line in [*source.decode("utf-8", "replace").splitlines(), ""]:
        text = line.strip()
        if text.startswith("#"):
            block.append(text[1:])
        elif block:
            yield "\n".join(block)
            block = []
