"""A long run takes no more memory, threads, files or disk at its end than at its start.

pytest tests/faults/test_endurance.py            # 1,500 steps, memory within 30 MB per 10,000 steps
pytest tests/faults/test_endurance.py -m full    # 20,000 steps, memory within 1 MB per 10,000 steps
"""

import ctypes
import gc
import os
import statistics
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tinsmith import Trainer, get_optimizer, get_scheduler, set_seed
from tinsmith.engine.loggers import JsonlLogger, TensorBoardLogger
from tinsmith.engine.resources import ResourceMonitor

Hook = Callable[[dict[str, Any], int, str], None]
KEEP, LOG_EVERY, EVAL_EVERY, SAVE_EVERY = 3, 10, 100, 100
WARM_UP = 0.3  # the share of the run that allocators and caches have to settle
TENSORBOARD_MB = 5.0
FAST, FULL = (1_500, 30.0), (20_000, 1.0)  # steps, and MB of memory per 10,000 of them that are allowed


@dataclass
class Watch:
    """A log hook that samples this process: step, resident bytes, threads, open files."""

    every: int
    samples: list[tuple[int, int, int, int]] = field(default_factory=list)
    process: psutil.Process = field(default_factory=psutil.Process)

    def __call__(self, metrics: dict[str, Any], step: int, prefix: str) -> None:
        if prefix == "train" and step % self.every == 0:
            gc.collect()  # a cycle that waits for the collector is no leak
            give_back_free_memory()
            resident = self.process.memory_info().rss
            self.samples.append((step, resident, self.process.num_threads(), self.process.num_fds()))


