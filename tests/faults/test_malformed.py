"""Malformed files of records: no traceback, no hang, no silent skip, and the line is named.

For each of JSONL, text, CSV, TSV and JSON: the mutations of ``mutations.py`` against a second, simpler
reader, and a table of broken records that are planted among good ones and must be counted exactly.
Three variants of each kind; 25: ``pytest tests/faults/test_malformed.py -m full``.
"""

import csv
import gzip
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.mutations import MUTATIONS, outcome, unlogged, variants, watchdog

from tinsmith.errors import DataError
from tinsmith.text import formats
from tinsmith.text.records import read_records

__all__ = ["unlogged"]  # a fixture
pytestmark = pytest.mark.usefixtures("unlogged")

Rows = list[dict[str, Any]]
COUNTS = [pytest.param(3, id="fast"), pytest.param(25, id="full", marks=pytest.mark.full)]
KINDS = ("jsonl", "txt", "csv", "tsv", "json")
TEXTS = [
    "the tin smith mends 1 pot",
    "größer",
    "日本語",
    'he said "no"',
    "a, b",
    "  spaces  ",
    "[1, 2]",
    "1,",
]
GOOD: Rows = [{"text": text, "domain": f"d{i}"} for i, text in enumerate(TEXTS)]


def lines_of(kind: str) -> list[str]:
    """The good records in a format, a line each, without line ends."""
    if kind in ("jsonl", "json"):
        return [json.dumps(row, ensure_ascii=False) for row in GOOD]
    if kind == "txt":
        return [row["text"] for row in GOOD]
    if kind == "tsv":
        return ["text\tdomain", *("\t".join(row.values()) for row in GOOD)]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([["text", "domain"], *(row.values() for row in GOOD)])
    return file.getvalue().splitlines()


def content(kind: str, lines: list[str] | None = None) -> bytes:
    lines = lines_of(kind) if lines is None else lines
    return ("[" + ",\n".join(lines) + "]\n" if kind == "json" else "\n".join(lines) + "\n").encode()


def expected(kind: str) -> Rows:
    return [{"text": row["text"]} for row in GOOD] if kind == "txt" else GOOD


# ---- the second reader: all at once, without streaming, resuming or messages


def second_reader(kind: str, data: bytes) -> Iterator[dict[str, Any] | None]:
    """The records, None for a bad one. Raises ``ValueError`` where the file as a whole is none."""
    if kind == "json":
        rows = json.loads(data.decode("utf-8-sig") or "[]", parse_constant=_refuse)
        if not isinstance(rows, list):
            raise ValueError
        yield from (row if _is_good(row) else None for row in rows)
        return
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if kind in ("jsonl", "txt"):
        for line in lines:
            row = _row(kind, line.removesuffix(b"\r"))
            if row != {}:
                yield row
        return
    text = b"\n".join(line.removesuffix(b"\r") for line in lines).decode()
    if "\0" in text:
        raise ValueError
    options: Any = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == "tsv" else {"delimiter": ","}
    table = [row for row in csv.reader(io.StringIO(text, newline="\n"), strict=True, **options) if row]
    names = [name.strip() for name in table[0]] if table else []
    for cells in table[1:]:
        row = dict(zip(names, cells, strict=True))
        yield row if _is_good(row) else None


def _row(kind: str, line: bytes) -> dict[str, Any] | None:
    try:
        text = line.decode()
        if not text.strip():
            return {}
        row = json.loads(text, parse_constant=_refuse) if kind == "jsonl" else {"text": text}
    except (ValueError, RecursionError):
        return None
    return row if _is_good(row) else None


def _refuse(_: str) -> None:
    raise ValueError


def _is_good(row: Any) -> bool:
    text = row.get("text") if isinstance(row, dict) else None
    surrogates = isinstance(text, str) and any("\ud800" <= c <= "\udfff" for c in text)
    return isinstance(text, str) and bool(text.strip()) and "\0" not in text and not surrogates


