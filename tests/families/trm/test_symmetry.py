import numpy as np
import pytest

from tinsmith.families.trm import sudoku
from tinsmith.families.trm.symmetry import (
    SquareSymmetry,
    SudokuSymmetry,
    draw_keys,
    fingerprints,
    turn,
    turn_back,
)


@pytest.mark.parametrize(("side", "clues"), [(4, 7), (6, 16), (9, 36)])
def test_a_changed_board_has_one_solution_the_changed_one(side: int, clues: int) -> None:
    made = sudoku.generate(20, side, clues, seed=0)
    symmetry = SudokuSymmetry(side, 1)  # digits as they are: token 1 is digit 1
    change = symmetry(draw_keys(0, 0, np.arange(20), symmetry.count))
    boards, solutions = change(made.boards), change(made.solutions)
    assert not (boards == made.boards).all(1).any()
    found = sudoku.solve(boards.astype(np.uint8))
    assert (found.count == 1).all()
    assert (found.grids == solutions).all()


def test_draws_are_functions_of_seed_epoch_and_index() -> None:
    rows = np.arange(50)
    keys = draw_keys(1, 2, rows, 5)
    assert (draw_keys(1, 2, rows[::-1], 5)[::-1] == keys).all()
    assert (draw_keys(1, 2, rows[7:9], 5) == keys[7:9]).all()
    for other in (draw_keys(1, 3, rows, 5), draw_keys(2, 2, rows, 5), draw_keys(1, 2, rows + 1, 5)):
        assert not (other == keys).any()
    assert len(np.unique(keys)) == keys.size


def test_each_permutation_of_digits_is_as_likely() -> None:
    symmetry = SudokuSymmetry(4, 2)
    change = symmetry(draw_keys(0, 0, np.arange(24_000), symmetry.count))
    assert (change.tokens[:, :2] == [0, 1]).all()
    _, counts = np.unique(change.tokens, axis=0, return_counts=True)
    assert len(counts) == 24
    assert abs(counts / 1000 - 1).max() < 0.15


def test_labels_that_do_not_count_stay() -> None:
    symmetry = SudokuSymmetry(4, 2)
    change = symmetry(draw_keys(0, 0, np.arange(3), symmetry.count))
    labels = np.full((3, 16), -100)
    labels[:, 5] = 4
    moved = change(labels)
    assert ((moved == -100).sum(1) == 15).all()
    assert (moved.max(1) >= 2).all()


@pytest.mark.parametrize(("side", "clues"), [(4, 6), (6, 14), (9, 34)])
def test_fingerprints_see_through_symmetries_and_nothing_else(side: int, clues: int) -> None:
    boards = sudoku.generate(60, side, clues, seed=2).boards
    symmetry = SudokuSymmetry(side, 1)
    marks = fingerprints(boards)
    for epoch in range(3):
        change = symmetry(draw_keys(0, epoch, np.arange(len(boards)), symmetry.count))
        assert (fingerprints(change(boards).astype(np.uint8)) == marks).all()
    if side > 4:
        assert len(np.unique(marks)) == len(boards)
    moved = boards.copy()
    moved[:, [0, side + 1]] = boards[:, [side + 1, 0]]  # two cells change places: another board
    differs = (moved != boards).any(1)
    assert (fingerprints(moved) != marks)[differs].mean() > 0.9


def test_turns_of_a_square() -> None:
    grid = np.arange(9).reshape(3, 3)
    seen = {turn(grid, k).tobytes() for k in range(8)}
    assert len(seen) == 8
    assert all((turn_back(turn(grid, k), k) == grid).all() for k in range(8))
    change = SquareSymmetry(3)(draw_keys(0, 0, np.arange(200), 1))
    rows = change(np.tile(grid.ravel(), (200, 1)))
    assert {row.tobytes() for row in rows} == seen
