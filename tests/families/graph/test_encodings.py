"""Each encoding against its definition, worked out the slow way; and what must hold between them."""

import math

import numpy as np
import pytest
import torch
from families.graph.some_graphs import permuted, random_adjacency, shortest, some, tensor, walk_of

from tinsmith.families.graph import coarsen, encodings
from tinsmith.families.graph.config import PEConfig
from tinsmith.families.graph.encode import encode, node_dim, pair_dim, returns_of_large
from tinsmith.families.graph.generated import csl

RNG = np.random.default_rng(0)
# one with a node alone, one in two parts, one dense
GRAPHS = [random_adjacency(RNG, 9, p) for p in (0.12, 0.2, 0.6)]
GRAPHS[0][4, :] = GRAPHS[0][:, 4] = 0
ADJ = tensor(*GRAPHS)
TIMES = [0.25, 0.5, 1.0, 2.0, 4.0]


def everything() -> PEConfig:
    pe = PEConfig()
    for part in (pe.degree, pe.rrwp, pe.heat, pe.wavelet, pe.lap, pe.hier):
        part.node = True
    for pair in (pe.rrwp, pe.heat, pe.wavelet, pe.spd, pe.hier):
        pair.pair = True
    return pe


def test_walks_go_row_by_row_and_stay_where_there_is_no_way() -> None:
    walks = encodings.rrwp(ADJ, 5)
    assert walks.shape == (3, 9, 9, 5)
    for matrix, found in zip(GRAPHS, walks.double().numpy(), strict=True):
        expected, step = np.eye(9), walk_of(matrix)
        for k in range(5):
            np.testing.assert_allclose(found[..., k], expected, atol=1e-6)
            expected = expected @ step
    torch.testing.assert_close(walks.sum(2), torch.ones(3, 9, 5))
    assert not torch.allclose(walks, walks.transpose(1, 2))  # the transpose, which GRIT keeps, is another


def test_returns_are_the_diagonal_of_the_walks() -> None:
    assert torch.equal(encodings.rwse(ADJ, 21), encodings.rrwp(ADJ, 21).diagonal(dim1=1, dim2=2).mT)


def test_degrees() -> None:
    found = encodings.degree(ADJ, 3)
    assert found.shape == (3, 9, 5)
    for i, matrix in enumerate(GRAPHS):
        for j, count in enumerate(matrix.sum(1).astype(int)):
            assert found[i, j, 0] == pytest.approx(math.log(1 + count))
            assert found[i, j, 1:].tolist() == [float(k == min(count, 3)) for k in range(4)]


def taylor(matrix: np.ndarray, t: float) -> np.ndarray:
    """exp(-t L) by squaring a short series."""
    n, small = len(matrix), -t * matrix / 64
    out = np.eye(n) + small @ (np.eye(n) + small / 2 @ (np.eye(n) + small / 3 @ (np.eye(n) + small / 4)))
    for _ in range(6):
        out = out @ out
    return out


def laplacian_of(a: np.ndarray) -> np.ndarray:
    d = a.sum(1)
    root = np.array([1 / math.sqrt(x) if x else 0.0 for x in d])
    return np.diag((d > 0).astype(float)) - root[:, None] * a * root


def test_heat_is_the_exponential_of_the_laplacian() -> None:
    values, vectors = encodings.spectrum(ADJ)
    found = encodings.heat(values, vectors, TIMES)
    for i, matrix in enumerate(GRAPHS):
        for j, t in enumerate(TIMES):
            np.testing.assert_allclose(found[i, ..., j], taylor(laplacian_of(matrix), t), atol=2e-5)
    diagonal = encodings.heat_diagonal(values, vectors, TIMES)
    torch.testing.assert_close(diagonal, found.diagonal(dim1=1, dim2=2).mT, atol=2e-6, rtol=0)
    trace = torch.exp(-values[..., None] * torch.tensor(TIMES)).sum(1)
    torch.testing.assert_close(diagonal.sum(1), trace, atol=1e-5, rtol=0)
    eye = encodings.heat(values, vectors, [1e-9])[..., 0]
    torch.testing.assert_close(eye, torch.eye(9).expand(3, 9, 9), atol=1e-5, rtol=0)


