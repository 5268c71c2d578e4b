"""Attention with rotary positions, normalised queries and keys, and a cache of what was read.

Norm and rotation are written out with their gradients: of the small tensors of small models autograd's chains
of element-wise operations cost more than the products.

Shapes: B batch, T queries, S keys, H heads, E width of a head, D = H E.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_TINY = 1e-6  # a norm below it counts as it: no division by zero
_NEVER = -1e30  # a score's bias where nothing may be attended to; finite, so that no row is without a sum
_SHORT = 64 * 64  # queries times keys up to which a CPU is faster with whole tables of scores


def rms_norm(x: Tensor) -> Tensor:
    """``x / sqrt(mean(x^2))`` over the last dimension, without a gain (Zhang and Sennrich 2019, eq. 4).

    Args:
        x: [..., D].

    Returns:
        [..., D].
    """
    if torch.is_grad_enabled():
        out: Tensor = _RMSNorm.apply(x)  # type: ignore[no-untyped-call]
        return out
    return x * _inverse_rms(x)


def _inverse_rms(x: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    inverse: Tensor = math.sqrt(x.shape[-1]) / norm.clamp_(min=_TINY)
    return inverse


def _through_norm(grad: Tensor, y: Tensor, inverse: Tensor) -> Tensor:
    """The gradient of ``x`` from that of ``y = x / rms(x)``: ``(g - y mean(g y)) / rms(x)``."""
    mean = (grad * y).mean(-1, keepdim=True)
    return torch.addcmul(grad, y, mean, value=-1).mul_(inverse)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inverse = _inverse_rms(x)
        y = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        y, inverse = ctx.saved_tensors
        return _through_norm(grad, y, inverse)


class RMSNorm(nn.Module):
    """``rms_norm`` as a module; it has no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return rms_norm(x)


class Rotary(nn.Module):
    """Turns of rotary positions (Su et al. 2021, arXiv:2104.09864, eq. 34), neighbouring numbers as a pair.

    Args:
        head_dim: E, even. max_len: positions in the table. base: of the wave lengths.
    """

    def __init__(self, head_dim: int, max_len: int, base: float = 10_000.0) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"rotary positions need heads of even width, not {head_dim}")
        # No buffers: constants need neither be averaged, nor saved, nor remembered at each step.
        self.rates = base ** (-torch.arange(0, head_dim, 2) / head_dim)
        self.table = self.at(torch.arange(max_len))

    def at(self, positions: Tensor) -> Tensor:
        """The turns at positions [T] or [B, T]: cosine and sine, [T, E / 2, 2] or [B, T, E / 2, 2]."""
        angle = positions[..., None] * self.rates.to(positions.device)
        return torch.stack([angle.cos(), angle.sin()], -1)

    def first(self, length: int, device: torch.device) -> Tensor:
        """The turns at positions 0 to ``length - 1``: [T, E / 2, 2], from the table where it is as long."""
        if length > len(self.table):
            return self.at(torch.arange(length, device=device))
        if self.table.device != device:
            with torch.inference_mode(False):  # a table that is made in an evaluation must serve training too
                self.table = self.table.to(device)
        return self.table[:length]


def rotate(x: Tensor, turns: Tensor, back: bool = False) -> Tensor:
    """Turn each pair of numbers by its position's angle.

    Args:
        x: [B, T, 2, H, E], queries and keys. turns: of ``Rotary``. back: turn the other way.

    Returns:
        [B, T, 2, H, E].
    """
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    if torch.compiler.is_compiling():  # it has no code of its own for complex numbers
        cosine, sine = turns.to(wide.dtype)[..., None, None, :, :].unbind(-1)
        real, imaginary = wide.view(*wide.shape[:-1], -1, 2).unbind(-1)
        sine = -sine if back else sine
        turned = [real * cosine - imaginary * sine, real * sine + imaginary * cosine]
        return torch.stack(turned, -1).flatten(-2).to(x.dtype)
    turn = torch.view_as_complex(turns.to(wide.dtype))[..., None, None, :]
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)))  # type: ignore[no-untyped-call]
    return torch.view_as_real(pairs * (turn.conj() if back else turn)).flatten(-2).to(x.dtype)


