"""Symmetries of boards and mazes, drawn for whole batches at once, and what they leave unchanged.

A sample's draw is a function of (seed, epoch, index) through a hash: neither workers nor batches matter.
One 9x9 board has 9! x 2 x 6^8 variants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.engine.data import derive_seed
from tinsmith.families.trm.sudoku import Boards, Ints, Layout, layout

Keys = NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)


def mix(x: Keys) -> Keys:
    """splitmix64 (Steele et al. 2014): unrelated numbers for neighbouring ones."""
    x = x + _STEP
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draw_keys(seed: int, epoch: int, indices: Ints, count: int) -> Keys:
    """``count`` random numbers for each sample: [B, count], row b a function of (seed, epoch, indices[b])."""
    own = mix(indices.astype(np.uint64) ^ np.uint64(derive_seed(seed, epoch)))
    numbered: Keys = np.add(own[:, None], np.arange(count, dtype=np.uint64), dtype=np.uint64)
    return mix(numbered)


@dataclass(frozen=True, slots=True)
class Change:
    """What a draw does to a batch: ``cells`` [B, L] says where each cell comes from, ``tokens`` [B, V] what
    becomes of each token (None: nothing)."""

    cells: Ints
    tokens: Ints | None = None

    def __call__(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
        """[B, L] -> [B, L]; negative entries (labels that do not count) move, and stay as they are."""
        moved = np.take_along_axis(rows, self.cells, 1)
        if self.tokens is None:
            return moved
        new = np.take_along_axis(self.tokens, np.maximum(moved, 0).astype(np.int64), 1)
        return np.where(moved < 0, moved, new)


class SudokuSymmetry:
    """Digits, bands, stacks, rows in bands, columns in stacks, and transposition where boxes are square.

    Args:
        side: of the boards. first: token of the digit 1.
    """

    def __init__(self, side: int, first: int) -> None:
        self.layout: Layout = layout(side)
        self.first = first
        lay = self.layout
        self.count = 3 * side + side // lay.box_rows + side // lay.box_cols + 1

    def __call__(self, keys: Keys) -> Change:
        """The change of each row of ``keys`` [B, count]."""
        lay, side = self.layout, self.layout.side
        bands, stacks = side // lay.box_rows, side // lay.box_cols
        parts = np.split(keys, np.cumsum([side, bands, side, stacks, side]), axis=1)
        digits, band, in_band, stack, in_stack, flip = parts
        rows = _nested(band, in_band, lay.box_rows)
        cols = _nested(stack, in_stack, lay.box_cols)
        cells = rows[:, :, None] * side + cols[:, None, :]
        if lay.box_rows == lay.box_cols:
            turn = (flip & np.uint64(1)).astype(bool)[:, :, None]
            cells = np.where(turn, cells.transpose(0, 2, 1), cells)
        fixed = np.tile(np.arange(self.first), (len(keys), 1))
        tokens = np.concatenate([fixed, self.first + digits.argsort(1)], 1)
        return Change(cells.reshape(len(keys), -1), tokens)


def _nested(outer: Keys, inner: Keys, size: int) -> Ints:
    """Random orders [B, S] of S lines that keep blocks of ``size`` together."""
    blocks = outer.argsort(1)
    within = inner.reshape(len(inner), -1, size).argsort(2)
    return (blocks[:, :, None] * size + within).reshape(len(outer), -1)


class SquareSymmetry:
    """The eight turns and reflections of a square grid.

    Args:
        side: of the grid.
    """

    count = 1

    def __init__(self, side: int) -> None:
        self.tables = np.stack([turn(np.arange(side**2).reshape(side, side), k).ravel() for k in range(8)])

    def __call__(self, keys: Keys) -> Change:
        """The change of each row of ``keys`` [B, 1]."""
        return Change(self.tables[(keys[:, 0] >> np.uint64(61)).astype(np.int64)])


def turn(grid: NDArray[np.integer[Any]], k: int) -> NDArray[np.integer[Any]]:
    """Symmetry k of 0 to 7 of a grid [H, W]: k mod 4 quarter turns, from 4 on after a reflection."""
    return np.ascontiguousarray(np.rot90(grid[:, ::-1] if k >= 4 else grid, k % 4))


def turn_back(grid: NDArray[np.integer[Any]], k: int) -> NDArray[np.integer[Any]]:
    """The inverse of ``turn``."""
    back = np.rot90(grid, -(k % 4))
    return np.ascontiguousarray(back[:, ::-1] if k >= 4 else back)


def fingerprints(boards: Boards) -> Keys:
    """A number for each sudoku board [N] that no symmetry changes.

    Boards that a symmetry turns into each other have the same; others, with rare exceptions, different ones:
    a split by it cannot leak. Colours of the cells are refined by those around them (Weisfeiler and Lehman
    1968); all sums are commutative.

    Args:
        boards: [N, L], 0 for a blank.
    """
    n, cells = boards.shape
    side = round(cells**0.5)
    lay = layout(side)
    row, col = np.divmod(np.arange(cells), side)
    lines = [row, col, lay.groups_of[:, 2] - 2 * side, row // lay.box_rows, col // lay.box_cols]
    digit = boards.astype(np.int64)
    colour = (boards > 0).astype(np.uint64)
    each = np.arange(n)[:, None]
    for _ in range(5):
        sums = [_group_sums(mix(colour), line)[:, line] for line in lines]
        of_row, of_col = mix(mix(sums[0]) + sums[3]), mix(mix(sums[1]) + sums[4])
        # Where boxes are square, rows and columns may change places.
        around = of_row + of_col if lay.box_rows == lay.box_cols else of_row + mix(of_col)
        alike = np.zeros((n, side + 1), np.uint64)
        np.add.at(alike, (each, digit), mix(colour))
        same = np.where(digit > 0, alike[each, digit], np.uint64(0))
        colour = mix(mix(mix(colour) + mix(sums[2])) + around) + mix(same)
    total: Keys = mix(colour).sum(1, dtype=np.uint64)
    return total


def _group_sums(values: Keys, group: Ints) -> Keys:
    """[N, L] -> [N, groups]."""
    out = np.zeros((len(values), int(group.max()) + 1), np.uint64)
    for cell, g in enumerate(group):
        out[:, g] += values[:, cell]
    return out
