"""Layers over graphs: messages along edges, attention between all nodes of a graph, and blocks of both.

Nodes are flat, M of all graphs of a batch together; only attention pads them. Sums over edges are
``index_add``, whose gradient is a gather: the same from run to run on a CPU.

Shapes: M nodes, E directed edges, B graphs, n nodes of the largest, D width, H heads, P width of a pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SMALL = 128  # nodes of a graph


@dataclass(slots=True)
class Structure:
    """What all layers of a batch share.

    ``source`` and ``target`` [E]; ``edge`` [E, D] or None; ``norm`` [M] is ``1 / sqrt(1 + d)`` (for gcn);
    ``position`` [M] of a node among the padded; ``mask`` [B, n]; ``bias`` of attention [B, layers, H, n, n]
    (H and the first n may be 1) or None, minus infinity where padded; ``pair`` [B, n, n, P] or None, for pair
    values.
    """

    source: Tensor
    target: Tensor
    edge: Tensor | None
    norm: Tensor | None
    position: Tensor
    mask: Tensor
    bias: Tensor | None
    pair: Tensor | None


def gather(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of x. (The gradient of ``x[rows]`` would differ from run to run with several threads.)"""
    return x.index_select(0, rows)


def gather_distinct(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of x, none of them twice: a gradient is put back, where that of ``gather`` has to add up."""
    out: Tensor = _Distinct.apply(x, rows)  # type: ignore[no-untyped-call]
    return out


class _Distinct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.rows, ctx.count = rows, len(x)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.new_zeros(ctx.count, grad.shape[1]).index_copy_(0, ctx.rows, grad), None


def scatter_sum(messages: Tensor, rows: Tensor, count: int) -> Tensor:
    """Sum the messages [E, D] that go to each of ``count`` rows."""
    return messages.new_zeros(count, messages.shape[1]).index_add_(0, rows, messages)


def dropped(x: Tensor, share: float) -> Tensor:
    """``x`` with a share of its numbers, to the next 1/256, set to zero, the others scaled up for it.

    Eight numbers take one draw of 64 bits. (``F.dropout`` of the attention's weights took a seventh of
    a step's time.)
    """
    of_256 = min(255, round(256 * share))
    if not of_256:
        return x
    bits = torch.randint(-(2**63), 2**63 - 1, (-(-x.numel() // 8),), device=x.device)
    keep = bits.view(torch.uint8)[: x.numel()].view(x.shape) >= of_256
    return x * keep.to(x.dtype).mul_(256 / (256 - of_256))


class GINE(nn.Module):
    """``MLP(x_i + sum over j of relu(x_j + e_ij))`` (arXiv:1905.12265, section A.1; epsilon 0)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(inplace=True), nn.Linear(dim, dim))

    def forward(self, x: Tensor, s: Structure) -> Tensor:
        """[M, D] -> [M, D]."""
        messages = gather(x, s.source)
        if s.edge is not None:
            messages = messages.add_(s.edge)
        out: Tensor = self.mlp(scatter_sum(messages.relu_(), s.target, len(x)).add_(x))
        return out


class GCN(nn.Module):
    """``W sum over j in N(i) and i of x_j / sqrt((1 + d_i)(1 + d_j))`` (arXiv:1609.02907, equation 2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x: Tensor, s: Structure) -> Tensor:
        """[M, D] -> [M, D]."""
        assert s.norm is not None
        scaled = x * s.norm[:, None]
        summed = scaled + scatter_sum(gather(scaled, s.source), s.target, len(x))
        out: Tensor = self.linear(summed * s.norm[:, None])
        return out


class Attention(nn.Module):
    """Attention of each node to all nodes of its graph, with a bias for each pair and head.

    ``softmax(q_i k_j / sqrt(d) + b_ij)`` over j. With ``pair_dim`` the values also hold what is known of the
    pair: ``sum_j a_ij (v_j + W z_ij)``, which is what sets GRIT (arXiv:2305.17589) apart from a bias alone.

    Args:
        dim: D. heads: H. dropout: on the weights. bias: of the linear maps. pair_dim: P, 0 for none.
    """

    def __init__(
        self, dim: int, heads: int, dropout: float = 0.0, bias: bool = True, pair_dim: int = 0
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias)
        self.from_pair = (
            nn.Parameter(torch.randn(heads, pair_dim, dim // heads) * pair_dim**-0.5) if pair_dim else None
        )

    def forward(self, x: Tensor, s: Structure, bias: Tensor | None) -> Tensor:
        """``x`` [M, D], ``bias`` [B, H, n, n] or None -> [M, D]."""
        q, k, v = self._padded(self.qkv(x), s)
        drop = self.dropout if self.training else 0.0
        # torch's kernel for a CPU knows no dropout, and for graphs so small it is slower than the products
        plain = x.device.type == "cpu" and (drop > 0 or s.mask.shape[1] <= _SMALL)
        if plain or self.from_pair is not None:
            weights = dropped(self._weights(q, k, s, bias), drop)
            out = weights @ v
            if self.from_pair is not None:
                assert s.pair is not None
                seen = (weights.transpose(1, 2) @ s.pair).transpose(1, 2)  # [B, H, n, P]
                out = out + seen @ self.from_pair
        else:
            mask = s.mask[:, None, None] if bias is None else bias
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop)
        flat = out.transpose(1, 2).reshape(-1, x.shape[1])
        mixed: Tensor = self.out(gather_distinct(flat, s.position))
        return mixed

    def weights(self, x: Tensor, s: Structure, bias: Tensor | None) -> Tensor:
        """How much each node attends to each: [B, H, n, n], rows sum to one."""
        q, k, _ = self._padded(self.qkv(x), s)
        return self._weights(q, k, s, bias)

    def _padded(self, qkv: Tensor, s: Structure) -> tuple[Tensor, Tensor, Tensor]:
        """Three times [B, H, n, D / H]."""
        count, n = s.mask.shape
        rows = qkv.new_zeros(count * n, qkv.shape[1]).index_copy_(0, s.position, qkv)
        q, k, v = rows.view(count, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return q, k, v

    def _weights(self, q: Tensor, k: Tensor, s: Structure, bias: Tensor | None) -> Tensor:
        scores: Tensor = (q * q.shape[-1] ** -0.5) @ k.mT
        if bias is None:
            scores = scores.masked_fill(~s.mask[:, None, None], -torch.inf)
        else:
            scores = scores.add_(bias)
        return scores.softmax(-1)


class GPSBlock(nn.Module):
    """A layer of GPS (arXiv:2205.12454, equations 1 to 4): messages and attention side by side, then an MLP.

    ``norm(x + GINE(x)) + norm(x + attention(x))``, and ``norm(y + MLP(y))`` of it.
    """

    def __init__(
        self, dim: int, heads: int, norm: type[nn.Module], dropout: float, attn_dropout: float
    ) -> None:
        super().__init__()
        self.local = GINE(dim)
        self.attention = Attention(dim, heads, attn_dropout)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(2 * dim, dim)
        )
        self.norm_local, self.norm_attention, self.norm_out = norm(dim), norm(dim), norm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, s: Structure, bias: Tensor | None) -> Tensor:
        """[M, D] -> [M, D]."""
        local = self.norm_local(x + self.drop(self.local(x, s)))
        y = local + self.norm_attention(x + self.drop(self.attention(x, s, bias)))
        out: Tensor = self.norm_out(y + self.drop(self.mlp(y)))
        return out


class TransformerBlock(nn.Module):
    """A pre-norm transformer layer: ``x + attention(norm(x))``, and ``y + MLP(norm(y))`` of it."""

    def __init__(
        self, dim: int, heads: int, norm: type[nn.Module], dropout: float, attn_dropout: float, pair_dim: int
    ) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = norm(dim), norm(dim)
        # A bias of the keys changes no softmax, one of the values is a bias of `out`'s.
        self.attention = Attention(dim, heads, attn_dropout, bias=False, pair_dim=pair_dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, s: Structure, bias: Tensor | None) -> Tensor:
        """[M, D] -> [M, D]."""
        x = x + self.drop(self.attention(self.norm_attention(x), s, bias))
        out: Tensor = x + self.drop(self.mlp(self.norm_mlp(x)))
        return out


class MessageBlock(nn.Module):
    """Message passing alone: ``x + relu(norm(messages(x)))``, the plain baselines."""

    def __init__(self, messages: nn.Module, dim: int, norm: type[nn.Module], dropout: float) -> None:
        super().__init__()
        self.messages, self.norm, self.drop = messages, norm(dim), nn.Dropout(dropout)

    def forward(self, x: Tensor, s: Structure, bias: Tensor | None) -> Tensor:
        """[M, D] -> [M, D]."""
        out: Tensor = x + self.drop(F.relu(self.norm(self.messages(x, s))))
        return out


class Standardise(nn.Module):
    """``(x - mean) / deviation`` with figures of the training set; a number that never varies becomes 0.

    Unlike a batch norm it does the same in training and use, and each graph is treated by itself.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, size: int, channel: int = -1) -> None:
        super().__init__()
        self.channel = channel
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def start_from(self, mean: Tensor, deviation: Tensor) -> None:
        """Take over the figures [size]."""
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(deviation > 1e-5, 1 / deviation.clamp(min=1e-5), 0.0))

    def forward(self, x: Tensor) -> Tensor:
        """The numbers lie along dimension ``channel``."""
        shape = [1] * x.ndim
        shape[self.channel] = -1
        return (x - self.mean.view(shape)) * self.scale.view(shape)


