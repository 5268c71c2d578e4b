"""Optimisers: which parameters decay, which kernel moves them, and the norm of their gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tinsmith.engine.config import OPTIMIZERS, check_choice
from tinsmith.engine.lean import LeanAdam, is_watched, without_compiler
from tinsmith.engine.muon import Muon
from tinsmith.errors import ConfigError, did_you_mean

NamedParams = Iterable[tuple[str, Tensor]]
Group = dict[str, Any]

_NORMS = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._NormBase,  # batch and instance norms
)
_ADAM = {"betas", "eps"}
_OPTIONS = {
    "adam": {*_ADAM, "amsgrad"},
    "adamw": {*_ADAM, "amsgrad"},
    "sgd": {"momentum", "nesterov", "dampening"},
    "muon": {*_ADAM, "momentum", "nesterov", "ns_steps", "muon_lr"},
}


def get_optimizer(
    model: nn.Module | NamedParams,
    optimizer_type: str = "adamw",
    lr: float = 1e-4,
    weight_decay: float = 0.01,
    **options: Any,
) -> Optimizer:
    """The optimiser for ``model``, with fused kernels where the device has them.

    Norms, biases, embeddings and everything below two dimensions do not decay. The tables of
    ``nn.Embedding(sparse=True)`` are moved by ``RowAdam`` (their touched rows only, never decayed),
    whatever the type; several optimisers come as one ``CombinedOptimizer``.

    Args:
        model: a module, or pairs of name and parameter (then only the shape decides what decays).
        optimizer_type: "adam" (L2 penalty), "adamw" (decoupled decay), "sgd" (momentum 0.9), or "muon"
            (2-D weights that are no embeddings by Muon, https://kellerjordan.github.io/posts/muon, the
            rest by AdamW; Muon's update is scaled to AdamW's root mean square, so one ``lr`` serves both).
        lr: learning rate.
        weight_decay: decay of the matrices.
        options: ``betas``, ``eps``, ``amsgrad`` (adam, adamw, muon); ``momentum``, ``nesterov``,
            ``dampening`` (sgd); ``momentum``, ``nesterov``, ``ns_steps``, ``muon_lr`` (muon); for all
            ``sparse_lr`` (default ``lr``).

    Raises:
        ConfigError: unknown type or option, or nothing to train.
    """
    check_choice("optimizer", optimizer_type, OPTIMIZERS)
    _check_options(optimizer_type, options)
    kinds = _split(model)
    if not any(kinds.values()):
        raise ConfigError("the model has no parameter that requires a gradient: nothing to optimise.")
    sparse_lr = options.pop("sparse_lr", lr)
    with without_compiler():
        parts = _dense_parts(kinds, optimizer_type, lr, weight_decay, options)
        if kinds["sparse"]:
            adam = {name: options[name] for name in _ADAM & options.keys()}
            parts.append(RowAdam([_group("sparse", kinds["sparse"])], lr=sparse_lr, **adam))
        return parts[0] if len(parts) == 1 else CombinedOptimizer(parts)


def stepper(optimizer: Optimizer) -> Callable[[], Any]:
    """What takes an optimiser's step: its own, or one that does the same with less around it."""
    if isinstance(optimizer, CombinedOptimizer):
        steps = [stepper(part) for part in optimizer.parts]
        return lambda: optimizer.step() if is_watched(optimizer) else [step() for step in steps]
    if isinstance(optimizer, torch.optim.Adam) and type(optimizer) in (torch.optim.Adam, torch.optim.AdamW):
        return LeanAdam(optimizer)
    return lambda: optimizer.step()


def _check_options(kind: str, options: dict[str, Any]) -> None:
    allowed = _OPTIONS[kind] | {"sparse_lr"}
    for name in options:
        if name not in allowed:
            raise ConfigError(
                f"optimizer '{kind}' has no option '{name}'.{did_you_mean(name, allowed)} "
                f"All: {', '.join(sorted(allowed))}."
            )


