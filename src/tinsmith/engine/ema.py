"""Exponential moving average of the weights, for evaluation and export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """Average of a module's weights over the steps: ``s <- s + (1 - d) (w - s)``.

    With warm-up ``d = min(decay, (1 + n) / (10 + n))`` after ``n`` updates, so that a short run is not
    dominated by its initial weights. Parameters are averaged. Floating-point buffers are copied: those of
    batch norm are averages already, and others (tables, masks) have no meaningful mean.

    Args:
        module: what is trained; already on its device.
        decay: 0 <= decay < 1.
        warmup: shorten the memory of the first updates.
    """

    def __init__(self, module: nn.Module, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema decay={decay} is not allowed: 0 <= decay < 1")
        self.module = module
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self._params: list[Tensor] = [p for p in module.parameters() if p.is_floating_point()]
        self._num_params = len(self._params)
        self._saved = set(module.state_dict())  # other buffers are tables, made anew at each start
        self._shadow = [t.detach().clone() for _, t in self._named()]

    def _named(self) -> list[tuple[str, Tensor]]:
        """Floating-point parameters, then buffers. Read anew: ``module.to()`` replaces buffers."""
        named = [*self.module.named_parameters(), *self.module.named_buffers()]
        return [(name, t) for name, t in named if t.is_floating_point() and name in self._saved]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's weights as they are now: once per optimiser step."""
        n, split = self.updates, self._num_params
        decay = min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay
        torch._foreach_lerp_(self._shadow[:split], self._params, 1.0 - decay)
        if len(self._shadow) > split:
            torch._foreach_copy_(self._shadow[split:], [t for _, t in self._named()[split:]])
        self.updates = n + 1

    @contextmanager
    def swap(self) -> Iterator[None]:
        """Averaged weights inside, the trained ones back on leaving, bit for bit, also after an error."""
        live = [t.data for _, t in self._named()]
        saved = [t.clone() for t in live]
        try:
            torch._foreach_copy_(live, self._shadow)
            yield
        finally:
            torch._foreach_copy_(live, saved)

    def state_dict(self) -> dict[str, Any]:
        """``{"shadow": {name: Tensor}, "updates": int}``; the tensors are the live ones, not copies."""
        names = [name for name, _ in self._named()]
        return {"shadow": dict(zip(names, self._shadow, strict=True)), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy a state in.

        Raises:
            ValueError: the state belongs to another module.
        """
        names, shadow = [name for name, _ in self._named()], state["shadow"]
        if odd := set(names).symmetric_difference(shadow):
            raise ValueError(f"the saved weight average belongs to another model: {sorted(odd)[:3]} differ")
        torch._foreach_copy_(self._shadow, [shadow[name] for name in names])
        self.updates = int(state["updates"])
