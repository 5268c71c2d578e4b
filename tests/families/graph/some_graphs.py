"""Small graphs for the tests, and the slow way to everything."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.families.graph.graphs import Graphs, build, simple

Floats = NDArray[np.float64]


def random_adjacency(rng: np.random.Generator, n: int, p: float = 0.3) -> Floats:
    upper = np.triu(rng.random((n, n)) < p, 1)
    return (upper | upper.T).astype(float)


def from_adjacencies(matrices: Sequence[Floats], atoms: int = 3, bonds: int = 2, seed: int = 0) -> Graphs:
    """Graphs with random categories of nodes and edges, and a target each."""
    rng = np.random.default_rng(seed)
    edges, sizes = [], []
    for matrix in matrices:
        pairs = np.argwhere(np.triu(matrix) > 0)
        edges.append(simple(len(matrix), pairs, rng.integers(0, bonds, (len(pairs), 1))))
        sizes.append(len(matrix))
    tags = rng.integers(0, atoms, (sum(sizes), 1)).astype(np.int16)
    return build(edges, sizes, rng.normal(size=(len(sizes), 1)).astype(np.float32), tags)


def some(seed: int = 0, count: int = 6) -> Graphs:
    rng = np.random.default_rng(seed)
    return from_adjacencies([random_adjacency(rng, n) for n in rng.integers(2, 12, count)], seed=seed)


def permuted(graphs: Graphs, i: int, order: NDArray[np.int64]) -> Graphs:
    """Graph ``i`` alone with node ``order[k]`` of it as node k."""
    one = graphs.take([i])
    place = np.argsort(order)
    return Graphs(
        one.num_nodes,
        one.num_edges,
        place[one.ends].astype(np.int32),
        one.atoms[order],
        one.bonds,
        one.x[order],
        one.y,
    )


def adjacency_of(graphs: Graphs, i: int) -> Floats:
    one = graphs.take([i])
    out = np.zeros((int(one.num_nodes[0]),) * 2)
    for a, b in one.ends.T:
        out[a, b] = 1
    return out


def walk_of(a: Floats) -> Floats:
    """Step by step: to each neighbour with the same chance, or nowhere."""
    n = len(a)
    p = np.zeros((n, n))
    for i in range(n):
        around = [j for j in range(n) if a[i, j]]
        for j in around:
            p[i, j] = 1 / len(around)
        if not around:
            p[i, i] = 1
    return p


def shortest(a: Floats, largest: int) -> NDArray[np.int64]:
    """Breadth first from each node."""
    n = len(a)
    out = np.full((n, n), largest + 1)
    for start in range(n):
        front, seen, hops = {start}, {start}, 0
        while front and hops <= largest:
            for i in front:
                out[start, i] = hops
            front = {j for i in front for j in range(n) if a[i, j]} - seen
            seen |= front
            hops += 1
    return out


def tensor(*matrices: Any) -> Tensor:
    return torch.tensor(np.stack(matrices), dtype=torch.float32)
