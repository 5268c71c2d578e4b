"""Batches of graphs as tensors: nodes and edges flat, pairs padded, made without Python per graph.

A batch is a dict. Of M nodes and E directed edges of B graphs, the largest of n nodes:

    atoms [M, F] int64, x [M, X]      what a node is         edges [2, E]     rows of source and target
    node_pe [M, P]                    where it stands        bonds [E, C]     what an edge is
    lap [M, k], lap_values [B, k]     its eigenvectors       mask [B, n]      where a padded row has a node
    position [M]                      of its row in the padded [B * n]        size [B]   nodes of each graph
    pair [B, K, n, n]                 encodings, hops and bonds of two nodes, one-hot where they are kinds
    y                                 targets, where they are known
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.engine.data import BatchDataset
from tinsmith.families.graph import encodings
from tinsmith.families.graph.config import PEConfig
from tinsmith.families.graph.encode import Encoded, hop_sizes
from tinsmith.families.graph.graphs import Array, Graphs, Ints, ranges

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a batch holds: the encodings, the categories of the bonds, and whether there are pairs."""

    pe: PEConfig
    bond_sizes: tuple[int, ...] = ()
    pairs: bool = True


def pair_dim(layout: Layout) -> int:
    """K: encodings of pairs and bonds one-hot."""
    from tinsmith.families.graph.encode import pair_dim as encoded

    return (encoded(layout.pe) + max(1, sum(layout.bond_sizes))) if layout.pairs else 0


class GraphDataset(BatchDataset):
    """Graphs by index, as batches.

    Args:
        graphs: G graphs. encoded: theirs. layout: what a batch holds.
    """

    def __init__(self, graphs: Graphs, encoded: Encoded, layout: Layout) -> None:
        self.graphs, self.encoded, self.layout = graphs, encoded, layout
        squares = graphs.num_nodes**2
        self._square_start = np.cumsum(squares) - squares
        # Graphs of like size share a batch; a step of four nodes leaves the batches something to differ in.
        self.lengths = torch.from_numpy(-(-graphs.num_nodes // 4))

    def __len__(self) -> int:
        return len(self.graphs)

    def batch(self, indices: Tensor) -> Batch:
        """The batch of the graphs ``indices`` [B]."""
        which = indices.numpy()
        out = _nodes_and_edges(self.graphs, self.encoded, which)
        if self.layout.pairs:
            out["pair"] = self._pairs(which, out)
        y = self.graphs.y
        rows = ranges(self.graphs.node_start[which], self.graphs.num_nodes[which])
        out["y"] = torch.from_numpy(np.asarray(y[rows] if self.graphs.node_level else y[which]))
        return out

    def _pairs(self, which: Ints, out: Batch) -> Tensor:
        layout = self.layout
        sizes = self.graphs.num_nodes[which]
        adjacency, parts = _links(out, layout.bond_sizes)
        kernels = []
        if layout.pe.rrwp.pair:
            # A padded node has no neighbours and stays where it is: cut off from all that counts.
            kernels.append(encodings.rrwp(adjacency, layout.pe.rrwp.steps).movedim(-1, 1))
        if layout.pe.heat.pair or layout.pe.wavelet.pair:
            values, vectors = self._spectra(which, sizes, int(sizes.max()))
            if layout.pe.heat.pair:
                kernels.append(encodings.heat(values, vectors, layout.pe.heat.times).movedim(-1, 1))
            if layout.pe.wavelet.pair:
                kernels.append(encodings.wavelets(values, vectors, layout.pe.wavelet.times).movedim(-1, 1))
        kernels += self._hops(which, sizes, int(sizes.max()))
        return torch.cat([*kernels, parts], 1)

    def _spectra(self, which: Ints, sizes: Ints, n: int) -> tuple[Tensor, Tensor]:
        """Eigenvalues [B, n] and eigenvectors [B, n, n], zero where padded."""
        values, vectors = torch.zeros(len(which), n), torch.zeros(len(which), n, n)
        mask = torch.arange(n) < torch.from_numpy(sizes)[:, None]
        nodes = ranges(self.graphs.node_start[which], sizes)
        values[mask] = torch.from_numpy(np.asarray(self.encoded.values[nodes]))
        square = mask[:, :, None] & mask[:, None, :]
        rows = ranges(self._square_start[which], sizes**2)
        vectors[square] = torch.from_numpy(np.asarray(self.encoded.vectors[rows]))
        return values, vectors

    def _hops(self, which: Ints, sizes: Ints, n: int) -> list[Tensor]:
        """Each column of hops one-hot: [B, distances, n, n]."""
        counts = hop_sizes(self.layout.pe)
        if not counts:
            return []
        mask = torch.arange(n) < torch.from_numpy(sizes)[:, None]
        square = mask[:, :, None] & mask[:, None, :]
        rows = np.asarray(self.encoded.hops[ranges(self._square_start[which], sizes**2)])
        found = []
        for column, count in enumerate(counts):
            hops = torch.full((len(which), n, n), 255, dtype=torch.uint8)
            hops[square] = torch.from_numpy(np.ascontiguousarray(rows[:, column]))
            found.append((hops[:, None] == torch.arange(count, dtype=torch.uint8)[:, None, None]).float())
        return found


def _nodes_and_edges(graphs: Graphs, encoded: Encoded, which: Ints) -> Batch:
    sizes, counts = graphs.num_nodes[which], graphs.num_edges[which]
    nodes = ranges(graphs.node_start[which], sizes)
    edges = ranges(graphs.edge_start[which], counts)
    shift = np.repeat(np.cumsum(sizes) - sizes, counts)
    n = int(sizes.max())
    row = np.repeat(np.arange(len(which)) * n, sizes)
    return {
        "atoms": _tensor(graphs.atoms[nodes], np.int64),
        "x": _tensor(graphs.x[nodes], np.float32),
        "edges": _tensor(graphs.ends[:, edges] + shift, np.int64),
        "bonds": _tensor(graphs.bonds[edges], np.int64),
        "node_pe": _tensor(encoded.node[nodes], np.float32),
        "lap": _tensor(encoded.lap[nodes], np.float32),
        "lap_values": _tensor(encoded.lap_values[which], np.float32),
        "position": _tensor(row + ranges(np.zeros_like(sizes), sizes), np.int64),
        "size": _tensor(sizes, np.int64),
        "mask": torch.from_numpy(np.arange(n) < sizes[:, None]),
    }


def _tensor(array: Array, kind: type) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, kind))


