"""The small networks that a recursive model calls again and again: mixer, attention, relation.

Each maps [B, L, D] to [B, L, D], is residual, normalises before each branch, and ends with a norm, so that
what it is fed back stays of one size. Mixer and relation work on positions first, [L, B, D]: mixing the
positions is then one matrix product over B x D columns, mixing the channels one over L x B rows, without a
transposition in between. (A convolution of kernel 1 does the same several times slower on a CPU.) A tensor
that lies in memory that way passes through unmoved.

Shapes: B batch, L positions, D width, H hidden width, K relations.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.families.trm.sudoku import layout
from tinsmith.nn.mixing import DepthwiseConv


class Constant:
    """A tensor that follows from the sizes: no part of the state, and on the device that asks for it."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def on(self, device: torch.device) -> Tensor:
        """The tensor on ``device``."""
        if self.value.device != device:
            with torch.inference_mode(False):  # training may need it later
                self.value = self.value.to(device)
        return self.value


class MLPMixer1D(nn.Module):
    """An MLP-mixer over a sequence of fixed length (Tolstikhin et al. 2021, arXiv:2105.01601).

    Args:
        dim: D. depth: layers. seq_len: L.
        expansion_factor: hidden width of the token mix, in units of ``dim``.
        expansion_factor_token: hidden width of the channel mix, in units of ``dim``. (The names are those
            that users of other packages know.)
        dropout: on the branches.
        token_hidden, channel_hidden: the hidden widths themselves, in place of the factors.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        seq_len: int,
        expansion_factor: float = 4,
        expansion_factor_token: float = 0.5,
        dropout: float = 0.0,
        token_hidden: int = 0,
        channel_hidden: int = 0,
    ) -> None:
        super().__init__()
        tokens = token_hidden or int(expansion_factor * dim)
        channels = channel_hidden or int(expansion_factor_token * dim)
        self.seq_len = seq_len
        self.layers = nn.ModuleList(
            nn.ModuleDict({"tokens": TokenMix(dim, seq_len, tokens), "channels": ChannelMix(dim, channels)})
            for _ in range(depth)
        )
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D].

        Raises:
            ValueError: L is not the length that the mixer was built for.
        """
        if x.shape[1] != self.seq_len:
            raise ValueError(f"the mixer was built for {self.seq_len} positions, these are {x.shape[1]}")
        x = x.transpose(0, 1).contiguous()
        for layer in self.layers:
            x = x + self.dropout(layer["tokens"](x))  # type: ignore[index]
            x = x + self.dropout(layer["channels"](x))  # type: ignore[index]
        out: Tensor = self.norm(x)
        return out.transpose(0, 1)


class TokenMix(nn.Module):
    """``W_2 gelu(W_1 LN(x) + b_1) + b_2`` over the positions: ``W_1`` [H, L], ``W_2`` [L, H]."""

    def __init__(self, dim: int, seq_len: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, bias=False)
        self.up, self.down = nn.Linear(seq_len, hidden), nn.Linear(hidden, seq_len)

    def forward(self, x: Tensor) -> Tensor:
        """[L, B, D] -> [L, B, D]."""
        columns = self.norm(x).flatten(1)
        hidden = F.gelu(torch.addmm(self.up.bias[:, None], self.up.weight, columns))
        return torch.addmm(self.down.bias[:, None], self.down.weight, hidden).view_as(x)