def normed_rotary(x: Tensor, turns: Tensor) -> Tensor:
    """``rotate(rms_norm(x))``: queries and keys of length ``sqrt(E)`` (Henry et al. 2020, arXiv:2010.04245).

    Args:
        x: [B, T, 2, H, E]. turns: [T, E / 2, 2] or [B, T, E / 2, 2].

    Returns:
        [B, T, 2, H, E].
    """
    if torch.is_grad_enabled():
        out: Tensor = _NormedRotary.apply(x, turns)  # type: ignore[no-untyped-call]
        return out
    return rotate(x, turns).mul_(_inverse_rms(x))


class _NormedRotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, turns: Tensor) -> Tensor:
        inverse = _inverse_rms(x)
        y = rotate(x, turns).mul_(inverse)
        ctx.save_for_backward(y, inverse, turns)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, inverse, turns = ctx.saved_tensors
        # A rotation keeps lengths and angles, so that the norm's gradient can be taken on its far side.
        return rotate(_through_norm(grad, y, inverse).contiguous(), turns, back=True), None


class KVCache:
    """Keys and values of all that was read so far, a pair for each layer, and the position of each slot.

    A model calls ``extend`` once for the new tokens, then ``put`` in each layer. A position of -1 is padding
    in front of a shorter row: nothing attends to it.

    Args:
        num_layers: pairs. padded: whether rows may have padding.
    """

    def __init__(self, num_layers: int, padded: bool = False) -> None:
        self.padded = padded
        self.start = self.length = 0
        self.positions: Tensor | None = None
        self._layers: list[tuple[Tensor, Tensor] | None] = [None] * num_layers

    def extend(self, positions: Tensor) -> None:
        """Make room for tokens at ``positions`` [B, T]."""
        self.start, self.length = self.length, self.length + positions.shape[1]
        self.positions = positions if self.positions is None else torch.cat([self.positions, positions], 1)

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the new tokens' keys and values [B, H, T, E]; returns those of all, [B, H, S, E]."""
        old = self._layers[layer]
        if old is None or old[0].shape[2] < self.length:
            old = self._layers[layer] = (self._grown(old, 0, keys), self._grown(old, 1, values))
        for buffer, new in zip(old, (keys, values), strict=True):
            buffer[:, :, self.start : self.length] = new
        return old[0][:, :, : self.length], old[1][:, :, : self.length]

    def _grown(self, old: tuple[Tensor, Tensor] | None, which: int, new: Tensor) -> Tensor:
        rows, heads, _, width = new.shape
        buffer = new.new_zeros(rows, heads, 32 + 2 * self.length, width)
        if old is not None:
            buffer[:, :, : self.start] = old[which][:, :, : self.start]
        return buffer

    def visible(self, window: int) -> tuple[Tensor | None, bool]:
        """What the newest tokens may attend to: themselves and the ``window - 1`` positions before them.

        Returns:
            A mask [B, 1, T, S], True = may attend, or None where all may; and whether "causal" says it all.
        """
        assert self.positions is not None
        if not self.padded and self.length <= window:
            if self.start == 0:
                return None, True
            if self.length - self.start == 1:
                return None, False
        keys, queries = self.positions[:, None, :], self.positions[:, self.start :, None]
        may = (keys >= 0) & (keys <= queries) & (queries - keys < window)
        # Padding as a query attends to anything: what it gives is never read, but it has to be finite.
        return (may | (queries < 0))[:, None], False

    def reorder(self, rows: Tensor) -> None:
        """Make row i what row ``rows[i]`` was; ``rows`` [N] may repeat and leave out."""
        if self.positions is not None:
            self.positions = self.positions.index_select(0, rows)
        for i, pair in enumerate(self._layers):
            if pair is not None:
                self._layers[i] = (self._chosen(pair[0], rows), self._chosen(pair[1], rows))

    def _chosen(self, buffer: Tensor, rows: Tensor) -> Tensor:
        """Rows of a buffer; what of it is not in use stays as it comes."""
        new = buffer.new_empty(len(rows), *buffer.shape[1:])
        new[:, :, : self.length] = buffer[:, :, : self.length].index_select(0, rows)
        return new


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Scaled dot-product attention over heads, the heads then side by side.

    Args:
        q: [B, H, T, E]. k, v: [B, H, S, E]. mask: [B or 1, 1, T or 1, S], True = may attend.
        causal: T = S, and each position sees itself and those before it. Not together with a mask.

    Returns:
        [B, T, D].
    """
    if q.shape[-2] * k.shape[-2] <= _SHORT and plain_on_cpu(q):
        if causal:
            mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
        bias = None if mask is None else torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, _NEVER)
        out: Tensor = _ShortAttention.apply(q, k, v, bias)  # type: ignore[no-untyped-call]
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return out.transpose(1, 2).flatten(2)


def plain_on_cpu(x: Tensor) -> bool:
    """Whether what is written out here is the faster way: on a CPU, in one precision."""
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


class _ShortAttention(torch.autograd.Function):
    """``softmax(q k^T / sqrt(E) + bias) v`` of [B, H, T, E] and [B, H, S, E], the probabilities kept.

    For 20 to 64 tokens a training step's part of it takes 0.6 to 0.75 of the time of torch's kernel, which
    is made for long ones.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        shape = q.shape
        q, k, v = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
        scores = torch.baddbmm(q.new_empty(()), q, k.mT, beta=0, alpha=shape[-1] ** -0.5)
        if bias is not None:
            scores.view(*shape[:3], -1).add_(bias)
        p = scores.softmax(-1)
        ctx.save_for_backward(q, k, v, p)
        return torch.bmm(p, v).view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, p = ctx.saved_tensors
        heads, size, empty = grad.shape[:2], grad.shape[-1], grad.new_empty(())
        grad = grad.reshape(-1, *grad.shape[2:])
        slope = torch.bmm(grad, v.mT)  # by p; the next line makes it that by the scores
        slope = torch._softmax_backward_data(slope, p, -1, p.dtype)
        dq = torch.baddbmm(empty, slope, k, beta=0, alpha=size**-0.5)
        dk = torch.baddbmm(empty, slope.mT, q, beta=0, alpha=size**-0.5)
        dv = torch.bmm(p.mT, grad)
        dq, dk, dv = (x.view(*heads, *x.shape[1:]) for x in (dq, dk, dv))
        return dq, dk, dv, None


