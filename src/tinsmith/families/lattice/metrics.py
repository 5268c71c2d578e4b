"""How near predicted vectors are to the true ones: cosines and ranks.

Two true answers to one question agree only to a cosine of about 0.46, and the mean answer alone scores well
by cosine: of a dialogue model, ranks say more. Shapes: N rows, Z embedding size; vectors have length one.
Imports torch alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.errors import DataError

MODES = ("autoencoder", "dialogue")  # by the number that a row's ``mode`` holds
AUTOENCODER, DIALOGUE = range(len(MODES))
WATCHED = {"autoencoder": "cosine", "dialogue": "accuracy_1_of_100"}  # what decides which weights are best
CANDIDATES = 100  # answers of which one is the true one

_AT_ONCE = 1024  # rows whose scores against all answers are in memory together

Share = tuple[Tensor, Tensor]  # predicted and true vectors, [N, Z] each


def calculate_embedding_similarity(first: Any, second: Any, centre: Tensor | None = None) -> Tensor:
    """Cosines of vectors, row by row.

    Args:
        first, second: [N, Z], or [Z]; tensors, arrays or lists of numbers.
        centre: [Z], taken off both before: what all vectors have in common then counts for nothing.

    Returns:
        [N] float32, or a scalar for two single vectors.

    Raises:
        DataError: the shapes differ, or a number is not finite.
    """
    a, b = (torch.as_tensor(value, dtype=torch.float32) for value in (first, second))
    if a.shape != b.shape or a.ndim not in (1, 2):
        raise DataError(
            f"vectors {list(a.shape)} and {list(b.shape)} cannot be compared: give both as [N, Z] or as [Z]"
        )
    for name, value in (("first", a), ("second", b)):
        if not torch.isfinite(value).all():
            row = int((~torch.isfinite(value.view(-1, value.shape[-1]))).any(1).nonzero()[0])
            raise DataError(f"row {row} of the {name} vectors is not finite")
    return F.cosine_similarity(a, b, dim=-1) if centre is None else _cosine(a - centre, b - centre)


def cosine_metrics(predicted: Tensor, true: Tensor) -> dict[str, float]:
    """``cosine`` and its 10th percentile, ``cosine_p10``, of [N, Z] against [N, Z]."""
    cosine = _cosine(predicted, true)
    return {"cosine": float(cosine.mean()), "cosine_p10": float(torch.quantile(cosine, 0.1))}


def dialogue_metrics(predicted: Tensor, true: Tensor, mean: Tensor, seed: int = 0) -> dict[str, float]:
    """All that is measured of predicted answers.

    * ``cosine`` to the true answer; ``cosine_shuffled`` to the others' answers (the mean over all of them);
      ``gap``, the first minus the second: what knowing the question is worth
    * ``cosine_centred``: with the mean answer taken off both
    * ``accuracy_1_of_100``, ``mrr``: of the true answer among 99 others, drawn with ``seed``
    * ``relevance``: the mean share of all other answers that the true one beats; 0.5 is chance

    Args:
        predicted, true: [N, Z]. mean: the mean answer of the training set [Z], as it is, not of length one.
    """
    cosine = float(_cosine(predicted, true).mean())
    shuffled = _shuffled_cosine(predicted, true)
    better, ties = ranks_of_blocks(predicted, true, seed)
    return {
        "cosine": cosine,
        "cosine_shuffled": shuffled,
        "gap": cosine - shuffled,
        "cosine_centred": float(_cosine(predicted - mean, true - mean).mean()),
        "accuracy_1_of_100": accuracy(better, ties),
        "mrr": float((1 / (1 + better + ties / 2)).mean()),
        "relevance": relevance_score(predicted, true),
    }


def relevance_score(predicted: Tensor, true: Tensor) -> float:
    """Mean percentile rank of the true answer among all of them [N, Z]; ties count half, 0.5 is chance."""
    n = len(true)
    beaten = torch.zeros(n, dtype=torch.float64)
    for first in range(0, n, _AT_ONCE):
        scores = predicted[first : first + _AT_ONCE] @ true.T
        own = scores.diagonal(first)[:, None]
        ties = (scores == own).sum(1) - 1
        beaten[first : first + _AT_ONCE] = (scores < own).sum(1) + ties / 2
    return float(beaten.mean() / (n - 1)) if n > 1 else float("nan")


def ranks_of_blocks(
    predicted: Tensor, true: Tensor, seed: int, size: int = CANDIDATES
) -> tuple[Tensor, Tensor]:
    """How many answers of its block score better than the true one, and how many the same: both [N] float64.

    The rows are shuffled and cut into blocks of ``size`` (all, where there are fewer). The last block is
    filled up with rows of the one before: each row has the same number of rivals.
    """
    n, size = len(true), min(size, len(true))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    better, ties = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    for first in range(0, n, size):
        block = order[min(first, n - size) :][:size]  # the rows that come twice are overwritten
        scores = predicted[block] @ true[block].T
        own = scores.diagonal()[:, None]
        better[block] = (scores > own).sum(1).double()
        ties[block] = (scores == own).sum(1).double() - 1
    return better, ties


def accuracy(better: Tensor, ties: Tensor) -> float:
    """Share of the rows whose true answer scores best; of k that tie for it, the true one counts 1/k."""
    return float(((better == 0) / (1 + ties)).mean())


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a.float(), b.float(), dim=-1)


def _shuffled_cosine(predicted: Tensor, true: Tensor) -> float:
    """The mean cosine of a prediction and another row's truth, over all such pairs, in closed form."""
    n = len(true)
    predicted, true = predicted.double(), true.double()
    every = predicted.sum(0) @ true.sum(0) - (predicted * true).sum()
    return float(every / (n * (n - 1))) if n > 1 else float("nan")