class ChannelMix(nn.Module):
    """``W_2 gelu(W_1 LN(x) + b_1) + b_2`` over the channels."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, bias=False)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        out: Tensor = self.down(F.gelu(self.up(self.norm(x))))
        return out


class AttentionCore(nn.Module):
    """A transformer encoder: rotary positions (Su et al. 2021, arXiv:2104.09864) and learned ones, SwiGLU.

    Args:
        dim: D, a multiple of twice ``heads``. depth: layers. seq_len: L, at most.
        hidden: hidden width of the gated unit. dropout: on the branches.
        kernel: of a depthwise convolution in front of the queries, keys and values (in the manner of So et
            al. 2021, arXiv:2109.08668); 0: none. Each knows its neighbours before it looks for its like.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        seq_len: int,
        heads: int = 4,
        hidden: int = 0,
        dropout: float = 0.0,
        kernel: int = 0,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.positions = nn.Parameter(0.02 * torch.randn(seq_len, dim))
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {"attention": _Attention(dim, heads, kernel), "gated": _Gated(dim, hidden or 2 * dim)}
            )
            for _ in range(depth)
        )
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim, bias=False)
        size = dim // heads
        angle = torch.outer(torch.arange(seq_len), 10_000.0 ** -(torch.arange(0, size, 2) / size))
        self.rotation = Constant(torch.stack([angle.cos(), angle.sin()]).repeat(1, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        length = x.shape[1]
        x = x.contiguous() + self.positions[:length]
        cos, sin = self.rotation.on(x.device)[:, :length]
        for layer in self.layers:
            x = x + self.dropout(layer["attention"](x, (cos, sin)))  # type: ignore[index]
            x = x + self.dropout(layer["gated"](x))  # type: ignore[index]
        out: Tensor = self.norm(x)
        return out


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim, bias=False)
        self.near = DepthwiseConv(dim, kernel, 1) if kernel else nn.Identity()
        self.inp, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = self.inp(self.near(self.norm(x))).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(rotate(q, *rotation), rotate(k, *rotation), v)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs (i, i + half) of the last axis of ``x`` [..., L, P] by their positions' angles [L, P]."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class _Gated(nn.Module):
    """``W_o (u silu(v))``, ``[u, v] = W_i LN(x)`` (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, bias=False)
        self.inp, self.out = nn.Linear(dim, 2 * hidden, bias=False), nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        u, v = self.inp(self.norm(x)).chunk(2, -1)
        out: Tensor = self.out(u * F.silu(v))
        return out


class RelationCore(nn.Module):
    """Each cell hears those that it is related to, by a gated unit (in the manner of Palm et al. 2018,
    arXiv:1711.08028, with sums over the relation in place of pairs).

    It knows no position: what it learns of one cell holds for all, and its weights do not depend on L.

    Args:
        dim: D. depth: layers.
        relations: a module that maps [L, B, D] to [L, B, K D].
        hidden: hidden width H. dropout: on the branches.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        relations: GroupSums | Neighbours,
        hidden: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.relations = relations
        self.layers = nn.ModuleList(_Related(dim, relations.count, hidden or 2 * dim) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        x = x.transpose(0, 1).contiguous()
        for layer in self.layers:
            x = x + self.dropout(layer(x, self.relations))
        out: Tensor = self.norm(x)
        return out.transpose(0, 1)


class _Related(nn.Module):
    """``W_o (u silu(v))``, ``[u, v] = W_i [h, R_1 h, ..., R_K h] + b``, ``h = LN(x)``."""

    def __init__(self, dim: int, relations: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, bias=False)
        self.inp = nn.Linear((relations + 1) * dim, 2 * hidden)
        self.out = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, relations: nn.Module) -> Tensor:
        h = self.norm(x)
        u, v = self.inp(torch.cat([h, relations(h)], -1)).chunk(2, -1)
        out: Tensor = self.out(u * F.silu(v))
        return out


class GroupSums(nn.Module):
    """For a sudoku: sums over the other cells of the row, the column and the box, over sqrt(S).

    Args:
        side: S of the board.
    """

    count = 3

    def __init__(self, side: int) -> None:
        super().__init__()
        of = torch.from_numpy(layout(side).groups_of)  # [L, 3]
        same = (of[:, None] == of[None]).permute(2, 0, 1).float()  # [3, L, L]
        same -= torch.eye(side**2)
        self.matrix = Constant(same.flatten(0, 1) / math.sqrt(side))

    def forward(self, h: Tensor) -> Tensor:
        """[L, B, D] -> [L, B, 3 D]."""
        length, batch, dim = h.shape
        sums = (self.matrix.on(h.device) @ h.flatten(1)).view(3, length, batch, dim)
        return sums.permute(1, 2, 0, 3).reshape(length, batch, 3 * dim)


class Neighbours(nn.Module):
    """For a grid: the cells above, below, left and right; zero outside.

    Args:
        side: of the grid.
    """

    count = 4

    def __init__(self, side: int) -> None:
        super().__init__()
        row, col = torch.arange(side**2) // side, torch.arange(side**2) % side
        places = [(row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1)]
        inside = [(r >= 0) & (r < side) & (c >= 0) & (c < side) for r, c in places]
        index = [torch.where(ok, r * side + c, 0) for ok, (r, c) in zip(inside, places, strict=True)]
        self.index = Constant(torch.stack(index))
        self.inside = Constant(torch.stack(inside).float()[..., None, None])

    def forward(self, h: Tensor) -> Tensor:
        """[L, B, D] -> [L, B, 4 D]."""
        index, inside = self.index.on(h.device), self.inside.on(h.device)
        near = [h.index_select(0, i) * ok for i, ok in zip(index, inside, strict=True)]
        return torch.cat(near, -1)
