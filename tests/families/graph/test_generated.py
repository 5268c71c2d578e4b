"""Generated graphs obey their laws; counts are those of brute force."""

import itertools

import numpy as np
import pytest
from families.graph.some_graphs import adjacency_of, from_adjacencies, random_adjacency

from tinsmith.families.graph import generated
from tinsmith.families.graph.graphs import Graphs


def same(a: Graphs, b: Graphs) -> bool:
    return a.digest() == b.digest()


@pytest.mark.parametrize(
    "make", [generated.csl, lambda s: generated.pattern(6, s), lambda s: generated.counting(6, s)]
)
def test_the_seed_decides(make) -> None:  # type: ignore[no-untyped-def]
    for split in ("train", "valid", "test"):
        assert same(make(1)[split], make(1)[split])
        assert not same(make(1)[split], make(2)[split])


def test_csl() -> None:
    splits = generated.csl(0)
    assert [len(splits[name]) for name in ("train", "valid", "test")] == [90, 30, 30]
    for graphs in splits.values():
        assert (np.bincount(graphs.y) == len(graphs) // 10).all()
        assert (graphs.num_nodes == 41).all()
        assert (graphs.num_edges == 164).all()
        for i in range(len(graphs)):
            assert (adjacency_of(graphs, i).sum(0) == 4).all()
    tests = [generated.csl(0, fold)["test"] for fold in range(5)]
    digests = [t.take([i]).digest() for t in tests for i in range(30)]
    assert len(set(digests)) == 150  # the folds share nothing and cover all


def test_pattern() -> None:
    graphs = generated.pattern(60, 0)["train"]
    assert len(graphs) == 60
    assert graphs.node_level
    inside, between, rest = [], [], []
    for i in range(60):
        a = adjacency_of(graphs, i)
        first, n = graphs.node_start[i], graphs.num_nodes[i]
        label = graphs.y[first : first + n].astype(bool)
        assert 5 <= label.sum() < 35
        inside.append(a[label][:, label].sum() / (label.sum() * (label.sum() - 1)))
        between.append(a[label][:, ~label].mean())
        rest.append(a[~label][:, ~label].sum() / ((~label).sum() * ((~label).sum() - 1)))
    assert np.mean(inside) == pytest.approx(0.5, abs=0.03)
    assert np.mean(between) == pytest.approx(0.5, abs=0.02)
    assert 0.35 < np.mean(rest) < 0.42
    assert set(np.unique(graphs.atoms)) == {0, 1, 2}


def test_cluster() -> None:
    graphs = generated.cluster(20, 0)["train"]
    for i in range(20):
        first, n = graphs.node_start[i], graphs.num_nodes[i]
        tags, label = graphs.atoms[first : first + n, 0], graphs.y[first : first + n]
        assert sorted(tags[tags > 0]) == [1, 2, 3, 4, 5, 6]
        assert (label[tags > 0] == tags[tags > 0] - 1).all()
        a = adjacency_of(graphs, i)
        same_one = label[:, None] == label
        np.fill_diagonal(same_one, False)
        assert a[same_one].mean() == pytest.approx(0.55, abs=0.12)
        assert a[label[:, None] != label].mean() == pytest.approx(0.25, abs=0.05)


def brute_cycles(a: np.ndarray, length: int) -> int:
    n, found = len(a), 0
    for nodes in itertools.permutations(range(n), length):
        if nodes[0] == min(nodes) and nodes[1] < nodes[-1]:
            found += all(a[nodes[k], nodes[(k + 1) % length]] for k in range(length))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrices = [random_adjacency(rng, n, 0.5) for n in (6, 7, 7)]
    counts = generated.count_patterns(from_adjacencies(matrices))
    for a, row in zip(matrices, counts, strict=True):
        for column, length in enumerate((3, 4, 5, 6)):
            assert row[column] == brute_cycles(a, length)
        tailed = chordal = 0
        for i, j, k in itertools.combinations(range(len(a)), 3):
            if a[i, j] and a[j, k] and a[i, k]:
                tailed += sum(a[t, x] for t in (i, j, k) for x in range(len(a)) if x not in (i, j, k))
        for i, j in itertools.combinations(range(len(a)), 2):
            if a[i, j]:
                both = [k for k in range(len(a)) if a[i, k] and a[j, k]]
                chordal += len(both) * (len(both) - 1) // 2
        assert (row[4], row[5]) == (tailed, chordal)


def test_cycles_by_powers_of_the_adjacency() -> None:
    """Harary and Manvel 1971, for cycles of 3, 4 and 5, on graphs too large for brute force."""
    graphs = generated.counting(12, 5)["train"]
    for i in range(12):
        a = adjacency_of(graphs, i)
        d = a.sum(0)
        p3 = np.linalg.matrix_power(a, 3)
        four = (np.trace(p3 @ a) - d.sum() - 2 * (d * (d - 1)).sum()) / 8
        five = (np.trace(p3 @ a @ a) - 5 * np.trace(p3) - 5 * ((d - 2) * np.diag(p3)).sum()) / 10
        assert graphs.y[i, :3].tolist() == [np.trace(p3) / 6, four, five]


def test_counting_has_both_kinds_of_graph() -> None:
    graphs = generated.counting(30, 0)["train"]
    regular = [len(set(adjacency_of(graphs, i).sum(0))) == 1 for i in range(30)]
    assert sum(regular) == 15
