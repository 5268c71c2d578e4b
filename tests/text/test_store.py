"""The store: computed once, found again, never another teacher's; interrupted, damaged, shared."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinsmith.errors import DataError, ResourceError
from tinsmith.text import building, store
from tinsmith.text.store import build_store, cached_token_table, default_cache, open_store

TEXTS = [f"Sentence number {i} of the tin smith." for i in range(23)]


class FakeTeacher:
    """A hash of each text as its vector; remembers what it was asked."""

    def __init__(self, fingerprint: str = "fake", size: int = 6) -> None:
        self.fingerprint, self.size = fingerprint, size
        self.asked: list[str] = []
        self.tables = 0

    def vector(self, text: str) -> Any:
        seed = sum(ord(c) * (i + 1) for i, c in enumerate(text + self.fingerprint))
        return np.random.default_rng(seed).normal(size=self.size).astype(np.float32)

    def encode(self, texts: Sequence[str], progress: Any = None) -> Any:
        self.asked += texts
        if progress:
            progress(len(texts), len(texts))
        return np.stack([self.vector(text) for text in texts])

    def token_table(self, progress: Any = None) -> Any:
        self.tables += 1
        return np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_ROWS", 5)


def expected(texts: Sequence[str], teacher: FakeTeacher) -> Any:
    return np.stack([teacher.vector(text) for text in texts])


def test_vectors_are_computed_once_and_mapped(tmp_path: Path) -> None:
    teacher = FakeTeacher()
    calls: list[tuple[int, int]] = []
    built = build_store(tmp_path, TEXTS, teacher, progress=lambda *call: calls.append(call))
    assert np.array_equal(np.asarray(built.vectors), expected(TEXTS, teacher))
    assert built.vectors.dtype == np.float32
    assert (len(built), built.size, built.fingerprint) == (23, 6, "fake")
    assert sorted({*calls}) == [(5, 23), (10, 23), (15, 23), (20, 23), (23, 23)]
    assert calls == sorted(calls)
    assert len(list(built.folder.glob("vectors-*.npy"))) == 5
    again = build_store(tmp_path, iter_anew(TEXTS), teacher)
    assert teacher.asked == TEXTS  # once
    assert again.folder == built.folder
    assert np.array_equal(again.vectors[[22, 3, 3]], expected([TEXTS[22], TEXTS[3], TEXTS[3]], teacher))


class iter_anew:
    """Texts that stream from the start each time."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)


def test_other_texts_teachers_and_options_never_hit(tmp_path: Path) -> None:
    folders = {
        build_store(tmp_path, TEXTS, FakeTeacher()).folder,
        build_store(tmp_path, TEXTS[::-1], FakeTeacher()).folder,
        build_store(tmp_path, TEXTS[:-1], FakeTeacher()).folder,
        build_store(tmp_path, [TEXTS[0] + TEXTS[1], *TEXTS[2:]], FakeTeacher()).folder,
        build_store(tmp_path, TEXTS, FakeTeacher("other")).folder,
        build_store(tmp_path, TEXTS, FakeTeacher(), dtype="float16").folder,
    }
    assert len(folders) == 6
    assert len(list(tmp_path.iterdir())) == 6


def test_rows_are_found_by_text(tmp_path: Path) -> None:
    built = build_store(tmp_path, [*TEXTS, TEXTS[4]], FakeTeacher())
    wanted = [TEXTS[20], TEXTS[0], TEXTS[4]]
    assert built.rows_of(wanted).tolist() == [20, 0, 4]
    with pytest.raises(DataError, match="no vector for 1 texts, the first: 'Never heard'"):
        built.rows_of([TEXTS[0], "Never heard"])


def test_large_stores_are_float16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FLOAT16_BYTES", 4 * 23 * 6 - 1)
    built = build_store(tmp_path, TEXTS, FakeTeacher())
    assert built.vectors.dtype == np.float16
    assert np.abs(np.asarray(built.vectors) - expected(TEXTS, FakeTeacher())).max() < 2e-3
    exact = build_store(tmp_path, TEXTS, FakeTeacher(), dtype="float32")
    assert exact.vectors.dtype == np.float32


