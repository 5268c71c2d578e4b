"""The formats of text files: each reader streams (line, row), or (line, what is wrong with the row).

A reader raises ``DataError`` only where reading cannot go on; what it yields can be skipped.
"""

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from tinsmith.errors import DataError, did_you_mean

MAX_LINE = 16 << 20  # bytes; a longer line or JSON value is refused and never held in memory
CHUNK = 1 << 16

BinaryFile = io.BufferedIOBase
Row = dict[str, Any]
Item = tuple[int, Row | DataError]


def read_items(path: Path) -> Iterator[Item]:
    """The records of a file by its suffix, each with the line it starts on.

    Raises:
        DataError: no such file, a folder, an unknown suffix, a damaged gzip, a broken JSON list or header.
    """
    try:
        read = _reader(path)
        with gzip.open(path, "rb") if _zipped(path) else path.open("rb") as file:
            yield from read(path, file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file: {error}; get it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {str: "a text", dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _zipped(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _reader(path: Path) -> Callable[[Path, BinaryFile], Iterator[Item]]:
    suffixes = path.suffixes[:-1] if _zipped(path) else path.suffixes
    suffix = suffixes[-1].lower() if suffixes else ""
    if path.is_dir():
        raise DataError(f"{path}: a folder; name a file in it")
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file.{did_you_mean(path.name, beside)}")
    if not path.is_file():
        raise DataError(f"{path}: a pipe or a device; a file is read more than once: write it to a file")
    if suffix not in _READERS:
        raise DataError(
            f"{path}: unknown kind of file '{suffix}'; known: {', '.join(_READERS)}, each also .gz"
        )
    return _READERS[suffix]


def _lines(path: Path, file: BinaryFile) -> Iterator[tuple[int, str | DataError]]:
    """The decoded lines with their numbers, without line ends and BOM."""
    number = 0
    while raw := file.readline(MAX_LINE + 2):
        number += 1
        raw = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
        line = raw.removesuffix(b"\n").removesuffix(b"\r")
        if len(line) > MAX_LINE:
            while not raw.endswith(b"\n") and (raw := file.readline(CHUNK)):
                pass
            yield (
                number,
                DataError(f"{path}:{number}: the line is longer than {MAX_LINE >> 20} MiB; split it"),
            )
        else:
            yield number, _decoded(path, number, line)


def _decoded(path: Path, number: int, line: bytes) -> str | DataError:
    if b"\0" in line:
        column = line.index(b"\0") + 1
        return DataError(f"{path}:{number}:{column}: a NUL byte; is the file really UTF-8 text?")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        return _not_utf8(path, number, error.start + 1, error)


def _not_utf8(path: Path, line: int, column: int, error: UnicodeDecodeError) -> DataError:
    byte = error.object[error.start]
    return DataError(
        f"{path}:{line}:{column}: byte 0x{byte:02x} is not UTF-8; "
        "save the file as UTF-8 (for example: iconv -f latin1 -t utf-8)"
    )


def _read_text(path: Path, file: BinaryFile) -> Iterator[Item]:
    for number, line in _lines(path, file):
        if isinstance(line, DataError):
            yield number, line
        elif line.strip():
            yield number, {"text": line}


def _read_jsonl(path: Path, file: BinaryFile) -> Iterator[Item]:
    for number, line in _lines(path, file):
        if isinstance(line, DataError):
            yield number, line
        elif line.strip():
            yield number, _json_line(path, number, line)


def _json_line(path: Path, number: int, line: str) -> Row | DataError:
    try:
        return _object(path, number, DECODER.decode(line))
    except json.JSONDecodeError as error:
        return DataError(f"{path}:{number}:{error.colno}: broken JSON: {error.msg}")
    except (ValueError, RecursionError) as error:  # NaN, an integer of 5,000 digits, 10,000 brackets
        return DataError(f"{path}:{number}: broken JSON: {error}")


def _object(path: Path, number: int, value: Any) -> Row | DataError:
    if isinstance(value, dict):
        return value
    return DataError(f'{path}:{number}: {kind_of(value)}, not an object; a record is {{"text": "..."}}')


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; leave the value out or write a number")


DECODER = json.JSONDecoder(parse_constant=_no_constant)


class _Feed:
    """The lines as ``csv.reader`` wants them, and what to do where a record of them is broken."""

    def __init__(self, path: Path, file: BinaryFile) -> None:
        self.lines = _lines(path, file)
        self.taken: list[tuple[int, str | DataError]] = []  # the record's
        self.again: list[tuple[int, str | DataError]] = []  # to be read once more, the last one first

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        self.taken.append(self.again.pop() if self.again else next(self.lines))
        line = self.taken[-1][1]
        return "\n" if isinstance(line, DataError) else line + "\n"  # a quoted field may span lines

    def undecoded(self) -> DataError | None:
        """The first line of the record that could not be decoded."""
        return next((line for _, line in self.taken if isinstance(line, DataError)), None)

    def give_back(self) -> None:
        """Read all but the record's first line again: a quote that nothing closes costs its own line only."""
        self.again += reversed(self.taken[1:])


def _read_table(path: Path, file: BinaryFile, tabs: bool = False) -> Iterator[Item]:
    feed = _Feed(path, file)
    style: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"delimiter": ","}
    reader = csv.reader(feed, strict=True, **style)
    header: list[str] = []
    while True:
        feed.taken.clear()
        row: list[str] | Row | DataError
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            row = DataError(f"{path}:{feed.taken[0][0]}: broken row: {error}")
        start, undecoded = feed.taken[0][0], feed.undecoded()
        if header and row and isinstance(row, list):
            row = _table_row(path, start, header, row)
        if isinstance(row, DataError):
            feed.give_back()
        if undecoded and (len(feed.taken) == 1 or not isinstance(row, DataError)):
            row = undecoded
        if not header:
            header = _header(path, start, row)
        elif row:
            assert not isinstance(row, list)
            yield start, row


def _header(path: Path, number: int, values: Any) -> list[str]:
    if isinstance(values, DataError):
        raise values
    names = [value.strip() for value in values]
    twice = {name for name in names if names.count(name) > 1}
    if twice or "" in names:
        what = f"has '{min(twice)}' twice" if twice - {""} else "has a column without a name"
        raise DataError(f"{path}:{number}: the header row {what}; the first row names the columns")
    return names


def _table_row(path: Path, number: int, header: list[str], values: list[str]) -> Row | DataError:
    if len(values) != len(header):
        return DataError(f"{path}:{number}: {len(values)} columns, the header has {len(header)}")
    return dict(zip(header, values, strict=True))


class _Json:
    """A window over a JSON text: what is not yet parsed, and where in the file it starts."""

    MARGIN = 4  # characters that must follow a value: "1" may be the start of "1e+5"

    def __init__(self, path: Path, file: BinaryFile) -> None:
        self.path, self.file = path, file
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.pos, self.line, self.column, self.ended = "", 0, 1, 1, False

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self.pos < len(self.text):
                if self.text[self.pos] not in " \t\r\n":
                    return self.text[self.pos]
                self.step()
            if self.ended:
                return ""
            self.fill()

    def value(self) -> Any:
        """Parse the next value, reading no more than it needs (and never more than ``MAX_LINE``)."""
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.pos)
            except json.JSONDecodeError as error:
                if self.ended or len(self.text) - self.pos > MAX_LINE:
                    self.advance(min(error.pos, len(self.text)))
                    raise self.error(error.msg) from None
            except (ValueError, RecursionError) as error:
                raise self.error(str(error)) from None
            else:
                if self.ended or end + self.MARGIN < len(self.text):
                    self.advance(end)
                    return value
            self.fill()

    def step(self) -> None:
        """Go one character on."""
        self.advance(self.pos + 1)

    def fill(self) -> None:
        """Drop what is parsed and read on."""
        raw = self.file.read(max(CHUNK, len(self.text) - self.pos))  # doubling: linear time in all
        self.ended = not raw
        try:
            new = self.decoder.decode(raw, self.ended)
        except UnicodeDecodeError as error:
            self.advance(len(self.text))
            good = error.object[: error.start]
            line = self.line + good.count(b"\n")
            column = error.start - good.rfind(b"\n") + (self.column - 1 if line == self.line else 0)
            raise _not_utf8(self.path, line, column, error) from None
        self.text, self.pos = self.text[self.pos :] + new, 0

    def advance(self, end: int) -> None:
        """Go on to ``end``, counting lines and columns."""
        lines = self.text.count("\n", self.pos, end)
        self.line += lines
        self.column = end - self.text.rfind("\n", self.pos, end) if lines else self.column + end - self.pos
        self.pos = end

    def error(self, reason: str) -> DataError:
        return DataError(f"{self.path}:{self.line}:{self.column}: broken JSON: {reason}")


def _read_json(path: Path, file: BinaryFile) -> Iterator[Item]:
    source = _Json(path, file)
    opening = source.peek()
    if not opening:
        return
    if opening != "[":
        raise source.error("not a list of objects; a file of one object per line is a .jsonl file")
    source.step()
    follows = source.peek()
    while follows != "]":
        source.peek()
        line = source.line
        yield line, _object(path, line, source.value())
        follows = source.peek()
        if follows not in (",", "]"):
            raise source.error("expected ',' or ']'")
        if follows == ",":
            source.step()
    source.step()
    if source.peek():
        raise source.error("something follows the list")


_READERS: dict[str, Callable[[Path, BinaryFile], Iterator[Item]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_table,
    ".tsv": partial(_read_table, tabs=True),
    ".txt": _read_text,
}
