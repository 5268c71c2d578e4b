"""Rings that message passing cannot tell apart: accuracy with and without encodings, five folds, in a minute.

python benchmarks/graph_csl.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

from shown import show

from tinsmith import console
from tinsmith.compose import compose
from tinsmith.engine.configured import build_trainer
from tinsmith.engine.seed import set_seed
from tinsmith.families import load_family


def main() -> int:
    console.configure(quiet=True)
    rows: list[dict[str, Any]] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        for pe in ("default", "none"):
            for fold in range(5):
                rows.append({"pe": pe, "fold": fold, **train(pe, fold, cache)})
    seconds = time.monotonic() - start
    accuracy = {pe: [row["accuracy"] for row in rows if row["pe"] == pe] for pe in ("default", "none")}
    mean = {pe: sum(values) / len(values) for pe, values in accuracy.items()}
    bars = {
        "accuracy with pe=default": (mean["default"], ">=", 1.0),
        "accuracy with pe=none": (mean["none"], "<=", 0.13),
        "seconds, five folds of both": (seconds, "<=", 60),
    }
    return show("graph csl", rows, bars)


def train(pe: str, fold: int, cache: str) -> dict[str, Any]:
    """Train on a fold; accuracy on the test split."""
    words = ["preset=demo", "dataset=csl", f"dataset.fold={fold}", f"pe={pe}", f"dataset.cache={cache}"]
    cfg = compose("graph", words).cfg
    family = load_family("graph")
    start = time.monotonic()
    set_seed(cfg.seed)
    data = family.build_data(cfg)
    task = family.build_task(cfg, family.build_model(cfg, data.spec), data)
    trainer = build_trainer(cfg, task, None)
    trainer.fit(data.train, None, cfg.trainer.epochs)
    accuracy = trainer.eval_epoch(data.test)["accuracy"]
    return {"accuracy": accuracy, "steps": trainer.state.step, "seconds": round(time.monotonic() - start, 1)}


if __name__ == "__main__":
    sys.exit(main())
