"""How near the student comes to its teacher in a given time: the curve of cosine against seconds and domain.

    python benchmarks/codec_quality.py --minutes 1 3 8        two cores, the bars
    python benchmarks/codec_quality.py --minutes 60 preset=deep

Teacher vectors are computed first and kept; the minutes are those of training (``trainer.max_minutes``),
evaluations included. Further words are settings of the run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from shown import data_folder, show

from tinsmith import console, run, runs
from tinsmith.compose import compose
from tinsmith.engine.loggers import read_metrics

BARS = {1: ("cosine", 0.845), 3: ("cosine", 0.86), 8: ("cosine", 0.875), 60: ("cosine", 0.90)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 3, 8])
    parser.add_argument("--runs", default="runs", help="where the run folders go")
    parser.add_argument("settings", nargs="*")
    args = parser.parse_intermixed_args()
    folder = data_folder() / "sentences"
    console.configure(quiet=True)
    rows: list[dict[str, Any]] = []
    bars = {}
    for minutes in args.minutes:
        curve, path = train(folder, minutes, args.runs, args.settings)
        rows += curve
        last = curve[-1]
        if minutes in BARS:
            name, bar = BARS[minutes]
            bars[f"{name} after {minutes:g} min"] = (last[name], ">=", bar)
        if minutes == 8:
            bars["cosine_dialogue after 8 min"] = (last["cosine_dialogue"], ">=", 0.90)
            bars["recall_at_1 after 8 min"] = (last["recall_at_1"], ">=", 0.995)
        print(f"{minutes:g} minutes: {path}", file=sys.stderr)
    return show("codec quality", rows, bars)


def train(folder: Path, minutes: float, root: str, settings: list[str]) -> tuple[list[dict[str, Any]], Path]:
    """Train for ``minutes`` of wall-clock time; the validation rows of the run."""
    files = [
        f"data.{key}={folder}/mixed_{name}.jsonl.gz"
        for key, name in (("path", "train"), ("valid", "valid"), ("test", "test"))
    ]
    words = [*files, f"trainer.max_minutes={minutes}", f"trainer.eval_every={250 if minutes <= 3 else 500}"]
    resolved = compose("codec", [*words, *settings])
    path = runs.new_run(root, "codec", f"quality-{minutes:g}min")
    runs.write_run_json(path, **runs.first_record(path, sys.argv, resolved.cfg.seed, resolved.cfg.device))
    run.train("codec", resolved, path)
    rows = []
    for row in read_metrics(path / "metrics.jsonl"):
        if row["split"] == "val":
            rows.append(
                {"minutes": minutes, "step": row["step"], "seconds": round(row["seconds"], 1)}
                | {key: value for key, value in row.items() if key.startswith(("cosine", "recall"))}
            )
    return rows, path


if __name__ == "__main__":
    sys.exit(main())
