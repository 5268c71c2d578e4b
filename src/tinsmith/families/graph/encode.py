"""The encodings of many graphs: computed batch by batch over graphs of one size, kept on disk by content.

What is kept is small: what a node has of each encoding, hops of the pairs, and the spectrum where kernels of
pairs are wanted. The pair tensors themselves (twenty times as large) are a few matrix products of a batch and
are made with it, so that no set of graphs has to fit into memory for them.

Shapes: N nodes of all graphs together, Q their pairs together (the sum of n^2), P numbers of a node.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.errors import DataError
from tinsmith.families.graph import coarsen, encodings
from tinsmith.families.graph.config import PEConfig
from tinsmith.families.graph.graphs import Graphs, Ints, ranges
from tinsmith.families.graph.store import cached

log = logging.getLogger(__name__)

FORMAT = 1  # goes into the key of the cache: a change of the definitions is a new number
_NUMBERS = 1 << 22  # of a batch's largest tensor
_LARGEST_SPECTRUM = 8192  # nodes up to which eigenvectors are computed

Array = NDArray[Any]


@dataclass(eq=False)
class Encoded:
    """What is known of the nodes and pairs of a set of graphs.

    Args:
        node: numbers of each node [N, P] float32.
        lap: eigenvectors of each node [N, k], and ``lap_values`` of each graph [G, k].
        hops: of each pair [Q, C] uint8: one column for spd, one for each level of hier.
        vectors: eigenvectors of each graph [Q], and ``values`` of each node [N]: for kernels of pairs.
    """

    node: Array
    lap: Array
    lap_values: Array
    hops: Array
    vectors: Array
    values: Array


def node_dim(pe: PEConfig) -> int:
    """P: how many numbers of a node ``pe`` asks for, the eigenvectors of ``lap`` not counted."""
    total = (pe.degree.max + 2) * pe.degree.node + pe.rrwp.steps * pe.rrwp.node
    total += len(pe.heat.times) * pe.heat.node + 2 * len(pe.wavelet.times) * pe.wavelet.node
    return total + pe.hier.levels * pe.hier.node


def lap_dim(pe: PEConfig) -> int:
    """k: how many eigenvectors ``pe`` asks for."""
    return pe.lap.size if pe.lap.node else 0


def hop_sizes(pe: PEConfig) -> tuple[int, ...]:
    """The number of distances in each column of ``Encoded.hops``."""
    spd = (pe.spd.max + 2,) if pe.spd.pair else ()
    return spd + (pe.hier.max + 2,) * (pe.hier.levels if pe.hier.pair else 0)


def pair_dim(pe: PEConfig) -> int:
    """K: how many numbers of a pair ``pe`` asks for, hops one-hot."""
    kernels = pe.rrwp.steps * pe.rrwp.pair + len(pe.heat.times) * pe.heat.pair
    return kernels + len(pe.wavelet.times) * pe.wavelet.pair + sum(hop_sizes(pe))


def _wants_kernels(pe: PEConfig) -> bool:
    return pe.heat.pair or pe.wavelet.pair


def encode(graphs: Graphs, pe: PEConfig, pairs: bool = True, cache: Path | None = None) -> Encoded:
    """The encodings of graphs.

    Args:
        graphs: G graphs.
        pe: which ones.
        pairs: also what pair tensors are made from; not where a graph has more than ``pe.largest`` nodes.
        cache: a folder in which they are kept, under the digest of the graphs' structure and of ``pe``.

    Raises:
        DataError: eigenvectors of a graph that is too large for them.
    """
    pairs = pairs and int(graphs.num_nodes.max()) <= pe.largest
    if cache is None:
        return Encoded(**_compute(graphs, pe, pairs))
    key = {"format": FORMAT, "graphs": graphs.structure_digest(), "pe": asdict(pe), "pairs": pairs}
    return Encoded(**cached(cache / "encodings", key, lambda: _compute(graphs, pe, pairs)))


def _compute(graphs: Graphs, pe: PEConfig, pairs: bool) -> dict[str, Array]:
    total, squares = int(graphs.num_nodes.sum()), graphs.num_nodes**2
    quads = int(squares.sum()) if pairs else 0
    kernels = pairs and _wants_kernels(pe)
    out: dict[str, Array] = {
        "node": np.zeros((total, node_dim(pe)), np.float32),
        "lap": np.zeros((total, lap_dim(pe)), np.float32),
        "lap_values": np.zeros((len(graphs), lap_dim(pe)), np.float32),
        "hops": np.zeros((quads, len(hop_sizes(pe)) if pairs else 0), np.uint8),
        "vectors": np.zeros(quads if kernels else 0, np.float32),
        "values": np.zeros(total if kernels else 0, np.float32),
    }
    square_start = np.cumsum(squares) - squares
    for which in _of_one_size(graphs, pe):
        size = int(graphs.num_nodes[which[0]])
        nodes = ranges(graphs.node_start[which], graphs.num_nodes[which])
        if size > pe.largest:
            node, lap, lap_values = _large(graphs, int(which[0]), pe)
            found = {"node": node, "lap": lap, "lap_values": lap_values}
        else:
            found = _batch(adjacency(graphs, which), pe, pairs)
        for name, value in found.items():
            if name in ("hops", "vectors"):
                rows: Any = ranges(square_start[which], squares[which])
            else:
                rows = which if name == "lap_values" else nodes
            out[name][rows] = value.reshape(len(rows), *out[name].shape[1:]).numpy()
    return out


def _of_one_size(graphs: Graphs, pe: PEConfig) -> Iterator[Ints]:
    """The graphs of each size, a batch of them at a time."""
    order = np.argsort(graphs.num_nodes, kind="stable")
    sizes = graphs.num_nodes[order]
    starts = np.flatnonzero(np.diff(sizes, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
        size = int(sizes[start])
        scales = max(pe.rrwp.steps, pe.spd.max, 8)
        step = max(1, _NUMBERS // (size * size * scales)) if size <= pe.largest else 1
        for first in range(start, end, step):
            yield order[first : min(first + step, end)]


def adjacency(graphs: Graphs, which: Ints) -> Tensor:
    """The adjacency of graphs of one size [B, n, n] float32."""
    size = int(graphs.num_nodes[which[0]])
    counts = graphs.num_edges[which]
    ends = graphs.ends[:, ranges(graphs.edge_start[which], counts)]
    out = torch.zeros(len(which), size, size)
    graph = torch.from_numpy(np.repeat(np.arange(len(which)), counts))
    out[graph, *torch.from_numpy(ends.astype(np.int64))] = 1
    return out


def _batch(adj: Tensor, pe: PEConfig, pairs: bool) -> dict[str, Tensor]:
    """All that ``Encoded`` holds, of graphs of one size."""
    node: list[Tensor] = []
    found: dict[str, Tensor] = {}
    if pe.degree.node:
        node.append(encodings.degree(adj, pe.degree.max))
    if pe.rrwp.node:
        node.append(encodings.rwse(adj, pe.rrwp.steps))
    kernels = pairs and _wants_kernels(pe)
    if pe.heat.node or pe.wavelet.node or pe.lap.node or kernels:
        values, vectors = encodings.spectrum(adj)
        node += _spectral(values, vectors, pe)
        if pe.lap.node:
            found["lap"], found["lap_values"] = encodings.lap(values, vectors, pe.lap.size)
        if kernels:
            found["values"], found["vectors"] = values, vectors
    node += _hierarchy(adj, pe, pairs, found)
    found["node"] = torch.cat(node, -1) if node else adj.new_zeros(*adj.shape[:2], 0)
    return found


def _spectral(values: Tensor, vectors: Tensor, pe: PEConfig) -> Iterator[Tensor]:
    if pe.heat.node:
        yield encodings.heat_diagonal(values, vectors, pe.heat.times)
    if pe.wavelet.node:
        times = (pe.wavelet.times, *encodings.wavelet_times(pe.wavelet.times))
        yield encodings.wavelet_nodes(*(encodings.heat_diagonal(values, vectors, t) for t in times))


def _hierarchy(adj: Tensor, pe: PEConfig, pairs: bool, found: dict[str, Tensor]) -> list[Tensor]:
    """Fill in ``hops``; return the sizes of the nodes' clusters."""
    hops = [encodings.spd(adj, pe.spd.max)] if pe.spd.pair and pairs else []
    sizes = []
    if pe.hier.node or (pe.hier.pair and pairs):
        for same in coarsen.levels(adj, pe.hier.levels):
            sizes.append(torch.log1p(coarsen.cluster_sizes(same).to(adj.dtype))[..., None])
            if pe.hier.pair and pairs:
                hops.append(coarsen.cluster_hops(adj, same, pe.hier.max))
    if hops:
        found["hops"] = torch.stack(hops, -1)
    return sizes if pe.hier.node else []


