"""Accuracy against cost of a trained model: halting, more steps, more attempts.

python benchmarks/trm_depth.py RUN [--split test] [--boards 512]
"""

from __future__ import annotations

import argparse
import sys

import torch
from shown import show

from tinsmith import runs
from tinsmith.compose import compose
from tinsmith.families.trm import TRMInference
from tinsmith.families.trm.baselines import rows_of
from tinsmith.families.trm.data import build_data
from tinsmith.families.trm.recipe import check_spec, measured


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--split", default="test")
    parser.add_argument("--boards", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = runs.find_run(args.run)
    data = build_data(compose("trm", [], runs.settings_file(folder)).cfg)
    solver = TRMInference.load(folder)
    check_spec(solver.spec, data.spec)
    inputs, labels = rows_of(getattr(data, args.split).dataset, args.boards)
    steps = solver.effort.steps
    efforts = {f"threshold {t}": {"threshold": t} for t in (0.3, 0.5, 0.7, 0.9, 0.97)}
    efforts |= {
        f"steps x {m}": {"steps": max(1, round(m * steps)), "threshold": 1.0}
        for m in (0.25, 0.5, 1, 2, 4, 16)
    }
    for select in ("halt", "residual", "vote"):
        efforts[f"steps x 4, 8 restarts, {select}"] = {
            "steps": 4 * steps,
            "restarts": 8,
            "select": select,
            "threshold": 1.0,
        }
    efforts["steps x 4, 8 restarts, halting"] = {"steps": 4 * steps, "restarts": 8, "threshold": 0.97}
    rows = []
    for name, effort in efforts.items():
        rows.append(
            {"name": name, **measured(solver, inputs, labels, **{"restarts": 1, "path_noise": 0.0, **effort})}
        )
        print(rows[-1], flush=True)
    by_name = {row["name"]: row for row in rows}
    full = by_name["steps x 1"]
    near = [r for r in rows if r["name"].startswith("threshold") and r["exact"] >= full["exact"] - 0.005]
    cheapest = min((r["steps"] for r in near), default=full["steps"]) / full["steps"]
    best = max(r["exact"] for r in rows if "restarts" in r["name"])
    bars = {
        "halting: share of the steps at half a point less": (cheapest, "<=", 0.4),
        "steps x 4 and 8 restarts, points": (100 * (best - full["exact"]), ">=", 5.0),
        "steps x 16, points": (100 * (by_name["steps x 16"]["exact"] - full["exact"]), ">=", -1.0),
    }
    return show("trm depth", rows, bars)


if __name__ == "__main__":
    sys.exit(main())
