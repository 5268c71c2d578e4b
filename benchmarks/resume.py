"""A run that is killed again and again against the run that is not: are the final bits the same?

    python benchmarks/resume.py [--kills 20] [--only plain codec]

``plain`` is a user of ``Trainer`` with an ordinary shuffling ``DataLoader``, dropout, weight average,
accumulation, cosine schedule and noise in the data set; ``codec`` is ``tinsmith train`` and ``resume`` on the
embedded sentences. Each attempt is killed with SIGKILL at a random instant of its training (also while it
writes a checkpoint), resumed in a new process, and after the last kill left to end. Compared are the tensors
of the last checkpoint (weights, average, optimiser) and every row of ``metrics.jsonl`` (loss, gradient norm,
learning rate).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TRAINING = "training starts"  # what the child prints first of all that counts
CODEC = [
    "model.dim=64",
    "model.dilations=[1,2]",
    "trainer.max_minutes=0",
    "trainer.max_steps=300",
    "trainer.eval_every=40",
    "trainer.batch_size=64",
    "trainer.ema=0.99",
    "trainer.log_every=5",
    "trainer.save_seconds=0.2",
    "logger.tensorboard=false",
    "model.dropout=0.1",
]

Command = Callable[[Path], list[str]]


# ---- the plain user ---------------------------------------------------------------------------------


class Noisy(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Samples with fresh noise each time that they are read."""

    def __init__(self, rows: int) -> None:
        self.x = torch.randn(rows, 16, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.x[i] + 0.1 * torch.randn(16), self.x[i].sum().sin()[None]


def train_plain(folder: Path, epochs: int, workers: int, precision: str, die_at: int) -> None:
    """Train, or go on, in ``folder``; with ``die_at`` kill this process before that step is saved."""
    from tinsmith import Trainer, get_optimizer, get_scheduler, set_seed
    from tinsmith.engine.loggers import JsonlLogger

    set_seed(7)
    model = nn.Sequential(nn.Linear(16, 256), nn.GELU(), nn.Dropout(0.2), nn.Linear(256, 256), nn.GELU())
    model.append(nn.Linear(256, 1))
    optimizer = get_optimizer(model, "adamw", lr=3e-3)
    schedule = get_scheduler(optimizer, "cosine_warmup", total_epochs=epochs, warmup_epochs=1)
    checkpoints = folder / "checkpoints"
    trainer = Trainer(
        model,
        optimizer,
        schedule,
        device="cpu",
        mixed_precision=precision if precision != "off" else False,
        accumulate=2,
        ema=0.99,
        log_every=3,
        checkpoint_dir=checkpoints,
        save_seconds=0.0 if die_at else 0.05,
        progress=False,
    )
    if checkpoints.is_dir() and any(checkpoints.glob("step-*/MANIFEST.json")):
        trainer.load_checkpoint(checkpoints)
    trainer.add_log_hook(JsonlLogger(folder / "metrics.jsonl", trainer.state.step))
    if die_at:  # after the weights have moved, before they are saved
        optimizer.register_step_post_hook(
            lambda *_: trainer.state.step + 1 == die_at and os.kill(os.getpid(), signal.SIGKILL)
        )
    loader = torch.utils.data.DataLoader(Noisy(500), batch_size=16, shuffle=True, num_workers=workers)
    print(TRAINING, flush=True)
    trainer.fit(loader, torch.utils.data.DataLoader(Noisy(64), batch_size=16), epochs=epochs)


def plain(epochs: int = 60, workers: int = 0, precision: str = "off", die_at: int = 0) -> Command:
    """The command of ``train_plain`` in a folder."""
    options = [str(epochs), str(workers), precision, str(die_at)]
    return lambda folder: [sys.executable, __file__, "--child", str(folder), *options]


def codec(settings: list[str]) -> Command:
    """``tinsmith train`` for a folder without a run that can be resumed, else ``tinsmith resume``."""

    def command(folder: Path) -> list[str]:
        tinsmith = [sys.executable, "-m", "tinsmith"]
        found = sorted((folder / "codec").glob("[0-9]*/config.yaml"))
        if found:
            return [*tinsmith, "resume", str(found[-1].parent)]
        return [*tinsmith, "train", "codec", "--run-dir", str(folder), *settings]

    return command


# ---- killing and comparing --------------------------------------------------------------------------


def run_child(command: list[str], kill_after: float | None) -> float:
    """Run a child; SIGKILL it ``kill_after`` seconds after its training starts. Seconds of its training."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = []
    for line in child.stdout:
        told.append(line)
        if line.startswith((TRAINING, "run folder")):
            break
    start = time.monotonic()
    try:
        child.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return time.monotonic() - start
    if child.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{command} ended with {child.returncode}: {''.join(told)}")
    return time.monotonic() - start


def kill_and_resume(
    command: Command, folder: Path, kills: int, seconds: float, seed: int
) -> list[dict[str, Any]]:
    """Kill the training in ``folder`` ``kills`` times, within ``seconds`` of it in all, then let it end.

    Returns:
        For each kill, where the newest checkpoint that it left stands: ``step, epoch, cursor`` (-1: none).
    """
    rng = random.Random(seed)
    left = []
    for _ in range(kills):
        run_child(command(folder), rng.uniform(0, 2 * seconds / kills))
        left.append(position(folder))
    run_child(command(folder), None)
    return left


def position(folder: Path) -> dict[str, Any]:
    """Where the newest checkpoint under ``folder`` stands."""
    states = [json.loads(path.read_bytes()) for path in folder.rglob("checkpoints/step-*/state.json")]
    if not states:
        return {"step": -1, "epoch": 0, "cursor": 0}
    state = max(states, key=lambda state: state["global_step"])
    return {"step": state["global_step"], "epoch": state["epoch"], "cursor": state["cursor"]}


def differences(a: Path, b: Path) -> list[str]:
    """What differs between the ends of two runs: names of tensors, and rows of the log."""
    left, right = final_tensors(a), final_tensors(b)
    wrong = sorted(set(left) ^ set(right))
    wrong += [name for name in left if name in right and not torch.equal(left[name], right[name])]
    if trace(a) != trace(b):
        wrong.append("metrics.jsonl")
    return wrong


def final_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the newest checkpoint, as ``part/name``."""
    from tinsmith.engine.checkpoint import read_newest

    newest = read_newest(next(folder.rglob("checkpoints")))
    assert newest is not None
    return {f"{part}/{name}": value for part, named in newest[1].items() for name, value in named.items()}


def trace(folder: Path) -> list[tuple[Any, ...]]:
    """What was logged, but for the clock."""
    rows = [json.loads(line) for line in next(folder.rglob("metrics.jsonl")).read_text("utf-8").splitlines()]
    clock = ("time", "samples_per_sec", "seconds")
    return [tuple((key, value) for key, value in row.items() if key not in clock) for row in rows]


def measure(name: str, command: Command, kills: int, folder: Path) -> dict[str, Any]:
    """The row of a case: where the kills struck, and what differs at the end."""
    seconds = run_child(command(folder / "whole"), None)
    left = kill_and_resume(command, folder / "killed", kills, seconds, seed=0)
    wrong = differences(folder / "whole", folder / "killed")
    parts = ("model", "ema", "optimizer", "extra", "metrics")
    same = {part: "no" if any(item.startswith(part) for item in wrong) else "yes" for part in parts}
    return {
        "case": name,
        "kills": kills,
        "resumed inside an epoch": sum(1 for at in left if at["cursor"]),
        "at an epoch's end": sum(1 for at in left if at["step"] > 0 and not at["cursor"]),
        "before any checkpoint": sum(1 for at in left if at["step"] < 0),
        **same,
        "identical": "yes" if not wrong else "NO",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=("plain", "codec"), default=["plain", "codec"])
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        folder, epochs, workers, precision, die_at = args.child
        train_plain(Path(folder), int(epochs), int(workers), precision, int(die_at))
        return 0
    from shown import show

    cases = {"plain": plain(), "codec": codec(["preset=demo", *CODEC])}
    with tempfile.TemporaryDirectory() as scratch:
        rows = [measure(name, cases[name], args.kills, Path(scratch) / name) for name in args.only]
    bars = {
        f"{row['case']}: identical after {args.kills} kills": (row["identical"] == "yes", ">=", 1)
        for row in rows
    }
    return show("resume", rows, {name: (int(ok), sign, bar) for name, (ok, sign, bar) in bars.items()})


if __name__ == "__main__":
    sys.exit(main())
