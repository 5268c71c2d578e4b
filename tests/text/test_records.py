"""Reading: every format, every kind of malformed input, and no other error than DataError."""

import gzip
import json
import logging
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinsmith.errors import ConfigError, DataError
from tinsmith.text import formats
from tinsmith.text.records import Records, read_records

GOOD = b'{"text": "A tin smith works."}\n{"text": "He mends pots.", "domain": "craft"}\n'


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def texts(path: Path, **options: object) -> list[str]:
    return [row["text"] for row in read_records(path, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b'{"text": "one"}\n\n{"text": "two", "n": 1}'),
        ("a.ndjson", b'\xef\xbb\xbf{"text": "one"}\r\n{"text": "two"}\r\n'),
        ("a.jsonl.gz", b'{"text": "one"}\n{"text": "two"}\n'),
        ("a.json", b' [ {"text": "one"} ,\n {"text": "two"}\n]\n'),
        ("a.json.gz", b'\xef\xbb\xbf[{"text": "one"},{"text": "two"}]'),
        ("a.csv", b"id,text\n1,one\n\n2,two\n"),
        ("a.csv", b'\xef\xbb\xbf"text","id"\r\n"one",1\r\n"two",2\r\n'),
        ("a.tsv", b"text\tid\none\t1\ntwo\t2"),
        ("A.TXT", b"one\r\n\r\ntwo\r\n"),
        ("a.b.txt.gz", b"\xef\xbb\xbfone\ntwo"),
    ],
)
def test_every_format_gives_the_same_texts(tmp_path: Path, name: str, data: bytes) -> None:
    assert texts(write(tmp_path, name, data)) == ["one", "two"]


def test_text_lines_end_at_newlines_only(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "a\u2028b\x0bc\x85d\ne".encode())
    assert texts(path) == ["a\u2028b\x0bc\x85d", "e"]


def test_csv_keeps_quotes_commas_and_newlines_and_tsv_takes_quotes_as_text(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b'text,n\n"He said ""no"",\nand left.",1\nnext,2\n')
    records = read_records(path)
    lines = [(row["text"], records.line) for row in records]
    assert lines == [('He said "no",\nand left.', 2), ("next", 4)]
    assert texts(write(tmp_path, "a.tsv", b'text\tn\n"No", he said\t1\n')) == ['"No", he said']


