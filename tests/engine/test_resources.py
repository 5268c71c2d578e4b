"""The resource monitor: thresholds, rate limit, samples, and that nothing that fails in it stops training."""

import errno
import json
import logging
import subprocess
import sys
import time as real_time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tinsmith.engine import resources
from tinsmith.engine.resources import ResourceMonitor
from tinsmith.errors import ConfigError

OFF = {"memory_warning_threshold": 0.0, "gpu_memory_warning_threshold": 0.0}


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Machine:
    """psutil with values that a test sets; ``asked`` counts the samples."""

    def __init__(self) -> None:
        self.cpu, self.memory, self.rss, self.asked = 30.0, 40.0, 512 * 2**20, 0
        self.error: Exception | None = None

    def cpu_percent(self, interval: float | None) -> float:
        if self.error is not None:
            raise self.error
        return self.cpu

    def virtual_memory(self) -> SimpleNamespace:
        self.asked += 1
        return SimpleNamespace(percent=self.memory)

    def Process(self) -> SimpleNamespace:
        return SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=self.rss))


class Gpus:
    """torch.cuda: (reserved by this process, free, total) of each GPU."""

    def __init__(self, *gpus: tuple[int, int, int], initialized: bool = True) -> None:
        self.gpus, self.initialized = gpus, initialized
        self.questions: list[int] = []

    def is_initialized(self) -> bool:
        return self.initialized

    def device_count(self) -> int:
        return len(self.gpus)

    def memory_reserved(self, i: int) -> int:
        return self.gpus[i][0]

    def mem_get_info(self, i: int) -> tuple[int, int]:
        self.questions.append(i)
        return self.gpus[i][1:]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(resources, "time", moved)
    return moved


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    fake = Machine()
    monkeypatch.setitem(sys.modules, "psutil", fake)
    monkeypatch.setitem(sys.modules, "torch", None)
    return fake


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def run(monitor: ResourceMonitor, clock: Clock, steps: range, seconds: float = 1.0) -> None:
    """Steps of ``seconds`` each on the fake clock."""
    for step in steps:
        clock.now += seconds
        monitor.step(seconds, step)


def test_samples_are_rows_at_most_every_so_many_seconds(tmp_path, clock, machine):
    monitor = ResourceMonitor(path=tmp_path / "run" / "resources.jsonl", every_seconds=5.0)
    run(monitor, clock, range(1, 5))
    assert machine.asked == 0
    clock.now += 3.0
    monitor.step(3.0, 5)  # one that took longer
    run(monitor, clock, range(6, 17))
    monitor.close()
    rows = rows_of(tmp_path / "run" / "resources.jsonl")
    assert [row["step"] for row in rows] == [5, 10, 15]
    assert [row["slowest_step_seconds"] for row in rows] == [3.0, 1.0, 1.0]
    assert [row["step_seconds"] for row in rows] == [1.4, 1.0, 1.0]
    for row in rows:
        assert row["split"] == "resources"
        assert (row["cpu"], row["memory"], row["rss_mb"]) == (30.0, 40.0, 512.0)
        assert "gpu_memory" not in row
        assert abs(row["time"] - real_time.time()) < 600


@pytest.mark.parametrize("kind", ["cpu", "memory"])
def test_a_threshold_that_is_reached_warns_with_fields_and_advice(kind, clock, machine, caplog):
    monitor = ResourceMonitor(**{**OFF, f"{kind}_warning_threshold": 80.0}, every_seconds=1.0)
    setattr(machine, kind, 79.9)
    run(monitor, clock, range(1, 4))
    assert not caplog.records
    setattr(machine, kind, 80.0)
    run(monitor, clock, range(4, 5))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name == "tinsmith.engine.resources"
    assert (record.resource, record.value, record.threshold, record.step) == (kind, 80.0, 80.0, 4)
    assert f"at step 4 ({kind}_warning_threshold=80)" in record.getMessage()
    assert "trainer.num_workers" in record.getMessage()


