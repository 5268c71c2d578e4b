"""Curricula over depth, difficulty, width and size of the boards against their twins without, at equal time.

    python benchmarks/trm_curriculum.py [depth difficulty growth] [--minutes 2] [--seeds 3] [key=value ...]

6x6 boards, all from the same data. ``depth`` and ``difficulty`` have the same budget of minutes as their twin
``none``; the shallow one is scored at its own depth. What grows has stages that count in epochs; its twin
gets as many seconds as it took.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import trained
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
SHALLOW = ["model.blocks=1", "model.latents=2"]
SHARE = "depth.stages=[{until: 0.4, blocks: 2, latents: 4, data: 0.3}, {until: 1, blocks: 2, latents: 4}]"
NONE = {"none": list[str]()}
DEPTH = {
    "depth": [
        "depth.stages=[{until: 0.4, latents: 2}, {until: 0.75, latents: 4}, "
        "{until: 1, blocks: 2, latents: 4}]"
    ],
    "shallow throughout": SHALLOW,
}
DIFFICULTY = {
    "easy first": ["data.order=easy_first", SHARE],
    "hard first": ["data.order=hard_first", SHARE],
}
GROWTH = {
    "width, 32 then 64": "curriculum=[{dim: 32, epochs: 5}, {epochs: 5}]",
    "boards, 4x4 then 6x6": "curriculum=[{seq_len: 16, epochs: 5}, {epochs: 5}]",  # as many clues on both
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("words", nargs="*", help="depth, difficulty, growth (none: all), and settings")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", default="runs/bench", help="where the run folders of what grows go")
    args = parser.parse_intermixed_args()
    settings = [word for word in args.words if "=" in word]
    kinds = [word for word in args.words if "=" not in word] or ["depth", "difficulty", "growth"]
    timed = (DEPTH if "depth" in kinds else {}) | (DIFFICULTY if "difficulty" in kinds else {})
    rows = []
    for name, words in (NONE | timed if timed else {}).items():
        chosen = [*PLAIN, *words, *settings]
        rows.append(row(name, args.seeds, lambda seed, c=chosen: train([*c, f"seed={seed}"], args.minutes)))
    for name, stages in (GROWTH if "growth" in kinds else {}).items():
        chosen = [*PLAIN, *SHALLOW, "data.clues_to=0", *settings]
        rows.append(
            row(name, args.seeds, lambda seed, c=chosen, s=stages: staged([*c, f"seed={seed}", s], args))
        )
        minutes = rows[-1]["seconds"] / 60
        rows.append(
            row(
                "as long without",
                args.seeds,
                lambda seed, c=chosen, m=minutes: train([*c, f"seed={seed}"], m),
            )
        )
    return show("trm curriculum", rows, {})


def staged(words: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Train in stages and score the averaged weights on the test split."""
    _, path = trained.train("trm", [*words, "device=cpu", "trainer.max_minutes=0"], args.runs)
    facts = json.loads((path / "run.json").read_text("utf-8"))
    found = next(row for row in trained.table_of(path) if row["name"] == "trm")
    return {**found, "optimiser_steps": facts["steps"], "seconds": facts["seconds"]}


def row(name: str, seeds: int, one: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """Medians over seeds, printed as soon as they are known."""
    made = [one(seed) for seed in range(seeds)]
    exact = [found["exact"] for found in made]
    medians = {
        key: statistics.median(found[key] for found in made)
        for key in ("cell_accuracy", "optimiser_steps", "seconds")
    }
    result = {
        "name": name,
        "exact": statistics.median(exact),
        "least": min(exact),
        "most": max(exact),
        **medians,
    }
    print(result, flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
