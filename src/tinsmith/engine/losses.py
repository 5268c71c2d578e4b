"""Loss functions by task: modules called with (outputs, targets) that return a mean over the rows."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.engine.config import check, check_choice
from tinsmith.errors import ConfigError, DataError, did_you_mean

Reduction = Literal["mean", "sum", "none"]


def get_loss_fn(task: str, loss_type: str | None = None, **options: Any) -> nn.Module:
    """The loss of a task; without ``loss_type`` the first of its row.

    * "regression": "mse", "mae", "huber" (``delta``)
    * "classification": "cross_entropy" (``label_smoothing``, ``weight``, ``ignore_index``), "bce_logits"
    * "edge_prediction": "bce_logits"
    * "embeddings": "cosine", "mse", "combined" (``alpha``), "info_nce" (``temperature``)

    Args:
        options: keyword arguments of the loss; all take ``reduction`` but "info_nce".

    Raises:
        ConfigError: unknown task, loss or option.
    """
    check_choice("task", task, _LOSSES)
    name = loss_type or next(iter(_LOSSES[task]))
    check_choice(f"loss of {task}", name, _LOSSES[task])
    make = _LOSSES[task][name]
    allowed = inspect.signature(make).parameters
    for option in options:
        if option not in allowed:
            raise ConfigError(
                f"loss '{name}' has no option '{option}'.{did_you_mean(option, allowed)} "
                f"All: {', '.join(allowed)}."
            )
    return make(**options)


def align(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Give both the same shape where only a trailing 1 differs.

    ``[B, 1]`` against ``[B]`` would broadcast to ``[B, B]`` and train on nonsense without a word.

    Raises:
        DataError: any other difference; names both shapes.
    """
    if outputs.shape == targets.shape:
        return outputs, targets
    if outputs.shape == (*targets.shape, 1):
        return outputs.squeeze(-1), targets
    if targets.shape == (*outputs.shape, 1):
        return outputs, targets.squeeze(-1)
    raise DataError(
        f"the model's output is {list(outputs.shape)}, the target {list(targets.shape)}: "
        "they must have the same shape (a trailing 1 may differ)."
    )