def read_all(path: Path, on_bad: Any = "error") -> tuple[Rows, int]:
    records = read_records(path, on_bad=on_bad)
    return list(records), records.skipped


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_mutated_bytes(tmp_path: Path, kind: str, count: int) -> None:
    path, good = tmp_path / f"data.{kind}", content(kind)
    for name, rng in variants(count, *MUTATIONS):
        data = MUTATIONS[name](good, rng)
        path.write_bytes(data)
        what = f"{kind}, {name}, {data[:300]!r}"
        strict = outcome(what, lambda: read_all(path), 3, str(path))
        lenient = outcome(what, lambda: read_all(path, "skip"), 3, str(path))
        try:
            rows = list(second_reader(kind, data))
        except (ValueError, csv.Error, RecursionError):  # the first reader must say so; its place, it knows
            assert isinstance(strict, DataError), what
            continue
        kept = [row for row in rows if row is not None]
        if len(kept) == len(rows) and kept and not isinstance(strict, DataError):
            assert strict == lenient == (kept, 0), what
        else:
            assert isinstance(strict, DataError), what
            assert isinstance(lenient, DataError) or lenient == (kept, len(rows) - len(kept)), what
            assert kept == [] or not isinstance(lenient, DataError) or kind in ("csv", "tsv"), what


# ---- broken records among good ones

JSON_RECORDS: dict[str, str] = {
    "a number": "5",
    "a text": '"text"',
    "a list": '["text", "a"]',
    "null": "null",
    "no text": '{"txt": "a"}',
    "a text that is null": '{"text": null}',
    "a text that is a number": '{"text": 5}',
    "a text that is true": '{"text": true}',
    "a text that is a list": '{"text": ["a"]}',
    "an empty text": '{"text": ""}',
    "a text of spaces": '{"text": " \\t\\n "}',
    "a NUL in a text": '{"text": "a\\u0000b"}',
    "half a surrogate pair": '{"text": "a\\ud83d"}',
    "an empty object": "{}",
    "the name in another case": '{"Text": "a"}',
}
BROKEN: dict[str, dict[str, str | bytes]] = {
    "jsonl": {
        **JSON_RECORDS,
        "a cut line": '{"text": "a',
        "single quotes": "{'text': 'a'}",
        "a comma at the end": '{"text": "a",}',
        "two records in a line": '{"text": "a"} {"text": "b"}',
        "a comment": '// {"text": "a"}',
        "NaN": '{"text": "a", "score": NaN}',
        "infinity": '{"text": "a", "score": -Infinity}',
        "a bare word": "{text: a}",
        "a control character": '{"text": "a\x07b"}',
        "a bad escape": '{"text": "\\x41"}',
        "5,000 digits": '{"text": "a", "n": ' + "1" * 5000 + "}",
        "100,000 brackets": "[" * 100_000,
        "latin-1": '{"text": "größer"}'.encode("latin-1"),
        "a NUL byte": b'{"text": "a\0"}',
        "a byte order mark": b'\xef\xbb\xbf{"text": "a"}',
    },
    "txt": {
        "latin-1": "größer".encode("latin-1"),
        "a NUL byte": b"a\0b",
        "half a character": b"a\xe2\x82",
        "a surrogate in UTF-8": b"a\xed\xa0\x80",
        "overlong UTF-8": b"a\xc0\xaf",
        "beyond Unicode": b"a\xf5\x80\x80\x80",
    },
    "csv": {
        "a column more": "a,b,c",
        "a column less": "a",
        "an empty text": ",d",
        "a text of spaces": '"  ",d',
        "a quote inside a quoted field": '"a"b,d',
        "a quote that nothing closes": '"a,d',
        "a lone quote": '"',
        "latin-1": "größer,d".encode("latin-1"),
        "a NUL byte": b"a\0,d",
        "a field of 200,000": "a" * 200_000 + ",d",
        "a carriage return inside": "a\rb,d",
        "tabs": "a\td",
        "semicolons": "a;d",
    },
    "tsv": {
        "a column more": "a\tb\tc",
        "a column less": "a",
        "an empty text": "\td",
        "a text of spaces": "  \td",
        "latin-1": "größer\td".encode("latin-1"),
        "a NUL byte": b"a\0\td",
        "a field of 200,000": "a" * 200_000 + "\td",
        "commas": "a,d",
    },
    "json": JSON_RECORDS,
}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_broken_records_are_named_and_counted(tmp_path: Path, kind: str, count: int) -> None:
    path, first = tmp_path / f"data.{kind}", 1 if kind in ("csv", "tsv") else 0  # not before a header
    for name, rng in variants(count, *BROKEN[kind]):
        record = BROKEN[kind][name]
        lines: list[str | bytes] = [*lines_of(kind)]
        places = sorted(rng.sample(range(first + 1, len(lines) + 1), rng.randint(1, 3)), reverse=True)
        for place in places:
            lines.insert(place, record)
        raw = [line if isinstance(line, bytes) else line.encode("utf-8", "surrogatepass") for line in lines]
        path.write_bytes(b"[" + b",\n".join(raw) + b"]" if kind == "json" else b"\n".join(raw) + b"\n")
        error = outcome(name, lambda: read_all(path), 3, f"{path}:{places[-1] + 1}")
        assert isinstance(error, DataError), name
        assert outcome(name, lambda: read_all(path, "skip"), 3, str(path)) == (expected(kind), len(places)), (
            name
        )


