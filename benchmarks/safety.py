"""What safety costs: the guard in every step, and a checkpoint of 100 MB while the training goes on.

    python benchmarks/safety.py [--rounds 9]

Guard: the same loop (a step of about 0.3 ms, one thread) with and without it, step by step in turn; the
difference of the medians over 2,000 steps a round, with clipping (which has the norm already) and without.
Checkpoint: 100 MB of tensors, steps of a few milliseconds. The stall is the time from the end of the step
before a save to the start of the next step; beside it the copy of the tensors alone, the save in the
foreground, and the steps that ran while the thread wrote.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from shown import show
from torch import nn

from tinsmith import Trainer
from tinsmith.engine import snapshot
from tinsmith.engine.data import Loader
from tinsmith.engine.guard import Guard
from tinsmith.engine.loop import Loop
from tinsmith.engine.state import State
from tinsmith.engine.window import Means

STEPS = 2000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, bars = [], {}
    for clip, bar in ((1.0, 5.0), (None, 35.0)):
        name = "guard, clipping" if clip else "guard, no clipping"
        step, cost = guard_cost(clip, args.rounds)
        rows.append({"what": name, "step, us": round(step, 1), "cost, us": round(cost, 2)})
        bars[f"{name}, us a step"] = (round(cost, 2), "<=", bar)
    stall = checkpoint_stall(args.rounds)
    rows += [{"what": name, "ms, median": round(value, 2)} for name, value in stall.items()]
    share = stall["stall of a save in the background"] / stall["copy of 100 MB alone"]
    bars["stall, times the copy"] = (round(share, 3), "<=", 1.15)
    return show("safety", rows, bars)


def guard_cost(clip: float | None, rounds: int) -> tuple[float, float]:
    """Microseconds of a step without the guard, and what the guard adds."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10))
    trainer = Trainer(model, device="cpu", grad_clip=clip, checkpoint_dir=None, progress=False)
    x = torch.randn(32 * STEPS, 16)
    loader = Loader(torch.utils.data.TensorDataset(x, x[:, :10].clone()), 32)
    plain, costs = [], []
    for _ in range(rounds + 1):
        without, with_guard = medians(trainer, loader)
        plain.append(without)
        costs.append(with_guard - without)
    return statistics.median(plain[1:]), statistics.median(costs[1:])


def medians(trainer: Trainer, loader: Loader) -> tuple[float, float]:
    """Microseconds of a step without the guard and with it, over an epoch."""
    guard = Guard()
    loop = Loop(trainer.parts, State(), Means(), guard)
    times: tuple[list[float], list[float]] = ([], [])
    start = time.perf_counter()
    for step in loop.steps(loader, 1):
        times[loop.guard is not None].append(time.perf_counter() - start)
        loop.guard = guard if step % 2 else None
        start = time.perf_counter()
    return 1e6 * statistics.median(times[0]), 1e6 * statistics.median(times[1])


class Heavy(nn.Module):
    """A small net that carries 100 MB of frozen weights."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.ParameterList(
            nn.Parameter(torch.randn(2_500_000), requires_grad=False) for _ in range(10)
        )
        self.net = nn.Sequential(nn.Linear(64, 512), nn.GELU(), nn.Linear(512, 512), nn.Linear(512, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def checkpoint_stall(rounds: int) -> dict[str, float]:
    """Medians in milliseconds."""
    torch.manual_seed(0)
    x = torch.randn(256, 64)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(Heavy(), device="cpu", checkpoint_dir=folder, save_seconds=1e9, progress=False)
        assert trainer.saver is not None
        loop, loader = trainer.loop, Loader(torch.utils.data.TensorDataset(x, x), 256)
        saver, buffers = trainer.saver, {}
        found: dict[str, list[float]] = {
            name: []
            for name in (
                "step without a save",
                "copy of 100 MB alone",
                "stall of a save in the background",
                "step while the thread writes",
                "longest of these",
                "save in the foreground",
            )
        }
        for round_ in range(rounds + 1):
            result: dict[str, Any] = {"step without a save": statistics.median(steps(loop, loader, 20))}
            parts = snapshot.capture(trainer)[0]
            result["copy of 100 MB alone"] = ms(partial(snapshot.copy_tensors, parts, buffers))
            result["stall of a save in the background"] = ms(lambda: saver.save(trainer, background=True))
            thread = saver._thread
            during = []
            while thread is not None and thread.is_alive():
                during += steps(loop, loader, 1)
            saver.wait(trainer)
            result["step while the thread writes"] = statistics.median(during)
            result["longest of these"] = max(during)
            result["save in the foreground"] = ms(lambda: saver.save(trainer))
            if round_:  # the first fills the buffers
                for name, value in result.items():
                    found[name].append(value)
        assert len(list(Path(folder).glob("step-*"))) >= 2
    return {name: statistics.median(values) for name, values in found.items()}


def steps(loop: Loop, loader: Loader, count: int) -> list[float]:
    """Milliseconds of each of ``count`` steps."""
    times = []
    for _ in range(count):
        times.append(ms(lambda: next(iter(loop.steps(loader, None)))))
    return times


def ms(call: Any) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