def _split(model: nn.Module | NamedParams) -> dict[str, list[Tensor]]:
    """Trainable parameters by kind, each kind in the order of ``named_parameters``."""
    kinds: dict[str, list[Tensor]] = {"matrix": [], "decay": [], "no_decay": [], "sparse": []}
    fixed, sparse = _owned(model) if isinstance(model, nn.Module) else (set(), set())
    named = model.named_parameters() if isinstance(model, nn.Module) else model
    for _, param in named:
        if not param.requires_grad:
            continue
        if id(param) in sparse:
            kind = "sparse"
        elif param.ndim < 2 or id(param) in fixed:
            kind = "no_decay"
        else:
            kind = "matrix" if param.ndim == 2 else "decay"
        kinds[kind].append(param)
    return kinds


def _owned(model: nn.Module) -> tuple[set[int], set[int]]:
    """Identities of the parameters that belong to a norm or an embedding, and of the sparse tables."""
    fixed: set[int] = set()
    sparse: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            (sparse if module.sparse else fixed).add(id(module.weight))
        elif isinstance(module, _NORMS):
            fixed.update(id(p) for p in module.parameters(recurse=False))
    return fixed, sparse


def _group(name: str, params: list[Tensor], **options: Any) -> Group:
    return {"params": params, "name": name, **options}


def _dense_parts(
    kinds: dict[str, list[Tensor]], kind: str, lr: float, weight_decay: float, options: dict[str, Any]
) -> list[Optimizer]:
    """The optimisers of all but the sparse tables; none for an empty kind."""
    parts: list[Optimizer] = []
    decay = kinds["matrix"] + kinds["decay"]
    if kind == "muon":
        muon = {name: options.pop(name) for name in ("momentum", "nesterov", "ns_steps") if name in options}
        muon_lr = options.pop("muon_lr", lr)
        if kinds["matrix"]:
            group = _group("matrix", kinds["matrix"])
            parts.append(Muon([group], lr=muon_lr, weight_decay=weight_decay, **muon))
        decay = kinds["decay"]
    groups = [_group("decay", decay, weight_decay=weight_decay), _group("no_decay", kinds["no_decay"])]
    if groups := [group for group in groups if group["params"]]:
        parts.append(_dense(kind, groups, lr, options))
    return parts


def _dense(kind: str, groups: list[Group], lr: float, options: dict[str, Any]) -> Optimizer:
    params = [p for group in groups for p in group["params"]]
    # On a CPU the default is a loop over the tensors: fused AdamW takes a quarter of its time.
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in params) or None
    if kind == "sgd":
        options = {"momentum": 0.9, **options}
    makers: dict[str, Callable[..., Optimizer]] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    make = makers.get(kind, torch.optim.AdamW)
    return make(groups, lr=lr, weight_decay=0.0, fused=fused, **options)


