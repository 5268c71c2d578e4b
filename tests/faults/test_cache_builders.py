"""The caches are whole, and hold what they should, though builders are killed or come in twos.

Everything runs by default: ``pytest tests/faults/test_cache_builders.py``.
"""

import hashlib
import itertools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.forks import Child, die_at_change
from numpy.typing import NDArray

from tinsmith.text import building, embedded, store
from tinsmith.text.building import known_shards
from tinsmith.text.store import build_store, cached_token_table

pytest.importorskip("fcntl")

Floats = NDArray[np.float32]
TEXTS = [f"Sentence number {i} of the tin smith." for i in range(13)]
ROWS = [{"text": text, "domain": "reference", "group": "topic tin"} for text in TEXTS]


@pytest.fixture(autouse=True)
def small_and_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_ROWS", 5)
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # a kill leaves the page cache as it is


class Teacher:
    """A hash of each text as its vector; ``asked`` is a file that all processes write to."""

    fingerprint = "teacher"

    def __init__(self, asked: Path, seconds: float = 0.0) -> None:
        self.path, self.seconds = asked, seconds
        asked.touch()

    def encode(self, texts: Sequence[str], progress: Any = None) -> Floats:
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{text}\n" for text in texts))
        time.sleep(self.seconds)
        return expected(texts)

    def token_table(self, progress: Any = None) -> Floats:
        return self.encode(TEXTS[:4])

    def asked(self) -> list[str]:
        return self.path.read_text("utf-8").splitlines()


def expected(texts: Sequence[str]) -> Floats:
    bits = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in texts]
    return np.stack(bits).astype(np.float32)


# ---- what is cached ---------------------------------------------------------------------------------


def use_store(folder: Path, teacher: Teacher) -> Any:
    return np.asarray(build_store(folder, TEXTS, teacher).vectors).tolist()


def use_table(folder: Path, teacher: Teacher) -> Any:
    return cached_token_table(folder, teacher).tolist()


def use_corpus(folder: Path, teacher: Teacher) -> Any:
    """The teacher stands for the sources of the standard library."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "_collect", lambda: [teacher.encode(TEXTS), ROWS][1])
        return embedded.embedded_corpus(folder)


Use = Callable[[Path, Teacher], Any]
USES: dict[Use, Any] = {
    use_store: expected(TEXTS).tolist(),
    use_table: expected(TEXTS[:4]).tolist(),
    use_corpus: ROWS,
}


def right(use: Use, folder: Path, teacher: Teacher) -> None:
    assert use(folder, teacher) == USES[use]


# ---- several builders, killed builders ----------------------------------------------------------------


def at_once(use: Use, folder: Path) -> list[str]:
    """Two processes build, each getting the right content; what was asked of the teacher in all."""
    teacher = Teacher(folder / "asked", seconds=0.05)
    children = [Child(lambda _: right(use, folder / "cache", teacher), folder / str(i)) for i in range(2)]
    assert [child.ended() for child in children] == [True, True]
    return teacher.asked()


@pytest.mark.parametrize("use", USES)
def test_two_builders_at_once_get_it_right(use: Use, tmp_path: Path) -> None:
    asked = at_once(use, tmp_path)
    if use is use_store:  # they take turns; what is small may be made twice
        assert asked == TEXTS
    later = Teacher(tmp_path / "later")
    right(use, tmp_path / "cache", later)
    assert later.asked() == []


def killed_everywhere(use: Use, folder: Path) -> int:
    """Kill a builder before each of its changes of the file system; the next one finishes. Their number."""
    for number in itertools.count(1):
        place = folder / str(number)

        def work(_: int, place: Path = place, number: int = number) -> None:
            teacher = Teacher(place / "first")
            die_at_change(number)
            use(place / "cache", teacher)

        if Child(work, place).ended():
            return number - 1
        goes_on(use, place)
    raise AssertionError


def goes_on(use: Use, place: Path) -> None:
    known = [entry for home in (place / "cache").glob("*/") for entry in known_shards(home)]
    second, third = Teacher(place / "second"), Teacher(place / "third")
    right(use, place / "cache", second)
    if use is use_store:
        assert second.asked() == TEXTS[5 * len(known) :]
        assert list((place / "cache").rglob("*.tmp")) == []
    right(use, place / "cache", third)
    assert third.asked() == []


@pytest.mark.parametrize(("use", "least"), [(use_store, 20), (use_table, 2), (use_corpus, 2)])
def test_a_builder_killed_anywhere_is_succeeded(use: Use, least: int, tmp_path: Path) -> None:
    assert killed_everywhere(use, tmp_path) >= least


def test_builders_that_take_no_turns_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    with pytest.raises(AssertionError):  # twice the work, or one sweeps away what the other writes
        assert at_once(use_store, tmp_path) == TEXTS


def test_a_builder_that_starts_anew_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "known_shards", lambda home: [])
    with pytest.raises(AssertionError):
        killed_everywhere(use_store, tmp_path)


def test_a_new_format_or_code_is_never_answered_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for use in (use_store, use_corpus):
        right(use, tmp_path, Teacher(tmp_path / "before"))
    newer = building.FORMAT + 1
    for module in (building, store):
        monkeypatch.setattr(module, "FORMAT", newer)
    code = tmp_path / "prose.py"
    code.write_text("# another way to split sentences", "utf-8")
    monkeypatch.setattr(embedded.prose, "__file__", str(code))
    for use in (use_store, use_corpus):
        teacher = Teacher(tmp_path / f"after-{use.__name__}")
        right(use, tmp_path, teacher)
        assert teacher.asked() == TEXTS
