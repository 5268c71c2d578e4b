"""Curricula over depth and difficulty against their twin without, at equal time.

    python benchmarks/trm_curriculum.py [--minutes 2] [--seeds 3] [key=value ...]

6x6 boards. All have the same budget and data; the shallow one is scored at its own depth.
"""

from __future__ import annotations

import argparse
import statistics
import sys

from shown import show
from trm_sudoku import train

PLAIN = [
    "preset=sudoku6",
    "model.blocks=2",
    "model.latents=4",
    "data.train=4000",
    "data.clues=14",
    "data.clues_to=24",
]
SHARE = "depth.stages=[{until: 0.4, blocks: 2, latents: 4, data: 0.3}, {until: 1, blocks: 2, latents: 4}]"
VARIANTS: dict[str, list[str]] = {
    "none": [],
    "depth": [
        "depth.stages=[{until: 0.4, latents: 2}, {until: 0.75, latents: 4}, "
        "{until: 1, blocks: 2, latents: 4}]"
    ],
    "shallow throughout": ["model.blocks=1", "model.latents=2"],
    "easy first": ["data.order=easy_first", SHARE],
    "hard first": ["data.order=hard_first", SHARE],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("words", nargs="*", help="settings")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    rows = []
    for name, words in VARIANTS.items():
        made = [train([*PLAIN, *words, f"seed={s}", *args.words], args.minutes) for s in range(args.seeds)]
        rows.append(
            {
                "name": name,
                "exact": statistics.median(row["exact"] for row in made),
                "least": min(row["exact"] for row in made),
                "most": max(row["exact"] for row in made),
                "cell_accuracy": statistics.median(row["cell_accuracy"] for row in made),
                "optimiser_steps": statistics.median(row["optimiser_steps"] for row in made),
                "seconds": statistics.median(row["seconds"] for row in made),
            }
        )
        print(rows[-1], flush=True)
    return show("trm curriculum", rows, {})


if __name__ == "__main__":
    sys.exit(main())
