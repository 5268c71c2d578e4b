"""Boards a second: made with exactly one solution, varied by symmetries, and solved.

    python benchmarks/trm_generator.py [--boards 10000]

One thread. Boards of a file in TINSMITH_DATA/puzzles are solved too, where there is one.
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from shown import show

from tinsmith.families.trm import sudoku
from tinsmith.families.trm.symmetry import SudokuSymmetry, draw_keys


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--boards", type=int, default=10_000)
    args = parser.parse_args()
    rows, made = [], None
    for clues in (36, 30, 25):
        start = time.perf_counter()
        found = sudoku.generate(args.boards if clues == 36 else args.boards // 10, 9, clues, seed=0)
        seconds = time.perf_counter() - start
        made = made or found
        rows.append(
            {
                "name": f"made, {clues} clues",
                "boards": len(found),
                "seconds": seconds,
                "per_sec": len(found) / seconds,
            }
        )
    assert made is not None
    rows.append(varied(made))
    for name, boards in pools().items():
        start = time.perf_counter()
        count = sudoku.solve(boards).count
        seconds = time.perf_counter() - start
        row = {
            "name": f"solved, {name}",
            "boards": len(boards),
            "seconds": seconds,
            "per_sec": len(boards) / seconds,
        }
        rows.append({**row, "unique": int((count == 1).sum())})
    bars = {
        "10,000 boards of 36 clues, seconds": (rows[0]["seconds"] * 10_000 / rows[0]["boards"], "<=", 60.0),
        "symmetries, boards a second": (rows[3]["per_sec"], ">=", 100_000),
    }
    return show("trm generator", rows, bars)


def varied(made: sudoku.Puzzles, batch: int = 1000, rounds: int = 50) -> dict[str, Any]:
    """The rate of boards with their solutions, a thousand at a time."""
    symmetry = SudokuSymmetry(9, 1)
    rows = np.arange(batch) % len(made)
    start = time.perf_counter()
    for epoch in range(rounds):
        change = symmetry(draw_keys(0, epoch, rows, symmetry.count))
        change(made.boards[rows])
        change(made.solutions[rows])
    seconds = time.perf_counter() - start
    return {
        "name": "symmetries",
        "boards": batch * rounds,
        "seconds": seconds,
        "per_sec": batch * rounds / seconds,
    }


def pools(limit: int = 2000) -> dict[str, sudoku.Boards]:
    """Boards of 17 clues and of the hardest kind, where the data are at hand."""
    folder = Path(os.environ.get("TINSMITH_DATA", "")) / "puzzles"
    found = {}
    for name in ("sudoku_17clue", "sudoku_hardest_train"):
        path = folder / f"{name}.txt.gz"
        if path.exists():
            lines = gzip.decompress(path.read_bytes()).decode().split()[:limit]
            found[name] = np.stack([sudoku.parse(line, 9) for line in lines])
    if not found:
        print("the rows of solving are left out: set TINSMITH_DATA to a folder with puzzles/")
    return found


if __name__ == "__main__":
    sys.exit(main())
