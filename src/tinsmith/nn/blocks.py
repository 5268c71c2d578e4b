"""The blocks of a transformer: norm, perceptron, and self-attention with both.

``modern``: RMSNorm without a gain, rotary positions, normalised queries and keys, squared ReLU, no biases,
and branches that start at zero. ``plain``: LayerNorm, GELU, biases, learned positions (the model adds them).

Shapes: B batch, T length, D width, F width of the perceptron.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tinsmith.nn.attention import KVCache, RMSNorm, SelfAttention, plain_on_cpu


@dataclass(frozen=True, slots=True)
class BlockConfig:
    """Sizes and style of a block.

    ``mlp``: "relu2" (So et al. 2021, arXiv:2109.08668), "swiglu" (Shazeer 2020, arXiv:2002.05202) or "gelu".
    ``depth``: blocks in the stack, for the scale of a plain block's branches.
    """

    dim: int
    num_heads: int
    mlp_dim: int
    mlp: str = "relu2"
    modern: bool = True
    dropout: float = 0.0
    depth: int = 1


def make_norm(cfg: BlockConfig) -> nn.Module:
    """The norm of a style, over the last dimension."""
    return RMSNorm() if cfg.modern else nn.LayerNorm(cfg.dim)


def squared_relu(x: Tensor) -> Tensor:
    """``max(x, 0)^2``."""
    if torch.is_grad_enabled():
        out: Tensor = _SquaredReLU.apply(x)  # type: ignore[no-untyped-call]
        return out
    return torch.relu(x).square_()


class _SquaredReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        kept = torch.relu(x)
        ctx.save_for_backward(kept)
        return kept * kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (kept,) = ctx.saved_tensors
        out: Tensor = (grad * kept).mul_(2)
        return out


class MLP(nn.Module):
    """``W_o act(W_i x)``; with "swiglu" ``W_o (silu(u) v)``, ``[u, v] = W_i x``.

    Args:
        cfg: sizes and kind.
    """

    def __init__(self, cfg: BlockConfig) -> None:
        super().__init__()
        self.kind, self.modern = cfg.mlp, cfg.modern
        wide = 2 * cfg.mlp_dim if cfg.mlp == "swiglu" else cfg.mlp_dim
        self.inp = nn.Linear(cfg.dim, wide, bias=not cfg.modern)
        self.out = nn.Linear(cfg.mlp_dim, cfg.dim, bias=not cfg.modern)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        if self.kind == "relu2" and self.modern and plain_on_cpu(x):
            whole: Tensor = _SquaredReLUMLP.apply(x, self.inp.weight, self.out.weight)  # type: ignore[no-untyped-call]
            return whole
        h = self.inp(x)
        if self.kind == "relu2":
            h = squared_relu(h)
        elif self.kind == "swiglu":
            u, v = h.chunk(2, -1)
            h = F.silu(u) * v
        else:
            h = F.gelu(h)
        out: Tensor = self.out(h)
        return out


class _SquaredReLUMLP(torch.autograd.Function):
    """``W_o relu(W_i x)^2`` without passes over memory that the products can do: two fewer of width F."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, inp: Tensor, out: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        kept = torch.mm(rows, inp.t()).relu_()
        squared = kept * kept
        ctx.save_for_backward(rows, inp, out, kept, squared)
        return torch.mm(squared, out.t()).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, inp, out, kept, squared = ctx.saved_tensors
        shape, empty = grad.shape, grad.new_empty(())
        grad = grad.reshape(-1, shape[-1])
        slope = torch.mm(grad, out).mul_(kept)  # half of it: the products below double it
        dx = torch.addmm(empty, slope, inp, beta=0, alpha=2).view(shape)
        dinp = torch.addmm(empty, slope.t(), rows, beta=0, alpha=2)
        return dx, dinp, torch.mm(grad.t(), squared)


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))`` (Xiong et al. 2020, arXiv:2002.04745).

    Args:
        cfg: sizes and style.
    """

    def __init__(self, cfg: BlockConfig) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = make_norm(cfg), make_norm(cfg)
        self.attention = SelfAttention(cfg.dim, cfg.num_heads, cfg.modern)
        self.mlp = MLP(cfg)
        self.drop = nn.Dropout(cfg.dropout)

    def forward(
        self,
        x: Tensor,
        turns: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: tuple[KVCache, int] | None = None,
    ) -> Tensor:
        """[B, T, D] -> [B, T, D]; arguments as of ``SelfAttention``."""
        x = x + self.drop(self.attention(self.attention_norm(x), turns, mask, causal, cache))
        out: Tensor = x + self.drop(self.mlp(self.mlp_norm(x)))
        return out


@torch.no_grad()
def init_weights(model: nn.Module, cfg: BlockConfig) -> None:
    """The start of all weights of a model of such blocks.

    Modern: inputs of branches normal with deviation ``D^-1/2``, their outputs (modules named ``out``) zero,
    so that each block changes nothing at first. Plain: as GPT-2, 0.02, outputs ``0.02 / sqrt(2 depth)``.
    """
    for name, module in model.named_modules():
        is_out = name.rpartition(".")[2] == "out"
        if isinstance(module, nn.Linear):
            std = module.in_features**-0.5 if cfg.modern else 0.02
            if is_out:
                std = 0.0 if cfg.modern else 0.02 / math.sqrt(2 * cfg.depth)
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            std = 0.0 if isinstance(module, Head) else 0.1
            nn.init.normal_(module.weight, std=std if cfg.modern else 0.02)


class Head(nn.Embedding):
    """Logits of the vocabulary: ``h W^T``, [..., D] -> [..., V]; zero at the start, so that the loss is ln V.

    A table like that of the inputs, and moved like it (by AdamW, without decay), but not tied to it: tied, a
    model whose branches start at zero predicts its own input.
    """

    def forward(self, h: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return F.linear(h, self.weight)