HEADERS = {
    "a name twice": "text,text\na,b\n",
    "no name": "text,\na,b\n",
    "no text": "a,b\nc,d\n",
    "a quote that nothing closes": '"text,b\na,d\n',
    "only a header": "text,domain\n",
}


@pytest.mark.parametrize("name", HEADERS)
def test_broken_headers(tmp_path: Path, name: str) -> None:
    for kind, change in {"csv": ",", "tsv": "\t"}.items():
        path = tmp_path / f"data.{kind}"
        path.write_text(HEADERS[name].replace(",", change))
        assert isinstance(outcome(name, lambda path=path: read_all(path, "skip"), 3, str(path)), DataError)


# ---- what looks broken and is not


LEGAL: dict[str, Callable[[bytes], bytes]] = {
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "no line end at the end": lambda data: data.removesuffix(b"\n"),
    "blank lines": lambda data: data.replace(b"\n", b"\n \n" if b'{"' in data[:3] else b"\n\n"),
}


@pytest.mark.parametrize("name", LEGAL)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_legal_is_read(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / f"data.{kind}"
    path.write_bytes(LEGAL[name](content(kind)))
    assert read_all(path) == (expected(kind), 0)


@pytest.mark.parametrize("count", COUNTS)
def test_damaged_gzip(tmp_path: Path, count: int) -> None:
    path, good = tmp_path / "data.jsonl.gz", gzip.compress(content("jsonl") * 40)
    for name, rng in variants(count, *MUTATIONS):
        path.write_bytes(MUTATIONS[name](good, rng))
        result = outcome(name, lambda: read_all(path), 3, str(path))
        assert isinstance(result, DataError) or result[0] in (GOOD * 40, GOOD * 80), name


def test_the_tester_finds_a_reader_that_skips_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = formats._json_line

    def silent(path: Path, number: int, line: str) -> Any:
        row = honest(path, number, line)
        return {"text": "?"} if isinstance(row, DataError) else row

    monkeypatch.setattr(formats, "_json_line", silent)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test_mutated_bytes(tmp_path, "jsonl", 1)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test_broken_records_are_named_and_counted(tmp_path, "jsonl", 1)


def test_the_watchdog_barks() -> None:
    with pytest.raises(pytest.fail.Exception, match="hangs: a loop"), watchdog("a loop", 0.05):
        time.sleep(30)
