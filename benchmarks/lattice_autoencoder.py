"""Is the lattice a better autoencoder than PCA with as many numbers, fitted in the same run on the same rows?

    python benchmarks/lattice_autoencoder.py [--bottlenecks 64 128 192] [--samples 10000] [--epochs 40]

Held-out cosine over the test sentences, with PCA and a plain MLP autoencoder beside it, and how steady the
training loss is at the end. Further words are settings of the run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import trained
from shown import data_folder, show

from tinsmith import console
from tinsmith.engine.loggers import read_metrics

ABOVE_PCA = {64: 0.752, 128: 0.875}  # numbers -> PCA's cosine where the bar was set, for comparison
REACHED = {192: 0.90}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bottlenecks", type=int, nargs="+", default=[64, 128, 192])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--runs", default="runs", help="where the run folders go")
    parser.add_argument("settings", nargs="*")
    args = parser.parse_intermixed_args()
    folder = data_folder() / "sentences"
    console.configure(quiet=True)
    rows: list[dict[str, Any]] = []
    bars: dict[str, tuple[float, str, float]] = {}
    for numbers in args.bottlenecks:
        words = [
            "mode=autoencoder",
            "data.source=file",
            f"data.path={folder}/mixed_train.jsonl.gz",
            f"data.valid={folder}/mixed_valid.jsonl.gz",
            f"data.test={folder}/mixed_test.jsonl.gz",
            f"data.max_samples={args.samples}",
            f"model.bottleneck={numbers}",
            f"trainer.epochs={args.epochs}",
        ]
        table, minutes, path = train(f"autoencoder-{numbers}", [*words, *args.settings], args.runs)
        rows += [{"bottleneck": numbers, **row} for row in table]
        rows[-len(table)]["minutes"] = round(minutes, 1)
        cosine = {row["name"]: row["cosine"] for row in table}
        if numbers in ABOVE_PCA:
            gain = round(cosine["lattice"] - cosine["pca"], 5)
            bars[f"cosine above PCA's at {numbers}"] = (gain, ">=", 1e-4)
        if numbers in REACHED:
            bars[f"cosine at {numbers}"] = (cosine["lattice"], ">=", REACHED[numbers])
            bars[f"cosine against PCA's at {numbers}"] = (cosine["lattice"], ">=", cosine["pca"])
        bars[f"variance of the last ten epochs' loss at {numbers}"] = (loss_variance(path), "<=", 0.01)
    return show("lattice autoencoder", rows, bars)


def train(name: str, settings: list[str], root: str) -> tuple[list[dict[str, Any]], float, Path]:
    """Train a run; its table over the test split, its minutes from start to end, and its folder."""
    start = time.monotonic()
    _, path = trained.train("lattice", [f"name={name}", *settings], root)
    minutes = (time.monotonic() - start) / 60
    print(f"{name}: {path}, {minutes:.1f} minutes in all", file=sys.stderr)
    return trained.table_of(path), minutes, path


def loss_variance(path: Path, epochs: int = 10) -> float:
    """Variance over the last epochs of each one's mean training loss."""
    losses: dict[int, list[float]] = {}
    for row in read_metrics(path / "metrics.jsonl"):
        if row["split"] == "train":
            losses.setdefault(row["epoch"], []).append(row["loss"])
    means = [statistics.fmean(values) for _, values in sorted(losses.items())][-epochs:]
    return statistics.pvariance(means) if means else float("nan")


if __name__ == "__main__":
    sys.exit(main())