def _large(graphs: Graphs, which: int, pe: PEConfig) -> tuple[Tensor, Tensor, Tensor]:
    """What a node of one large graph has: no [n, n] tensor but where eigenvectors are asked for."""
    one = graphs.take([which])
    ends = torch.from_numpy(one.ends.astype(np.int64))
    count = torch.bincount(ends[0], minlength=int(one.num_nodes[0])).float()
    node = []
    if pe.degree.node:
        hot = torch.nn.functional.one_hot(count.long().clamp(max=pe.degree.max), pe.degree.max + 1)
        node.append(torch.cat([torch.log1p(count)[:, None], hot.float()], -1))
    times = [*pe.heat.times] if pe.heat.node else []
    doubles, sums = encodings.wavelet_times(pe.wavelet.times)
    if pe.wavelet.node:
        times += [*pe.wavelet.times, *doubles, *sums]
    steps = max(pe.rrwp.steps if pe.rrwp.node else 1, encodings.walks_for_heat(times) if times else 1)
    returns = returns_of_large(ends, count, steps)
    if pe.rrwp.node:
        node.append(returns[:, : pe.rrwp.steps])
    lonely = count == 0
    if pe.heat.node:
        node.append(encodings.heat_from_walks(returns, lonely, pe.heat.times))
    if pe.wavelet.node:
        heats = (encodings.heat_from_walks(returns, lonely, t) for t in (pe.wavelet.times, doubles, sums))
        node.append(encodings.wavelet_nodes(*heats))
    if pe.hier.node:
        raise DataError(
            f"pe.hier.node: a graph of {len(count)} nodes is beyond pe.largest={pe.largest}, and clusters "
            "are made of whole matrices. Set pe.hier.node=false, or raise pe.largest."
        )
    vectors, values = _large_lap(one, pe)
    return torch.cat(node, -1) if node else count.new_zeros(len(count), 0), vectors, values


