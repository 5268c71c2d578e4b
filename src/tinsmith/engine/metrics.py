"""Metrics over a whole set, from sums, counts and scores: the value does not depend on the batch size.

Ranking metrics are torchmetrics' over all scores at once. Logits become probabilities here, in double
precision: torchmetrics squashes a batch only if one of its scores lies outside 0..1, so that its value
would depend on which rows share a batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tinsmith.engine.config import check, check_choice
from tinsmith.engine.losses import align
from tinsmith.errors import DataError

_NAN = float("nan")


class MetricSet(ABC):
    """Metrics that are taken together: ``update`` with each batch, ``compute`` at the end."""

    @abstractmethod
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in a batch. Reads nothing from the device."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The values over all batches since ``reset``; NaN where a value is not defined."""

    @abstractmethod
    def reset(self) -> None:
        """Start anew."""


def get_metrics(task: str, num_classes: int | None = None, k: int = 10) -> MetricSet:
    """The metrics of a task.

    * "regression": ``mse``, ``mae``, ``rmse``
    * "classification": ``accuracy``, ``f1``, ``roc_auc``, ``ap``
    * "edge_prediction": ``roc_auc``, ``ap``, ``precision@k``, ``mrr``

    Args:
        num_classes: of a classification; by default what the outputs show.
        k: of ``precision@k``.

    Raises:
        ConfigError: unknown task.
    """
    check_choice("task", task, ("regression", "classification", "edge_prediction"))
    check(k >= 1, "k", k, "1 or more")
    if task == "regression":
        return RegressionMetrics()
    return ClassificationMetrics(num_classes) if task == "classification" else EdgeMetrics(k)


class RegressionMetrics(MetricSet):
    """``mse``, ``mae`` and ``rmse`` (the root of the whole set's mse) over all elements."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self._sums: Tensor | None = None
        self._count = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Outputs and targets [B, ...] of one shape, or differing by a trailing 1."""
        outputs, targets = align(outputs.detach(), targets)
        error = _double(outputs) - _double(targets)
        sums = torch.stack([error.square().sum(), error.abs().sum()])
        self._sums = sums if self._sums is None else self._sums + sums
        self._count += error.numel()

    def compute(self) -> dict[str, float]:
        """``{"mse", "mae", "rmse"}``."""
        if self._sums is None or not self._count:
            return {"mse": _NAN, "mae": _NAN, "rmse": _NAN}
        mse, mae = (self._sums / self._count).tolist()
        return {"mse": mse, "mae": mae, "rmse": mse**0.5}


