"""torch's fused Adam without what surrounds its kernel, and optimisers made without loading torch's compiler.

Of the 185 us that ``AdamW.step`` takes for four small tensors most is Python: profiler hooks, lists made anew
and sorted by device, switches for the compiler. And the first optimiser of a process loads the compiler
(1.3 s), only to keep out of its way.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

Group = dict[str, Any]
_Tensors = tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]  # as the kernel takes them

_GUARDED = ("add_param_group", "state_dict", "load_state_dict", "zero_grad")
_MARK = "__dynamo_disable"  # where torch keeps the function that its compiler is to leave alone


@contextmanager
def without_compiler() -> Iterator[None]:
    """Inside, torch's optimisers are made, saved and loaded without importing ``torch._dynamo``.

    Where it is there already, and in versions of torch that have no such switch, nothing changes.
    """
    plain = [getattr(getattr(Optimizer, name), "__wrapped__", None) for name in _GUARDED]
    marked = [] if "torch._dynamo" in sys.modules else [f for f in plain if f and not hasattr(f, _MARK)]
    for function in marked:
        setattr(function, _MARK, function)
    try:
        yield
    finally:
        for function in marked:
            delattr(function, _MARK)


class LeanAdam:
    """Takes the steps of a ``torch.optim.Adam`` or ``AdamW``: the same kernel over the same tensors.

    Whatever torch's own step is needed for is left to it: other kernels than the fused one, AMSGrad, hooks, a
    wrapped step, a rate that is a tensor, parameters without a gradient.
    """

    def __init__(self, optimizer: torch.optim.Adam) -> None:
        self.optimizer = optimizer
        self._known: tuple[Any, ...] = ()  # what the lists were made of
        self._lists: list[tuple[Group, list[_Tensors]]] = []

    def __call__(self) -> None:
        """One step."""
        optimizer = self.optimizer
        groups = optimizer.param_groups
        gradients = [[p.grad for p in group["params"]] for group in groups]
        if is_watched(optimizer) or not all(map(_is_plain, groups, gradients)):
            optimizer.step()
            return
        if self._known != (id(optimizer.state), *map(id, groups), *(len(grads) for grads in gradients)):
            self._learn()
        with torch.no_grad():
            for group, lists in self._lists:
                kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
                beta1, beta2 = group["betas"]
                for params, means, squares, steps in lists:
                    torch._foreach_add_(steps, 1)
                    kernel(
                        params,
                        [p.grad for p in params],  # type: ignore[misc]
                        means,
                        squares,
                        [],
                        steps,
                        lr=group["lr"],
                        beta1=beta1,
                        beta2=beta2,
                        weight_decay=group["weight_decay"],
                        eps=group["eps"],
                        amsgrad=False,
                        maximize=False,
                    )

    def _learn(self) -> None:
        """Gather the tensors, as torch does at every step; a new parameter gets its state."""
        state, self._lists = self.optimizer.state, []
        for group in self.optimizer.param_groups:
            kinds: dict[Any, _Tensors] = defaultdict(lambda: ([], [], [], []))
            for param in group["params"]:
                own = state[param]
                if not own:
                    own["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
                    for name in ("exp_avg", "exp_avg_sq"):
                        own[name] = torch.zeros_like(param, memory_format=torch.preserve_format)
                found = (param, own["exp_avg"], own["exp_avg_sq"], own["step"])
                for tensors, tensor in zip(kinds[param.device, param.dtype], found, strict=True):
                    tensors.append(tensor)
            self._lists.append((group, list(kinds.values())))
        groups = self.optimizer.param_groups
        self._known = (id(state), *map(id, groups), *(len(group["params"]) for group in groups))


def is_watched(optimizer: Optimizer) -> bool:
    """Whether somebody wants to know of the steps: a hook, or a scheduler of torch's that wrapped them."""
    return bool(
        "step" in optimizer.__dict__
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
    )


def _is_plain(group: Group, grads: list[Tensor | None]) -> bool:
    special = group["amsgrad"] or group["maximize"] or group["capturable"] or group["differentiable"]
    fused = group["fused"] and type(group["lr"]) is float and not special
    return bool(fused) and all(grad is not None and not grad.is_sparse for grad in grads)
