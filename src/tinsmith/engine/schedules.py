"""Learning rates as pure functions of the step.

A shape maps a step to a share of the peak rate. ``s`` is the step (the first is 0), ``w`` the warm-up's
length, ``T`` the total, ``x = (s - w) / (T - w)`` the progress, clamped to 0..1, and ``r = min_lr / lr`` the
floor. A shape that falls from 1 to 0 becomes ``r + (1 - r) shape``. Before it, for ``s < w``, the share is
``(s + 1) / w``: 1 / w at step 0 and not 0, so that no step is wasted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from tinsmith.engine.config import SCHEDULERS, check, check_choice
from tinsmith.errors import ConfigError, did_you_mean


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule in steps: ``warmup`` w, ``total`` T, the ``unit`` of ``step_size``; and the ``floor`` r."""

    warmup: int
    total: int
    floor: float
    unit: int

    def progress(self, step: int) -> float:
        """``x``: 0 at the end of the warm-up, 1 at step T and after."""
        return min(1.0, max(0.0, (step - self.warmup) / max(1, self.total - self.warmup)))

    def floored(self, share: float) -> float:
        """``r + (1 - r) share``."""
        return self.floor + (1.0 - self.floor) * share


def cosine(step: int, plan: Plan) -> float:
    """``(1 + cos(pi x)) / 2``, https://arxiv.org/abs/1608.03983 equation 5."""
    return plan.floored(0.5 * (1.0 + math.cos(math.pi * plan.progress(step))))


def linear(step: int, plan: Plan) -> float:
    """``1 - x``."""
    return plan.floored(1.0 - plan.progress(step))


def constant(step: int, plan: Plan) -> float:
    """``1``."""
    return 1.0


