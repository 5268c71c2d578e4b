"""Rows of ids as padded batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """``tokens`` (0 where padded) and ``mask`` [B, L] of rows of ids, of which none is empty."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    mask = np.arange(lengths.max())[None] < lengths[:, None]
    tokens = np.zeros(mask.shape, np.int64)
    tokens[mask] = np.fromiter((i for row in rows for i in row), np.int64, int(lengths.sum()))
    return torch.from_numpy(tokens), torch.from_numpy(mask)
