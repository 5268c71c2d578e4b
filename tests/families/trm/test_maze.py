import numpy as np
import pytest

from tinsmith.errors import DataError
from tinsmith.families.trm import maze


def test_mazes_are_perfect_and_the_way_is_the_shortest() -> None:
    mazes, solved = maze.make_mazes(30, 11, seed=0)
    for grid, answer in zip(mazes.reshape(-1, 11, 11), solved.reshape(-1, 11, 11), strict=True):
        free = grid != maze.WALL
        rooms = 25
        assert free.sum() == 2 * rooms - 1  # a tree: as many passages as rooms, less one
        assert free[1::2, 1::2].all()
        edges = (free[1:] & free[:-1]).sum() + (free[:, 1:] & free[:, :-1]).sum()
        assert edges == free.sum() - 1
        assert (grid[answer == maze.PATH] == maze.OPEN).all()
        way = (answer == maze.PATH) | (grid == maze.START) | (grid == maze.GOAL)
        near = np.zeros_like(way, dtype=int)
        near[1:] += way[:-1]
        near[:-1] += way[1:]
        near[:, 1:] += way[:, :-1]
        near[:, :-1] += way[:, 1:]
        assert (near[answer == maze.PATH] == 2).all()  # a line without branches
        assert near[grid == maze.START][0] == 1
        assert near[grid == maze.GOAL][0] == 1
    assert len({maze.canonical(grid) for grid in mazes.reshape(-1, 11, 11)}) == 30


def test_turns_have_one_canonical_form() -> None:
    grid = maze.make_maze(9, np.random.default_rng(1))
    assert maze.canonical(grid) == maze.canonical(np.rot90(grid)) == maze.canonical(grid[::-1])
    assert maze.canonical(grid) != maze.canonical(maze.make_maze(9, np.random.default_rng(2)))


def test_a_maze_reads_as_it_is_shown() -> None:
    grid = maze.make_maze(7, np.random.default_rng(0))
    assert (maze.parse(maze.show(grid.ravel(), 7)) == grid).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("###\n#S#", "a maze of 2 lines of 2"),
        ("#####\n#S G#\n#####\n#####\n####x", "line 5, character 5: 'x'"),
        ("#####\n#S S#\n#G  #\n#####\n#####", "one S, this one has 2"),
        ("#####\n#S###\n###G#\n#####\n#####", "no way"),
    ],
)
def test_bad_mazes_have_messages(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        maze.shortest_path(maze.parse(text))