def steps(step: int, plan: Plan, step_size: int = 30, gamma: float = 0.1) -> float:
    """``max(r, gamma^floor((s - w) / step_size))``."""
    return max(plan.floor, gamma ** ((step - plan.warmup) // (step_size * plan.unit)))


def inverse_sqrt(step: int, plan: Plan) -> float:
    """``max(r, sqrt(w / (s + 1)))``, https://arxiv.org/abs/1706.03762 equation 3 with ``lr`` as the peak."""
    return max(plan.floor, math.sqrt(max(1, plan.warmup) / (step + 1)))


def wsd(step: int, plan: Plan, decay: float = 0.2) -> float:
    """1, and in the last ``decay`` of all steps ``1 - sqrt(y)``, y from 0 to 1, https://arxiv.org/abs/2405.18392."""
    start = max(plan.warmup, plan.total - round(decay * plan.total))
    y = min(1.0, max(0.0, (step - start) / max(1, plan.total - start)))
    return plan.floored(1.0 - math.sqrt(y))


def one_cycle(
    step: int, plan: Plan, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4
) -> float:
    """Cosine from ``1 / div_factor`` to 1 at ``pct_start T``, then to ``1 / (div_factor final_div_factor)``.

    https://arxiv.org/abs/1708.07120, with the steps of ``torch.optim.lr_scheduler.OneCycleLR``. Where a
    warm-up is given it takes the place of ``pct_start``, and ``min_lr`` that of the last rate.
    """
    peak = (plan.warmup or pct_start * plan.total) - 1.0
    last = plan.total - 1.0
    low, high, x = 1.0 / div_factor, 1.0, step / max(1.0, peak)
    if step > peak:
        low, high = 1.0, plan.floor or 1.0 / (div_factor * final_div_factor)
        x = min(1.0, (step - peak) / max(1.0, last - peak))
    return high + (low - high) * 0.5 * (1.0 + math.cos(math.pi * x))


_SHAPES: dict[str, Callable[..., float]] = {
    "cosine_warmup": cosine,
    "linear": linear,
    "constant": constant,
    "step": steps,
    "noam": inverse_sqrt,
    "inverse_sqrt": inverse_sqrt,
    "wsd": wsd,
    "one_cycle": one_cycle,
    "plateau": constant,
}
_OPTIONS = {
    "step": ("step_size", "gamma"),
    "wsd": ("decay",),
    "one_cycle": ("pct_start", "div_factor", "final_div_factor"),
    "plateau": ("factor", "patience", "mode", "threshold"),
}
_NEEDS_TOTAL = ("cosine_warmup", "linear", "wsd", "one_cycle")


@dataclass(frozen=True, slots=True)
class Units:
    """How long, as the user said it: steps win over epochs, ``warmup_ratio`` is a share of the total."""

    total_epochs: float | None = None
    warmup_epochs: float = 0
    total_steps: int | None = None
    warmup_steps: int | None = None
    warmup_ratio: float = 0.0


class Schedule:
    """Sets the rates of an optimiser's groups. Made by ``get_scheduler``.

    ``set(step)`` gives the rate for taking optimiser step ``step``, the first being 0. By hand: ``step()``
    after each ``optimizer.step()``. Until ``bind`` a step means an epoch where epochs were given.
    """

    def __init__(
        self, optimizer: Optimizer, kind: str, units: Units, min_lr: float, options: dict[str, Any]
    ) -> None:
        self.optimizer, self.kind, self.units, self.min_lr = optimizer, kind, units, min_lr
        self.last_step = 0
        self.plateau = Plateau(**options) if kind == "plateau" else None
        self._shape, self._options = _SHAPES[kind], {} if self.plateau else options
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", float(group["lr"]))
        # One factor serves all groups; the floor is absolute for the first, in proportion for the others.
        peak = optimizer.param_groups[0]["initial_lr"]
        check(0 <= min_lr <= peak, "min_lr", min_lr, f"0 to the learning rate {peak:g}")
        self._floor = min_lr / peak if peak else 0.0
        self._plan = self._planned(1, None, False)
        self.set(0)

    def bind(self, steps_per_epoch: int, total_steps: int, budget: bool = False) -> None:
        """Turn epochs into steps, once the loader is known.

        Args:
            steps_per_epoch: optimiser steps in an epoch.
            total_steps: optimiser steps of the run; used where neither steps nor epochs were given.
            budget: minutes or a largest step fixed the run's length: it replaces any other total.
        """
        self._plan = self._planned(steps_per_epoch, total_steps, budget)
        self.set(self.last_step)

    def _planned(self, steps_per_epoch: int, run: int | None, budget: bool) -> Plan:
        units, total = self.units, run or 0
        if units.total_steps is not None and not budget:
            total = units.total_steps
        elif units.total_epochs is not None and not budget:
            total = round(units.total_epochs * steps_per_epoch)
        warmup = round(max(units.warmup_epochs * steps_per_epoch, units.warmup_ratio * total))
        if units.warmup_steps is not None:
            warmup = units.warmup_steps
        unit = 1 if units.total_steps is not None else steps_per_epoch
        return Plan(warmup, total, self._floor, unit)

    def lr_factor(self, step: int) -> float:
        """The rate of ``step`` over the peak rate."""
        plan = self._plan
        if self.kind == "one_cycle":
            return self._shape(step, plan, **self._options)
        if step < plan.warmup:
            return (step + 1) / plan.warmup
        factor = self._shape(step, plan, **self._options)
        return factor if self.plateau is None else max(plan.floor, factor * self.plateau.scale)

    def set(self, step: int) -> None:
        """Set all groups' rates for optimiser step ``step``."""
        factor = self.lr_factor(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.last_step = step

    def step(self) -> None:
        """Go on by one step.

        Raises:
            ConfigError: the schedule ends somewhere, and nobody said where.
        """
        if not self._plan.total and self.kind in _NEEDS_TOTAL:
            raise ConfigError(f"scheduler '{self.kind}' must know its end: give total_steps or total_epochs.")
        self.set(self.last_step + 1)

    def observe(self, value: float) -> None:
        """Tell ``plateau`` a validation value; the pure schedules take no notice."""
        if self.plateau is not None:
            self.plateau.observe(value)
            self.set(self.last_step)

    @property
    def last_lr(self) -> float:
        """The rate of the first group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """The step (and what ``plateau`` has seen), JSON-able."""
        state: dict[str, Any] = {"step": self.last_step}
        if self.plateau is not None:
            state["plateau"] = self.plateau.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        if self.plateau is not None and "plateau" in state:
            self.plateau.load_state_dict(state["plateau"])
        self.set(int(state["step"]))


class Plateau:
    """``scale <- scale * factor`` after more than ``patience`` values in a row without improvement.

    The rule of ``torch.optim.lr_scheduler.ReduceLROnPlateau``, ``threshold`` relative. NaN never improves.
    """

    def __init__(
        self, factor: float = 0.1, patience: int = 10, mode: str = "min", threshold: float = 1e-4
    ) -> None:
        check(0 < factor < 1, "factor", factor, "above 0 and below 1")
        check_choice("mode", mode, ("min", "max"))
        self.factor, self.patience, self.mode, self.threshold = factor, patience, mode, threshold
        self.scale, self.bad = 1.0, 0
        self.best: float | None = None

    def observe(self, value: float) -> None:
        """Take in a validation value."""
        if self._improves(value):
            self.best, self.bad = value, 0
        else:
            self.bad += 1
        if self.bad > self.patience:
            self.scale, self.bad = self.scale * self.factor, 0

    def _improves(self, value: float) -> bool:
        if self.best is None:
            return not math.isnan(value)
        if self.mode == "min":
            return value < self.best * (1.0 - self.threshold)
        return value > self.best * (1.0 + self.threshold)

    def state_dict(self) -> dict[str, Any]:
        """What it has seen, JSON-able."""
        return {"scale": self.scale, "bad": self.bad, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.scale, self.bad, self.best = state["scale"], state["bad"], state["best"]


def get_scheduler(
    optimizer: Optimizer,
    scheduler_type: str = "cosine_warmup",
    *,
    total_epochs: float | None = None,
    warmup_epochs: float = 0,
    total_steps: int | None = None,
    warmup_steps: int | None = None,
    min_lr: float = 0.0,
    **options: Any,
) -> Schedule:
    """The schedule by name, over ``optimizer``'s groups; their rates now are the peaks.

    Any of them starts with a linear warm-up where one is given. The ``Trainer`` turns epochs into steps, and
    gives the run's length where no total is given.

    Args:
        scheduler_type: "cosine_warmup", "linear", "constant", "step" (``gamma``, and ``step_size`` in epochs,
            or in steps where ``total_steps`` is given), "noam" or "inverse_sqrt" (one formula), "wsd"
            (``decay``, a share of the steps), "one_cycle" (``pct_start``, ``div_factor``,
            ``final_div_factor``), "plateau" (``factor``, ``patience``, ``mode``, ``threshold``; told by
            ``observe``).
        total_epochs, total_steps: the end; steps win.
        warmup_epochs, warmup_steps: the warm-up's length; steps win.
        min_lr: the lowest rate after the warm-up, absolute.
        options: those of the type, and ``warmup_ratio``, the warm-up as a share of the total.

    Raises:
        ConfigError: unknown type or option, or a value that makes no sense.
    """
    check_choice("scheduler", scheduler_type, SCHEDULERS)
    ratio = options.pop("warmup_ratio", 0.0)
    check(0 <= ratio < 1, "warmup_ratio", ratio, "a share of the steps, 0 <= warmup_ratio < 1")
    for name, length in {"total_epochs": total_epochs, "total_steps": total_steps}.items():
        check(length is None or length > 0, name, length, "above 0, or None")
    allowed = (*_OPTIONS.get(scheduler_type, ()), "warmup_ratio")
    for name in options:
        if name not in allowed:
            raise ConfigError(
                f"scheduler '{scheduler_type}' has no option '{name}'.{did_you_mean(name, allowed)} "
                f"Its own: {', '.join(allowed)}."
            )
    check(options.get("step_size", 1) >= 1, "step_size", options.get("step_size"), "1 or more")
    units = Units(total_epochs, warmup_epochs, total_steps, warmup_steps, ratio)
    return Schedule(optimizer, scheduler_type, units, min_lr, options)
