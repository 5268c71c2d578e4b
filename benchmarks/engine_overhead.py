"""What the engine costs: a step of the Trainer against a bare hand-written loop.

    python benchmarks/engine_overhead.py [--rounds 5]

The same model, data, optimiser (fused AdamW), schedule (cosine), clipping (1.0) and number of steps, one
thread. The bare loop is what people write: a DataLoader over the prepared batches, ``clip_grad_norm_``,
LambdaLR, a running loss. tinsmith runs with JSONL logging every 50 steps and progress to a pipe. Each runs
in a process of its own, the two in turn; a step's time is taken inside the model's forward, so that
start-up is out and the turn of the epochs is in. Medians, and the ratio within each round.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

WARM, STEPS = {"small": 200, "large": 20}, {"small": 3000, "large": 400}
SIZES = ("small", "large")
BATCHES = {"small": 500, "large": 50}  # in an epoch


class Timed(nn.Module):
    """A model that notes the time at the first and the last timed call of its forward."""

    def __init__(self, size: str) -> None:
        super().__init__()
        if size == "small":
            self.net: nn.Module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10))
        else:
            self.net = nn.Sequential(
                nn.Linear(64, 256), nn.GELU(), *[Wide() for _ in range(4)], nn.Linear(256, 10)
            )
        self.calls, self.first, self.last = 0, WARM[size], WARM[size] + STEPS[size]
        self.start = self.end = 0.0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            if self.calls == self.first:
                self.start = time.perf_counter()
            if self.calls == self.last:
                self.end = time.perf_counter()
            self.calls += 1
        return self.net(x)


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(256), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 256))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def make(size: str) -> tuple[Timed, list[tuple[Tensor, Tensor]], int]:
    torch.manual_seed(0)
    width, rows = (16, 32) if size == "small" else (64, 64)
    batches = [(torch.randn(rows, width), torch.randint(10, (rows,))) for _ in range(BATCHES[size])]
    return Timed(size), batches, WARM[size] + STEPS[size] + 5


def bare(size: str) -> Timed:
    model, batches, total = make(size)
    loader = torch.utils.data.DataLoader(batches, batch_size=None, shuffle=True)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(1, step / total)))
    )
    loss_fn = nn.CrossEntropyLoss()
    running, step = torch.zeros(()), 0
    while step < total:
        for x, y in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            running += loss.detach()
            step += 1
            if step == total:
                break
    return model


def tinsmith(size: str) -> Timed:
    from tinsmith import Trainer, get_optimizer, get_scheduler
    from tinsmith.engine.loggers import JsonlLogger

    model, batches, total = make(size)
    optimizer = get_optimizer(model, "adamw", lr=1e-3, weight_decay=0.01)
    scheduler = get_scheduler(optimizer, "cosine_warmup", total_steps=total)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            optimizer,
            scheduler,
            nn.CrossEntropyLoss(),
            task_type="classification",
            device="cpu",
            checkpoint_dir=Path(folder) / "checkpoints",
            max_steps=total,
        )
        trainer.add_log_hook(JsonlLogger(Path(folder) / "metrics.jsonl"))
        trainer.fit(torch.utils.data.DataLoader(batches, batch_size=None, shuffle=True))  # type: ignore[arg-type]
    return model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        torch.set_num_threads(1)
        who, size = args.child
        model = {"bare": bare, "tinsmith": tinsmith}[who](size)
        print(json.dumps({"us": 1e6 * (model.end - model.start) / STEPS[size]}))
        return 0
    return compare(args.rounds)


def compare(rounds: int) -> int:
    from shown import show

    rows: list[dict[str, Any]] = []
    ratios = {}
    for size in SIZES:
        times: dict[str, list[float]] = {"bare": [], "tinsmith": []}
        for _ in range(rounds):
            for who in times:
                times[who].append(child(who, size))
        pairs = [b / a for a, b in zip(times["bare"], times["tinsmith"], strict=True)]
        ratios[size] = statistics.median(pairs)
        for who, values in times.items():
            rows.append(
                {
                    "step": size,
                    "loop": who,
                    "us, median": round(statistics.median(values), 1),
                    "min": round(min(values), 1),
                    "max": round(max(values), 1),
                }
            )
        rows.append(
            {
                "step": size,
                "loop": "ratio",
                "us, median": round(ratios[size], 3),
                "min": round(min(pairs), 3),
                "max": round(max(pairs), 3),
            }
        )
    return show(
        "engine overhead",
        rows,
        {
            "small step": (round(ratios["small"], 3), "<=", 1.10),
            "large step": (round(ratios["large"], 3), "<=", 1.03),
        },
    )


def child(who: str, size: str) -> float:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = subprocess.run(
        [sys.executable, __file__, "--child", who, size],
        env=env,
        text=True,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ).stdout
    return float(json.loads(out.splitlines()[-1])["us"])


if __name__ == "__main__":
    sys.exit(main())
