"""Layers that mix the positions of a sequence without attention, and the gated block around them.

Shapes: B batch, L length, D width, K taps, N states.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def depthwise(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Convolve each channel by itself: ``y_t = Σ_k w_k x_{t + (k - K // 2) dilation}``, zeros outside.

    On a CPU shifted slices are several times faster than ``nn.Conv1d(groups=D)``. The gradient is written
    out: autograd's, over slices, would fill, copy and add a full tensor for each tap.

    Args:
        x: [B, L, D]. weight: [K, D], K odd. dilation: distance between taps.

    Returns:
        [B, L, D].
    """
    if torch.is_grad_enabled():
        out: Tensor = _Depthwise.apply(x, weight, dilation)  # type: ignore[no-untyped-call]
        return out
    return _shifted_sum(x, weight, dilation)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return _shifted_sum(x, weight, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        by_tap = torch.zeros_like(weight)
        for k, (here, there) in enumerate(_overlaps(len(weight), ctx.dilation, x.shape[1])):
            by_tap[k] = (grad[:, here] * x[:, there]).sum((0, 1))
        return _shifted_sum(grad, weight.flip(0), ctx.dilation), by_tap, None


def _shifted_sum(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    middle = len(weight) // 2
    out = x * weight[middle]
    for k, (here, there) in enumerate(_overlaps(len(weight), dilation, x.shape[1])):
        if k != middle:
            out[:, here].addcmul_(x[:, there], weight[k])
    return out


def _overlaps(taps: int, dilation: int, length: int) -> Iterator[tuple[slice, slice]]:
    """For each tap the positions that it writes, and those that it reads."""
    for k in range(taps):
        shift = (k - taps // 2) * dilation
        size = max(0, length - abs(shift))
        yield slice(max(0, -shift), max(0, -shift) + size), slice(max(0, shift), max(0, shift) + size)


class DepthwiseConv(nn.Module):
    """``depthwise`` with learned taps, near the identity at the start.

    Args:
        dim: D. kernel: K, odd. dilation: distance between taps.
    """

    def __init__(self, dim: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        taps = 0.1 * torch.randn(kernel, dim)
        taps[kernel // 2] += 1
        self.taps = nn.Parameter(taps)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        return depthwise(x, self.taps, self.dilation)


class StateSpace(nn.Module):
    """A diagonal state space in both directions (S4D-Real, Gu et al. 2022, arXiv:2206.11893, section 3).

    Each channel has N states that decay at the rates ``a_n``, from the past and from the future. Unrolled,
    that is a convolution with ``k_t = Σ_n c_n (1 - exp(-Δ a_n)) / a_n exp(-t Δ a_n)`` as long as the
    sequence: for sentences one small Toeplitz product for each channel.

    Args:
        dim: D. num_states: N.
    """

    def __init__(self, dim: int, num_states: int = 8) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.log(torch.arange(1.0, num_states + 1)).repeat(2, dim, 1))
        # Steps from 1/100 to 1, evenly in the logarithm: channels that forget at once, and that remember.
        self.log_step = nn.Parameter(torch.linspace(math.log(0.01), 0.0, dim).repeat(2, 1))
        self.out = nn.Parameter(torch.randn(2, dim, num_states) / num_states)
        self.skip = nn.Parameter(torch.ones(dim))

    def kernel(self, length: int) -> Tensor:
        """[2, D, length]: the weights of positions 0, 1, 2, ... to the left, and to the right."""
        decay = self.log_step.exp()[..., None] * self.log_rate.exp()  # [2, D, N], Δ a
        scale = self.out * -torch.expm1(-decay) / self.log_rate.exp()
        time = torch.arange(length, device=decay.device, dtype=decay.dtype)
        return torch.einsum("xdn,xdnt->xdt", scale, torch.exp(-decay[..., None] * time))

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        length = x.shape[1]
        past, future = self.kernel(length)
        both = torch.cat([future.flip(1)[:, :-1], past], 1)  # [D, 2 L - 1], the present in both
        both[:, length - 1] += future[:, 0]
        at = torch.arange(length, device=x.device)
        toeplitz = both[:, at[:, None] - at + length - 1]  # [D, L, L]: the weight of input s at output t
        return torch.einsum("dts,bsd->btd", toeplitz.to(x.dtype), x) + x * self.skip


class GatedBlock(nn.Module):
    """Residual block: ``x + W_o (u · silu(v))`` with ``[u, v] = W_i mix(LN(x))``.

    ``mix`` mixes positions (a depthwise convolution: Chollet 2017, arXiv:1610.02357), a gated linear unit
    (Dauphin et al. 2017, arXiv:1612.08083; SiLU as in Shazeer 2020, arXiv:2002.05202) mixes channels. ``W_o``
    starts at zero, so that a new block changes nothing.

    Args:
        dim: D. mix: [B, L, D] -> [B, L, D].
        drop: share of the samples that skip the block while training (stochastic depth, Huang et al. 2016,
            arXiv:1603.09382); the others' branch is scaled up by as much.
    """

    def __init__(self, dim: int, mix: nn.Module, drop: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mix = mix
        self.inp = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.drop = drop
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``x`` [B, L, D], ``mask`` [B, L, 1]: padding neither gives nor takes."""
        u, v = self.inp(self.mix(self.norm(x) * mask)).chunk(2, dim=-1)
        branch: Tensor = self.out(u * F.silu(v))
        if self.drop and self.training:
            keep = torch.rand(len(x), 1, 1, device=x.device) >= self.drop
            branch = branch * keep / (1 - self.drop)
        return x + branch
