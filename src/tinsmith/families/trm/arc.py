"""ARC tasks: their files, grids as sequences, versions of a task, and votes over them.

A task is ``{"train": [{"input": grid, "output": grid}, ...], "test": [...]}``, a grid a list of rows of
colours 0 to 9. The model learns from the demonstrations of all tasks, told which task a pair is of by a token
in front; the tests of the same tasks are what it is asked. Each task comes in several versions (turned,
reflected, recoloured), each with a token of its own; their answers, turned back, vote.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.engine.data import derive_seed
from tinsmith.errors import DataError
from tinsmith.families.trm.symmetry import turn, turn_back

PAD, EDGE, BLACK = 0, 1, 2  # EDGE fills what of the canvas is no grid; colour c is token BLACK + c
NUM_OUTPUTS = BLACK + 10
Grid = list[list[int]]
Cells = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Version:
    """A symmetry of the square and a new colour for each; black stays."""

    turn: int
    colours: tuple[int, ...]

    def apply(self, grid: Cells) -> Cells:
        """The grid of this version."""
        return turn(np.asarray(self.colours)[grid], self.turn)

    def undo(self, grid: Cells) -> Cells:
        """The grid that ``apply`` made this of."""
        cells: Cells = np.argsort(self.colours)[turn_back(grid, self.turn)]
        return cells


def version(task: int, number: int, seed: int = 0) -> Version:
    """Version ``number`` of a task; number 0 is the task itself."""
    if number == 0:
        return Version(0, tuple(range(10)))
    rng = np.random.default_rng(derive_seed(seed, task, number))
    return Version(int(rng.integers(8)), (0, *(int(c) for c in 1 + rng.permutation(9))))


def to_canvas(grid: Cells, side: int) -> NDArray[np.int16]:
    """A grid [H, W] in the corner of a canvas of tokens [side * side]."""
    canvas = np.full((side, side), EDGE, np.int16)
    canvas[: grid.shape[0], : grid.shape[1]] = grid + BLACK
    return canvas.ravel()


def from_canvas(tokens: Cells, side: int) -> Cells:
    """The grid of a canvas: what the first row and column hold before an edge; tokens that are no colour
    count as black."""
    canvas = np.asarray(tokens).reshape(side, side)
    height, width = (_before_edge(line) for line in (canvas[:, 0], canvas[0]))
    return np.maximum(canvas[:height, :width] - BLACK, 0)


def _before_edge(line: Cells) -> int:
    edges = np.nonzero(line < BLACK)[0]
    return max(1, int(edges[0]) if len(edges) else len(line))


def check_grid(grid: Any, where: str) -> Cells:
    """A grid as an array.

    Raises:
        DataError: no rectangle of colours 0 to 9; names ``where``.
    """
    try:
        cells = np.array(grid, np.int64)
    except (ValueError, TypeError, OverflowError):
        cells = np.zeros(0, np.int64)
    if cells.ndim != 2 or not cells.size or cells.min() < 0 or cells.max() > 9:
        raise DataError(f"{where}: a grid is a list of rows of one length, each of colours 0 to 9")
    return cells


def read_tasks(path: Path) -> dict[str, dict[str, Any]]:
    """Tasks by name: a folder of JSON files, one JSON file of them, or JSONL (also .gz) with ``id``.

    Raises:
        DataError: not such a file, or a task that is none; names it.
    """
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        found = {file.stem: _parsed(file.read_text("utf-8"), str(file)) for file in files}
    else:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
        if ".jsonl" in path.name:
            rows = [
                _parsed(line, f"{path}:{i}") for i, line in enumerate(text.splitlines(), 1) if line.strip()
            ]
            found = {str(row.get("id", i)): row for i, row in enumerate(rows)}
        else:
            found = _parsed(text, str(path))
    if not found:
        raise DataError(f"{path}: no ARC tasks")
    return {name: _checked(task, f"{path}, task {name}") for name, task in found.items()}


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}: broken JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: an object with 'train' and 'test' is needed")
    return value


def _checked(task: Any, where: str) -> dict[str, Any]:
    if not isinstance(task, dict) or not task.get("train"):
        raise DataError(f"{where}: an object with 'train' and 'test' is needed")
    checked: dict[str, Any] = {}
    for part in ("train", "test"):
        checked[part] = [
            {key: check_grid(pair[key], f"{where}, {part} {i}") for key in ("input", "output") if key in pair}
            for i, pair in enumerate(task.get(part, []))
        ]
    return checked


def largest_side(task: dict[str, Any]) -> int:
    """The longest side of a task's grids."""
    sides = (max(grid.shape) for part in ("train", "test") for pair in task[part] for grid in pair.values())
    return max(int(side) for side in sides)


def vote(grids: list[Cells], sure: list[float], count: int = 2) -> list[Grid]:
    """The ``count`` answers that most versions agree on; the more sure before the less among equals."""
    votes: Counter[bytes] = Counter()
    best: dict[bytes, tuple[float, Cells]] = {}
    for grid, p in zip(grids, sure, strict=True):
        key = bytes(grid.shape) + grid.astype(np.uint8).tobytes()
        votes[key] += 1
        if key not in best or p > best[key][0]:
            best[key] = (p, grid)
    order = sorted(votes, key=lambda key: (-votes[key], -best[key][0]))
    return [best[key][1].tolist() for key in order[:count]]


# ---- embedded tasks ---------------------------------------------------------------------------------

_RULES: dict[str, Callable[[Any, int], Any]] = {
    "mirror": lambda grid, _: grid[:, ::-1],
    "upside-down": lambda grid, _: grid[::-1],
    "half-turn": lambda grid, _: grid[::-1, ::-1],
    "transpose": lambda grid, _: grid.T,
    "quarter-turn": lambda grid, _: np.rot90(grid),
    "one-colour": lambda grid, c: np.where(grid > 0, c, 0),
    "background": lambda grid, c: np.where(grid == 0, c, grid),
    "swap": lambda grid, c: np.where(grid == c, 0, np.where(grid == 0, c, grid)),
    "down": lambda grid, _: np.roll(grid, 1, 0),
    "right": lambda grid, _: np.roll(grid, 1, 1),
    "first-row": lambda grid, _: np.repeat(grid[:1], len(grid), 0),
    "frame": lambda grid, c: np.pad(grid[1:-1, 1:-1], 1, constant_values=c),
}


def toy_tasks(seed: int = 0, demonstrations: int = 6, side: int = 5) -> dict[str, dict[str, Any]]:
    """A dozen tasks of simple rules on random grids, so that the family runs without a file."""
    tasks: dict[str, dict[str, Any]] = {}
    for number, (name, rule) in enumerate(_RULES.items()):
        rng = np.random.default_rng(derive_seed(seed, number))
        colour = int(rng.integers(1, 10))
        pairs = []
        for _ in range(demonstrations + 2):
            shape = rng.integers(3, side + 1, 2)
            grid = rng.integers(1, 10, shape) * (rng.random(shape) < 0.5)
            pairs.append({"input": grid, "output": np.ascontiguousarray(rule(grid, colour))})
        tasks[name] = {"train": pairs[:-2], "test": pairs[-2:]}
    return tasks