def _links(out: Batch, bond_sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The adjacency [B, n, n], and the kinds of the bonds one-hot [B, sum of sizes or 1, n, n]."""
    count, n = out["mask"].shape
    source, target = out["position"][out["edges"]]
    places = sum(bond_sizes)
    kinds = torch.zeros(count, max(1, places), n, n)
    adjacency = torch.zeros(count, n, n)
    graph, i, j = source // n, source % n, target % n
    adjacency[graph, i, j] = 1
    first = 0
    for column, size in enumerate(bond_sizes):
        kinds[graph, first + out["bonds"][:, column], i, j] = 1
        first += size
    if not places:
        kinds[:, 0] = adjacency
    return adjacency, kinds


def statistics(dataset: GraphDataset, count: int = 256) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and deviation of each number of the nodes, and of the pairs, over the first graphs.

    Returns:
        ``node_pe`` and ``pair``: two tensors [P] or [K] each.
    """
    sums: dict[str, list[Tensor]] = {}
    step = max(1, min(32, (1 << 22) // int(dataset.graphs.num_nodes.max() ** 2)))
    for first in range(0, min(count, len(dataset)), step):
        batch = dataset.batch(torch.arange(first, min(first + step, count, len(dataset))))
        values = {"node_pe": batch["node_pe"].double()}
        if "pair" in batch:
            square = batch["mask"][:, :, None] & batch["mask"][:, None, :]
            values["pair"] = batch["pair"].movedim(1, -1)[square].double()
        for name, rows in values.items():
            new = [torch.tensor(float(len(rows))).double(), rows.sum(0), rows.square().sum(0)]
            sums[name] = [a + b for a, b in zip(sums[name], new, strict=True)] if name in sums else new
    out = {}
    for name, (number, total, squares) in sums.items():
        mean = total / number
        deviation = (squares / number - mean.square()).clamp(min=0).sqrt()
        out[name] = (mean.float(), deviation.float())
    return out


def one_hot(graphs: Graphs, atom_sizes: tuple[int, ...]) -> Tensor:
    """The categories of the nodes one-hot, and their numbers: [N, sum of sizes + X] float32."""
    columns = [F.one_hot(_tensor(graphs.atoms[:, i], np.int64), size) for i, size in enumerate(atom_sizes)]
    return torch.cat([*[c.float() for c in columns], _tensor(graphs.x, np.float32)], 1)