def test_columns_rename_and_other_fields_stay(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", b'{"question": "why", "a": "so", "dialogue": "d1"}')
    rows = list(read_records(path, {"question", "answer"}, columns={"answer": "a"}))
    assert rows == [{"question": "why", "answer": "so", "dialogue": "d1"}]


MALFORMED = {
    "empty file": ("a.jsonl", b"", r"a\.jsonl: no records"),
    "blank lines only": ("a.txt", b"\n \r\n\t\n", "no records"),
    "empty json list": ("a.json", b" [ ] ", "no records"),
    "header only": ("a.csv", b"text,id\n", "no records"),
    "broken json": ("a.jsonl", b'{"text": "one"}\n{"text": "two"', r"a\.jsonl:2:15: broken JSON"),
    "two objects on a line": ("a.jsonl", b'{"text": "a"} {"text": "b"}', r":1:15: broken JSON: Extra data"),
    "glued torn tail": ("a.jsonl", b'{"text": "a"}\n{"te{"text": "b"}', ":2:"),
    "not an object": ("a.jsonl", b'{"text": "a"}\n["text"]', ":2: a list, not an object"),
    "a number": ("a.jsonl", b"12", ":1: a number, not an object"),
    "missing field": ("a.jsonl", b'{"s": "a", "id": 1}', r":1: no field 'text'; it has: 's', 'id'; "
                      r"set data\.columns\.text=<name>, for example data\.columns\.text=s$"),
    "missing column": ("a.csv", b"id,body\n1,x\n", ":2: no field 'text'; it has: 'id', 'body'"),
    "wrong type": ("a.jsonl", b'{"text": 5}', ":1: field 'text' is a number, not a text"),
    "null": ("a.jsonl", b'{"text": null}', "is null, not a text"),
    "boolean": ("a.jsonl", b'{"text": true}', "is true or false, not a text"),
    "invalid utf-8": ("a.txt", b"good\nb\xe4d\n", r"a\.txt:2:2: byte 0xe4 is not UTF-8"),
    "utf-16": ("a.txt", "hello".encode("utf-16"), ":1:"),
    "cut utf-8 at the end": ("a.jsonl", b'{"text": "\xc3', ":1:11: byte 0xc3"),
    "invalid utf-8 in csv": ("a.csv", b"text\nb\xe4d\n", ":2:2: byte 0xe4"),
    "invalid utf-8 in a list": ("a.json", b'[{"text": "a"},\n{"text": "\xff"}]', ":2:11: byte 0xff"),
    "nul byte": ("a.jsonl", b'{"text": "a"}\n{"text": "b\0"}', ":2:12: a NUL byte"),
    "escaped nul": ("a.jsonl", rb'{"text": "a\u0000"}', ":1: field 'text' has a NUL"),
    "half a surrogate": ("a.jsonl", rb'{"text": "ok \ud800"}', ":1: field 'text' has half a surrogate"),
    "empty text": ("a.jsonl", b'{"text": " \\t\\u00a0 "}', ":1: field 'text' is empty"),
    "empty csv cell": ("a.csv", b"text,id\n,1\n", ":2: field 'text' is empty"),
    "NaN": ("a.jsonl", b'{"text": "a", "x": NaN}', ":1: broken JSON: NaN is not JSON"),
    "Infinity": ("a.json", b'[{"text": "a", "x": -Infinity}]', ":1:2: broken JSON: -Infinity"),
    "deep nesting": ("a.jsonl", b"[" * 200_000, ":1: broken JSON"),
    "huge integer": ("a.jsonl", b'{"text": "a", "n": ' + b"9" * 5000 + b"}", ":1: broken JSON"),
    "list is an object": ("a.json", b'{"text": "a"}', r":1:1: .*\.jsonl file"),
    "list not closed": ("a.json", b'[{"text": "a"}\n', ":2:1: broken JSON: expected"),
    "list cut in a value": ("a.json", b'[{"text": "a"},\n {"text": "', ":2:11: broken JSON"),
    "list with a trailing comma": ("a.json", b'[{"text": "a"},]', ":1:16: broken JSON: Expecting value"),
    "list without commas": ("a.json", b'[{"text": "a"} {"text": "b"}]', ":1:16: .*expected ','"),
    "after the list": ("a.json", b'[{"text": "a"}]\n[]', ":2:1: .*something follows"),
    "ragged row": ("a.csv", b"text,id\none,1\ntwo,2,3\n", ":3: 3 columns, the header has 2"),
    "open quote": ("a.csv", b'text,id\n"one,1\ntwo,2\n', ":2: broken row"),
    "text after a quote": ("a.csv", b'text\n"one"two\n', ":2: broken row"),
    "huge cell": ("a.csv", b"text\n" + b"x" * 200_000, ":2: broken row: field larger"),
    "column twice": ("a.csv", b"text,text\na,b\n", ":1: the header row has 'text' twice"),
    "column without a name": ("a.tsv", b"text\t\na\tb\n", ":1: the header row has a column without"),
    "bad header": ("a.csv", b"te\xffxt\na\n", ":1:3: byte 0xff"),
    "unknown suffix": ("a.parquet", b"PAR1", "unknown kind of file '.parquet'.*jsonl"),
    "no suffix": ("corpus", b"a", "unknown kind of file ''"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_input_is_a_data_error_with_its_place(tmp_path: Path, case: str) -> None:
    name, data, message = MALFORMED[case]
    with pytest.raises(DataError, match=message) as caught:
        list(read_records(write(tmp_path, name, data)))
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(str(tmp_path / name))


def test_missing_file_names_its_neighbour_and_a_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", GOOD)
    with pytest.raises(DataError, match=r"trian\.jsonl: no such file\. Did you mean: train\.jsonl\?"):
        list(read_records(tmp_path / "trian.jsonl"))
    with pytest.raises(DataError, match="a folder"):
        list(read_records(tmp_path))
    with pytest.raises(DataError):
        list(read_records("a\0b.txt"))


@pytest.mark.parametrize("cut", [1, 5, 9, 12, -1, -5, -9])
def test_truncated_gzip(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD)[:cut])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: damaged gzip file"):
        list(read_records(path))


def test_every_flipped_bit_of_a_gzip_is_caught_or_harmless(tmp_path: Path) -> None:
    good, path = gzip.compress(GOOD, mtime=0), tmp_path / "a.jsonl.gz"
    for index in range(len(good)):
        bad = bytearray(good)
        bad[index] ^= 4
        path.write_bytes(bytes(bad))
        try:
            assert texts(path) == ["A tin smith works.", "He mends pots."]  # flags, time, system: no data
        except DataError:
            continue
        assert index < 10


def test_line_limit_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.write(b"x" * formats.MAX_LINE + b"\r\nfirst\n")
        file.seek(200 << 20, 1)  # a sparse line of 200 MiB
        file.write(b"\nlast\n")
    tracemalloc.start()
    records = read_records(path, on_bad="skip")
    kept = [(len(row["text"]), records.line) for row in records]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kept == [(formats.MAX_LINE, 1), (5, 2), (4, 4)]
    assert records.skipped == 1
    assert peak < 5 * formats.MAX_LINE
    with pytest.raises(DataError, match=r"a\.txt:3: the line is longer than 16 MiB"):
        list(read_records(path))
    monkeypatch.setattr(formats, "MAX_LINE", 1 << 17)
    value = write(tmp_path, "b.json", b'[{"text": "a"}, {"text": "' + b"x" * (1 << 20) + b'"}]')
    with pytest.raises(DataError, match="broken JSON"):
        list(read_records(value))


def test_json_list_streams_over_chunk_borders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "CHUNK", 7)
    rows = [{"text": f"é {i}", "n": [1e5, -12, {"k": None}]} for i in range(50)]
    path = write(tmp_path, "a.json", json.dumps(rows, indent=1, ensure_ascii=False).encode())
    assert list(read_records(path)) == rows
    records = read_records(path)
    for row in records:
        start = path.read_text().splitlines()[records.line - 1 :]
        assert start[0].strip() == "{"
        assert row["text"] in start[1]
    bad = write(tmp_path, "b.json", b'[1e5, 1.25, "x", {"text": "a"}]')
    records = read_records(bad, on_bad="skip")
    assert [row["text"] for row in records] == ["a"]
    assert records.skipped == 3


def test_skip_counts_exactly_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [b'{"text": "ok %d"}' % i for i in range(20)]
    for index, bad in {
        2: b"{",
        7: b'{"text": 1}',
        8: b'{"text": "\xff"}',
        13: b'{"x": "y"}',
        19: b"[]",
    }.items():
        lines[index] = bad
    records = read_records(write(tmp_path, "a.jsonl", b"\n".join(lines)), on_bad="skip")
    with caplog.at_level(logging.WARNING):
        assert len(list(records)) == 15
    assert records.skipped == 5
    assert "skipped 5 bad records" in caplog.text
    assert "a.jsonl:3:2" in caplog.text
    assert len(list(records)) == 15  # read anew, counted anew
    assert records.skipped == 5


def test_skip_in_a_table(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b'text,id\none,1\ntwo\nb\xff,2\n"x"y,3\n"three\nlines",4\n,5\nlast,6\n')
    records = read_records(path, on_bad="skip")
    assert [row["text"] for row in records] == ["one", "three\nlines", "last"]
    assert records.skipped == 4


def test_all_bad_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"all 2 records are bad; the first: .*:1:"):
        list(read_records(write(tmp_path, "a.jsonl", b"{\n{\n"), on_bad="skip"))


