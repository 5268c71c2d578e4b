"""A log that is cut at any byte keeps its whole lines, and what is written next is glued to none of them.

pytest tests/faults/test_log_cuts.py                # every byte of one log, with and without a resume step
pytest tests/faults/test_log_cuts.py -m full        # every byte of three logs x six resume steps
"""

import json
import math
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tinsmith.engine import loggers
from tinsmith.engine.loggers import JsonlLogger, read_metrics

ROWS = 50
Opener = Callable[[Path, int | None], Any]  # something that a row can be logged to, and closed
TAIL = {"lr": 3e-4, "time": 1764000000.125}


def plain_line(step: int) -> bytes:
    return json.dumps({"step": step, "split": "train", "loss": 1 / step, **TAIL}).encode() + b"\n"


def nan_line(step: int) -> bytes:
    """The logger spells what JSON has no number for; strict readers must get through at every cut."""
    loss = ("nan", "inf", "-inf")[step % 3]
    return json.dumps({"step": step, "split": "val", "loss": loss, **TAIL}).encode() + b"\n"


def wide_line(step: int) -> bytes:
    """Characters of two, three and four bytes, as another program may write them; U+2028 ends no line."""
    row = {"step": step, "split": "train", "note": "é漢\u2028🙂" * (step % 3), **TAIL}
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


LOGS = {
    "plain": [plain_line(step) for step in range(1, ROWS + 1)],
    "nan": [nan_line(step) for step in range(1, ROWS + 1)],
    "wide": [wide_line(step) for step in range(1, ROWS + 1)],
}
LOGS["mixed"] = [LOGS[name][i] for i, name in zip(range(ROWS), ("plain", "nan", "wide") * 17, strict=False)]


def faults_after_cut(
    path: Path, data: bytes, cut: int, open_log: Opener, resume_step: int | None
) -> list[str]:
    """What is wrong after ``data[:cut]`` was found, read, and appended to with one more row."""
    orphan = Path(f"{path}.orphan")
    for file in (path, orphan):
        file.unlink(missing_ok=True)  # a file that is emptied and written again is slow on ext4
    path.write_bytes(data[:cut])
    whole = data[:cut].splitlines(keepends=True)
    whole = [line for line in whole if line.endswith(b"\n")]
    limit = ROWS if resume_step is None else resume_step
    kept, later = whole[:limit], whole[limit:]  # line n holds step n
    faults = ["read_metrics"] if not same_rows(read_metrics(path), whole) else []
    log = open_log(path, resume_step)
    log({"loss": math.nan}, len(kept) + 1, "train")
    log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    steps = [step_of(line) for line in lines]
    faults += ["a whole line is lost or changed"] * (lines[: len(kept)] != kept)
    faults += ["steps do not increase, or a line is glued"] * (steps != list(range(1, len(kept) + 2)))
    moved = orphan.read_bytes() if orphan.exists() else b""
    faults += ["the rows after the resume step are not in .orphan"] * (moved != b"".join(later))
    return faults


def same_rows(rows: list[dict[str, Any]], lines: list[bytes]) -> bool:
    """Whether ``rows`` are what is in ``lines``, with non-finite numbers as floats."""
    return [repr(row) for row in rows] == [printed(line) for line in lines]  # nan equals itself in print


@cache
def printed(line: bytes) -> str:
    """The row of a line in print."""
    spelled = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
    return repr({k: spelled.get(v, v) if k == "loss" else v for k, v in json.loads(line).items()})


@cache
def step_of(line: bytes) -> int | None:
    """The step of a line that is one JSON object and ends; None of any other."""
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else None
    except ValueError:
        return None


