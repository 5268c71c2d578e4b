"""A plain module with a loss: the task of everybody who brings neither a family nor a ``Task``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tinsmith.engine.contract import Context, StepOutput, Task
from tinsmith.engine.losses import get_loss_fn
from tinsmith.engine.metrics import MetricSet, get_metrics

_TARGETS = ("labels", "label", "target", "targets", "y")


class SupervisedTask(Task):
    """``loss_fn(model(inputs), target)`` over batches of ``(x, y)``, dicts or PyTorch Geometric graphs.

    * A tuple or list: all but the last are the model's arguments, the last is the target.
    * A dict: the target is under ``labels``, ``label``, ``target``, ``targets`` or ``y``, the rest are the
      model's keyword arguments (or its one argument, if there is a single tensor left).
    * A graph batch (an object with ``edge_index`` and ``y``): ``model(batch)`` against ``batch.y``.

    Args:
        model: any module; an output with ``.logits`` is unwrapped.
        loss_fn: (outputs, target) -> scalar mean; by default the one of ``task_type``.
        metrics: a ``MetricSet``; by default the one of ``task_type``.
        task_type: ``regression``, ``classification`` or ``edge_prediction``.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        metrics: MetricSet | None = None,
        task_type: str = "regression",
    ) -> None:
        super().__init__()
        self.model = model
        self.loss_fn = loss_fn if loss_fn is not None else get_loss_fn(task_type)
        self._metrics = metrics
        self.task_type = task_type

    def forward(self, batch: Any, ctx: Context) -> StepOutput:
        """The loss of a batch; its weight is what the loss is a mean over."""
        inputs, target = split_batch(batch)
        outputs = self.call(inputs)
        return StepOutput(self.loss_fn(outputs, target), self._weight(target))

    def call(self, inputs: Any) -> Any:
        """The model's outputs for the inputs of ``split_batch``."""
        if isinstance(inputs, tuple):
            outputs = self.model(*inputs)
        elif isinstance(inputs, dict):
            outputs = self.model(**inputs)
        else:
            outputs = self.model(inputs)
        return getattr(outputs, "logits", outputs)

    def _weight(self, target: Any) -> Tensor | float:
        ignored = getattr(self.loss_fn, "ignore_index", None)
        if ignored is not None and isinstance(target, Tensor) and not target.is_floating_point():
            counted: Tensor = (target != ignored).sum()
            return counted
        return float(len(target)) if isinstance(target, Tensor) and target.ndim else 1.0

    def evaluate(self, batches: Iterable[Any]) -> dict[str, float]:
        """The loss over all rows and the metrics, each from sums and counts over the whole set."""
        total, weight = 0.0, 0.0
        metrics = self._metrics
        for batch in batches:
            inputs, target = split_batch(batch)
            outputs = self.call(inputs)
            if metrics is None:
                metrics = get_metrics(self.task_type, num_classes=_num_classes(self.task_type, outputs))
                self._metrics = metrics
                metrics.reset()
            elif not weight:
                metrics.reset()
            items = float(self._weight(target))
            if items:
                total += float(self.loss_fn(outputs, target)) * items
            weight += items
            metrics.update(outputs, target)
        if metrics is None or not weight:
            raise ValueError("the loader for evaluation is empty")
        return {"loss": total / weight, **metrics.compute()}

    def predict(self, batch: Any) -> Tensor:
        """The model's outputs for a batch with or without a target."""
        inputs, _ = split_batch(batch, needs_target=False)
        outputs = self.call(inputs)
        if not isinstance(outputs, Tensor):
            raise TypeError(f"predict needs a model that returns a tensor, not {type(outputs).__name__}")
        return outputs


def _num_classes(task_type: str, outputs: Any) -> int | None:
    if task_type != "classification" or not isinstance(outputs, Tensor) or outputs.ndim < 2:
        return None
    return outputs.shape[-1]


def split_batch(batch: Any, needs_target: bool = True) -> tuple[Any, Any]:
    """Inputs and target of a batch: a tuple of arguments, a dict of them, or one object.

    Raises:
        ValueError: no target where one is needed, or a kind of batch that is not known. Says what it found.
    """
    if hasattr(batch, "edge_index"):
        return batch, getattr(batch, "y", None)
    if isinstance(batch, Mapping):
        return _split_dict(dict(batch), needs_target)
    if isinstance(batch, (tuple, list)) and batch:
        if len(batch) == 1 and not needs_target:
            return tuple(batch), None
        if len(batch) >= 2:
            return tuple(batch[:-1]), batch[-1]
    if isinstance(batch, torch.Tensor) and not needs_target:
        return batch, None
    kind = type(batch).__name__ + (f" of length {len(batch)}" if isinstance(batch, (tuple, list)) else "")
    raise ValueError(
        f"a batch must be (x, y), a dict with a target ({', '.join(_TARGETS)}) or a graph batch; this one is "
        f"a {kind}. For anything else write a tinsmith.Task, whose forward takes your batch."
    )


def _split_dict(batch: dict[str, Any], needs_target: bool) -> tuple[Any, Any]:
    name = next((key for key in _TARGETS if key in batch), None)
    if name is None and needs_target:
        raise ValueError(
            f"the batch has no target: its keys are {', '.join(map(str, batch))}; "
            f"one of {', '.join(_TARGETS)} is needed"
        )
    target = batch.pop(name) if name is not None else None
    if len(batch) == 1:
        return next(iter(batch.values())), target
    return batch, target
