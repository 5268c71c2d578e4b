"""Data sets of vectors: sentences to be rebuilt, questions with their answers, and both mixed.

Shapes: N rows, B of a batch, Z embedding size; vectors have length one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tinsmith.engine.data import BatchDataset, Loader, derive_seed, sample_order
from tinsmith.errors import DataError
from tinsmith.families.lattice.metrics import AUTOENCODER, DIALOGUE
from tinsmith.families.lattice.vectors import unit_vectors


class VectorPairs(BatchDataset):
    """Rows of an input, a target and what the row is for.

    Args:
        x, y: input and target, unit vectors [N, Z].
        mode: ``AUTOENCODER`` or ``DIALOGUE`` of each row, int64 [N].
        texts: what the two vectors of each row say, where that is known.
        rows: the row that each sample is, int64 [samples]; None: each row once.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        mode: Tensor,
        texts: list[tuple[str, str]] | None = None,
        rows: Tensor | None = None,
    ) -> None:
        self.x, self.y, self.mode, self.texts = x, y, mode, texts
        self.rows = torch.arange(len(x)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """``x``, ``y`` [B, Z] float32, ``mode`` [B] int64."""
        rows = self.rows[indices]
        x = self.x.index_select(0, rows)
        y = x if self.y is self.x else self.y.index_select(0, rows)
        return {"x": x, "y": y, "mode": self.mode[rows]}


class AutoencoderDataset(VectorPairs):
    """Vectors that are their own targets.

    Args:
        vectors: [N, Z] numbers, of any length but zero.
        texts: what they say, N sentences.

    Raises:
        DataError: another shape, a row that is not finite or all zeros, or not as many texts.
    """

    def __init__(self, vectors: Any, texts: Sequence[str] | None = None) -> None:
        x = unit_vectors(vectors, "the sentences' vectors")
        both = None if texts is None else [(text, text) for text in texts]
        super().__init__(x, x, torch.full((len(x),), AUTOENCODER), _as_many(both, len(x)))


class DialogueDataset(VectorPairs):
    """Questions' vectors and their answers'.

    Args:
        questions, answers: [N, Z] numbers each, of any length but zero.
        texts: N questions with their answers.

    Raises:
        DataError: another shape, sizes that differ, a row that is not finite or all zeros.
    """

    def __init__(self, questions: Any, answers: Any, texts: Sequence[tuple[str, str]] | None = None) -> None:
        x = unit_vectors(questions, "the questions' vectors")
        y = unit_vectors(answers, "the answers' vectors", x.shape[1])
        if len(x) != len(y):
            raise DataError(f"{len(x)} questions and {len(y)} answers: each question needs one answer")
        both = None if texts is None else list(texts)
        super().__init__(x, y, torch.full((len(x),), DIALOGUE), _as_many(both, len(x)))


def _as_many(texts: list[tuple[str, str]] | None, count: int) -> list[tuple[str, str]] | None:
    if texts is not None and len(texts) != count:
        raise DataError(f"{len(texts)} texts for {count} vectors: one for each, or none at all")
    return texts


def joined(parts: Sequence[VectorPairs]) -> VectorPairs:
    """The rows of one or several data sets, one after the other.

    Raises:
        DataError: their vectors are of different sizes.
    """
    if len(parts) == 1:
        return parts[0]
    sizes = {part.x.shape[1] for part in parts}
    if len(sizes) > 1:
        raise DataError(
            f"vectors of {' and '.join(map(str, sorted(sizes)))} numbers cannot be mixed: they come from "
            "different teachers; compute all of them with one"
        )
    texts: list[tuple[str, str]] | None = []
    for part in parts:
        texts = None if texts is None or part.texts is None else texts + part.texts
    x, y, mode = (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "y", "mode"))
    return VectorPairs(x, y, mode, texts)


def mixed_loader(
    dataset: VectorPairs, share: float, by: str, batch_size: int, seed: int, num_workers: int = 0
) -> Loader:
    """Batches of both modes, ``share`` of them (in 0..1) of autoencoder rows, and of one mode each.

    Args:
        by: ``batch``: the modes take turns in random order, and the one that has too few rows for its share
            gets some of them more than once an epoch; one or two batches of an epoch, where the modes meet,
            hold both. ``epoch``: each epoch is of one mode, as long as both together, and goes over its rows
            as often as that takes.
    """
    if by == "epoch":
        return EpochsOfOneMode(dataset, share, batch_size, seed, num_workers)
    mixed = VectorPairs(dataset.x, dataset.y, dataset.mode, dataset.texts, _in_shares(dataset.mode, share))
    return Loader(
        mixed,
        batch_size,
        shuffle=True,
        seed=seed,
        num_workers=num_workers,
        lengths=mixed.mode[mixed.rows],  # "batches of nearly equal length": here, of one mode
    )


def _in_shares(mode: Tensor, share: float) -> Tensor:
    """The rows, those of the mode that falls short of its share repeated until it does not."""
    rows = [(mode == number).nonzero()[:, 0] for number in (AUTOENCODER, DIALOGUE)]
    shares = (share, 1 - share)
    total = max(len(own) / part for own, part in zip(rows, shares, strict=True))
    wanted = [max(len(own), round(total * part)) for own, part in zip(rows, shares, strict=True)]
    return torch.cat([own.repeat(-(-n // len(own)))[:n] for own, n in zip(rows, wanted, strict=True)])


class EpochsOfOneMode(Loader):
    """Epochs of autoencoder rows and epochs of dialogue rows, ``share`` of them the former, evenly spread."""

    def __init__(
        self, dataset: VectorPairs, share: float, batch_size: int, seed: int, num_workers: int = 0
    ) -> None:
        super().__init__(dataset, batch_size, shuffle=True, seed=seed, num_workers=num_workers)
        self.share = share
        self._rows = [(dataset.mode == number).nonzero()[:, 0] for number in (AUTOENCODER, DIALOGUE)]

    def order(self, epoch: int) -> Tensor:
        """As many indices as there are rows, all of one mode: a function of (seed, epoch) alone.

        The one method of a loader that decides the order, and all that this one changes.
        """
        first = math.ceil((epoch + 1) * self.share) > math.ceil(epoch * self.share)
        rows = self._rows[AUTOENCODER if first else DIALOGUE]
        n, seed = len(self.dataset), derive_seed(self.seed, epoch)
        passes = [sample_order(len(rows), seed, number) for number in range(-(-n // len(rows)))]
        return rows[torch.cat(passes)[:n]]