def faults_of(
    folder: Path, lines: list[bytes], open_log: Opener, resume_step: int | None = None, stride: int = 1
) -> dict[str, int]:
    """How many of the cuts, one at every ``stride``-th byte, showed each fault."""
    data = b"".join(lines)
    count: dict[str, int] = {}
    for cut in range(0, len(data) + 1, stride):
        for fault in faults_after_cut(folder / "metrics.jsonl", data, cut, open_log, resume_step):
            count[fault] = count.get(fault, 0) + 1
    return count


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sync is for, a power loss, is not what is tried here; thousands of them take minutes."""
    monkeypatch.setattr(loggers.os, "fsync", lambda fd: None)


@pytest.mark.parametrize(("resume_step", "stride"), [(None, 1), (25, 5)])
def test_cut_at_every_byte(tmp_path: Path, resume_step: int | None, stride: int) -> None:
    assert faults_of(tmp_path, LOGS["mixed"], JsonlLogger, resume_step, stride) == {}


@pytest.mark.full
@pytest.mark.parametrize("resume_step", [None, 0, 1, 25, 49, 50])
@pytest.mark.parametrize("name", ["plain", "nan", "wide"])
def test_cut_at_every_byte_of_each_log(tmp_path: Path, name: str, resume_step: int | None) -> None:
    assert faults_of(tmp_path, LOGS[name], JsonlLogger, resume_step) == {}


def test_a_kill_between_the_copy_to_orphan_and_the_cut_loses_nothing(tmp_path, monkeypatch):
    """The copy is made first: the rows may then be there twice, never not at all."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(LOGS["mixed"]))

    def die(*args: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(loggers.os, "truncate", die)
        with pytest.raises(InterruptedError):
            JsonlLogger(path, 20)
    assert path.read_bytes() == b"".join(LOGS["mixed"])
    JsonlLogger(path, 20).close()
    assert path.read_bytes() == b"".join(LOGS["mixed"][:20])
    assert set(Path(f"{path}.orphan").read_bytes().splitlines(keepends=True)) == set(LOGS["mixed"][20:])


def test_a_kill_inside_the_copy_to_orphan_loses_and_glues_nothing(tmp_path):
    """The orphan file may have a torn tail of its own, from a resume that was killed."""
    path, orphan = tmp_path / "metrics.jsonl", tmp_path / "metrics.jsonl.orphan"
    lines = LOGS["plain"][:6]
    copy = b"".join(lines[3:])
    for cut in range(len(copy) + 1):
        path.write_bytes(b"".join(lines))
        orphan.write_bytes(copy[:cut])
        JsonlLogger(path, 3).close()
        found = orphan.read_bytes().splitlines(keepends=True)
        assert set(lines[3:]) <= set(found), cut


# ---- the tester, tested -----------------------------------------------------------------------------


class Naive:
    """Appends to whatever is there."""

    def __init__(self, path: Path, resume_step: int | None) -> None:
        self.file = open(path, "ab")  # noqa: SIM115

    def __call__(self, metrics: dict[str, Any], step: int, prefix: str) -> None:
        self.file.write(json.dumps({"step": step, "split": prefix, **metrics}).encode() + b"\n")

    def close(self) -> None:
        self.file.close()


class Forgetful(Naive):
    """Cuts the torn tail and the later rows, and keeps no copy of them."""

    def __init__(self, path: Path, resume_step: int | None) -> None:
        lines = path.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        os.truncate(path, sum(map(len, whole[:resume_step])))
        super().__init__(path, resume_step)


class LastLineToo(Naive):
    """Ends a torn last line instead of cutting it."""

    def __init__(self, path: Path, resume_step: int | None) -> None:
        super().__init__(path, resume_step)
        if not path.read_bytes().endswith(b"\n"):
            self.file.write(b"\n")


@pytest.mark.parametrize(
    ("bad", "resume_step", "fault"),
    [
        (Naive, None, "steps do not increase, or a line is glued"),
        (LastLineToo, None, "steps do not increase, or a line is glued"),
        (Forgetful, 2, "the rows after the resume step are not in .orphan"),
    ],
)
def test_a_bad_writer_is_caught(tmp_path: Path, bad: Opener, resume_step: int | None, fault: str) -> None:
    lines = LOGS["plain"][:4]
    count = faults_of(tmp_path, lines, bad, resume_step)
    torn = len(b"".join(lines)) + 1 - (len(lines) + 1)  # the cuts that are not between two lines
    assert count[fault] >= (torn if resume_step is None else len(lines[3]))


def test_a_reader_that_takes_the_torn_line_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "_end_of_lines", len)
    assert "read_metrics" in faults_of(tmp_path, LOGS["plain"][:3], JsonlLogger)
