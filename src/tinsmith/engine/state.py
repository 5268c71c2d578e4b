"""What a run is at an instant: the counters, and how they and the tensors become a checkpoint's parts."""

from __future__ import annotations

import logging
import math
import platform
import secrets
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from tinsmith.engine.contract import Mode

log = logging.getLogger(__name__)

History = dict[str, list[Any]]


@dataclass(slots=True)
class State:
    """Where a run stands. Plain values: this is what ``state.json`` holds.

    ``epoch`` is the one under way, ``cursor`` counts what of it is consumed (``engine.data``), ``step``
    counts optimiser steps; ``max_steps`` is their planned number and ``max_steps_of`` says of which plan,
    so that a time budget is kept over a resume; ``revise_at`` is the step at which it is next corrected (0:
    not any more). ``compiled``: its steps are, which changes their last bits. ``stage`` is that of a
    curriculum, which began at ``stage_epoch`` and ``stage_step``.
    """

    run_id: str = field(default_factory=lambda: secrets.token_hex(4))
    epoch: int = 0
    cursor: int = 0
    step: int = 0
    samples: int = 0
    max_steps: int = 0
    max_steps_of: str = ""
    revise_at: int = 0
    compiled: bool = False
    stage: int = 0
    stage_epoch: int = 0
    stage_step: int = 0
    best_metric: float | None = None
    best_epoch: int | None = None
    best_step: int | None = None
    seconds: float = 0.0
    finished: bool = False
    history: History = field(default_factory=dict)

    def take_over(self, other: State) -> None:
        """Become ``other``, in place: the loop and the trainer share one state."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(other, name))

    def note_best(self, value: float, mode: Mode) -> bool:
        """Whether ``value`` is better than all before; remembers it. NaN never is."""
        if math.isnan(value):
            return False
        better = self.best_metric is None or (
            value < self.best_metric if mode == "min" else value > self.best_metric
        )
        if better:
            self.best_metric, self.best_epoch, self.best_step = value, self.epoch, self.step
        return better

    def note_history(self, values: dict[str, Any]) -> None:
        """Append one entry to each list of the history; a name that comes late is filled with None."""
        length = max((len(entries) for entries in self.history.values()), default=0)
        for name, value in values.items():
            self.history.setdefault(name, [None] * length).append(value)

    def to_json(self) -> dict[str, Any]:
        """The state under its checkpoint names (``global_step`` for ``step``)."""
        values = asdict(self)
        values["global_step"] = values.pop("step")
        return {**values, "history": to_jsonable(self.history), "best_metric": to_jsonable(self.best_metric)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> State:
        """The state of ``to_json``; other keys are ignored."""
        values = {**values, "step": values["global_step"]}
        kept = {name: from_jsonable(values[name]) for name in cls.__dataclass_fields__ if name in values}
        return cls(**kept)


def to_jsonable(value: Any) -> Any:
    """Non-finite floats as ``{"float": "nan"}``, since JSON has none; numpy and tensor scalars as numbers."""
    if isinstance(value, dict):
        return {key: to_jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(item) for item in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else {"float": repr(number)}


def from_jsonable(value: Any) -> Any:
    """The inverse of ``to_jsonable``."""
    if isinstance(value, dict):
        if set(value) == {"float"}:
            return float(value["float"])
        return {key: from_jsonable(item) for key, item in value.items()}
    return [from_jsonable(item) for item in value] if isinstance(value, list) else value


def flatten(tree: Any, prefix: str = "") -> tuple[dict[str, Tensor], Any]:
    """Split nested dicts and lists into named tensors and a JSON-able skeleton that says where they go.

    A tensor becomes ``{"tensor": name}``. Keys that are integers (torch's optimiser states) are kept apart
    from texts, since JSON would make texts of them.
    """
    tensors: dict[str, Tensor] = {}

    def visit(node: Any, path: str) -> Any:
        if isinstance(node, Tensor):
            tensors[path] = node
            return {"tensor": path}
        if isinstance(node, dict):
            pairs = [
                [key, visit(value, f"{path}.{key}" if path else str(key))] for key, value in node.items()
            ]
            return {"dict": pairs}
        if isinstance(node, (list, tuple)):
            items = [visit(value, f"{path}.{i}") for i, value in enumerate(node)]
            return {"tuple" if isinstance(node, tuple) else "list": items}
        return {"value": to_jsonable(node)}

    return tensors, visit(tree, prefix)


def unflatten(tensors: dict[str, Tensor], skeleton: Any) -> Any:
    """The inverse of ``flatten``."""
    kind, node = next(iter(skeleton.items()))
    if kind == "tensor":
        return tensors[node]
    if kind == "dict":
        return {key: unflatten(tensors, value) for key, value in node}
    if kind in ("list", "tuple"):
        items = [unflatten(tensors, value) for value in node]
        return tuple(items) if kind == "tuple" else items
    return from_jsonable(node)


def environment() -> dict[str, Any]:
    """What the bits of a result depend on besides the seed."""
    return {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "torch": str(torch.__version__),  # a class of torch's own, which weights_only refuses
    }


def compare_environment(saved: dict[str, Any], strict: bool) -> None:
    """Warn of, or with ``strict`` refuse, an environment in which a resume is not bit for bit.

    Raises:
        ConfigError: ``strict`` and something differs.
    """
    from tinsmith.errors import ConfigError

    here = environment()
    changed = [f"{key} {saved[key]} -> {here[key]}" for key in here if saved.get(key, here[key]) != here[key]]
    if not changed:
        return
    text = f"this is not the environment of the checkpoint ({'; '.join(changed)}): the run goes on, but not "
    text += "bit for bit as it would have there."
    if strict:
        raise ConfigError(text + " Leave --strict out to accept that.")
    log.warning("%s", text)


def now() -> float:
    """Wall-clock seconds, for people and for finding the run that saved last."""
    return time.time()
