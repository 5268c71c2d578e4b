"""Records of text files, one by one: JSONL, JSON, CSV, TSV and plain text, each also as ``.gz``.

A bad record is a ``DataError`` that reads ``file:line[:column]: reason; hint``.
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from tinsmith.errors import ConfigError, DataError, did_you_mean
from tinsmith.text.formats import Row, kind_of, read_items

log = logging.getLogger(__name__)

Fields = Collection[str] | Mapping[str, type]


def read_records(
    path: str | Path,
    fields: Fields = frozenset({"text"}),
    columns: Mapping[str, str] | None = None,
    on_bad: Literal["error", "skip"] = "error",
) -> "Records":
    """The records of a file, streamed; ``for row in read_records("a.jsonl"): row["text"]``.

    Blank lines are no records. ``.txt``: a line is a text. ``.csv`` (quoted) and ``.tsv`` (never quoted)
    have a header row. ``.json`` holds one list of objects.

    Args:
        path: ``.jsonl .ndjson .json .csv .tsv .txt``, each also with ``.gz``; UTF-8, BOM and CRLF accepted.
        fields: names every record must have: non-empty texts, or name -> type (``{"teacher": list}``).
        columns: field -> the file's own name for it (``{"text": "sentence"}``).
        on_bad: what to do with a bad record: raise, or skip and count it in ``Records.skipped``.

    Raises:
        ConfigError: an unknown ``on_bad``, or a renamed field that nobody asked for.
        DataError: the file cannot be read, or a record is bad.
    """
    return Records(path, fields, columns, on_bad)


class Records:
    """The records of one file. Each iteration reads it anew; ``skipped`` and ``line`` tell of the last one.

    Attributes:
        skipped: number of bad records skipped so far.
        line: the line that the current record starts on (for ``.json``: the line its value starts on).
    """

    def __init__(
        self, path: str | Path, fields: Fields, columns: Mapping[str, str] | None, on_bad: str
    ) -> None:
        if on_bad not in ("error", "skip"):
            raise ConfigError(f"on_bad={on_bad!r}: allowed are 'error' and 'skip'")
        self.path = Path(path)
        self.fields = dict(fields) if isinstance(fields, Mapping) else dict.fromkeys(sorted(fields), str)
        self.columns = dict(columns or {})
        for name in self.columns:
            if name not in self.fields:
                raise ConfigError(f"data.columns.{name}: no such field.{did_you_mean(name, self.fields)}")
        self.on_bad = on_bad
        self.skipped = self.line = 0

    def where(self) -> str:
        """``file:line`` of the current record, for messages about its values."""
        return f"{self.path}:{self.line}"

    def __iter__(self) -> Iterator[Row]:
        self.skipped = self.line = good = 0
        first: DataError | None = None
        for line, item in read_items(self.path):
            self.line = line
            row = item if isinstance(item, DataError) else self._checked(item)
            if not isinstance(row, DataError):
                good += 1
                yield row
            elif self.on_bad == "error":
                raise row
            else:
                self.skipped += 1
                first = first or row
        if not good:
            reason = f"all {self.skipped} records are bad; the first: {first}" if first else "no records"
            raise DataError(f"{self.path}: {reason}")
        if first:
            log.warning("%s: skipped %d bad records; the first: %s", self.path, self.skipped, first)

    def _checked(self, row: Row) -> Row | DataError:
        """The row under the names of the fields, or the first thing that is wrong with it."""
        for name, kind in self.fields.items():
            column = self.columns.get(name, name)
            if column not in row:
                return self._missing(name, column, row)
            if column != name:
                row[name] = row.pop(column)
            if wrong := _wrong(row[name], kind):
                return DataError(f"{self.where()}: field '{column}' {wrong}")
        return row

    def _missing(self, name: str, column: str, row: Row) -> DataError:
        texts = [key for key, value in row.items() if isinstance(value, self.fields[name])]
        has = ", ".join(f"'{key}'" for key in list(row)[:20]) or "none"
        hint = f"set data.columns.{name}=<name>"
        if texts:
            hint += f", for example data.columns.{name}={texts[0]}"
        return DataError(f"{self.where()}: no field '{column}'; it has: {has}; {hint}")


def _wrong(value: Any, kind: type) -> str | None:
    """What is wrong with a field's value, or None."""
    if not isinstance(value, kind) or isinstance(value, bool):
        return f"is {kind_of(value)}, not {kind_of(kind())}"
    if not isinstance(value, str):
        return None
    if not value.strip():
        return "is empty; give it a text or leave the record out (data.on_bad_record=skip)"
    if "\0" in value:
        return "has a NUL character; is the file really text?"
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"has half a surrogate pair at character {error.start + 1}; it cannot be written as UTF-8"
    return None
