"""Muon: the momentum of a matrix, made orthogonal before it moves the weights.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon, with the scale of Liu et al. 2025
(arXiv:2502.16982, section 2.2), by which one learning rate serves Muon and AdamW. ``torch.optim.Muon`` does
the same matrix by matrix in bfloat16, which a CPU without such instructions emulates at a hundredth of its
speed; here matrices of one shape go together, in the precision that the device computes in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tinsmith.engine.device import computes_in_bf16

# Quintics p(s) = a s + b s^3 + c s^5, applied one after another, each the best for the singular values that
# the ones before leave (the method of Amsel et al. 2025, arXiv:2505.16932, algorithm 1; our constants, from
# 0.003 up: after the fourth the values are within a fifth of one). What comes after them is their limit.
_QUINTICS = (
    (8.3837, -24.7659, 18.3571),
    (4.0434, -3.0114, 0.5695),
    (3.5056, -2.6267, 0.5257),
    (2.4901, -1.8343, 0.4368),
    (1.9178, -1.2968, 0.3797),
)
_LIMIT = (1.875, -1.25, 0.375)
_TINY = 1e-30
_MARGIN = 1.03  # by which bfloat16 keeps away from the edge of a quintic's range


def orthogonalize(matrices: Tensor, steps: int = 4) -> Tensor:
    """The nearest matrices with orthonormal rows or columns, nearly: ``U V^T`` of each ``U S V^T``.

    Products alone, no decomposition. Small singular values (below 0.003 of the largest) stay small. A matrix
    of norm below 1e-15, such as the momentum of a layer that has been dead for long, gives zero: its products
    have no digits left.

    Args:
        matrices: [B, M, N].
        steps: iterations.

    Returns:
        [B, M, N] in the type of ``matrices``.
    """
    x = matrices.to(torch.bfloat16) if computes_in_bf16(matrices.device) else matrices
    tall = x.shape[-2] > x.shape[-1]
    coarse = x.dtype == torch.bfloat16
    gram = x.mT @ x if tall else x @ x.mT
    gram = gram.float() if coarse else gram
    # The norm of X X^T bounds the square of the largest singular value closely; its trace keeps that finite.
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    trace = trace.masked_fill(trace < _TINY, math.inf)
    gram = gram / trace
    square = torch.linalg.matrix_norm(gram, keepdim=True).clamp(min=_TINY)
    gram, size = gram / square, trace.sqrt() * square.sqrt()
    quintics = [*_QUINTICS, *[_LIMIT] * steps][:steps]
    if coarse:  # rounding would carry values beyond the next one's range, where they run away
        quintics = [(a / _MARGIN, b / _MARGIN**3, c / _MARGIN**5) for a, b, c in quintics]
    short, long = sorted(x.shape[-2:])
    # Half the arithmetic where N = 4 M; in few digits, or after many steps, rounding would grow.
    if 2 * long > 3 * short and steps <= len(_QUINTICS) and not coarse:
        factors = _factors(gram, quintics) / size
        x = x @ factors if tall else factors @ x
    else:
        x = _iterated(x.mT if tall else x, gram, size, quintics)
        x = x.mT if tall else x
    return x.to(matrices.dtype)


def _iterated(x: Tensor, gram: Tensor, size: Tensor, quintics: list[tuple[float, float, float]]) -> Tensor:
    """``X <- (a + b G + c G^2) X``, ``G = X X^T``, for each quintic; ``size`` scales the first X."""
    x, gram = (x / size).to(x.dtype), gram.to(x.dtype)
    for i, (a, b, c) in enumerate(quintics):
        gram = x @ x.mT if i else gram
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _factors(gram: Tensor, quintics: list[tuple[float, float, float]]) -> Tensor:
    """The product of all ``a + b G + c G^2``: polynomials of the first G, so they commute. [B, M, M]."""
    factors: Tensor | None = None
    for i, (a, b, c) in enumerate(quintics):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        factors = factor if factors is None else factor @ factors
        if i + 1 < len(quintics):
            gram = factor @ gram @ factor
    assert factors is not None
    return factors


class Muon(Optimizer):
    """``m <- mu m + (1 - mu) g``; ``w <- (1 - lr decay) w - 0.2 lr sqrt(max(M, N)) ortho(g + mu (m - g))``.

    Args:
        params: matrices [M, N], or groups of them.
        lr: learning rate, of AdamW's size: the update's root mean square is 0.2 at most.
        weight_decay: decoupled decay.
        momentum: mu.
        nesterov: look ahead by one gradient; without it ``m`` itself is made orthogonal.
        ns_steps: iterations of ``orthogonalize``.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 4,
    ) -> None:
        options = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **options})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move the matrices that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._move(params, group)
        return loss

    def _move(self, params: list[Tensor], group: dict[str, Any]) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        updates = torch._foreach_lerp(grads, momenta, group["momentum"]) if group["nesterov"] else momenta
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        for alike in _by_shape(params):
            directions = orthogonalize(torch.stack([updates[i] for i in alike]), group["ns_steps"])
            size = group["lr"] * 0.2 * math.sqrt(max(directions.shape[1:]))
            torch._foreach_add_([params[i] for i in alike], list(directions.unbind()), alpha=-size)


def _by_shape(matrices: Iterable[Tensor]) -> list[list[int]]:
    """Positions of the matrices of one shape, device and type."""
    found: dict[Any, list[int]] = {}
    for i, matrix in enumerate(matrices):
        found.setdefault((matrix.shape, matrix.device, matrix.dtype), []).append(i)
    return list(found.values())