def _reduce(values: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return values
    return values.mean() if reduction == "mean" else values.sum()


def _checked(reduction: Reduction) -> Reduction:
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    return reduction


class Elementwise(nn.Module):
    """A loss of torch over outputs and targets of one shape, aligned first.

    Args:
        function: such as ``F.l1_loss``: (outputs, targets, reduction=...).
        reduction: "mean", "sum" or "none".
        options: further arguments of ``function``.
    """

    def __init__(
        self, function: Callable[..., Tensor], reduction: Reduction = "mean", **options: float
    ) -> None:
        super().__init__()
        self.function, self.reduction, self.options = function, _checked(reduction), options

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets [B, ...] -> scalar, or [B, ...] with "none"."""
        outputs, targets = align(outputs, targets)
        return self.function(outputs, targets.to(outputs.dtype), reduction=self.reduction, **self.options)


class MeanSquaredError(nn.Module):
    """``mean(weight * (outputs - targets)^2)``.

    Args:
        reduction: "mean" (over all elements), "sum" or "none".
        weight: factor of each output, a number or [D]; it is not divided out again.
    """

    weight: Tensor | None

    def __init__(
        self, reduction: Reduction = "mean", weight: Tensor | list[float] | float | None = None
    ) -> None:
        super().__init__()
        self.reduction = _checked(reduction)
        self.register_buffer("weight", None if weight is None else torch.as_tensor(weight), persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets [B, D] or [B] -> scalar, or their shape with "none"."""
        outputs, targets = align(outputs, targets)
        if self.weight is None:
            return F.mse_loss(outputs, targets.to(outputs.dtype), reduction=self.reduction)
        return _reduce(self.weight * (outputs - targets) ** 2, self.reduction)


class CrossEntropyLoss(nn.Module):
    """Cross-entropy over the last dimension, smoothed as ``(1 - e) one_hot + e / C`` (https://arxiv.org/abs/1512.00567).

    The mean is over the targets that are not ignored; if all are, it is 0 and not NaN.

    Args:
        label_smoothing: e, 0 to 1.
        reduction: "mean" (by ``weight`` of the targets, as in torch), "sum" or "none".
        weight: factor of each class [C].
        ignore_index: target that does not count.
    """

    weight: Tensor | None

    def __init__(
        self,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        weight: Tensor | list[float] | None = None,
        ignore_index: int = -100,
    ) -> None:
        super().__init__()
        check(0 <= label_smoothing < 1, "label_smoothing", label_smoothing, "0 <= label_smoothing < 1")
        self.label_smoothing, self.ignore_index = label_smoothing, ignore_index
        self.reduction = _checked(reduction)
        classes = None if weight is None else torch.as_tensor(weight, dtype=torch.float32)
        self.register_buffer("weight", classes, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits [B, C] or [B, L, C], targets [B] or [B, L] (or probabilities like the logits) -> scalar."""
        logits, targets, shape = _class_last(logits, targets)
        soft = targets.is_floating_point()
        mean = self.reduction == "mean"
        loss = F.cross_entropy(
            logits,
            targets if soft else targets.long(),
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction="sum" if mean and not soft else self.reduction,
            label_smoothing=self.label_smoothing,
        )
        if mean and not soft:
            return loss / self._count(targets)
        return loss.view(shape) if self.reduction == "none" else loss

    def _count(self, targets: Tensor) -> Tensor:
        counted = targets != self.ignore_index
        if self.weight is None:
            return counted.sum().clamp_(min=1)
        weights = self.weight[torch.where(counted, targets, 0).long()] * counted
        return weights.sum().clamp_(min=torch.finfo(weights.dtype).tiny)


def _class_last(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
    """Logits as [N, C], targets as [N] or [N, C], and the shape of the targets."""
    rows, classes = logits.shape[:-1], logits.shape[-1] if logits.ndim else 0
    if classes < 2 or logits.ndim < 2:
        raise DataError(
            f"cross_entropy needs logits [B, C] of at least two classes, the model's output is "
            f"{list(logits.shape)}. For one logit per row use bce_logits."
        )
    if targets.shape == logits.shape and targets.is_floating_point():
        return logits.reshape(-1, classes), targets.reshape(-1, classes), rows
    if targets.shape == (*rows, 1):
        targets = targets.squeeze(-1)
    if targets.shape != rows or targets.is_floating_point():
        raise DataError(
            f"cross_entropy: the model's output is {list(logits.shape)}, the target {list(targets.shape)} of "
            f"{targets.dtype}. Wanted: integers {list(rows)}, or probabilities {list(logits.shape)}."
        )
    return logits.reshape(-1, classes), targets.reshape(-1), rows


class LabelSmoothing(nn.Module):
    """``KL(q || softmax(logits))``, mean over the targets that are not padding; 0 at the best logits.

    ``q`` is ``1 - e`` on the target and ``e / K`` on each of the K other tokens, never on padding
    (https://arxiv.org/abs/1706.03762, section 5.4). K is V - 2, or V - 1 without padding.

    Args:
        smoothing: e, 0 to 1.
        pad_idx: id of padding: neither counted as a target nor smoothed onto.
    """

    def __init__(self, smoothing: float = 0.1, pad_idx: int | None = None) -> None:
        super().__init__()
        check(0 <= smoothing < 1, "smoothing", smoothing, "0 <= smoothing < 1")
        self.smoothing, self.pad_idx = smoothing, pad_idx
        self.ignore_index = pad_idx  # what is not a weight of the mean, under its usual name

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits [B, T, V] or [N, V], targets [B, T] or [N] -> scalar."""
        logits, targets, _ = _class_last(logits, targets)
        logp = logits.log_softmax(-1)
        on_target = logp.gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)
        others = logp.sum(-1) - on_target
        spread = logits.shape[-1] - 1
        if self.pad_idx is not None:
            others, spread = others - logp[:, self.pad_idx], spread - 1
        share = self.smoothing / max(1, spread)
        entropy = _xlogx(1.0 - self.smoothing) + spread * _xlogx(share)
        loss = entropy - (1.0 - self.smoothing) * on_target - share * others
        if self.pad_idx is None:
            return loss.mean()
        counted = targets != self.pad_idx
        return loss.where(counted, 0.0).sum() / counted.sum().clamp_(min=1)


def _xlogx(x: float) -> float:
    return x * math.log(x) if x > 0 else 0.0


class CosineLoss(nn.Module):
    """``1 - cos(outputs, targets)`` over the last dimension. A zero vector has cosine 0."""

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction = _checked(reduction)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets [B, Z] -> scalar, or [B] with "none"."""
        outputs, targets = align(outputs, targets)
        return _reduce(1.0 - F.cosine_similarity(outputs, targets, dim=-1), self.reduction)


class CombinedLoss(nn.Module):
    """``alpha (1 - cos) + (1 - alpha) mse``: the direction and the length.

    Args:
        alpha: share of the cosine, 0 to 1.
        reduction: over the rows.
    """

    def __init__(self, alpha: float = 0.5, reduction: Reduction = "mean") -> None:
        super().__init__()
        check(0 <= alpha <= 1, "alpha", alpha, "0 to 1")
        self.alpha, self.reduction = alpha, _checked(reduction)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets [B, Z] -> scalar, or [B] with "none"."""
        outputs, targets = align(outputs, targets)
        direction = 1.0 - F.cosine_similarity(outputs, targets, dim=-1)
        length = ((outputs - targets) ** 2).mean(-1)
        return _reduce(self.alpha * direction + (1.0 - self.alpha) * length, self.reduction)


class InfoNCELoss(nn.Module):
    """Cross-entropy of each row's own partner among all rows of the batch, both ways, by cosine.

    https://arxiv.org/abs/1807.03748, symmetric as in CLIP. It does not decompose over batches: accumulation
    over 4 x 32 rows is not a batch of 128.

    Args:
        temperature: divides the cosines.
    """

    def __init__(self, temperature: float = 0.05) -> None:
        super().__init__()
        check(temperature > 0, "temperature", temperature, "above 0")
        self.temperature = temperature

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets [B, Z], row i belongs to row i -> scalar."""
        outputs, targets = align(outputs, targets)
        cosines = F.normalize(outputs, dim=-1) @ F.normalize(targets, dim=-1).T / self.temperature
        own = torch.arange(len(cosines), device=cosines.device)
        return 0.5 * (F.cross_entropy(cosines, own) + F.cross_entropy(cosines.T, own))


def _mae(reduction: Reduction = "mean") -> nn.Module:
    return Elementwise(F.l1_loss, reduction)


def _huber(reduction: Reduction = "mean", delta: float = 1.0) -> nn.Module:
    return Elementwise(F.huber_loss, reduction, delta=delta)


def _bce(reduction: Reduction = "mean") -> nn.Module:
    return Elementwise(F.binary_cross_entropy_with_logits, reduction)


_LOSSES: dict[str, dict[str, Callable[..., nn.Module]]] = {
    "regression": {"mse": MeanSquaredError, "mae": _mae, "huber": _huber},
    "classification": {"cross_entropy": CrossEntropyLoss, "bce_logits": _bce},
    "edge_prediction": {"bce_logits": _bce},
    "embeddings": {
        "cosine": CosineLoss,
        "mse": MeanSquaredError,
        "combined": CombinedLoss,
        "info_nce": InfoNCELoss,
    },
}