class PairEncoder(nn.Module):
    """What is known of two nodes, and a bias of it for each head of each layer.

    ``z_ij = gelu(W p_ij)`` and ``b_ij = V z_ij``, one pass for all layers. An embedding of a kind or a
    distance is the same as its one-hot times a matrix, which is what this does.

    Args:
        pair_dim: K, numbers of a pair. hidden: P. num_biases: layers times heads.
    """

    def __init__(self, pair_dim: int, hidden: int, num_biases: int) -> None:
        super().__init__()
        self.standardise = Standardise(pair_dim, channel=1)
        self.weight = nn.Parameter(torch.empty(hidden, pair_dim))
        self.offset = nn.Parameter(torch.zeros(hidden, 1))
        self.to_bias = nn.Parameter(torch.empty(num_biases, hidden))  # no offset: a softmax does not see it
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        nn.init.normal_(self.to_bias, std=0.5 * hidden**-0.5)

    def forward(self, pair: Tensor) -> Tensor:
        """``pair`` [B, K, n, n] -> z [B, P, n n], a column for each pair."""
        flat = self.standardise(pair).flatten(2)
        return F.gelu(torch.matmul(self.weight, flat) + self.offset)

    def biases(self, z: Tensor, mask: Tensor, num_layers: int) -> Tensor:
        """[B, layers, H, n, n], minus infinity towards padding, from z and ``mask`` [B, n]."""
        count, n = mask.shape
        bias = torch.matmul(self.to_bias, z).view(count, num_layers, -1, n, n)
        return bias.masked_fill(~mask[:, None, None, None, :], -torch.inf)
