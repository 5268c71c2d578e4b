"""Does an encoder lose by being trained beside a decoder? Equal steps of the encoder, with and without one.

python benchmarks/codec_joint.py [--steps 1000] [settings]
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from shown import sentence_files, show
from trained import train


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="of the encoder")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("settings", nargs="*")
    args = parser.parse_intermixed_args()
    rows = [last_of(args, "encode", args.steps), last_of(args, "both", 2 * args.steps)]
    gap = rows[0]["cosine"] - rows[1]["cosine"]
    return show("codec joint", rows, {"cosine lost beside a decoder": (gap, "<=", 0.01)})


def last_of(args: argparse.Namespace, mode: str, steps: int) -> dict[str, Any]:
    """Train so many steps; the last validation."""
    words = [
        *sentence_files(),
        f"mode={mode}",
        f"name=joint-{mode}",
        f"trainer.max_steps={steps}",
        f"trainer.eval_every={steps // 4}",
    ]
    last = train("codec", [*words, *args.settings], args.runs)[0][-1]
    kept = ("cosine", "recall_at_1", "neighbours_at_10", "perplexity", "reencoded", "semantic")
    return {"mode": mode, "steps": steps, **{key: last[key] for key in kept if key in last}}


if __name__ == "__main__":
    sys.exit(main())
