"""Files of graphs: what they say is what is read, and what is wrong with them is named."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from families.graph.some_graphs import adjacency_of

from tinsmith.errors import ConfigError, DataError
from tinsmith.families.graph import files, get_dataset
from tinsmith.families.graph.datasets import unlinked

TU = """3
3 0
4 2 1 2
4 1 0
7 1 0
2 1
4 1 1
4 1 0
1 0
9 0
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_tu(tmp_path: Path) -> None:
    graphs = files.read_tu(write(tmp_path / "a.txt", TU))
    assert graphs.num_nodes.tolist() == [3, 2, 1]
    assert graphs.y.tolist() == [0, 1, 0]
    assert graphs.atoms[:, 0].tolist() == [0, 0, 1, 0, 0, 2]
    assert adjacency_of(graphs, 0).tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0]]
    zipped = tmp_path / "b.txt.gz"
    zipped.write_bytes(gzip.compress(TU.encode()))
    assert files.read_tu(zipped).digest() == graphs.digest()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("4 2 1 2", "4 2 1 5", r"a.txt:2: the edge \[0, 5\] is beyond the nodes"),
        ("4 2 1 2", "4 two 1 2", r"a.txt:3: '4 two 1 2' is not a row of whole numbers"),
        ("1 0\n9 0\n", "1 0\n", r"ends after line 9, in the middle of a graph"),
        ("2 1\n", "0 1\n", r"a.txt:6: a graph of 0 nodes"),
        ("3\n3 0", "3\n3", r"a.txt:2: 1 numbers, at least 2"),
    ],
)
def test_what_is_wrong_with_a_tu_file_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        files.read_tu(write(tmp_path / "a.txt", TU.replace(old, new, 1)))


def test_folds_spread_the_classes() -> None:
    labels = np.array([0] * 33 + [1] * 21)
    fold = files.folds(labels, 10, 0)
    for label, (low, high) in ((0, (3, 4)), (1, (2, 3))):
        counts = np.bincount(fold[labels == label], minlength=10)
        assert (low, high) == (counts.min(), counts.max())
    assert not np.array_equal(fold, files.folds(labels, 10, 1))


def test_tables(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", "smiles,a,b\nCC,1,2\nCCO,-0.5,3e1\n")
    table = files.read_table(path)
    assert table.smiles == ["CC", "CCO"]
    assert table.targets == ("a", "b")
    assert table.y.tolist() == [[1, 2], [-0.5, 30]]
    assert files.read_table(path, targets=["b"]).y.tolist() == [[2], [30]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("smiles,a\nCC,1\nCCO,high\n", r"m.csv:3: the target 'a' is 'high', not a number"),
        ("smiles,a\nCC,\n", r"m.csv:2: the target 'a' is '', not a number"),
        ("smiles,a\nCC,nan\n", r"m.csv:2: the target 'a' is 'nan', not a number"),
        ("smile,a\nCC,1\n", r"m.csv:2: no column 'smiles'. Did you mean: smile\? Set dataset.smiles."),
        ("smiles\nCC\n", r"m.csv:2: no column but 'smiles'"),
        ("smiles,a\n", r"no molecules in it"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        files.read_table(write(tmp_path / "m.csv", text))


def test_files_are_found_by_their_usual_names(tmp_path: Path) -> None:
    path = write(tmp_path / "delaney.csv", "smiles,a\n")
    assert files.find(tmp_path, ("delaney.csv",)) == path
    assert files.find(path, ("x",)) == path
    with pytest.raises(DataError, match=r"no delaney2.csv in it. Did you mean: delaney.csv\?"):
        files.find(tmp_path, ("delaney2.csv",))


def npz(path: Path, **changes: object) -> Path:
    arrays = {
        "adj_indptr": np.array([0, 2, 2, 3]),
        "adj_indices": np.array([1, 2, 0]),
        "adj_data": np.ones(3),
        "adj_shape": np.array([3, 3]),
        "attr_indptr": np.array([0, 1, 1, 3]),
        "attr_indices": np.array([1, 0, 1]),
        "attr_data": np.ones(3),
        "attr_shape": np.array([3, 2]),
        "labels": np.array([0, 1, 1]),
    }
    np.savez(path, **{**arrays, **changes})  # type: ignore[arg-type]
    return path


def test_npz(tmp_path: Path) -> None:
    graphs = files.read_npz(npz(tmp_path / "c.npz"))
    assert adjacency_of(graphs, 0).tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0]]  # stored in one direction
    assert graphs.x.tolist() == [[0, 1], [0, 0], [0.5, 0.5]]
    assert graphs.y.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"adj_indices": np.array([1, 9, 0])},
        {"adj_indptr": np.array([0, 2, 1, 3])},
        {"labels": np.array([{"a": 1}], object)},
        {"attr_shape": np.array([5, 2])},
    ],
    ids=lambda c: next(iter(c)),
)
def test_what_is_wrong_with_an_npz_is_named(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"c\.npz"):
        files.read_npz(npz(tmp_path / "c.npz", **changes))


def test_not_an_npz(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a graph in the npz format"):
        files.read_npz(write(tmp_path / "c.npz", "hello"))


def test_pairs_without_a_link() -> None:
    rng = np.random.default_rng(0)
    links = np.array([[0, 1], [2, 1], [3, 0]])
    found = unlinked(rng, 5, links, 7)  # all there are
    assert len({tuple(sorted(p)) for p in found.tolist()} | {(0, 1), (1, 2), (0, 3)}) == 10
    with pytest.raises(DataError, match="no 8 pairs"):
        unlinked(rng, 5, links, 8)


def test_a_name_that_is_none_is_told_so() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean: pattern\?"):
        get_dataset("patern")
    with pytest.raises(DataError, match="no such file"):
        get_dataset("esol", root="/no/such/folder")