class ClassificationMetrics(MetricSet):
    """``accuracy``, ``f1``, ``roc_auc``, ``ap`` of binary, multi-class or multi-label logits.

    * targets [B] of integers against [B] or [B, 1]: one logit, f1 of class 1
    * against [B, 2]: likewise, by the difference of the two logits
    * against [B, C]: f1 is the macro mean over the classes that occur, ``roc_auc`` and ``ap`` the mean of one
      class against the rest over those classes for which they are defined
    * targets [B, C]: C labels, accuracy over all of them, the others as above

    [B, L, C] against [B, L] counts each position; targets below 0 (ignored) do not count.

    Args:
        num_classes: refuses outputs of another width.
    """

    def __init__(self, num_classes: int | None = None) -> None:
        self.num_classes = num_classes
        from torchmetrics import functional  # half a second that a regression does not pay

        self._functional: Any = functional
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self._scores: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Logits [B], [B, 1], [B, C] or [B, L, C]; targets [B], [B, 1] or [B, L], or C labels of 0 and 1."""
        width = outputs.shape[-1] if outputs.ndim > 1 else 1
        rows = outputs.numel() // width
        if self.num_classes is not None and width != self.num_classes and (width, self.num_classes) != (1, 2):
            raise DataError(f"the model gives {width} logits, but num_classes is {self.num_classes}.")
        if targets.numel() == rows:
            targets = targets.reshape(rows)
        elif targets.shape == outputs.shape:
            targets = targets.reshape(rows, width)
        else:
            raise DataError(f"logits {list(outputs.shape)} and targets {list(targets.shape)} do not fit.")
        self._scores.append(outputs.detach().reshape(rows, width))
        self._targets.append(targets)

    def compute(self) -> dict[str, float]:
        """``{"accuracy", "f1", "roc_auc", "ap"}``."""
        if not self._scores:
            return {"accuracy": _NAN, "f1": _NAN, "roc_auc": _NAN, "ap": _NAN}
        score, predicted, truth = self._columns()
        if score.shape[1] > 1 and self._targets[0].ndim == 1:
            accuracy = (predicted & truth).any(-1)
        else:
            accuracy = predicted == truth
        return {
            "accuracy": float(accuracy.double().mean()),
            "f1": _mean(self._f1(p, t) for p, t in zip(predicted.T, truth.T, strict=True)),
            **_ranking(self._functional, score, truth),
        }

    def _columns(self) -> tuple[Tensor, Tensor, Tensor]:
        """Probability, prediction and truth of each row and class, [N, C]; binary has one column."""
        logits, targets = _double(torch.cat(self._scores)), torch.cat(self._targets).long()
        if targets.ndim == 2:
            return logits.sigmoid(), logits > 0, targets > 0
        logits, targets = logits[targets >= 0], targets[targets >= 0]
        if logits.shape[1] <= 2:
            logit = logits[:, -1:] - logits[:, :1] if logits.shape[1] == 2 else logits
            return logit.sigmoid(), logit > 0, targets[:, None] > 0
        classes = torch.arange(logits.shape[1], device=logits.device)
        return logits.softmax(-1), logits.argmax(-1, keepdim=True) == classes, targets[:, None] == classes

    def _f1(self, predicted: Tensor, truth: Tensor) -> float:
        occurs = bool((predicted | truth).any())
        f1 = self._functional.classification.binary_f1_score
        return float(f1(predicted.long(), truth.long())) if occurs else _NAN


class EdgeMetrics(MetricSet):
    """``roc_auc``, ``ap``, ``precision@k`` and ``mrr`` of edges that exist (1) against those that do not (0).

    ``precision@k``: share of existing edges among the k highest scores of the set (all, if there are fewer).
    ``mrr``: mean over the existing edges of 1 / (rank among all non-existing ones), ties half above and half
    below, as in OGB (https://arxiv.org/abs/2005.00687).

    Args:
        k: how many of the highest scores.
    """

    def __init__(self, k: int = 10) -> None:
        self.k = k
        from torchmetrics import functional  # half a second that a regression does not pay

        self._functional: Any = functional
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self._scores: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Logits and targets (0 or 1) [E] or [E, 1]."""
        outputs, targets = align(outputs.detach(), targets)
        self._scores.append(outputs.reshape(-1))
        self._targets.append(targets.reshape(-1))

    def compute(self) -> dict[str, float]:
        """``{"roc_auc", "ap", "precision@k", "mrr"}``."""
        if not self._scores:
            return {"roc_auc": _NAN, "ap": _NAN, "precision@k": _NAN, "mrr": _NAN}
        logits, truth = _double(torch.cat(self._scores)), torch.cat(self._targets) > 0
        precision = self._functional.retrieval.retrieval_precision
        return {
            **_ranking(self._functional, logits.sigmoid()[:, None], truth[:, None]),
            "precision@k": float(precision(logits, truth.long(), top_k=self.k, adaptive_k=True)),
            "mrr": _mean_reciprocal_rank(logits, truth),
        }


def _ranking(functional: Any, score: Tensor, truth: Tensor) -> dict[str, float]:
    """``roc_auc`` and ``ap``: means over the columns that have both kinds of row, or any positive."""
    auc, ap = functional.classification.binary_auroc, functional.classification.binary_average_precision
    columns = [(s, t.long()) for s, t in zip(score.T, truth.T, strict=True) if t.any()]
    return {
        "roc_auc": _mean(float(auc(s, t)) for s, t in columns if not t.all()),
        "ap": _mean(float(ap(s, t)) for s, t in columns),
    }


def _mean_reciprocal_rank(scores: Tensor, truth: Tensor) -> float:
    negatives = scores[~truth].sort().values
    positives = scores[truth]
    above = len(negatives) - torch.searchsorted(negatives, positives, right=True)
    not_below = len(negatives) - torch.searchsorted(negatives, positives)
    return float((1.0 / (1.0 + 0.5 * (above + not_below))).mean()) if len(positives) else _NAN


def _mean(values: Iterable[float]) -> float:
    """Mean of the values that are defined."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else _NAN


def _double(values: Tensor) -> Tensor:
    """In double precision: sums over a set are then exact enough not to depend on their order."""
    return values.cpu().double() if values.device.type == "mps" else values.double()
