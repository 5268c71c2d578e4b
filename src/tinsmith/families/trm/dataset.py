"""Samples as arrays, batches with their symmetries drawn on the fly, and splits that do not leak."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.engine.data import AugmentedDataset
from tinsmith.families.trm.sudoku import Ints
from tinsmith.families.trm.symmetry import Keys, draw_keys

Rows = NDArray[np.integer[Any]]


class Symmetry(Protocol):
    """``count`` random numbers a sample; called with them, it gives what happens to a row of tokens."""

    @property
    def count(self) -> int: ...

    def __call__(self, keys: Keys) -> Callable[[Rows], Rows]: ...


class Masking(Protocol):
    """Hides a part of a sample, of its input and its labels, for each of ``count`` random numbers."""

    @property
    def count(self) -> int: ...

    def hide(self, tokens: Rows, keys: Keys) -> tuple[Rows, Rows]: ...


@dataclass(slots=True)
class Samples:
    """``inputs``, ``labels`` [N, L] (small integers, -100 where a cell does not count), and how hard each
    sample is [N] (more is harder)."""

    inputs: Rows
    labels: Rows
    hardness: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, rows: Any) -> Samples:
        return Samples(self.inputs[rows], self.labels[rows], self.hardness[rows])


class GridDataset(AugmentedDataset):
    """Samples by index.

    Args:
        samples: N of them.
        symmetry: drawn for each sample in each epoch; None: the samples as they are.
        masking: what hides part of a sample, drawn likewise; ``labels`` are not used then.
        hard_first: whether the hardest sample has the lowest rank.
    """

    def __init__(
        self,
        samples: Samples,
        symmetry: Symmetry | None = None,
        masking: Masking | None = None,
        hard_first: bool = True,
    ) -> None:
        self.samples, self.symmetry, self.masking = samples, symmetry, masking
        order = np.argsort(-samples.hardness if hard_first else samples.hardness, kind="stable")
        rank = np.empty(len(samples), np.float32)
        rank[order] = (np.arange(len(samples)) + 1) / max(1, len(samples))
        self.rank = rank

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """``inputs``, ``labels`` [B, L] int64; ``rank`` [B], above 0 to 1. No symmetry; masks of epoch 0."""
        return self._batch(indices, None, 0, 0)

    def augmented(self, indices: Tensor, seed: int, epoch: int) -> dict[str, Tensor]:
        """As ``batch``, with what (seed, epoch, index) draw."""
        return self._batch(indices, self.symmetry, seed, epoch)

    def _batch(self, indices: Tensor, symmetry: Symmetry | None, seed: int, epoch: int) -> dict[str, Tensor]:
        rows = indices.numpy()
        part = self.samples[rows]
        inputs, labels = part.inputs, part.labels
        if symmetry is not None:
            change = symmetry(draw_keys(seed, epoch, rows, symmetry.count))
            inputs, labels = change(inputs), change(labels)
        if self.masking is not None:
            inputs, labels = self.masking.hide(inputs, draw_keys(seed, epoch, rows, self.masking.count))
        return {
            "inputs": torch.from_numpy(inputs.astype(np.int64)),
            "labels": torch.from_numpy(labels.astype(np.int64)),
            "rank": torch.from_numpy(self.rank[rows]),
        }


def split_by_class(
    classes: Sequence[Any] | NDArray[Any], sizes: tuple[int, int], train: int, seed: int
) -> tuple[Ints, Ints, Ints]:
    """Rows of train, valid and test, no class in two of them.

    Args:
        classes: of each row (rows that a symmetry makes one are of one class).
        sizes: rows of valid and test. Where one large class would overshoot them, it is cut.
        train: rows of train, at most; 0: all that are left.
        seed: of the order in which classes are dealt out.

    Returns:
        Three arrays of row numbers. What is left of a class that was cut belongs to nobody.
    """
    _, number = np.unique(np.asarray(classes), return_inverse=True)
    number = number.ravel()
    rng = np.random.default_rng(seed)
    place = rng.permutation(int(number.max(initial=-1)) + 1)[number]
    order = np.lexsort((rng.random(len(number)), place))  # class by class
    ends = np.nonzero(np.diff(place[order], append=-1))[0] + 1  # where a class ends
    parts, start = [], 0
    for size in sizes:
        wanted = min(start + size, len(order))
        end = int(ends[np.searchsorted(ends, wanted)]) if wanted > start else start
        parts.append(order[start : min(wanted, end)])
        start = end
    rest = rng.permutation(order[start:])
    return rest[: train or None], parts[0], parts[1]