def give_back_free_memory() -> None:
    """Have the allocator return what it holds free, which earlier tests left: a leak would hide in it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def endure(folder: Path, steps: int, more: Hook | None = None) -> list[tuple[int, int, int, int]]:
    """Train ``steps`` tiny steps with all that a run does beside them; what ``Watch`` saw."""
    set_seed(0)
    x = torch.randn(256, 8)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 1))
    optimizer = get_optimizer(model, "adamw", lr=1e-3)
    trainer = Trainer(
        model,
        optimizer,
        get_scheduler(optimizer, "cosine_warmup", warmup_ratio=0.1),
        device="cpu",
        ema=0.99,
        log_every=LOG_EVERY,
        checkpoint_dir=folder / "checkpoints",
        max_steps=steps,
        eval_every=EVAL_EVERY,
        save_seconds=1e9,
        keep_checkpoints=KEEP,
        progress=False,
        monitor=ResourceMonitor(path=folder / "resources.jsonl", every_seconds=0.2),
    )
    saver = trainer.saver
    assert saver is not None

    def save_often(metrics: dict[str, Any], step: int, prefix: str) -> None:
        saver.seconds = 0.0 if step % SAVE_EVERY == 0 else 1e9  # by the step, however fast the machine

    watch = Watch(max(steps // 50 // LOG_EVERY, 1) * LOG_EVERY)
    loggers = [JsonlLogger(folder / "metrics.jsonl"), TensorBoardLogger(folder / "tb")]
    for hook in (*loggers, save_often, *([more] if more is not None else []), watch):
        trainer.add_log_hook(hook)
    rows = TensorDataset(x, x.sum(1, keepdim=True).sin())
    gc.freeze()  # what is there already: going through torch's objects at each sample would take longest
    try:
        trainer.fit(DataLoader(rows, batch_size=16, shuffle=True), DataLoader(rows, batch_size=64))
    finally:
        gc.unfreeze()
    for logger in loggers:
        logger.close()
    return watch.samples


def growth_of(samples: list[tuple[int, int, int, int]], megabytes: float) -> list[str]:
    """What grew after the warm-up: memory above ``megabytes`` per 10,000 steps, threads, files."""
    settled = samples[int(len(samples) * WARM_UP) :]
    steps, resident, threads, files = zip(*settled, strict=True)
    slope = statistics.linear_regression(steps, resident).slope * 10_000 / 1e6
    faults = [f"memory: {slope:.2f} MB per 10,000 steps"] if slope > megabytes else []
    faults += [f"threads: {min(threads)} to {max(threads)}"] * (len(set(threads)) > 1)
    faults += [f"files: {min(files)} to {max(files)}"] * (len(set(files)) > 1)
    return faults


def leftovers_of(folder: Path, steps: int) -> list[str]:
    """What of the run's folder is too much, or is missing."""
    kept = [path for path in (folder / "checkpoints").iterdir() if not path.is_symlink()]
    newest = [path for path in kept if path.name.startswith(f"step-{steps:08d}")]
    faults = [f"{len(kept)} checkpoints"] * (not KEEP <= len(kept) <= KEEP + 1)  # and the best beside them
    faults += ["no checkpoint of the last step"] * (len(newest) != 1)
    faults += ["half a checkpoint"] * any(path.name.startswith(".") for path in kept)
    size = sum(path.stat().st_size for path in (folder / "tb").iterdir()) / 1e6
    faults += [f"TensorBoard: {size:.1f} MB"] * (size > TENSORBOARD_MB)
    rows = (folder / "metrics.jsonl").read_bytes().count(b"\n")
    return faults + [f"{rows} rows"] * (rows != steps // LOG_EVERY + steps // EVAL_EVERY)


@pytest.mark.parametrize(
    ("steps", "megabytes"), [FAST, pytest.param(*FULL, marks=pytest.mark.full)], ids=["fast", "full"]
)
def test_a_long_run_grows_nowhere(tmp_path: Path, steps: int, megabytes: float) -> None:
    samples = endure(tmp_path, steps)
    assert len(samples) >= 50
    assert growth_of(samples, megabytes) == []
    assert leftovers_of(tmp_path, steps) == []


# ---- the tester, tested -----------------------------------------------------------------------------

KEPT: list[Any] = []


@pytest.fixture
def release() -> Iterator[None]:
    """Give back what a planted leak took."""
    yield
    for kept in KEPT:
        if isinstance(kept, int):
            os.close(kept)
        elif isinstance(kept, threading.Event):
            kept.set()
    KEPT.clear()


def hold_free_memory() -> None:
    """Leave 80 MB free in the allocator's hands, as a test that ran before may."""
    bytearray(30_000_000)  # glibc gives out pieces up to the size of this one from its heap from now on
    pieces = [bytearray(500_000) for _ in range(160)]
    KEPT.append(pieces.pop())  # the last one: what is free below it stays


def leak_tensors(metrics: dict[str, Any], step: int, prefix: str) -> None:
    KEPT.append(torch.ones(100_000))


def leak_a_little(metrics: dict[str, Any], step: int, prefix: str) -> None:
    KEPT.append(torch.ones(1_000))  # 4 kB in ten steps: 4 MB per 10,000


def leak_files(metrics: dict[str, Any], step: int, prefix: str) -> None:
    KEPT.append(os.open(os.devnull, os.O_RDONLY))


def leak_threads(metrics: dict[str, Any], step: int, prefix: str) -> None:
    KEPT.append(threading.Event())
    threading.Thread(target=KEPT[-1].wait, daemon=True).start()


@pytest.mark.parametrize(
    ("leak", "grown", "run"),
    [
        (leak_tensors, "memory", (500, FAST[1])),
        (leak_files, "files", (500, FAST[1])),
        (leak_threads, "threads", (500, FAST[1])),
        pytest.param(leak_a_little, "memory", FULL, marks=pytest.mark.full),
    ],
)
def test_a_planted_leak_is_found(
    tmp_path: Path, release: None, leak: Hook, grown: str, run: tuple[int, float]
) -> None:
    steps, megabytes = run
    faults = growth_of(endure(tmp_path, steps, leak), megabytes)
    assert grown in [fault.partition(":")[0] for fault in faults]


def test_a_leak_into_memory_already_free_is_found(tmp_path: Path, release: None) -> None:
    hold_free_memory()
    faults = growth_of(endure(tmp_path, 500, leak_tensors), FAST[1])
    assert [fault.partition(":")[0] for fault in faults] == ["memory"]


def test_what_a_folder_has_too_much_is_found(tmp_path: Path) -> None:
    endure(tmp_path, 200)
    assert leftovers_of(tmp_path, 200) == []
    for number in range(KEEP):
        (tmp_path / "checkpoints" / f"step-{number:08d}-old").mkdir()
    (tmp_path / "checkpoints" / ".tmp-step-9").mkdir()
    (tmp_path / "tb" / "events.more").write_bytes(bytes(5_000_001))
    (tmp_path / "metrics.jsonl").write_bytes(b"")
    found = [fault.split()[-1] for fault in leftovers_of(tmp_path, 200)]
    assert found == ["checkpoints", "checkpoint", "MB", "rows"]