def test_zero_is_no_warning_and_the_defaults_leave_the_cpu_alone(clock, machine, caplog):
    machine.cpu = machine.memory = 100.0
    run(ResourceMonitor(**OFF, every_seconds=1.0), clock, range(1, 10), seconds=100.0)
    assert not caplog.records
    run(ResourceMonitor(every_seconds=1.0), clock, range(1, 2))
    assert [record.resource for record in caplog.records] == ["memory"]


def test_a_slow_step_warns(clock, machine, caplog):
    monitor = ResourceMonitor(slow_batch_threshold=2.0)
    run(monitor, clock, range(1, 3), seconds=2.0)
    assert not caplog.records
    run(monitor, clock, range(3, 4), seconds=2.5)
    (record,) = caplog.records
    assert (record.resource, record.value, record.threshold, record.step) == ("slow_batch", 2.5, 2.0, 3)
    assert "step 3 took 2.5 s, above slow_batch_threshold=2 s." in record.getMessage()


def test_one_warning_a_minute_of_each_kind_and_the_next_counts_those_left_out(clock, machine, caplog):
    monitor = ResourceMonitor(slow_batch_threshold=0.5, every_seconds=10.0)
    machine.memory = 99.0
    run(monitor, clock, range(1, 131))  # slow in each of 130 s, memory in every tenth
    warned = [(record.resource, record.step, record.left_out) for record in caplog.records]
    assert warned == [
        ("slow_batch", 1, 0),
        ("memory", 10, 0),
        ("slow_batch", 61, 59),
        ("memory", 70, 5),
        ("slow_batch", 121, 59),
        ("memory", 130, 5),
    ]
    assert "(59 such warnings were left out in between.)" in caplog.records[2].getMessage()


def test_the_fullest_gpu_that_this_process_uses_is_watched(tmp_path, clock, machine, monkeypatch, caplog):
    gpus = Gpus((0, 0, 100), (5, 50, 100), (5, 3, 100))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=gpus))
    monitor = ResourceMonitor(path=tmp_path / "r.jsonl", every_seconds=1.0)
    run(monitor, clock, range(1, 2))
    assert [row["gpu_memory"] for row in rows_of(tmp_path / "r.jsonl")] == [97.0]
    assert [record.resource for record in caplog.records] == ["gpu_memory"]
    assert gpus.questions == [1, 2]  # the one without anything of ours is not touched


@pytest.mark.parametrize("gpus", [Gpus((5, 3, 100), initialized=False), Gpus((0, 3, 100))])
def test_a_gpu_that_is_not_in_use_is_not_asked(gpus, tmp_path, clock, machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=gpus))
    run(ResourceMonitor(path=tmp_path / "r.jsonl", every_seconds=1.0), clock, range(1, 2))
    assert ["gpu_memory" in row for row in rows_of(tmp_path / "r.jsonl")] == [False]
    assert not gpus.questions


def test_a_torn_tail_is_cut_and_earlier_rows_stay(tmp_path, clock, machine):
    path = tmp_path / "resources.jsonl"
    path.write_bytes(b'{"step": 900}\n{"step": 9')
    monitor = ResourceMonitor(path=path, every_seconds=1.0)
    run(monitor, clock, range(1, 3))
    monitor.close()
    assert [row["step"] for row in rows_of(path)] == [900, 1, 2]