def test_wrong_options_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="on_bad='ignore'"):
        read_records("a.jsonl", on_bad="ignore")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"data\.columns\.txt: no such field\. Did you mean: text\?"):
        read_records("a.jsonl", columns={"txt": "x"})


def test_reading_streams(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", GOOD + b"{broken")
    reader = iter(read_records(path))
    assert next(reader)["text"] == "A tin smith works."
    assert next(reader)["text"] == "He mends pots."
    with pytest.raises(DataError):
        next(reader)


PIECES = [b"", b"\0", b'"', b"\n", b"\r", b"\xff", b"{", b"[", b",", b"\\", b"NaN"]
SEEDS = [
    ("a.jsonl", GOOD),
    ("a.json", b'[{"text": "one", "v": [1.5, -2e3, null]},\n {"text": "tw\\u00f6"}]'),
    ("a.csv", b'text,id\n"one, two",1\nthree,"4"\n'),
    ("a.tsv", b"text\tid\none\t1\n"),
    ("a.txt", "Grüße\nzwei\n".encode()),
    ("a.jsonl.gz", gzip.compress(GOOD, mtime=0)),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_bytes_never_raise_anything_but_data_error(tmp_path: Path, data: st.DataObject) -> None:
    name, good = data.draw(st.sampled_from(SEEDS))
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(bad)))
        new = data.draw(st.sampled_from(PIECES))
        bad[at : at + data.draw(st.integers(0, 3))] = new or data.draw(st.binary(max_size=3))
    path = tmp_path / name
    path.write_bytes(bytes(bad))
    for on_bad in ("error", "skip"):
        problem = ""
        try:
            for row in Records(path, {"text"}, None, on_bad):
                assert row["text"].strip()
        except DataError as error:
            problem = str(error)
        assert not problem or problem.startswith(str(path))
