"""Held-out puzzles solved, after so many minutes of training on two cores: three seeds each.

    python benchmarks/trm_sudoku.py [4x4 6x6 9x9 maze] [--seeds 3] [--minutes M] [key=value ...]

Without names all of them (two hours and a half). Boards are made; no test board is a symmetry of a training
one. Each row says the core, the depth and the pool. ``exact`` is the share of boards with every cell right at
the depth of training; 4x4 has 288 full grids, which all splits share.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from shown import show

from tinsmith.compose import compose
from tinsmith.engine.seed import set_seed
from tinsmith.families import load_family
from tinsmith.families.trm.data import build_data
from tinsmith.families.trm.trainer import create_model, create_trainer

# name -> preset, minutes, the bar, the goal
PUZZLES = {
    "4x4": ("demo", 1.0, 0.99, 0.99),
    "6x6": ("sudoku6", 10.0, 0.50, 0.95),
    "9x9": ("sudoku9", 30.0, 0.30, 0.80),
    "maze": ("maze", 10.0, 0.95, 0.95),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("words", nargs="*", help="names of puzzles, and settings")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    names = [word for word in args.words if word in PUZZLES] or list(PUZZLES)
    settings = [word for word in args.words if "=" in word]
    rows, bars = [], {}
    for name in names:
        preset, minutes, bar, _ = PUZZLES[name]
        made = []
        for seed in range(args.seeds):
            words = [f"preset={preset}", f"seed={seed}", f"threads={args.threads}", *settings]
            made.append(train(words, args.minutes or minutes))
            rows.append({"name": f"{name}, seed {seed}", **made[-1]})
            print(rows[-1], flush=True)
        bars[f"{name} exact, median of {args.seeds}"] = (
            statistics.median(r["exact"] for r in made),
            ">=",
            bar,
        )
    return show("trm sudoku and maze", rows, bars)


def train(words: list[str], minutes: float, table: Callable[..., Any] | None = None) -> dict[str, Any]:
    """Train by the settings and score the averaged weights on the test split, through what users load.

    ``table`` takes the place of the family's.
    """
    cfg = compose("trm", [*words, f"trainer.max_minutes={minutes}", "device=cpu"]).cfg
    torch.set_num_threads(cfg.threads)
    set_seed(cfg.seed)
    start = time.monotonic()
    data = build_data(cfg)
    made = time.monotonic() - start
    family = load_family("trm")
    with TemporaryDirectory() as folder:
        trainer = create_trainer(cfg, create_model(cfg, data.spec), data, Path(folder) / "checkpoints")
        trainer.reporter.show = False
        trainer.fit(data.train, data.valid, metric_for_best="exact", minimize_metric=False)
        seconds, steps = trainer.state.seconds, trainer.state.step
        best = max(trainer.state.history["val_exact"])
        if trainer.parts.ema is not None:
            trainer.task.load_state_dict(trainer.parts.ema.state_dict()["shadow"], strict=False)
        family.save_model(cfg, trainer.task, data, Path(folder) / "model")
        rows = (table or family.table)(family.predictor.load(Path(folder)), data, "test")
    by_name = {row["name"]: row for row in rows}
    return {
        "exact": by_name["trm"]["exact"],
        "cell_accuracy": by_name["trm"]["cell_accuracy"],
        "best_valid": best,
        "halting": by_name["trm, halting"]["exact"],
        "halting_steps": by_name["trm, halting"]["steps"],
        "steps x 4": by_name["trm, steps x 4"]["exact"],
        "baseline": max(row["exact"] for row in rows if not row["name"].startswith("trm")),
        "core": cfg.model.core,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "train": len(data.train.dataset),
        "test": len(data.test.dataset),
        "optimiser_steps": steps,
        "data_seconds": made,
        "seconds": seconds,
    }


if __name__ == "__main__":
    sys.exit(main())
