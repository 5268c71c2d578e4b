"""Pairs of sentences that people scored by how alike they are, such as the STS benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tinsmith.errors import DataError
from tinsmith.families.codec.measure import spearman
from tinsmith.text.records import Records, read_records


@dataclass(frozen=True, slots=True)
class Pairs:
    """``left`` and ``right`` N sentences each, ``score`` [N]: the higher the more alike."""

    left: list[str]
    right: list[str]
    score: Tensor

    def correlation(self, encode: Callable[[list[str]], Tensor]) -> float:
        """Spearman of the cosines of ``encode``'s unit vectors with the scores."""
        return spearman((encode(self.left) * encode(self.right)).sum(-1), self.score)


def load_pairs(path: str, columns: Mapping[str, str]) -> Pairs:
    """The pairs of a file with the fields ``text``, ``other`` and ``score``, under these or other names.

    Raises:
        DataError: a field is missing or wrong; names file and line.
    """
    names = {field: columns[field] for field in ("text", "other") if field in columns}
    records = read_records(path, {"text", "other"}, names)
    rows = [
        (row["text"], row["other"], _score(row, records, columns.get("score", "score"))) for row in records
    ]
    left, right, scores = zip(*rows, strict=True)
    return Pairs(list(left), list(right), torch.tensor(scores))


def _score(row: dict[str, Any], records: Records, column: str) -> float:
    if column not in row:
        has = ", ".join(f"'{name}'" for name in row)
        raise DataError(
            f"{records.where()}: no field '{column}'; it has: {has}; set data.pair_columns.score=<name>"
        )
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{records.where()}: field '{column}' is {row[column]!r:.40}, not a number")
    return value
