"""Multi-scale positional encodings: how nodes and pairs of nodes lie in a graph, seen at several scales.

One frame for all: functions of one matrix, read on the diagonal (a node) or off it (a pair). With the
adjacency ``A`` (0 or 1), the degrees ``d``, the random walk ``P = D^-1 A`` and the normalised Laplacian
``L = I - D^-1/2 A D^-1/2 = U diag(lam) U^T``:

    rrwp_k = P^k          heat_t = U exp(-t lam) U^T          wavelet_j = heat_tj - heat_tj+1

``P`` goes row by row: ``P_ij`` is the probability of a step from i to j, rows sum to one. (GRIT keeps the
transpose; the diagonal is the same, the pairs are not.) A node without neighbours stays where it is: its row
of ``P`` is that of the identity, and its row of ``L`` is zero.

Everything here is batched over graphs of one size, without padding: B graphs, n nodes each, K scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

SAME = 1e-4  # eigenvalues nearer to each other than this count as one


def walk(adjacency: Tensor) -> Tensor:
    """``P = D^-1 A`` [B, n, n], with a one on the diagonal of nodes without neighbours."""
    degree = adjacency.sum(-1, keepdim=True)
    lonely = torch.diag_embed((degree[..., 0] == 0).to(adjacency.dtype))
    return adjacency / degree.clamp(min=1) + lonely


def powers(matrix: Tensor, steps: int) -> Tensor:
    """``I, M, M^2, ...``: ``steps`` of them, [B, steps, n, n]."""
    size = matrix.shape[-1]
    chain = matrix.new_empty(len(matrix), steps, size, size)
    chain[:, 0] = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    for k in range(1, steps):
        chain[:, k] = matrix if k == 1 else torch.bmm(chain[:, k - 1], matrix)
    return chain


def rrwp(adjacency: Tensor, steps: int = 21) -> Tensor:
    """Relative random-walk probabilities ``P^k``, k = 0 .. steps - 1 (GRIT, arXiv:2305.17589, section 3.1).

    Args:
        adjacency: [B, n, n].

    Returns:
        [B, n, n, steps]: the probability of being at j after k steps from i. Rows sum to one. (The scales
        lie outermost in memory.)
    """
    return powers(walk(adjacency), steps).movedim(1, -1)


def rwse(adjacency: Tensor, steps: int = 21) -> Tensor:
    """The probabilities of being back after k steps (arXiv:2110.07875, equation 12): ``rrwp``'s diagonal.

    Returns:
        [B, n, steps], k = 0 (always one) to steps - 1.
    """
    return powers(walk(adjacency), steps).diagonal(dim1=-2, dim2=-1).mT


def degree(adjacency: Tensor, largest: int = 8) -> Tensor:
    """``log(1 + d)`` and d one-hot, the last place for ``largest`` or more: [B, n, largest + 2]."""
    count = adjacency.sum(-1)
    hot = torch.nn.functional.one_hot(count.long().clamp(max=largest), largest + 1)
    return torch.cat([torch.log1p(count)[..., None], hot.to(adjacency.dtype)], -1)


def laplacian(adjacency: Tensor) -> Tensor:
    """``I - D^-1/2 A D^-1/2`` [B, n, n]; rows of nodes without neighbours are zero."""
    count = adjacency.sum(-1)
    root = count.clamp(min=1).rsqrt()
    return torch.diag_embed((count > 0).to(adjacency.dtype)) - root[..., None] * adjacency * root[:, None, :]


def spectrum(adjacency: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [B, n] (rising, 0 to 2) and eigenvectors [B, n, n] (columns) of the Laplacian.

    In double precision: what depends on the order of the nodes must stay far below what a model sees.
    """
    values, vectors = torch.linalg.eigh(laplacian(adjacency.double()))
    return values.clamp(0, 2).to(adjacency.dtype), vectors.to(adjacency.dtype)


def heat(values: Tensor, vectors: Tensor, times: Sequence[float]) -> Tensor:
    """Heat kernels ``U exp(-t lam) U^T`` (GraphGPS, arXiv:2205.12454, has their diagonals): [B, n, n, T].

    How much of a unit of heat at i is at j after the time t; at t = 0 the identity.
    """
    decay = torch.exp(-values[:, None] * values.new_tensor(times)[:, None])  # [B, T, n]
    spread = vectors[:, None] * decay[:, :, None]
    return (spread @ vectors[:, None].mT).movedim(1, -1)


def heat_diagonal(values: Tensor, vectors: Tensor, times: Sequence[float]) -> Tensor:
    """The diagonals of ``heat`` alone, [B, n, T]: ``sum_k U_ik^2 exp(-t lam_k)``. Their sum is the trace."""
    decay = torch.exp(-values[:, :, None] * values.new_tensor(times))  # [B, n (eigenvalues), T]
    return vectors.square() @ decay


def wavelets(values: Tensor, vectors: Tensor, times: Sequence[float]) -> Tensor:
    """Bands ``W_j = heat_tj - heat_tj+1``, and the last heat kernel as the lowest band: [B, n, n, S].

    A partition: the bands themselves sum to the first heat kernel (as in diffusion wavelets, Coifman and
    Maggioni 2006, and the graph wavelets of arXiv:2302.08647). It is not a tight frame: their squares do not
    sum to a constant; with ``sqrt`` of the differences as filters they would.
    """
    kernels = heat(values, vectors, times)
    return torch.cat([kernels[..., :-1] - kernels[..., 1:], kernels[..., -1:]], -1)


