"""How good translations are, and what they have to beat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.text.bleu import bleu as bleu
from tinsmith.text.bleu import has_sacrebleu as has_sacrebleu

_SEEN = 5000  # training pairs that the nearest-neighbour baseline chooses from


def exact_match(translations: Sequence[str], references: Sequence[str]) -> float:
    """Share of translations that are their reference, letter by letter."""
    return sum(a == b for a, b in zip(translations, references, strict=True)) / max(1, len(references))


def scores(translations: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """``exact_match``, and BLEU and chrF where sacrebleu is installed."""
    found: dict[str, Any] = {"exact_match": exact_match(translations, references)}
    return found | bleu(translations, references) if has_sacrebleu() else found


def most_frequent(targets: Sequence[str]) -> str:
    """The target that occurs most often; of several the first."""
    return Counter(targets).most_common(1)[0][0]


def nearest_targets(
    sources: Sequence[Sequence[int]],
    train_sources: Sequence[Sequence[int]],
    train_targets: Sequence[str],
    vocab_size: int,
) -> list[str]:
    """For each source the target of the training source that is nearest by the cosine of token counts.

    Counts are weighted by inverse document frequency; of the training pairs the first 5,000 are looked at.
    """
    known = _counts(train_sources[:_SEEN], vocab_size)
    weight = np.log((1 + len(known)) / (1 + (known > 0).sum(0))).astype(np.float32) + 1
    known = _unit(known * weight)
    best: list[int] = []
    for first in range(0, len(sources), 500):
        asked = _unit(_counts(sources[first : first + 500], vocab_size) * weight)
        best += (asked @ known.T).argmax(1).tolist()
    return [train_targets[i] for i in best]


def _counts(rows: Sequence[Sequence[int]], vocab_size: int) -> NDArray[np.float32]:
    out = np.zeros((len(rows), vocab_size), np.float32)
    for i, ids in enumerate(rows):
        np.add.at(out[i], list(ids), 1)
    return out


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return unit