def fail_psutil(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.error = RuntimeError("no /proc/stat")


def fail_disk(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, line: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(resources.JsonlLogger.__init__.__globals__["os"], "write", full)


@pytest.mark.parametrize(
    ("fail", "words"), [(fail_psutil, "no /proc/stat"), (fail_disk, "No space left")], ids=["psutil", "disk"]
)
def test_a_failure_warns_once_and_training_goes_on(
    fail: Callable[..., None], words: str, tmp_path, clock, machine, monkeypatch, caplog
):
    monitor = ResourceMonitor(path=tmp_path / "r.jsonl", every_seconds=1.0)
    run(monitor, clock, range(1, 3))
    with monkeypatch.context() as patch:
        fail(machine, patch)
        run(monitor, clock, range(3, 9))
    (record,) = caplog.records
    assert words in record.getMessage()
    assert "training goes on" in record.getMessage()
    monitor.close()
    assert [row["step"] for row in rows_of(tmp_path / "r.jsonl")] == [1, 2]


def test_a_full_disk_does_not_silence_the_memory_warning(tmp_path, clock, machine, monkeypatch, caplog):
    monitor = ResourceMonitor(path=tmp_path / "r.jsonl", every_seconds=1.0)
    with monkeypatch.context() as patch:
        fail_disk(machine, patch)
        run(monitor, clock, range(1, 3))
        machine.memory = 95.0
        run(monitor, clock, range(3, 5))
    assert "memory" in [getattr(record, "resource", None) for record in caplog.records]


def test_without_psutil_it_warns_once_and_still_times_the_steps(clock, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "psutil", None)
    monitor = ResourceMonitor(slow_batch_threshold=0.5, every_seconds=1.0)
    run(monitor, clock, range(1, 9))
    first, second = caplog.records
    assert "psutil" in first.getMessage()
    assert second.resource == "slow_batch"


def test_a_file_that_cannot_be_opened_is_named_and_the_rest_works(tmp_path, clock, machine, caplog):
    (tmp_path / "run").write_text("a file where the folder should be")
    monitor = ResourceMonitor(path=tmp_path / "run" / "resources.jsonl", every_seconds=1.0)
    machine.memory = 95.0
    run(monitor, clock, range(1, 3))
    monitor.close()
    first, second = caplog.records
    assert "resources.jsonl" in first.getMessage() or "run" in first.getMessage()
    assert second.resource == "memory"


def test_closed_twice_it_does_nothing_more(tmp_path, clock, machine, caplog):
    monitor = ResourceMonitor(path=tmp_path / "r.jsonl", slow_batch_threshold=0.5, every_seconds=1.0)
    run(monitor, clock, range(1, 2), seconds=0.4)
    run(monitor, clock, range(2, 4), seconds=0.4)
    monitor.close()
    monitor.close()
    run(monitor, clock, range(4, 9))
    assert [row["step"] for row in rows_of(tmp_path / "r.jsonl")] == [3]
    assert not caplog.records


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ({"cpu_warning_threshold": 101}, "cpu_warning_threshold=101"),
        ({"memory_warning_threshold": -1}, "memory_warning_threshold=-1"),
        ({"gpu_memory_warning_threshold": float("nan")}, "gpu_memory_warning_threshold=nan"),
        ({"slow_batch_threshold": -0.5}, "slow_batch_threshold=-0.5"),
        ({"every_seconds": 0}, "every_seconds=0"),
    ],
)
def test_a_wrong_setting_is_named(setting: dict[str, float], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        ResourceMonitor(**setting)


def test_the_real_machine(tmp_path, caplog):
    """psutil as it is: plausible numbers, no torch, no warning."""
    script = (
        "import sys\n"
        "from tinsmith.engine.resources import ResourceMonitor\n"
        "assert not {'torch', 'psutil'} & set(sys.modules)\n"
        f"monitor = ResourceMonitor(path={str(tmp_path / 'r.jsonl')!r}, every_seconds=1e-9)\n"
        "monitor.step(0.25, 1)\n"
        "monitor.close()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
    (row,) = rows_of(tmp_path / "r.jsonl")
    assert 0 <= row["cpu"] <= 100
    assert 0 < row["memory"] <= 100
    assert 1 < row["rss_mb"] < 1000


@pytest.mark.full
def test_a_step_with_nothing_due_costs_under_two_microseconds() -> None:
    monitor = ResourceMonitor(every_seconds=3600.0, slow_batch_threshold=1.0)
    best = 1.0
    for _ in range(20):
        start = real_time.perf_counter()
        for step in range(1000):
            monitor.step(0.001, step)
        best = min(best, (real_time.perf_counter() - start) / 1000)
    assert best < 2e-6