class SelfAttention(nn.Module):
    """Positions of a sequence attend to each other.

    Args:
        dim: D. num_heads: H. modern: rotary positions, normalised queries and keys, no biases; else neither,
            and biases.
    """

    def __init__(self, dim: int, num_heads: int, modern: bool = True) -> None:
        super().__init__()
        self.num_heads, self.modern = num_heads, modern
        self.qkv = nn.Linear(dim, 3 * dim, bias=not modern)
        self.out = nn.Linear(dim, dim, bias=not modern)

    def forward(
        self,
        x: Tensor,
        turns: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: tuple[KVCache, int] | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: [B, T, D]. turns: of ``Rotary``, where modern. mask, causal: as of ``attend``.
            cache: what was read before, and which layer this is.

        Returns:
            [B, T, D].
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # [B, T, 3, H, E]
        # Splitting and unbinding go back in one pass; the gradient of a slice would fill a whole tensor.
        qk, v = qkv.split((2, 1), 2)
        if self.modern:
            assert turns is not None
            qk = normed_rotary(qk, turns)
        q, k, v = (part.transpose(1, 2) for part in (*qk.unbind(2), v.squeeze(2)))
        if cache is not None:
            k, v = cache[0].put(cache[1], k, v)
        out: Tensor = self.out(attend(q, k, v, mask, causal))
        return out
