"""Perfect mazes: exactly one way between any two rooms. Made by depth-first search, solved by breadth."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.errors import DataError

PAD, WALL, OPEN, START, GOAL, PATH = range(6)
SYMBOLS = "?# SGo"  # by token; the way is written in small o
VOCABULARY = len(SYMBOLS)
Grid = NDArray[np.uint8]


def make_maze(side: int, rng: np.random.Generator) -> Grid:
    """A maze [side, side]: rooms at odd places, a start and a goal in two of them."""
    rooms = (side - 1) // 2
    grid = np.full((side, side), WALL, np.uint8)
    order = rng.random((rooms * rooms, 4)).argsort(1)
    seen = {(0, 0)}
    grid[1, 1] = OPEN
    stack = [(0, 0)]
    while stack:
        r, c = stack[-1]
        steps = ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1))
        ways = (steps[k] for k in order[r * rooms + c])
        new = next((way for way in ways if _inside(way, rooms) and way not in seen), None)
        if new is None:
            stack.pop()
            continue
        seen.add(new)
        stack.append(new)
        grid[r + new[0] + 1, c + new[1] + 1] = OPEN
        grid[2 * new[0] + 1, 2 * new[1] + 1] = OPEN
    start, goal = rng.choice(rooms * rooms, 2, replace=False)
    for place, token in ((start, START), (goal, GOAL)):
        row, col = divmod(int(place), rooms)
        grid[2 * row + 1, 2 * col + 1] = token
    return grid


def _inside(room: tuple[int, int], rooms: int) -> bool:
    return 0 <= room[0] < rooms and 0 <= room[1] < rooms


def shortest_path(grid: Grid) -> Grid:
    """The maze with the cells of a shortest way between start and goal marked ``PATH``.

    Raises:
        DataError: no start or goal, or more than one of them, or no way.
    """
    height, width = grid.shape
    start, goal = _only(grid, START), _only(grid, GOAL)
    came: dict[int, int] = {start: start}
    queue = deque([start])
    flat = grid.ravel()
    while queue and goal not in came:
        here = queue.popleft()
        row, col = divmod(here, width)
        for r, c in ((row + 1, col), (row - 1, col), (row, col + 1), (row, col - 1)):
            there = r * width + c
            if 0 <= r < height and 0 <= c < width and flat[there] != WALL and there not in came:
                came[there] = here
                queue.append(there)
    if goal not in came:
        raise DataError("this maze has no way from S to G")
    solved = flat.copy()
    here = came[goal]
    while here != start:
        solved[here] = PATH
        here = came[here]
    return solved.reshape(grid.shape)


def _only(grid: Grid, token: int) -> int:
    places = np.nonzero(grid.ravel() == token)[0]
    if len(places) != 1:
        raise DataError(f"a maze has one {SYMBOLS[token]}, this one has {len(places)}")
    return int(places[0])


def make_mazes(count: int, side: int, seed: int = 0) -> tuple[Grid, Grid]:
    """``count`` different mazes and their solutions, [count, side * side] each; fewer where too few exist."""
    rng = np.random.default_rng(seed)
    found: dict[bytes, Grid] = {}
    for _ in range(3 * count):
        maze = make_maze(side, rng)
        found.setdefault(canonical(maze), maze)
        if len(found) == count:
            break
    mazes = list(found.values())
    solved = [shortest_path(maze).ravel() for maze in mazes]
    return np.stack([maze.ravel() for maze in mazes]), np.stack(solved)


def canonical(maze: Grid) -> bytes:
    """The same for all eight turns and reflections of a maze."""
    turned = (np.rot90(m, k) for m in (maze, maze[:, ::-1]) for k in range(4))
    return min(np.ascontiguousarray(m).tobytes() for m in turned)


def parse(maze: Any, side: int = 0) -> Grid:
    """A maze [side, side] from lines of ``#``, blanks, ``S`` and ``G`` (a text with line ends, or a list).

    Raises:
        DataError: not square, another side, another symbol, or not one start and goal.
    """
    lines = maze.strip("\n").split("\n") if isinstance(maze, str) else list(maze)
    size = side or len(lines)
    if len(lines) != size or any(len(line) != size for line in lines):
        found = f"{len(lines)} lines of {sorted({len(line) for line in lines})} characters"
        raise DataError(f"a maze of {size} lines of {size} characters is needed, this has {found}")
    tokens = np.zeros((size, size), np.uint8)
    for r, line in enumerate(lines):
        for c, symbol in enumerate(line):
            if symbol not in "# SG":
                raise DataError(f"line {r + 1}, character {c + 1}: {symbol!r} is none of '#', ' ', 'S', 'G'")
            tokens[r, c] = SYMBOLS.index(symbol)
    _only(tokens, START)
    _only(tokens, GOAL)
    return tokens


def show(tokens: NDArray[np.integer], side: int) -> str:
    """A maze [side * side] as lines of text."""
    flat = "".join(SYMBOLS[int(t)] for t in tokens)
    return "\n".join(flat[i : i + side] for i in range(0, len(flat), side))
