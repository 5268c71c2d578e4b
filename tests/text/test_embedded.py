"""The embedded corpus: enough of it, clean, the same every time, and nothing imported on the way."""

import subprocess
import sys
from pathlib import Path

import pytest

from tinsmith.errors import DataError
from tinsmith.text import embedded
from tinsmith.text.embedded import Row, embedded_corpus
from tinsmith.text.prose import normalised


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return embedded_corpus()


def test_it_is_large_clean_and_without_duplicates(rows: list[Row]) -> None:
    assert len(rows) >= 10_000
    assert len({normalised(row["text"]) for row in rows}) == len(rows)
    assert {row["domain"] for row in rows} == {"reference", "docstring", "comment"}
    assert len({row["group"] for row in rows}) > 300
    for row in rows:
        assert set(row) == {"text", "domain", "group"}
        assert 4 <= len(row["text"].split()) <= 40
        assert not set(row["text"]) & set("<>{}=|\\`\n\t")


def test_a_cache_gives_the_same_rows_and_a_damaged_one_is_made_anew(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = rows[:50]
    monkeypatch.setattr(embedded, "_collect", lambda: list(few))
    assert embedded_corpus(tmp_path) == few
    (cache,) = tmp_path.iterdir()
    monkeypatch.setattr(embedded, "_collect", lambda: pytest.fail("not read from the cache"))
    assert embedded_corpus(str(tmp_path)) == few
    good = cache.read_bytes()
    cache.write_bytes(good[:-9])
    monkeypatch.setattr(embedded, "_collect", lambda: list(few))
    assert embedded_corpus(tmp_path) == few
    assert cache.read_bytes() == good
    monkeypatch.setattr(embedded.sys, "version", "4.0")
    embedded_corpus(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # another Python has other documents


SCRIPT = """
import os, sys
scandir = os.scandir
class Backwards(list):
    def __enter__(self): return self
    def __exit__(self, *_): pass
os.scandir = lambda path: Backwards(sorted(scandir(path), key=lambda e: e.name, reverse=True))
from tinsmith.text import embedded_corpus
rows = embedded_corpus()
new = {"antigravity", "this", "turtle", "tkinter", "torch", "numpy", "transformers"} & set(sys.modules)
print(repr(rows), sorted(new))
"""


def test_the_order_depends_neither_on_the_file_system_nor_on_hashing(rows: list[Row]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={"PYTHONHASHSEED": "2", "PYTHONUTF8": "1", "PATH": ""},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    assert run.stderr == ""
    assert run.stdout == f"{rows!r} []\n"  # nothing was imported to read its documentation


def test_an_installation_without_sources_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_bytes(b"def (\0")
    monkeypatch.setattr(embedded.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(DataError, match=r"no sources of its standard library; set data.train=<file>"):
        embedded_corpus()
