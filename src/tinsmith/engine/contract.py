"""What passes between the engine and a family. The first file to read.

The engine calls ``task(batch, ctx)`` and gets a ``StepOutput``; it never sees a label, a token or a
graph. A family is a row of functions that build its data, model and task, and a predictor that uses
what was trained.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

Mode = Literal["min", "max"]


@dataclass(frozen=True, slots=True)
class Context:
    """What the engine tells the family about the step.

    ``step`` counts optimiser steps from 0; ``max_steps`` is their planned number (0: not known, as in
    an evaluation); ``carry`` is the ``StepOutput.carry`` of the step before, or None.
    """

    step: int = 0
    max_steps: int = 0
    carry: Any = None


@dataclass(slots=True)
class StepOutput:
    """What the family tells the engine about a batch.

    ``loss`` (scalar) and every metric (scalars) are means over ``weight`` items: rows, tokens, graphs.
    ``carry`` is state for the next step; the engine checkpoints it (tensors, nested in dicts and lists).
    """

    loss: Tensor
    weight: Tensor | float
    metrics: dict[str, Tensor] = field(default_factory=dict)
    carry: Any = None


class Task(nn.Module, ABC):
    """The objective, wrapped around the model: what the engine optimises, averages and saves.

    ``model`` is what is exported and served. Learnable parameters of the objective live on the task.
    ``monitor`` names the validation metric that decides what is best, and its direction.
    """

    model: nn.Module
    monitor: tuple[str, Mode] = ("loss", "min")

    @abstractmethod
    def forward(self, batch: Any, ctx: Context) -> StepOutput:
        """The loss of one batch."""

    def evaluate(self, batches: Iterable[Any]) -> dict[str, float]:
        """Metrics over a whole set: by default the weighted means of ``forward``'s loss and metrics.

        Called in eval mode, without gradients, with the batches already on the model's device.
        """
        sums: dict[str, Tensor] = {}
        total: Tensor | float = 0.0
        for batch in batches:
            out = self(batch, Context())
            total = total + out.weight
            for name, value in {"loss": out.loss, **out.metrics}.items():
                sums[name] = sums.get(name, 0.0) + value.detach().double() * out.weight
        if not sums:
            raise ValueError("evaluate got no batches: the loader is empty")
        return {name: float(value / total) for name, value in sums.items()}


@dataclass(slots=True)
class Data:
    """A family's data. ``train``, ``valid`` and ``test`` are loaders (``engine.data.Loader``) or None.

    ``spec`` holds the facts that a model needs (vocabulary, sizes, ids): a frozen dataclass of plain
    values, saved as JSON beside the weights. ``artifacts`` are what else a predictor needs (a tokeniser).
    """

    train: Any
    valid: Any
    test: Any
    spec: Any
    artifacts: Mapping[str, Any] = field(default_factory=dict)


class Predictor(ABC):
    """Use of a trained model. Imports neither the task nor the trainer."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path, device: str | torch.device = "cpu") -> Predictor:
        """Load from a ``model/`` folder or from the run folder that holds one."""

    @abstractmethod
    def __call__(self, inputs: list[Any]) -> list[Any]:
        """Answer each input, in order; the values are what JSON can hold."""


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the table of families: how to build each part, and how to use the result.

    ``save_model(cfg, task, data, folder)`` writes a folder that ``predictor.load`` reads by itself.
    ``table(predictor, data, split)`` gives the rows of the evaluation table, the model's first and then
    its baselines', each ``{"name": str, metric: number, ...}``. ``examples(predictor, data)`` shows what the
    model does, as tables ``{"title": str, "columns": [...], "rows": [[...]]}``. ``curriculum`` names the
    settings that a stage's ``seq_len`` and ``dim`` mean.
    """

    name: str
    config: type
    build_data: Callable[[Any], Data]
    build_model: Callable[[Any, Any], nn.Module]
    build_task: Callable[[Any, nn.Module, Data], Task]
    save_model: Callable[[Any, Task, Data, Path], None]
    predictor: type[Predictor]
    table: Callable[[Any, Data, str], list[dict[str, Any]]]
    examples: Callable[[Any, Data], list[dict[str, Any]]]
    curriculum: Mapping[str, str] = field(default_factory=dict)