def returns_of_large(ends: Tensor, degree: Tensor, steps: int, block: int = 256) -> Tensor:
    """Return probabilities of a large graph [n, steps], exact, a block of starting nodes at a time.

    Args:
        ends: source and target of each edge [2, E]. degree: of each node [n].
    """
    size = len(degree)
    out = torch.ones(size, steps)
    lonely = (degree == 0).float()[:, None]
    share = (1 / degree.clamp(min=1))[:, None]
    for first in range(0, size, block):
        own = torch.arange(first, min(first + block, size))
        at = torch.zeros(size, len(own))  # column: the probabilities of being at the end node, by start node
        at[own, torch.arange(len(own))] = 1
        for k in range(1, steps):
            # (P X)_i = (1 / d_i) sum over i's neighbours j of X_j: probabilities of reaching `own` from i
            summed = torch.zeros_like(at).index_add_(0, ends[0], at.index_select(0, ends[1]))
            at = summed * share + at * lonely
            out[own, k] = at[own, torch.arange(len(own))]
    return out


def _large_lap(one: Graphs, pe: PEConfig) -> tuple[Tensor, Tensor]:
    size = int(one.num_nodes[0])
    if not pe.lap.node:
        return torch.zeros(size, 0), torch.zeros(1, 0)
    if size > _LARGEST_SPECTRUM:
        raise DataError(
            f"pe.lap.node: a graph of {size} nodes is too large for its eigenvectors (at most "
            f"{_LARGEST_SPECTRUM}). Set pe.lap.node=false."
        )
    values, vectors = encodings.spectrum(adjacency(one, np.zeros(1, np.int64)))
    found, low = encodings.lap(values, vectors, pe.lap.size)
    return found[0], low
