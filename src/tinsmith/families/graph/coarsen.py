"""Coarser graphs, the same whatever the order of the nodes: what ``hier`` measures sizes and distances on.

A level merges nodes into clusters. Where a graph has bridges (as molecules have), the first level merges what
hangs together without them: ring systems become one node. Every other level merges each cluster with the
neighbours that it is tied to most, all of them where several tie (a step of Borůvka's algorithm), which is
heavy-edge matching made independent of the order. All sums are of whole numbers, so that ties are exact.

A level is a boolean matrix [B, n, n] that says which nodes share a cluster; clusters need no numbers.
Distances on the levels: HDSE, arXiv:2308.11129.

Shapes: B graphs of n nodes each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tinsmith.families.graph.encodings import hops

_ALMOST_ONE = 1 - 1e-6  # an edge on a cycle of length c has an effective resistance of at most 1 - 1 / c


def levels(adjacency: Tensor, count: int) -> list[Tensor]:
    """``count`` levels, each coarser than the one before: booleans [B, n, n], true on the diagonal."""
    size = adjacency.shape[-1]
    alone = torch.eye(size, dtype=torch.bool, device=adjacency.device).expand(adjacency.shape)
    found = []
    same = alone
    for level in range(count):
        merged = _tied_most(adjacency, same)
        if level == 0:
            rings = _closed(adjacency.bool() & ~bridges(adjacency))
            splits = (rings != alone).flatten(1).any(1) & bridges(adjacency).flatten(1).any(1)
            merged = torch.where(splits[:, None, None], rings, merged)
        same = merged
        found.append(same)
    return found


def cluster_sizes(same: Tensor) -> Tensor:
    """The number of nodes in each node's cluster: [B, n]."""
    return same.sum(-1)


def cluster_hops(adjacency: Tensor, same: Tensor, largest: int) -> Tensor:
    """Hops between the clusters of two nodes, ``largest + 1`` for what is beyond: uint8 [B, n, n]."""
    return hops((_between(adjacency, same) > 0).to(adjacency.dtype), same, largest)


def bridges(adjacency: Tensor) -> Tensor:
    """Edges whose loss would part the graph: boolean [B, n, n].

    They are the edges with an effective resistance of 1 (Klein and Randić 1993), from the pseudo-inverse of
    ``D - A``: ``R_ij = G_ii + G_jj - 2 G_ij``.
    """
    exact = adjacency.double()
    inverse = torch.linalg.pinv(torch.diag_embed(exact.sum(-1)) - exact, hermitian=True)
    own = inverse.diagonal(dim1=-2, dim2=-1)
    resistance = own[:, :, None] + own[:, None, :] - 2 * inverse
    cut: Tensor = (adjacency > 0) & (resistance > _ALMOST_ONE)
    return cut


def _between(adjacency: Tensor, same: Tensor) -> Tensor:
    """The number of edges between the clusters of two nodes, 0 within one: [B, n, n]."""
    members = same.to(adjacency.dtype)
    return (members @ adjacency @ members).masked_fill(same, 0)


def _tied_most(adjacency: Tensor, same: Tensor) -> Tensor:
    """Merge each cluster with the neighbours for which edges between / edges leaving both is largest."""
    between = _between(adjacency, same)
    outwards = (same.to(adjacency.dtype) @ adjacency.masked_fill(same, 0)).sum(-1)  # edges that leave it
    leaving = outwards[:, :, None] + outwards[:, None, :]
    tie = between / leaving.clamp(min=1)
    best = tie.amax(-1, keepdim=True)
    chosen = (tie == best) & (tie > 0)
    return _closed(chosen | chosen.mT | same)


def _closed(links: Tensor) -> Tensor:
    """Which nodes are connected by links, however long the way: boolean [B, n, n]."""
    size = links.shape[-1]
    reached = links | torch.eye(size, dtype=torch.bool, device=links.device)
    length = 1
    while length < size:  # each squaring doubles the length of the ways
        reached = (reached.float() @ reached.float()) > 0
        length *= 2
    return reached