def score(
    shares: Mapping[str, Share], mean: Tensor | None = None, seed: int = 0, mixed: bool = False
) -> dict[str, float]:
    """The metrics of a set by what its rows are for.

    Args:
        shares: ``autoencoder``, ``dialogue`` or both, each with its predicted and true vectors.
        mean: the mean answer of the training set [Z], for dialogue rows; None: that of the true ones.
        mixed: put each share's name before its metrics (``dialogue_mrr``), and add ``score``, the mean of
            what is watched of each.
    """
    each = {}
    for name, (predicted, true) in shares.items():
        if name == "dialogue":
            each[name] = dialogue_metrics(predicted, true, true.mean(0) if mean is None else mean, seed)
        else:
            each[name] = cosine_metrics(predicted, true)
    if not mixed:
        return {key: value for metrics in each.values() for key, value in metrics.items()}
    watched = sum(metrics[WATCHED[name]] for name, metrics in each.items()) / len(each)
    named = {f"{name}_{key}": value for name, metrics in each.items() for key, value in metrics.items()}
    return {"score": watched, **named}


class EmbeddingMetrics:
    """``dialogue_metrics`` and ``cosine_p10`` over a set that comes in batches of any size.

    ``metrics.update(predicted, true)`` with each batch, ``metrics.compute()`` at the end.

    Args:
        mean: the mean answer [Z] that centred cosines take off; None: that of the vectors themselves.
        seed: of the draw of the rivals.
    """

    def __init__(self, mean: Tensor | None = None, seed: int = 0) -> None:
        self.mean, self.seed = mean, seed
        self._predicted: list[Tensor] = []
        self._true: list[Tensor] = []

    def update(self, predicted: Tensor, true: Tensor) -> None:
        """Take in a batch of vectors [B, Z], of any length but zero.

        Raises:
            DataError: the shapes differ, or a number is not finite.
        """
        calculate_embedding_similarity(predicted.detach().cpu(), true.detach().cpu())
        for kept, vectors in ((self._predicted, predicted), (self._true, true)):
            kept.append(F.normalize(vectors.detach().float().cpu(), dim=-1))

    def compute(self) -> dict[str, float]:
        """The values over all batches since ``reset``.

        Raises:
            DataError: there were none.
        """
        if not self._true:
            raise DataError("no vectors to measure: call update with at least one batch first")
        predicted, true = torch.cat(self._predicted), torch.cat(self._true)
        mean = true.mean(0) if self.mean is None else self.mean
        return {**cosine_metrics(predicted, true), **dialogue_metrics(predicted, true, mean, self.seed)}

    def relevance_score(self) -> float:
        """``compute()["relevance"]``."""
        return self.compute()["relevance"]

    def reset(self) -> None:
        """Start anew."""
        self._predicted.clear()
        self._true.clear()
