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


def depthwise(x: Tensor, weight: Tensor, dilation: int, centre: int | None = None) -> Tensor:
    """Convolve each channel by itself: ``y_t = Σ_k w_k x_{t + (k - c) dilation}``, zeros outside.

    On a CPU shifted slices are several times faster than ``nn.Conv1d(groups=D)``. The gradient is written
    out: autograd's, over slices, would fill, copy and add a full tensor for each tap.

    Args:
        x: [B, L, D]. weight: [K, D]. dilation: distance between taps.
        centre: c, the tap that reads the position itself; ``K // 2`` if None. ``K - 1`` sees the past alone.

    Returns:
        [B, L, D].
    """
    centre = len(weight) // 2 if centre is None else centre
    if torch.is_grad_enabled():
        out: Tensor = _Depthwise.apply(x, weight, dilation, centre)  # type: ignore[no-untyped-call]
        return out
    return _shifted_sum(x, weight, dilation, centre)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int, centre: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation, ctx.centre = dilation, centre
        return _shifted_sum(x, weight, dilation, centre)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        by_tap = torch.zeros_like(weight)
        for k, (here, there) in enumerate(_overlaps(len(weight), ctx.dilation, x.shape[1], ctx.centre)):
            by_tap[k] = (grad[:, here] * x[:, there]).sum((0, 1))
        mirrored = len(weight) - 1 - ctx.centre
        return _shifted_sum(grad, weight.flip(0), ctx.dilation, mirrored), by_tap, None, None


def _shifted_sum(x: Tensor, weight: Tensor, dilation: int, centre: int) -> Tensor:
    out = x * weight[centre]
    for k, (here, there) in enumerate(_overlaps(len(weight), dilation, x.shape[1], centre)):
        if k != centre:
            out[:, here].addcmul_(x[:, there], weight[k])
    return out


def _overlaps(taps: int, dilation: int, length: int, centre: int) -> Iterator[tuple[slice, slice]]:
    """For each tap the positions that it writes, and those that it reads."""
    for k in range(taps):
        shift = (k - centre) * dilation
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


class CausalConv(nn.Module):
    """``depthwise`` that sees the past alone, whole (``forward``) or position by position (``step``).

    Args:
        dim: D. kernel: K. dilation: distance between taps.
    """

    def __init__(self, dim: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        taps = 0.1 * torch.randn(kernel, dim)
        taps[-1] += 1
        self.taps = nn.Parameter(taps)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        return depthwise(x, self.taps, self.dilation, len(self.taps) - 1)

    def start(self, batch: int) -> Tensor:
        """The state before the first position: a ring of the inputs that are still seen, all zero."""
        taps, dim = self.taps.shape
        return self.taps.new_zeros(batch, (taps - 1) * self.dilation + 1, dim)

    def step(self, x: Tensor, state: Tensor, t: int) -> Tensor:
        """Position ``t``: ``x`` [B, D] -> [B, D]. Writes ``state``."""
        size = state.shape[1]
        state[:, t % size] = x
        y = x * self.taps[-1]
        for back in range(1, len(self.taps)):
            y = torch.addcmul(y, state[:, (t - back * self.dilation) % size], self.taps[-1 - back])
        return y


class CausalStateSpace(nn.Module):
    """``StateSpace`` of the past alone: a convolution as long as the sequence, or its recurrence.

    ``s_t = exp(-Δ a) s_{t-1} + x_t``; ``y_t = Σ_n c_n (1 - exp(-Δ a_n)) / a_n s_{t,n} + d x_t``.

    Args:
        dim: D. num_states: N.
    """

    def __init__(self, dim: int, num_states: int = 8) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.log(torch.arange(1.0, num_states + 1)).repeat(dim, 1))
        self.log_step = nn.Parameter(torch.linspace(math.log(0.01), 0.0, dim))
        self.out = nn.Parameter(torch.randn(dim, num_states) / num_states)
        self.skip = nn.Parameter(torch.ones(dim))

    def _decay(self) -> tuple[Tensor, Tensor]:
        """``Δ a`` and the weight of each state, [D, N]."""
        decay = self.log_step.exp()[:, None] * self.log_rate.exp()
        return decay, self.out * -torch.expm1(-decay) / self.log_rate.exp()

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        length = x.shape[1]
        decay, scale = self._decay()
        at = torch.arange(length, device=x.device)
        kernel = torch.einsum("dn,dnt->dt", scale, torch.exp(-decay[..., None] * at.to(decay.dtype)))
        ago = at[:, None] - at
        toeplitz = (kernel[:, ago.clamp(min=0)] * (ago >= 0)).to(x.dtype)  # [D, L, L]
        return torch.einsum("dts,bsd->btd", toeplitz, x) + x * self.skip

    def start(self, batch: int) -> Tensor:
        """The state before the first position: [B, D, N]."""
        return self.out.new_zeros(batch, *self.out.shape)

    def step(self, x: Tensor, state: Tensor, t: int) -> Tensor:
        """The next position: ``x`` [B, D] -> [B, D]. Writes ``state``."""
        decay, scale = self._decay()
        state.mul_(torch.exp(-decay)).add_(x[..., None])
        return (state * scale).sum(-1) + x * self.skip


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
