"""Flat arrays of graphs: selection, simple edges, batches against a loop over graphs."""

import numpy as np
import pytest
import torch
from families.graph.some_graphs import adjacency_of, some
from families.graph.test_encodings import everything

from tinsmith.errors import DataError
from tinsmith.families.graph import encodings
from tinsmith.families.graph.batches import GraphDataset, Layout, one_hot, pair_dim, statistics
from tinsmith.families.graph.encode import encode
from tinsmith.families.graph.graphs import join, ranges, simple


def test_ranges() -> None:
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]


def test_edges_become_undirected_and_simple() -> None:
    ends, bonds = simple(4, np.array([[0, 1], [1, 0], [2, 2], [3, 1]]), np.array([[5], [6], [7], [8]]))
    found = {tuple(pair): int(kind) for pair, kind in zip(ends.T.tolist(), bonds[:, 0], strict=True)}
    assert found == {(0, 1): 5, (1, 0): 5, (1, 3): 8, (3, 1): 8}


@pytest.mark.parametrize("pair", [[0, 3], [-1, 0]])
def test_edges_beyond_the_nodes_are_refused(pair: list[int]) -> None:
    with pytest.raises(DataError, match=r"the edge \[.*\] is beyond the nodes, which are 0 to 2"):
        simple(3, np.array([[0, 1], pair]))


def test_taking_and_joining() -> None:
    graphs = some()
    order = [3, 0, 5, 0]
    taken = graphs.take(order)
    for place, i in enumerate(order):
        assert np.array_equal(adjacency_of(taken, place), adjacency_of(graphs, i))
        assert taken.y[place] == graphs.y[i]
    assert join([graphs.take([0, 1]), graphs.take([2, 3, 4, 5])]).digest() == graphs.digest()


def test_a_batch_holds_what_a_loop_would_put_there() -> None:
    graphs, pe = some(2), everything()
    layout = Layout(pe, (2,))
    data = GraphDataset(graphs, encode(graphs, pe), layout)
    which = [4, 1, 3]
    batch = data.batch(torch.tensor(which))
    n = int(graphs.num_nodes[which].max())
    assert batch["pair"].shape == (3, pair_dim(layout), n, n)
    row = 0
    for place, i in enumerate(which):
        size, first = int(graphs.num_nodes[i]), int(graphs.node_start[i])
        a = torch.tensor(adjacency_of(graphs, i), dtype=torch.float32)[None]
        assert batch["mask"][place].tolist() == [True] * size + [False] * (n - size)
        rows = slice(row, row + size)
        assert batch["position"][rows].tolist() == [place * n + k for k in range(size)]
        assert batch["atoms"][rows].tolist() == graphs.atoms[first : first + size].tolist()
        pair = batch["pair"][place, :, :size, :size].movedim(0, -1)
        torch.testing.assert_close(pair[..., :21], encodings.rrwp(a, 21)[0])
        values, vectors = encodings.spectrum(a)
        torch.testing.assert_close(
            pair[..., 21:29], encodings.heat(values, vectors, pe.heat.times)[0], atol=1e-5, rtol=0
        )
        bands = encodings.wavelets(values, vectors, pe.wavelet.times)[0]
        torch.testing.assert_close(pair[..., 29:35], bands, atol=1e-5, rtol=0)
        assert torch.equal(pair[..., 35:45].argmax(-1), encodings.spd(a, 8)[0].long())
        assert torch.equal(pair[..., -2:].sum(-1), a[0])
        row += size
    source, target = batch["edges"]
    kinds = batch["bonds"][:, 0]
    inside = batch["pair"][batch["position"][source] // n, -2:].movedim(1, -1)
    at = inside[torch.arange(len(source)), batch["position"][source] % n, batch["position"][target] % n]
    assert torch.equal(at.argmax(-1), kinds)


def test_statistics_are_of_the_nodes_and_pairs_that_are_there() -> None:
    graphs, pe = some(3), everything()
    data = GraphDataset(graphs, encode(graphs, pe), Layout(pe, (2,)))
    found = statistics(data)
    nodes, pairs = [], []
    for i in range(len(graphs)):
        batch = data.batch(torch.tensor([i]))
        nodes.append(batch["node_pe"])
        pairs.append(batch["pair"][0].flatten(1).T)
    for name, rows in (("node_pe", torch.cat(nodes)), ("pair", torch.cat(pairs))):
        torch.testing.assert_close(found[name][0], rows.mean(0), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found[name][1], rows.std(0, unbiased=False), atol=1e-4, rtol=1e-3)


def test_one_hot() -> None:
    graphs = some()
    found = one_hot(graphs, (3,))
    assert torch.equal(found.argmax(1), torch.from_numpy(graphs.atoms[:, 0].astype(np.int64)))
    assert torch.equal(found.sum(1), torch.ones(len(found)))
