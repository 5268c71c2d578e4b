"""How good a model gets in a given time, beside what it has to beat: molecules and other sets.

    python benchmarks/graph_quality.py molecules          ESOL, FreeSolv, Lipo: five splits, 3 minutes each
    python benchmarks/graph_quality.py zinc --minutes 10  zinc12k_r; also 30 and 120
    python benchmarks/graph_quality.py sets               pattern, links of Cora, counting

``molecules`` and ``zinc`` want rdkit, and TINSMITH_DATA for the files. Further words are settings of the
runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from shown import data_folder, show
from trained import table_of, train

from tinsmith.engine.loggers import read_metrics

ZINC = {10: 0.20, 30: 0.14, 120: 0.11}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("molecules", "zinc", "sets"))
    parser.add_argument("--minutes", type=float, help="of training a run")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--sets", nargs="+", help="of the molecules or the other sets; none: all")
    parser.add_argument("--runs", default="runs/bench", help="where the run folders go")
    parser.add_argument("settings", nargs="*")
    args = parser.parse_intermixed_args()
    return {"molecules": molecules, "zinc": zinc, "sets": sets}[args.what](args)


def molecules(args: argparse.Namespace) -> int:
    """RMSE on ESOL, FreeSolv and Lipophilicity, mean and deviation over random splits."""
    folder = data_folder() / "graph"
    rows, bars = [], {}
    for name in args.sets or ["esol", "freesolv", "lipo"]:
        words = ["preset=molecules", f"dataset={name}", f"dataset.path={folder}"]
        tables = [
            trained(args, f"{name}-{i}", [*words, f"dataset.split_seed={i}", f"seed={i}"], args.minutes or 3)[
                0
            ]
            for i in range(1, args.splits + 1)
        ]
        for model in [row["name"] for row in tables[0]]:
            found = [row["rmse"] for table in tables for row in table if row["name"] == model]
            deviation = statistics.stdev(found) if len(found) > 1 else 0.0
            rows.append({"set": name, "model": model, "rmse": statistics.mean(found), "±": deviation})
        if name == "esol":
            bars["rmse of ESOL"] = (statistics.mean(table[0]["rmse"] for table in tables), "<=", 0.60)
    return show("graph molecules", rows, bars)


def zinc(args: argparse.Namespace) -> int:
    """MAE on the test split of ``zinc12k_r``, and the curve of the validation split."""
    folder = data_folder() / "graph" / "zinc"
    minutes = args.minutes or 10
    preset = "fast" if minutes <= 10 else "standard"
    words = [f"preset={preset}", "dataset=zinc12k_r", f"dataset.path={folder}"]
    table, path = trained(args, f"zinc-{minutes:g}min", words, minutes)
    rows = [
        {"minutes": round(row["seconds"] / 60, 2), "step": row["step"], "valid mae": row["mae"]}
        for row in read_metrics(path / "metrics.jsonl")
        if row["split"] == "val"
    ]
    rows += [{"model": row["name"], "test mae": row["mae"]} for row in table]
    plain, _ = trained(args, "zinc-gine", [*words, "model=gine", "pe=none"], minutes)
    rows.append({"model": "gine without encodings", "test mae": plain[0]["mae"]})
    parameters = json.loads((path / "run.json").read_text("utf-8"))["parameters"]
    bars: dict[str, tuple[float, str, float]] = {"parameters": (parameters, "<=", 500_000)}
    if minutes in ZINC:
        bars[f"test mae after {minutes:g} min"] = (table[0]["mae"], "<=", ZINC[int(minutes)])
    return show("graph zinc12k_r", rows, bars)


def sets(args: argparse.Namespace) -> int:
    """Patterns in block models, counting, and links of Cora where the file is at hand."""
    rows, bars = [], {}
    wanted: dict[str, tuple[list[str], float, tuple[str, str, float]]] = {
        "pattern": (
            ["model=gps", "model.num_layers=6", "pe=rwse", "trainer.batch_size=16"],
            15,
            ("accuracy_balanced", ">=", 0.85),
        ),
        "counting": (
            ["model=gps", "model.num_layers=6", "dataset.count=6000", "optimizer.muon_lr=0.002"],
            10,
            ("nmae", "<=", 0.02),
        ),
    }
    try:
        folder = data_folder() / "graph"
        wanted["cora_links"] = ([f"dataset.path={folder}", "pe=none"], 2, ("roc_auc", ">=", 0.90))
    except SystemExit:
        print("Cora is left out")
    unknown = sorted(set(args.sets or []) - set(wanted))
    if unknown:
        raise SystemExit(f"no such set here: {', '.join(unknown)}. There are {', '.join(wanted)}.")
    for name in args.sets or wanted:
        words, minutes, (metric, sign, bar) = wanted[name]
        budget = args.minutes or minutes
        table, _ = trained(args, name, [f"dataset={name}", *words, "trainer.eval_every=200"], budget)
        rows += [{"set": name, "model": row["name"], metric: row[metric]} for row in table]
        bars[f"{metric} of {name} within {minutes} min"] = (table[0][metric], sign, bar)
    return show("graph sets", rows, bars)


def trained(
    args: argparse.Namespace, name: str, words: list[str], minutes: float
) -> tuple[list[dict[str, Any]], Path]:
    """Train for ``minutes``; the table of the test split, and the run's folder."""
    budget = [f"trainer.max_minutes={minutes}", f"name={name}"]
    _, path = train("graph", [*words, *budget, *args.settings], args.runs)
    print(f"{name}: {path}", file=sys.stderr)
    return table_of(path), path


if __name__ == "__main__":
    sys.exit(main())
