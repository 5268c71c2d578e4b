"""``tinsmith predict``: a line in, a line of JSON out, in batches, so that any length streams."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from tinsmith.console import to_json
from tinsmith.durable import publish
from tinsmith.errors import DataError

_BATCH = 512
_LONGEST = 16 * 2**20  # bytes of a line


def answer_lines(predictor: Callable[[list[Any]], list[Any]], source: str, target: str) -> int:
    """Answer the lines of ``source`` into ``target`` (``-``: stdin, stdout); returns their number.

    A line that begins with ``{`` is a JSON object, any other is a text. The target file is whole or absent.

    Raises:
        DataError: a line is broken, empty or too long, or there is none. Names file and line.
    """
    with _reading(source) as lines, _writing(target) as out:
        count = 0
        items = _parsed(lines, source)
        while batch := list(islice(items, _BATCH)):
            for answer in _answers(predictor, batch):
                out.write(to_json(answer) + "\n")
            count += len(batch)
        if not count:
            raise DataError(f"{_shown(source)} has no lines: nothing to predict")
    return count


def _answers(predictor: Callable[[list[Any]], list[Any]], batch: list[tuple[str, Any]]) -> list[Any]:
    try:
        return predictor([item for _, item in batch])
    except DataError:
        for place, item in batch:  # which of them it is, a predictor of a batch cannot say by its line
            try:
                predictor([item])
            except DataError as error:
                raise DataError(f"{place}: {str(error).removeprefix('input 0: ')}") from None
        raise


def _shown(source: str) -> str:
    return "stdin" if source == "-" else source


def _parsed(lines: Iterator[bytes], source: str) -> Iterator[tuple[str, Any]]:
    """Each line's ``file:line`` and what it holds."""
    for number, raw in enumerate(lines, 1):
        place = f"{_shown(source)}:{number}"
        if len(raw) > _LONGEST:
            raise DataError(f"{place}: a line of over 16 MiB")
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            item = json.loads(line) if line.startswith("{") else line
        except UnicodeDecodeError as error:
            raise DataError(f"{place}:{error.start + 1}: not UTF-8; save the file as UTF-8") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: broken JSON: {error}") from None
        if not item:
            raise DataError(f"{place}: an empty line; every line is an input")
        yield place, item


@contextlib.contextmanager
def _reading(source: str) -> Iterator[Iterator[bytes]]:
    if source == "-":
        yield _lines(sys.stdin.buffer)
        return
    with Path(source).open("rb") as file:
        yield _lines(file)


def _lines(file: Any) -> Iterator[bytes]:
    while line := file.readline(_LONGEST + 1):
        yield line


@contextlib.contextmanager
def _writing(target: str) -> Iterator[TextIO]:
    if target == "-":
        yield sys.stdout
        return
    with publish(Path(target)) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file