def test_bands_sum_to_the_first_heat_kernel() -> None:
    values, vectors = encodings.spectrum(ADJ)
    bands = encodings.wavelets(values, vectors, TIMES)
    torch.testing.assert_close(
        bands.sum(-1), encodings.heat(values, vectors, TIMES)[..., 0], atol=1e-5, rtol=0
    )


def test_nodes_of_the_bands_are_their_diagonal_and_their_energy() -> None:
    values, vectors = encodings.spectrum(ADJ)
    bands = encodings.wavelets(values, vectors, TIMES)
    heats = [encodings.heat_diagonal(values, vectors, t) for t in (TIMES, *encodings.wavelet_times(TIMES))]
    found = encodings.wavelet_nodes(*heats)
    torch.testing.assert_close(found[..., :5], bands.diagonal(dim1=1, dim2=2).mT, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[..., 5:], bands.square().sum(2), atol=1e-5, rtol=0)


def test_heat_of_large_graphs_comes_from_the_walks_alone() -> None:
    values, vectors = encodings.spectrum(ADJ)
    lonely = ADJ.sum(-1) == 0
    assert lonely.any()
    steps = encodings.walks_for_heat([0.25, 32.0])
    for i in range(3):
        walks = encodings.rwse(ADJ, steps)[i]
        found = encodings.heat_from_walks(walks, lonely[i], [0.25, 32.0])
        torch.testing.assert_close(
            found, encodings.heat_diagonal(values, vectors, [0.25, 32.0])[i], atol=1e-5, rtol=0
        )


def test_returns_of_large_graphs_are_exact() -> None:
    for matrix in GRAPHS:
        ends = torch.from_numpy(np.stack(np.nonzero(matrix)))
        found = returns_of_large(ends, torch.from_numpy(matrix.sum(1)).float(), 12, block=4)
        torch.testing.assert_close(found, encodings.rwse(tensor(matrix), 12)[0], atol=1e-6, rtol=0)


def test_shortest_paths() -> None:
    for largest in (1, 2, 8):
        found = encodings.spd(ADJ, largest)
        for matrix, hops in zip(GRAPHS, found.numpy(), strict=True):
            assert np.array_equal(hops, shortest(matrix, largest))


def test_a_large_graph_gets_what_a_small_one_does() -> None:
    graphs = some(count=5)
    pe = everything()
    pe.hier.node = pe.hier.pair = False
    small = encode(graphs, pe, pairs=False)
    pe.largest = 1
    large = encode(graphs, pe, pairs=False)
    np.testing.assert_allclose(large.node, small.node, atol=1e-5)
    np.testing.assert_allclose(np.abs(large.lap), np.abs(small.lap), atol=1e-4)
    np.testing.assert_allclose(large.lap_values, small.lap_values, atol=1e-5)


# ---- eigenvectors -----------------------------------------------------------------------------------


def test_eigenvectors_solve_their_equation_and_leave_out_the_trivial_ones() -> None:
    values, vectors = encodings.spectrum(ADJ)
    found, low = encodings.lap(values, vectors, 4)
    matrix = encodings.laplacian(ADJ)
    torch.testing.assert_close(matrix @ found, found * low[:, None], atol=1e-4, rtol=0)
    kept = found.norm(dim=1) > 0
    torch.testing.assert_close(found.norm(dim=1)[kept], torch.full_like(found.norm(dim=1)[kept], 3.0))
    assert (low[kept] > 1e-4).all()
    assert kept.any()


def test_an_eigenspace_that_does_not_fit_is_left_out_whole() -> None:
    ring = np.roll(np.eye(8), 1, 0) + np.roll(np.eye(8), -1, 0)  # eigenvalues in pairs
    values, vectors = encodings.spectrum(tensor(ring))
    for size, kept in ((1, 0), (2, 2), (3, 2), (4, 4), (7, 7), (9, 7)):
        found, low = encodings.lap(values, vectors, size)
        assert found.shape == (1, 8, size)
        assert int((found.norm(dim=1) > 0).sum()) == kept
        assert int((low > 0).sum()) == kept