def wavelet_nodes(heats: Tensor, doubles: Tensor, sums: Tensor) -> Tensor:
    """Diagonal of each band, and the energy of its rows ``sum_j W_ij^2`` (GraphWave, arXiv:1710.10321).

    The energy is the diagonal of ``W^2``, whose filter is ``e^-2tλ - 2 e^-(t+u)λ + e^-2uλ``: a sum of heat
    kernels too, so that their diagonals are all that is needed.

    Args:
        heats: diagonals of the heat kernels at the times [B, n, S].
        doubles: at twice the times [B, n, S].
        sums: at the sums of two successive times [B, n, S - 1].

    Returns:
        [B, n, 2 S].
    """
    bands = torch.cat([heats[..., :-1] - heats[..., 1:], heats[..., -1:]], -1)
    middle = doubles[..., :-1] - 2 * sums + doubles[..., 1:]
    return torch.cat([bands, torch.cat([middle, doubles[..., -1:]], -1)], -1)


def wavelet_times(times: Sequence[float]) -> tuple[list[float], list[float]]:
    """``doubles`` and ``sums`` of ``wavelet_nodes``: the times at which it wants heat diagonals."""
    return [2 * t for t in times], [a + b for a, b in pairwise(times)]


def heat_from_walks(returns: Tensor, lonely: Tensor, times: Sequence[float]) -> Tensor:
    """Heat diagonals from return probabilities alone, for graphs too large for an eigendecomposition.

    ``exp(-tL) = e^-t sum_k t^k / k! (I - L)^k``, and ``I - L = D^1/2 P D^-1/2`` has the diagonals of ``P``.
    Nodes without neighbours keep their heat.

    Args:
        returns: [n, K] return probabilities after 0 .. K - 1 steps, K at least ``walks_for_heat(times)``.
        lonely: nodes without neighbours [n].

    Returns:
        [n, T].
    """
    k = torch.arange(returns.shape[1], dtype=torch.float64, device=returns.device)
    t = torch.tensor(list(times), dtype=torch.float64, device=returns.device)[:, None]
    weights = torch.exp(k * torch.log(t) - t - torch.lgamma(k + 1))  # Poisson, [T, K]
    heats = (returns.double() @ weights.T).to(returns.dtype)
    return torch.where(lonely[:, None], torch.ones_like(heats), heats)


def walks_for_heat(times: Sequence[float]) -> int:
    """Steps after which the Poisson weights of the longest time are below 1e-7."""
    longest = max(times)
    return math.ceil(longest + 6 * math.sqrt(longest) + 12)


def lap(values: Tensor, vectors: Tensor, size: int = 8) -> tuple[Tensor, Tensor]:
    """The ``size`` lowest eigenvectors beyond the trivial ones (arXiv:2003.00982, section 4), and values.

    Trivial are those of eigenvalue 0, one for each connected part. An eigenspace that does not fit in whole
    is left out whole, since no part of it is defined; what is missing is zero. Within an eigenspace of
    several dimensions the vectors, and always their signs, are arbitrary: ``lap.signs=spe`` alone is
    invariant to both.

    Returns:
        [B, n, size] of length sqrt(n) each, and [B, size].
    """
    batch, nodes = values.shape
    first = (values < SAME).sum(-1, keepdim=True)  # the number of trivial ones
    place = first + torch.arange(size, device=values.device)  # [B, size]
    there = place < nodes
    place = place.clamp(max=nodes - 1)
    chosen = values.gather(1, place)
    # Whatever is linked, by gaps that count as none, to the first eigenvalue beyond is of its eigenspace.
    beyond = values.gather(1, (first + size).clamp(max=nodes - 1))
    linked = torch.cat([chosen[:, 1:], beyond], 1) - chosen < SAME
    cut = linked.flip(1).cumprod(1).flip(1).bool() & (first + size < nodes)
    keep = (there & ~cut).to(values.dtype)
    columns = vectors.gather(2, place[:, None].expand(batch, nodes, size))
    return columns * keep[:, None] * math.sqrt(nodes), chosen * keep


def spd(adjacency: Tensor, largest: int = 8) -> Tensor:
    """Hops of the shortest path, ``largest + 1`` for what is farther or not connected: uint8 [B, n, n].

    (Graphormer, arXiv:2106.05234, section 3.1.2.) The first k for which ``(P^k)_ij`` is not zero.
    """
    return hops(adjacency, torch.eye(adjacency.shape[-1], device=adjacency.device) > 0, largest)


def hops(adjacency: Tensor, start: Tensor, largest: int) -> Tensor:
    """Hops from ``start`` (a boolean [n, n] or [B, n, n], what is at distance 0) along ``adjacency``."""
    reached = start.expand(adjacency.shape)
    distance = torch.full(adjacency.shape, largest + 1, dtype=torch.uint8, device=adjacency.device)
    distance[reached] = 0
    for k in range(1, largest + 1):
        further = (torch.bmm(reached.to(adjacency.dtype), adjacency) > 0) | reached
        distance[further & ~reached] = k
        reached = further
    return distance
