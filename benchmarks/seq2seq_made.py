"""Exact matches on held-out made pairs (German to English) after the demo preset's training.

python benchmarks/seq2seq_made.py [--minutes 3] [--tables builtin] [settings of the run]
"""

from __future__ import annotations

import argparse
import sys

from shown import show
from trained import table_of, train


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--tables", default="builtin")
    parser.add_argument("--runs", default="runs", help="where the run folders go")
    parser.add_argument("settings", nargs="*")
    args = parser.parse_intermixed_args()
    words = [
        "preset=demo",
        f"trainer.max_minutes={args.minutes}",
        f"data.tables={args.tables}",
        *args.settings,
    ]
    curve, path = train("seq2seq", words, args.runs)
    rows = [{"step": row["step"], "seconds": round(row["seconds"]), "loss": row["loss"]} for row in curve]
    table = table_of(path)
    rows += [{"name": row["name"], "exact_match": row["exact_match"]} for row in table]
    return show("seq2seq made pairs", rows, {"exact match": (table[0]["exact_match"], ">=", 0.95)})


if __name__ == "__main__":
    sys.exit(main())