class CombinedOptimizer(Optimizer):
    """Several optimisers as one: the same group dicts, one state, torch's plain ``state_dict``.

    Args:
        parts: optimisers over disjoint parameters.
    """

    def __init__(self, parts: list[Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Give the parts the union's groups and state (keyed by parameter, so nobody meets another's)."""
        start = 0
        for part in self.parts:
            stop = start + len(part.param_groups)
            part.param_groups = self.param_groups[start:stop]
            part.state = self.state
            start = stop

    def step(self, closure: Any = None) -> Any:
        """One step of each part."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As ``torch.optim.Optimizer.load_state_dict``."""
        super().load_state_dict(state_dict)
        self._share()


class RowAdam(Optimizer):
    """Adam for each row of tables with sparse gradients, over the steps that touch the row.

    ``m_r <- b1 m_r + (1 - b1) g_r``, likewise ``v_r``, and ``p_r <- p_r - lr m_r / (1 - b1^n) / (sqrt(v_r /
    (1 - b2^n)) + eps)`` with n the times that row r was touched. ``torch.optim.SparseAdam`` corrects by the
    steps of all rows instead: a rare row, whose moments are still young, then takes steps several times
    too long. Whole rows are gathered and put back, which takes two thirds to four fifths of its time and is
    the same to the bit from run to run.

    Args:
        params: tables [V, D] or groups of them.
        lr: learning rate.
        betas: decay rates of the moments.
        eps: term in the denominator.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move the rows that the gradients name."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._move(param, group)
        return loss

    def _move(self, param: Tensor, group: Group) -> None:
        if not param.grad.is_sparse:  # type: ignore[union-attr]
            raise ConfigError(
                "a table of nn.Embedding(sparse=True) got a dense gradient: something else uses its weight "
                "too (a tied head?). Build the embedding with sparse=False."
            )
        grad = param.grad.coalesce()  # type: ignore[union-attr]
        rows, g = grad.indices()[0], grad.values()
        state = self.state[param]
        if not state:
            state["touched"] = param.new_zeros(len(param), 1)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(param), torch.zeros_like(param)
        beta1, beta2 = group["betas"]
        t = state["touched"].index_select(0, rows).add_(1)
        state["touched"].index_copy_(0, rows, t)
        m = state["exp_avg"].index_select(0, rows).lerp_(g, 1 - beta1)
        v = state["exp_avg_sq"].index_select(0, rows).mul_(beta2).addcmul_(g, g, value=1 - beta2)
        state["exp_avg"].index_copy_(0, rows, m)
        state["exp_avg_sq"].index_copy_(0, rows, v)
        m_hat, v_hat = m.div_(_one_minus_power(beta1, t)), v.div_(_one_minus_power(beta2, t))
        param.index_add_(0, rows, m_hat.div_(v_hat.sqrt_().add_(group["eps"])), alpha=-group["lr"])


def _one_minus_power(beta: float, t: Tensor) -> Tensor:
    """``1 - beta^t``, which a difference of floats would give to few digits while ``beta^t`` is near one."""
    return -torch.expm1(t * math.log(beta)) if beta else torch.ones_like(t)


def clip_grad_norm(params: Iterable[Tensor], max_norm: float | None) -> Tensor:
    """Scale the gradients so that their joint 2-norm is at most ``max_norm``; no device sync.

    ``g <- g min(1, max_norm / (norm + 1e-6))``. A norm that is not finite is returned as it is: the
    caller's guard decides. Sparse gradients are coalesced (and stay so for the optimiser).

    Args:
        params: parameters; those without a gradient are left out.
        max_norm: largest norm; None: only measure.

    Returns:
        The norm before scaling, scalar tensor on the gradients' device.
    """
    grads = []
    for param in params:
        grad = param.grad
        if grad is None:
            continue
        if grad.is_sparse:
            param.grad = grad.coalesce()
            grad = param.grad.values()
        grads.append(grad)
    if not grads:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    if max_norm is None:
        return norm
    if norm.device.type == "cpu":  # reading a float costs 1 us here, multiplying by one costs more
        scale = max_norm / (float(norm) + 1e-6)
        if scale < 1:
            torch._foreach_mul_(grads, scale)
    else:
        torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp_(max=1.0))
    return norm


class FiniteCheck:
    """Tells whether a gradient holds a NaN or an infinity: one pass, in GradScaler's kernel.

    Args:
        params: the parameters, on one device.
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for param in params:
            kinds.setdefault(param.dtype, []).append(param)
        self._kinds = list(kinds.values())
        device = self._kinds[0][0].device if self._kinds else torch.device("cpu")
        self._found, self._one = torch.zeros((), device=device), torch.ones((), device=device)

    def __call__(self) -> bool:
        """Whether all gradients are finite. They stay as they are; a GPU is waited for."""
        for params in self._kinds:
            grads = [param.grad for param in params if param.grad is not None]
            grads = [grad.coalesce().values() if grad.is_sparse else grad for grad in grads]
            if grads:
                torch._amp_foreach_non_finite_check_and_unscale_(grads, self._found, self._one)
        if not self._found.item():
            return True
        self._found.zero_()
        return False
