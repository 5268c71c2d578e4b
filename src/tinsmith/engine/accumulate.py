"""Gradient accumulation that equals one big batch, without knowing the window's weights beforehand."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class GradientAccumulator:
    """Gradient of ``sum_i w_i loss_i / sum_i w_i`` over a window of ragged batches.

    Each ``backward`` adds the gradient of ``loss * w / w_first``; ``finish`` multiplies the sums by
    ``w_first / sum(w)``. The first factor keeps numbers near those of a single batch (fp16 needs that),
    the second makes the window exact, also a last one that is shorter. With one step nothing is multiplied.

    Exact for losses that are means over independent items. In-batch contrastive losses (InfoNCE) do not
    decompose: there a window of 4 x 32 is not a batch of 128.

    By hand::

        for out in outputs:
            accumulator.backward(out.loss, out.weight)
            if accumulator.ready:
                accumulator.finish(model.parameters())
                optimizer.step(); optimizer.zero_grad()

    Args:
        accumulation_steps: batches in a window, at least 1.
        shared: other processes have batches of the window too, and ``take`` ends it in place of ``finish``.
    """

    def __init__(self, accumulation_steps: int = 1, shared: bool = False) -> None:
        if accumulation_steps < 1:
            raise ValueError(f"accumulation_steps={accumulation_steps} is not allowed: 1 or more")
        self.accumulation_steps = accumulation_steps
        self.weighted = accumulation_steps > 1 or shared
        self.pending = 0
        self._first: Tensor | float = 1.0
        self._total: Tensor | float = 0.0

    def backward(self, loss: Tensor, weight: Tensor | float = 1.0) -> None:
        """Add the gradient of a batch.

        Args:
            loss: scalar, the mean over ``weight`` items (scaled by a GradScaler where there is one).
            weight: what the mean is over: tokens, graphs, rows. A tensor is never read: no device sync.
        """
        if self.weighted:
            if isinstance(weight, Tensor):
                weight = weight.detach()
            if self.pending == 0:
                self._first, self._total = _positive(weight), 0.0
            self._total = self._total + weight
            loss = loss * (weight / self._first)
        loss.backward()  # type: ignore[no-untyped-call]
        self.pending += 1

    @property
    def ready(self) -> bool:
        """Whether the window is full."""
        return self.pending >= self.accumulation_steps

    @torch.no_grad()
    def finish(self, params: Iterable[Tensor]) -> None:
        """Turn ``params``' gradients into the window's mean (before clipping); start a new window."""
        if self.pending > 1:
            scale = self._first / self._total
            grads = [p.grad for p in params if p.grad is not None]
            dense = [g for g in grads if not g.is_sparse]
            if dense:
                torch._foreach_mul_(dense, scale)
            for grad in grads:
                if grad.is_sparse:
                    grad.mul_(scale)
        self.pending = 0

    def take(self) -> tuple[Tensor | float, Tensor | float]:
        """What this process's gradients are to be multiplied by before they are summed over the processes,
        and its weight, by whose sum they are then divided. Starts a new window."""
        pending, self.pending = self.pending, 0
        return (self._first, self._total) if pending else (1.0, 0.0)


def _positive(weight: Tensor | float) -> Tensor | float:
    """``weight``, or 1 where it is 0 (only padding): as ``w_first`` any positive number is exact."""
    if isinstance(weight, Tensor):
        return torch.where(weight > 0, weight, torch.ones_like(weight))
    return weight if weight > 0 else 1.0
