"""Sudoku boards of side 4, 6 and 9: solving and making many at once.

A board of side S is an array of L = S * S cells; a cell's candidates are the bits of a number. Everything
works on [L, N] arrays, N boards side by side, so that one numpy call does a step of all of them: constraint
propagation (naked and hidden singles), and where that stops a depth-first search over the cell with the
fewest candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.errors import DataError
from tinsmith.families.trm.config import BOXES

Bits = NDArray[np.uint16]
Ints = NDArray[np.int64]
Boards = NDArray[np.uint8]  # [N, L], 0 for a blank, else the digit

_WIDTH = 2048  # boards that are worked on at once: what a processor's cache holds
_ONES = np.array([bin(i).count("1") for i in range(1 << 9)], np.uint8)
_DIGIT = np.array([i.bit_length() for i in range(1 << 9)], np.uint8)  # of a single bit


@dataclass(frozen=True, eq=False)
class Layout:
    """A board's geometry: ``side`` S, and boxes of ``box_rows`` by ``box_cols`` cells.

    ``groups_of`` [L, 3] are the numbers of each cell's row, column and box, of 3 S groups in all;
    ``members`` [S, 3 S] the cells of each group.
    """

    side: int
    box_rows: int
    box_cols: int
    groups_of: Ints
    members: Ints

    @property
    def cells(self) -> int:
        """L."""
        return self.side**2

    @property
    def full(self) -> int:
        """All candidates."""
        return (1 << self.side) - 1


@lru_cache
def layout(side: int) -> Layout:
    """The layout of a board of side 4, 6 or 9."""
    box_rows, box_cols = BOXES[side]
    row, col = np.divmod(np.arange(side**2), side)
    box = row // box_rows * box_rows + col // box_cols
    of = np.stack([row, side + col, 2 * side + box], 1)
    members = np.stack([np.nonzero((of == g).any(1))[0] for g in range(3 * side)], 1)
    return Layout(side, box_rows, box_cols, of, members)


# ---- reading ----------------------------------------------------------------------------------------


def parse(board: Any, side: int = 0) -> Boards:
    """A board [L] from a text (``.``, ``0``, ``_`` or ``*`` for a blank), a list, or a list of rows.

    Args:
        side: what the side has to be; 0: any of 4, 6 and 9.

    Raises:
        DataError: wrong length, or a symbol that is no digit of the board.
    """
    if isinstance(board, str):
        cells: list[Any] = [c for c in board if not c.isspace() and c not in "|+-"]
    else:
        cells = [c for row in board for c in (row if isinstance(row, (list, tuple)) else [row])]
    sides = [side] if side else list(BOXES)
    found = next((s for s in sides if s * s == len(cells)), 0)
    if not found:
        raise DataError(
            f"a board has {' or '.join(str(s * s) for s in sides)} cells, this one has {len(cells)}"
        )
    digits = [0 if c in (".", "_", "*") else _digit(c, i, found) for i, c in enumerate(cells)]
    return np.array(digits, np.uint8)


def _digit(symbol: Any, cell: int, side: int) -> int:
    known = {str(d): d for d in range(side + 1)}
    if str(symbol) not in known or isinstance(symbol, bool):
        raise DataError(f"cell {cell + 1} holds {symbol!r}: a blank (.) or 1 to {side} is needed")
    return known[str(symbol)]


def show(board: Sequence[int] | NDArray[np.integer[Any]]) -> str:
    """A board as one line: ``.`` for a blank."""
    return "".join("." if d == 0 else str(int(d)) for d in board)


# ---- solving ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Solutions:
    """``count`` [N] of solutions, up to the limit; ``grids`` [N, L] one of them, 0 where there is none."""

    count: Ints
    grids: Boards


def solve(boards: Boards, limit: int = 2) -> Solutions:
    """Solve boards [N, L] of one side; with the default limit ``count`` is 0, 1, or 2 for several."""
    side = round(boards.shape[1] ** 0.5)
    lay = layout(side)
    count, grids = np.zeros(len(boards), np.int64), np.zeros_like(boards)
    for start in range(0, len(boards), _WIDTH):
        part = slice(start, start + _WIDTH)
        count[part], solution = search(to_bits(boards[part].T, lay), lay, limit)
        grids[part] = to_digits(solution).T
    return Solutions(count, grids)


def require_unique(board: Boards) -> Boards:
    """The only solution [L] of a board.

    Raises:
        DataError: none, or several.
    """
    found = solve(board[None])
    check_count(int(found.count[0]))
    solution: Boards = found.grids[0]
    return solution


def check_count(solutions: int) -> None:
    """Raise ``DataError`` unless a board has exactly one solution."""
    if solutions != 1:
        what = "no solution" if solutions == 0 else "several solutions"
        raise DataError(f"this board has {what}; a puzzle has exactly one")


def to_bits(digits: NDArray[Any], lay: Layout) -> Bits:
    table = np.array([lay.full, *(1 << d for d in range(lay.side))], np.uint16)
    bits: Bits = table[digits]
    return bits


def to_digits(bits: Bits) -> Boards:
    """Single bits to 1 to S; no bit to 0."""
    return _DIGIT[bits]


def sweep(cand: Bits, lay: Layout) -> tuple[Bits, NDArray[np.bool_], NDArray[np.bool_]]:
    """One round of naked and hidden singles over candidates [L, N].

    Returns:
        The new candidates [L, N]; which boards are contradictory [N]; which had a single candidate in every
        cell before the round [N] (and are solved if not contradictory).
    """
    single = (cand & (cand - 1)) == 0  # none is a contradiction, found below
    groups = cand[lay.members]  # [S, 3 S, N]
    fixed = np.where(single, cand, 0).astype(np.uint16)
    known = fixed[lay.members]
    taken = np.zeros_like(groups[0])  # digits that stand in the group
    twice_taken = np.zeros_like(taken)
    once, twice = np.zeros_like(taken), np.zeros_like(taken)  # digits with a place, with two
    for member, digit in zip(groups, known, strict=True):
        twice_taken |= taken & digit
        taken |= digit
        twice |= once & member
        once |= member
    bad = (cand == 0).any(0) | ((twice_taken != 0) | (once != lay.full)).any(0)
    hidden = once & ~twice & ~taken
    row, col, box = lay.groups_of.T
    elsewhere = taken[row] | taken[col] | taken[box]
    left = np.where(single, cand, cand & ~elsewhere)
    only = left & (hidden[row] | hidden[col] | hidden[box])
    return np.where(only != 0, only, left).astype(np.uint16), bad, single.all(0)


def search(cand: Bits, lay: Layout, limit: int, rng: np.random.Generator | None = None) -> tuple[Ints, Bits]:
    """Count solutions of candidates [L, N], up to ``limit`` each, by propagation and depth-first search.

    Args:
        rng: where given, the digit to try first is drawn at random.

    Returns:
        Counts [N], and the first solution found of each as bits [L, N] (0 where there is none).
    """
    count, solution = np.zeros(cand.shape[1], np.int64), np.zeros_like(cand)
    owner = np.arange(cand.shape[1])
    stack: list[tuple[Bits, Ints]] = []
    width = max(64, cand.shape[1] // 2)
    while len(owner) or stack:
        while stack and len(owner) < width:
            more, whose = stack.pop()
            keep = count[whose] < limit
            cand = np.concatenate([cand, more[:, keep]], 1)
            owner = np.concatenate([owner, whose[keep]])
        if not len(owner):
            break
        after, bad, done = sweep(cand, lay)
        solved = done & ~bad
        if solved.any():
            np.add.at(count, owner[solved], 1)
            solution[:, owner[solved]] = cand[:, solved]
        live = ~(bad | done) & (count[owner] < limit)
        moved = (after != cand).any(0)
        stuck = live & ~moved
        if stuck.any():
            first, second = _branch(after[:, stuck], rng)
            after[:, stuck] = first
            stack.append((second, owner[stuck]))
        cand, owner = after[:, live], owner[live]
    return np.minimum(count, limit), solution


def _branch(cand: Bits, rng: np.random.Generator | None) -> tuple[Bits, Bits]:
    """Two halves of each board [L, N]: the cell with the fewest candidates has one of them, or has not."""
    sizes = _ONES[cand].astype(np.int16)
    sizes[sizes < 2] = 99
    cell, each = sizes.argmin(0), np.arange(cand.shape[1])
    options = cand[cell, each]
    digit = options & -options.astype(np.int32)
    if rng is not None:
        skip = (rng.random(len(each)) * sizes[cell, each]).astype(np.int64)
        for k in range(int(skip.max(initial=0))):
            rest = options & ~digit
            lowest = rest & -rest.astype(np.int32)
            options, digit = np.where(skip > k, rest, options), np.where(skip > k, lowest, digit)
    first, second = cand.copy(), cand.copy()
    first[cell, each] = digit
    second[cell, each] &= ~digit.astype(np.uint16)
    return first, second


# ---- making -----------------------------------------------------------------------------------------


def random_grids(count: int, side: int, rng: np.random.Generator) -> Boards:
    """Full boards [count, L] by randomised search from an empty one.

    Each grid of the side can come up (not all exactly as often): no base pattern is permuted.
    """
    lay = layout(side)
    parts = []
    for start in range(0, count, _WIDTH):
        n = min(_WIDTH, count - start)
        cand = np.full((lay.cells, n), lay.full, np.uint16)
        # The first box starts at random: every grid has one, and there is less to search.
        box = np.nonzero(lay.groups_of[:, 2] == 2 * side)[0]
        cand[box] = (1 << rng.permuted(np.tile(np.arange(side)[:, None], n), axis=0)).astype(np.uint16)
        found, solution = search(cand, lay, 1, rng)
        assert (found == 1).all()
        parts.append(to_digits(solution).T)
    return np.concatenate(parts) if parts else np.zeros((0, lay.cells), np.uint8)


def dig(grids: Boards, clues: Ints, rng: np.random.Generator) -> Boards:
    """Empty cells of full boards [N, L] in random order while the solution stays the only one.

    A clue may go if the board without it has no solution with another digit in its place.

    Args:
        clues: how many to leave [N]; a board on which no more may go keeps more.

    Returns:
        Puzzles [N, L].
    """
    lay = layout(round(grids.shape[1] ** 0.5))
    bits = to_bits(grids.T, lay)
    given = np.ones(bits.shape, bool)
    order = rng.permuted(np.tile(np.arange(lay.cells)[:, None], len(grids)), axis=0)
    for cells in order:
        todo = np.nonzero(given.sum(0) > clues)[0]
        if not len(todo):
            break
        each = np.arange(len(todo))
        trial = np.where(given[:, todo], bits[:, todo], lay.full).astype(np.uint16)
        trial[cells[todo], each] = lay.full & ~bits[cells[todo], todo]
        unique = search(trial, lay, 1)[0] == 0
        given[cells[todo][unique], todo[unique]] = False
    return np.where(given.T, grids, 0).astype(np.uint8)


@dataclass(slots=True)
class Puzzles:
    """``boards`` [N, L] with one solution each, 0 for a blank; ``solutions`` [N, L]."""

    boards: Boards
    solutions: Boards

    def __len__(self) -> int:
        return len(self.boards)

    def __getitem__(self, rows: Any) -> Puzzles:
        return Puzzles(self.boards[rows], self.solutions[rows])


def generate(count: int, side: int = 9, clues: int = 36, clues_to: int = 0, seed: int = 0) -> Puzzles:
    """Different boards with exactly one solution each and ``clues`` (to ``clues_to``) clues.

    Args:
        count: how many. Where there are not so many different ones, all that were found.
        seed: the same seed gives the same boards.
    """
    rng = np.random.default_rng(seed)
    found: list[Puzzles] = []
    known: set[bytes] = set()
    for made in _batches(count, side, (clues, clues_to or clues), rng):
        fresh = []
        for i, board in enumerate(made.boards):
            if (key := board.tobytes()) not in known:
                known.add(key)
                fresh.append(i)
        found.append(made[np.array(fresh, np.int64)])
        if len(known) >= count:
            break
    boards, solutions = (
        np.concatenate([getattr(p, name) for p in found]) for name in ("boards", "solutions")
    )
    return Puzzles(boards[:count], solutions[:count])


_TRIES = 60  # rounds of the generator, at most: few boards may have so few clues


def _batches(count: int, side: int, clues: tuple[int, int], rng: np.random.Generator) -> Iterator[Puzzles]:
    for _ in range(max(_TRIES, 4 * count // _WIDTH)):
        n = min(_WIDTH, max(256, count))
        grids = random_grids(n, side, rng)
        wanted = rng.integers(clues[0], clues[1] + 1, n)
        boards = dig(grids, wanted, rng)
        ok = (boards > 0).sum(1) == wanted
        yield Puzzles(boards[ok], grids[ok])