class Interrupted(FakeTeacher):
    def encode(self, texts: Sequence[str], progress: Any = None) -> Any:
        if len(self.asked) >= 10:
            raise KeyboardInterrupt
        return super().encode(texts, progress)


def test_an_interrupted_build_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_store(tmp_path, TEXTS, Interrupted())
    (home,) = tmp_path.iterdir()
    with pytest.raises(DataError, match=r"manifest\.json: no such file; not a store, or one whose build"):
        open_store(home)
    (home / ".vectors-00002.npy.xyz.tmp").write_bytes(b"what a killed process leaves")
    teacher = FakeTeacher()
    built = build_store(tmp_path, TEXTS, teacher)
    assert teacher.asked == TEXTS[10:]
    assert np.array_equal(np.asarray(built.vectors), expected(TEXTS, teacher))
    left = {path.name.partition("-")[0] for path in home.iterdir()}
    assert left == {"vectors", "keys", "manifest.json", ".lock"}


@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_a_damaged_shard_is_named_and_only_it_is_computed_again(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    built = build_store(tmp_path, TEXTS, FakeTeacher())
    path = built.folder / "vectors-00001.npy"
    data = path.read_bytes()
    path.unlink()
    if harm != "remove":
        path.write_bytes(data[:-4] if harm == "cut" else data[:-1] + bytes([data[-1] ^ 64]))
    with pytest.raises(DataError, match=r"vectors-00001\.npy: is (cut|damaged|missing)") as caught:
        open_store(built.folder)
    assert caught.value.exit_code == 3
    teacher = FakeTeacher()
    with caplog.at_level(logging.WARNING):
        again = build_store(tmp_path, TEXTS, teacher)
    assert "vectors-00001.npy" in caplog.text
    assert teacher.asked == TEXTS[5:10]
    assert np.array_equal(np.asarray(again.vectors), expected(TEXTS, teacher))
    assert len(open_store(built.folder)) == 23


def test_shards_of_other_texts_are_not_taken_over(tmp_path: Path) -> None:
    class Changing:
        """Texts that differ the second time they are read."""

        times = 0

        def __iter__(self) -> Iterator[str]:
            self.times += 1
            return iter(TEXTS if self.times == 1 else ["Changed.", *TEXTS[1:]])

    with pytest.raises(DataError, match="the texts changed while their vectors were computed"):
        build_store(tmp_path, Changing(), FakeTeacher())
    teacher = FakeTeacher()
    built = build_store(tmp_path, TEXTS, teacher)
    assert teacher.asked == TEXTS[:5]  # the shard with the changed text; the others are right
    assert np.array_equal(np.asarray(built.vectors), expected(TEXTS, teacher))


def test_open_store_refuses_what_does_not_belong(tmp_path: Path) -> None:
    home = build_store(tmp_path, TEXTS, FakeTeacher()).folder
    assert len(open_store(home, teacher_fingerprint="fake", size=6)) == 23
    with pytest.raises(DataError, match=r"vectors of another teacher \(fingerprint fake, expected mine\)"):
        open_store(home, teacher_fingerprint="mine")
    with pytest.raises(DataError, match="23 vectors of size 6, expected 23 of size 384"):
        open_store(home, size=384)
    path = home / "manifest.json"
    good = path.read_text()
    for bad, message in [
        (good.replace('"count": 23', '"count": 24'), "damaged: its digest is another"),
        (good[:-30], r"manifest\.json: damaged"),
        ("[]", r"manifest\.json: damaged"),
        ("{}", r"manifest\.json: damaged"),
    ]:
        path.write_text(bad)
        with pytest.raises(DataError, match=message):
            open_store(home)
    teacher = FakeTeacher()
    assert len(build_store(tmp_path, TEXTS, teacher)) == 23  # a damaged manifest: all anew
    assert json.loads(path.read_text()) == json.loads(good)


def test_a_newer_format_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = build_store(tmp_path, TEXTS, FakeTeacher()).folder
    monkeypatch.setattr(building, "FORMAT", 2)
    with pytest.raises(DataError, match="format 1, not 2"):
        open_store(home)


class Wrong(FakeTeacher):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def encode(self, texts: Sequence[str], progress: Any = None) -> Any:
        vectors = super().encode(texts, progress)
        if self.what == "nan" and TEXTS[7] in texts:
            vectors[texts.index(TEXTS[7]), 2] = np.nan
        if self.what == "large":
            vectors[-1] = 1e6
        if self.what == "width" and TEXTS[7] in texts:
            return vectors[:, :4]
        return vectors[1:] if self.what == "rows" else vectors


def test_wrong_answers_of_a_teacher_are_never_stored(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not finite in float32 for the text 'Sentence number 7 of"):
        build_store(tmp_path, TEXTS, Wrong("nan"))
    with pytest.raises(DataError, match="not finite in float16 for the text 'Sentence number 4 of"):
        build_store(tmp_path / "a", TEXTS, Wrong("large"), dtype="float16")
    with pytest.raises(DataError, match=r"an array \(4, 6\) for 5 texts"):
        build_store(tmp_path / "b", TEXTS, Wrong("rows"))
    with pytest.raises(DataError, match=r"vectors-00001\.npy: rows \(4,\)"):
        build_store(tmp_path / "c", TEXTS, Wrong("width"))


def test_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no texts"):
        build_store(tmp_path, [], FakeTeacher())
    with pytest.raises(TypeError, match="twice"):
        build_store(tmp_path, iter(TEXTS), FakeTeacher())
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"cannot be made: .*TINSMITH_CACHE"):
        build_store(tmp_path / "file", TEXTS, FakeTeacher())


RACE = """
import sys, time
sys.path.insert(0, sys.argv[2])
import numpy as np
from test_store import TEXTS, FakeTeacher
from tinsmith.text import store
store.SHARD_ROWS = 5
class Slow(FakeTeacher):
    def encode(self, texts, progress=None):
        time.sleep(0.05)
        return super().encode(texts, progress)
teacher = Slow()
built = store.build_store(sys.argv[1], TEXTS, teacher)
assert np.array_equal(np.asarray(built.vectors), np.stack([teacher.vector(text) for text in TEXTS]))
print(len(teacher.asked))
"""


def test_two_processes_that_build_at_once_share_the_work(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    command = [sys.executable, "-c", RACE, str(tmp_path), str(Path(__file__).parent)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    asked = sorted(int(process.communicate(timeout=60)[0]) for process in running)
    assert [process.returncode for process in running] == [0, 0, 0]
    assert asked == [0, 0, 23]
    (home,) = tmp_path.iterdir()
    assert np.array_equal(np.asarray(open_store(home).vectors), expected(TEXTS, FakeTeacher()))


def test_the_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TINSMITH_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "tinsmith"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "tinsmith"
    monkeypatch.setenv("TINSMITH_CACHE", "~/own")
    assert default_cache() == tmp_path / "own"
    assert build_store(None, TEXTS, FakeTeacher()).folder.parent == tmp_path / "own" / "vectors"


def test_the_token_table_is_computed_once(tmp_path: Path) -> None:
    teacher = FakeTeacher()
    table = cached_token_table(tmp_path, teacher)
    assert np.array_equal(cached_token_table(tmp_path, teacher), table)
    assert teacher.tables == 1
    cached_token_table(tmp_path, FakeTeacher("other"))
    (path,) = tmp_path.glob("fake-*.npy")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    assert np.array_equal(cached_token_table(tmp_path, teacher), table)  # damaged: computed again
    assert teacher.tables == 2
    assert path.read_bytes() == data
