"""The generator and the solver, against a plain search that shares no code with them."""

from collections.abc import Iterator

import numpy as np
import pytest

from tinsmith.errors import DataError
from tinsmith.families.trm import sudoku
from tinsmith.families.trm.config import BOXES

EVEREST = "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4.."


def plain_solutions(board: list[int], side: int) -> Iterator[list[int]]:
    """All solutions, by trying each digit in the first blank: slow and obvious."""
    rows, cols = BOXES[side]
    if 0 not in board:
        yield list(board)
        return
    cell = board.index(0)
    r, c = divmod(cell, side)
    for digit in range(1, side + 1):
        ok = all(
            board[i] != digit
            for i in range(side * side)
            if i // side == r
            or i % side == c
            or (i // side // rows == r // rows and i % side // cols == c // cols)
        )
        if ok:
            board[cell] = digit
            yield from plain_solutions(board, side)
            board[cell] = 0


def legal(grid: np.ndarray, side: int) -> bool:
    rows, cols = BOXES[side]
    square = grid.reshape(side, side)
    boxes = square.reshape(side // rows, rows, side // cols, cols).swapaxes(1, 2).reshape(side, side)
    full = set(range(1, side + 1))
    return all(set(line) == full for lines in (square, square.T, boxes) for line in lines.tolist())


@pytest.mark.parametrize(("side", "clues"), [(4, 5), (4, 8), (6, 14), (9, 34)])
def test_boards_have_one_solution_and_the_clues_asked_for(side: int, clues: int) -> None:
    made = sudoku.generate(12, side, clues, seed=1)
    assert len(made) == 12
    for board, solution in zip(made.boards, made.solutions, strict=True):
        assert (board > 0).sum() == clues
        assert legal(solution, side)
        assert (solution[board > 0] == board[board > 0]).all()
        if side < 9:
            assert list(plain_solutions(board.tolist(), side)) == [solution.tolist()]
    assert (sudoku.solve(made.boards).count == 1).all()
    assert (sudoku.solve(made.boards).grids == made.solutions).all()


def test_counts_equal_a_plain_search() -> None:
    rng = np.random.default_rng(0)
    grids = sudoku.random_grids(60, 4, rng)
    boards = np.where(rng.random(grids.shape) < 0.35, grids, 0).astype(np.uint8)
    boards[::7, 0] = boards[::7, 0] % 4 + 1  # some without a solution
    expected = [min(2, sum(1 for _ in plain_solutions(board.tolist(), 4))) for board in boards]
    assert sudoku.solve(boards).count.tolist() == expected
    assert set(expected) == {0, 1, 2}


def test_all_grids_of_side_four_are_counted_and_come_up() -> None:
    assert sudoku.solve(np.zeros((1, 16), np.uint8), limit=1000).count[0] == 288
    grids = sudoku.random_grids(6000, 4, np.random.default_rng(0))
    assert len(np.unique(grids, axis=0)) == 288


def test_a_hard_board() -> None:
    solution = sudoku.require_unique(sudoku.parse(EVEREST))
    assert legal(solution, 9)
    assert sudoku.show(solution).startswith("812753649")


def test_same_seed_same_boards() -> None:
    one, two, other = (sudoku.generate(6, 6, 14, 18, seed=s).boards for s in (3, 3, 4))
    assert (one == two).all()
    assert not (one == other).all()
    assert {int(n) for n in (one > 0).sum(1)} <= set(range(14, 19))


def test_bad_boards_have_messages() -> None:
    with pytest.raises(DataError, match="16 or 36 or 81 cells, this one has 15"):
        sudoku.parse("." * 15)
    with pytest.raises(DataError, match="has 81 cells, this one has 16"):
        sudoku.parse("." * 16, side=9)
    with pytest.raises(DataError, match=r"cell 3 holds '5': a blank \(\.\) or 1 to 4"):
        sudoku.parse("..5" + "." * 13)
    with pytest.raises(DataError, match="several solutions"):
        sudoku.require_unique(sudoku.parse("." * 16))
    with pytest.raises(DataError, match="no solution"):
        sudoku.require_unique(sudoku.parse("11" + "." * 14))
    assert sudoku.parse([[1, 0, 0, 4]] * 4).tolist() == [1, 0, 0, 4] * 4
