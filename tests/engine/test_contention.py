"""Spinning less beside other programs: when it begins, how long it stays, and that results do not change."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tinsmith.engine import contention

linux = pytest.mark.skipif(contention.queued() is None, reason="the kernel does not tell of its queue")
BUSY, FREE = 1.0, 0.0


def held() -> bool:
    return any(thread.name == "tinsmith-idle-team" for thread in threading.enumerate())


def when_held(shares: list[float]) -> str:
    """For each share whether the idle team was there as it was read."""
    seen = []

    def read() -> Iterator[float]:
        for share in shares:
            seen.append(held())
            yield share

    contention._watch(read())
    return "".join("x" if there else "." for there in seen)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([FREE] * 4, "...."),
        ([0.5, 0.45, BUSY, 0.45, 0.45, 0.45, 0.35, 0.45], "...xxxx."),  # the two thresholds
        ([FREE] * 9 + [BUSY] + [FREE] * 5, ".........." + "xxx" + ".."),  # two ticks at least, and one to see
        # Back at once: it stays for 4 ticks and one, then for 8; back late: for 2 again.
        ([BUSY] + [FREE] * 5 + [BUSY] + [FREE] * 10, "." + "xxxxx" + "." + "xxxxxxxxx" + "."),
        ([BUSY] + [FREE] * 10 + [BUSY] + [FREE] * 4, "." + "xxxxx" + "......" + "xxx" + "."),
    ],
)
def test_the_idle_team_is_there_while_cores_are_wanted(shares: list[float], expected: str) -> None:
    assert when_held(shares) == expected
    assert not held()


@linux
@pytest.mark.skipif(torch.get_num_threads() < 2, reason="one thread has no team")
def test_the_team_has_threads_of_openmp_and_gives_them_back() -> None:
    def threads() -> int:
        """How many there are once it stays so: the kernel takes its time to bury one."""
        counts = [0]
        while len(counts) < 10 or len(set(counts[-10:])) > 1:
            time.sleep(0.02)
            counts.append(len(list(contention._TASKS.iterdir())))
        return counts[-1]

    torch.zeros(contention._LOOP).add_(1)  # this thread's own team
    before = threads()
    x = torch.randn(300, 300)
    product = x @ x
    with contention._idle_team():
        assert threads() == before + torch.get_num_threads()
        assert torch.equal(x @ x, product)
    assert threads() == before


@linux
def test_waiting_for_a_core_is_counted_for_all_threads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for thread, line in {"1": "100 2000000000 5\n", "2": "7 500000000 1\n", "3": ""}.items():
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(line)
    monkeypatch.setattr(contention, "_TASKS", tmp_path)
    assert contention.queued() == 2.5
    monkeypatch.setattr(contention, "_TICK", 0.01)
    shares = contention._shares()
    assert next(shares) == 0.0
    (tmp_path / "1" / "schedstat").write_text("100 9000000000 5\n")
    assert next(shares) > 1.0
    for path in tmp_path.glob("*/schedstat"):
        path.unlink()
    assert list(shares) == []  # nobody tells any more


def test_one_watch_a_process_and_none_where_the_kernel_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    monkeypatch.setattr(contention, "_watching", False)
    monkeypatch.setattr(contention, "_watch", begun.append)
    monkeypatch.setattr(contention, "queued", lambda: None)
    contention.watch()
    assert not contention._watching
    monkeypatch.setattr(contention, "queued", lambda: 0.0)
    contention.watch()
    contention.watch()
    assert contention._watching
    assert len(begun) == 1


@linux
def test_a_process_ends_well_in_the_middle_of_the_teams_loop() -> None:
    code = """
import threading, time
from tinsmith.engine import contention
contention._TICK, contention._BUSY, contention._LOOP = 0.001, -1.0, 1 << 26
contention.watch()
while not any(thread.name == "tinsmith-idle-team" for thread in threading.enumerate()):
    time.sleep(0.001)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
