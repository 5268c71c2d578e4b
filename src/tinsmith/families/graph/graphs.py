"""Graphs as flat arrays: the nodes of all of them one after another, and so their edges.

No object per graph: a batch is a few gathers, whatever the number of graphs. All graphs are undirected and
simple: each edge stands there in both directions, no node has an edge to itself.

Shapes: G graphs, N their nodes together, E their directed edges together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tinsmith.errors import DataError

Ints = NDArray[np.int64]
Array = NDArray[Any]


@dataclass(eq=False)
class Graphs:
    """G graphs.

    Args:
        num_nodes: of each graph [G].
        num_edges: directed edges of each graph [G].
        ends: source and target of each edge [2, E], numbered within their graph.
        atoms: categories of each node [N, F], F columns of numbers from 0.
        bonds: categories of each edge [E, C].
        x: numbers of each node [N, X] float32.
        y: targets: [G, T] float32 of a regression, [G] int64 classes, or [N] int64 classes of the nodes,
            -1 where not known.
    """

    num_nodes: Ints
    num_edges: Ints
    ends: Array
    atoms: Array
    bonds: Array
    x: Array
    y: Array

    def __len__(self) -> int:
        return len(self.num_nodes)

    @cached_property
    def node_start(self) -> Ints:
        """Where the nodes of each graph begin [G]."""
        return np.cumsum(self.num_nodes) - self.num_nodes

    @cached_property
    def edge_start(self) -> Ints:
        """Where the edges of each graph begin [G]."""
        return np.cumsum(self.num_edges) - self.num_edges

    @property
    def node_level(self) -> bool:
        """Whether each node has a target of its own."""
        return self.y.ndim == 1 and len(self.y) == int(self.num_nodes.sum()) != len(self)

    def take(self, indices: Ints | Sequence[int]) -> Graphs:
        """The graphs ``indices``, in that order."""
        chosen = np.asarray(indices, np.int64)
        nodes = ranges(self.node_start[chosen], self.num_nodes[chosen])
        edges = ranges(self.edge_start[chosen], self.num_edges[chosen])
        return Graphs(
            self.num_nodes[chosen],
            self.num_edges[chosen],
            self.ends[:, edges],
            self.atoms[nodes],
            self.bonds[edges],
            self.x[nodes],
            self.y[nodes] if self.node_level else self.y[chosen],
        )

    def structure_digest(self) -> str:
        """Of who is connected to whom: what the encodings depend on."""
        digest = xxhash.xxh3_128()
        for array in (self.num_nodes, self.num_edges, self.ends):
            digest.update(np.ascontiguousarray(array, np.int64).data)
        return digest.hexdigest()

    def digest(self) -> str:
        """Of all that is in them."""
        digest = xxhash.xxh3_128(self.structure_digest().encode())
        for array in (self.atoms, self.bonds, self.x, self.y):
            digest.update(repr((array.shape, str(array.dtype))).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def ranges(starts: Ints, counts: Ints) -> Ints:
    """``starts[i], starts[i] + 1, ... (counts[i] of them)``, one i after another: [sum of counts]."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()))


def simple(num_nodes: int, pairs: Array, bonds: Array | None = None) -> tuple[Array, Array]:
    """Both directions of each edge, once, without loops: ends [2, E] int32 and bonds [E, C] int16.

    Args:
        num_nodes: n.
        pairs: two nodes each [P, 2], in any direction, perhaps several times.
        bonds: categories of each pair [P, C]; the first of an edge that comes twice counts.

    Raises:
        DataError: a pair names a node that is not there.
    """
    pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
    kinds = np.zeros((len(pairs), 0), np.int16) if bonds is None else np.asarray(bonds)
    kinds = kinds[:, None] if kinds.ndim == 1 else kinds
    if len(pairs) and not (pairs.min() >= 0 and pairs.max() < num_nodes):
        bad = pairs[((pairs < 0) | (pairs >= num_nodes)).any(1)][0]
        raise DataError(f"the edge {bad.tolist()} is beyond the nodes, which are 0 to {num_nodes - 1}")
    low, high = pairs.min(1), pairs.max(1)
    _, first = np.unique(low * num_nodes + high, return_index=True)
    first = first[low[first] != high[first]]
    ends = np.stack([np.concatenate([low[first], high[first]]), np.concatenate([high[first], low[first]])])
    return ends.astype(np.int32), np.concatenate([kinds[first], kinds[first]]).astype(np.int16)


def join(parts: Sequence[Graphs]) -> Graphs:
    """All graphs of ``parts``, one after another."""
    names = ("num_nodes", "num_edges", "atoms", "bonds", "x", "y")
    joined: dict[str, Any] = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
    return Graphs(ends=np.concatenate([p.ends for p in parts], 1), **joined)


def build(
    edges: Sequence[tuple[Array, Array]],
    num_nodes: Sequence[int],
    y: Array,
    atoms: Array | None = None,
    x: Array | None = None,
) -> Graphs:
    """Graphs from what ``simple`` gave for each of them.

    Args:
        edges: (ends [2, E_g], bonds [E_g, C]) of each graph.
        num_nodes: of each graph.
        y: targets, as ``Graphs`` has them.
        atoms, x: of all nodes; none if None.
    """
    counts = np.asarray(num_nodes, np.int64)
    total = int(counts.sum())
    return Graphs(
        counts,
        np.array([ends.shape[1] for ends, _ in edges], np.int64),
        np.concatenate([ends for ends, _ in edges], 1).astype(np.int32),
        np.zeros((total, 0), np.int16) if atoms is None else atoms,
        np.concatenate([bonds for _, bonds in edges]),
        np.zeros((total, 0), np.float32) if x is None else x.astype(np.float32),
        y,
    )


def sizes_of(columns: Array) -> tuple[int, ...]:
    """How many categories each column has [rows, F]: one more than its largest."""
    return tuple(int(value) + 1 for value in columns.max(0)) if len(columns) else (1,) * columns.shape[1]