# ---- coarsening -------------------------------------------------------------------------------------


def two_rings() -> np.ndarray:
    """A triangle and a ring of five with a bridge of two edges between them, and a node that hangs on."""
    a = np.zeros((10, 10))
    edges = [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 4), (6, 9)]
    for i, j in edges:
        a[i, j] = a[j, i] = 1
    return a


def test_bridges() -> None:
    found = coarsen.bridges(tensor(two_rings()))[0]
    assert {tuple(sorted(p)) for p in found.nonzero().tolist()} == {(2, 3), (3, 4), (6, 9)}


@pytest.mark.parametrize("seed", range(5))
def test_bridges_are_the_edges_whose_loss_parts_the_graph(seed: int) -> None:
    a = random_adjacency(np.random.default_rng(seed), 12, 0.18)
    found = coarsen.bridges(tensor(a))[0].numpy()
    for i, j in np.argwhere(np.triu(a)):
        without = a.copy()
        without[i, j] = without[j, i] = 0
        assert found[i, j] == (shortest(without, 20)[i, j] == 21)


def test_rings_are_the_first_level_of_a_molecule() -> None:
    first, second = coarsen.levels(tensor(two_rings()), 2)
    groups = {tuple(np.flatnonzero(row)) for row in first[0].numpy()}
    assert groups == {(0, 1, 2), (3,), (4, 5, 6, 7, 8), (9,)}
    assert (second | ~first).all()  # coarser
    assert second.sum() > first.sum()
    hops = coarsen.cluster_hops(tensor(two_rings()), first, 8)[0]
    assert hops[0, 1] == 0
    assert hops[1, 3] == 1
    assert hops[0, 9] == 3


@pytest.mark.parametrize("seed", range(4))
def test_levels_do_not_depend_on_the_order_of_the_nodes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, order = random_adjacency(rng, 14, 0.2), rng.permutation(14)
    for one, two in zip(
        coarsen.levels(tensor(a), 3), coarsen.levels(tensor(a[order][:, order]), 3), strict=True
    ):
        assert torch.equal(one[0][order][:, order], two[0])


# ---- all of them ------------------------------------------------------------------------------------


def test_permuting_the_nodes_permutes_the_encodings() -> None:
    graphs, pe = some(3, count=4), everything()
    whole = encode(graphs, pe)
    square = np.cumsum(graphs.num_nodes**2) - graphs.num_nodes**2
    for i in range(len(graphs)):
        n, first = int(graphs.num_nodes[i]), int(graphs.node_start[i])
        order = np.random.default_rng(i).permutation(n)
        other = encode(permuted(graphs, i, order), pe)
        np.testing.assert_allclose(other.node, whole.node[first : first + n][order], atol=2e-6)
        hops = whole.hops[square[i] : square[i] + n * n].reshape(n, n, -1)
        assert np.array_equal(other.hops.reshape(n, n, -1), hops[order][:, order])


def test_sizes_are_those_that_are_declared() -> None:
    pe = everything()
    assert encode(some(), pe).node.shape[1] == node_dim(pe) == 10 + 21 + 8 + 12 + 2
    assert pair_dim(pe) == 21 + 8 + 6 + 10 + 2 * 10


def test_walks_tell_rings_apart_that_degrees_do_not() -> None:
    graphs = csl(0)["train"]
    pe = PEConfig()
    pe.rrwp.node = pe.heat.node = False
    assert len(np.unique(encode(graphs, pe, pairs=False).node, axis=0)) == 1  # four neighbours, all of them
    pe.rrwp.node, pe.degree.node = True, False
    found = encode(graphs, pe, pairs=False).node.reshape(len(graphs), 41, -1)
    np.testing.assert_allclose(found, found[:, :1].repeat(41, 1), atol=1e-6)  # all nodes of a graph are alike
    of_class = {label: found[graphs.y == label, 0] for label in range(10)}
    for label, rows in of_class.items():
        assert np.abs(rows - rows[0]).max() < 1e-5
        for other in range(label):
            assert np.abs(rows[0] - of_class[other][0]).max() > 1e-4
