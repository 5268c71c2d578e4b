"""What a decoder learns to write: texts as ids of its own vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.errors import DataError
from tinsmith.families.codec.decoder import EOS, PAD
from tinsmith.text.digests import TextDigest, value_digest
from tinsmith.text.teachers import EmbeddingLoader
from tinsmith.text.tokenizer import Tokenizer


class Targets:
    """Texts as padded batches of ids, each with its EOS; one that was cut has none.

    Args:
        ids: all ids in a row. offsets: where each text begins and ends [N + 1].
    """

    def __init__(self, ids: NDArray[np.int32], offsets: NDArray[np.int64]) -> None:
        self._ids, self._offsets = ids, offsets

    @classmethod
    def of(cls, texts: Sequence[str], writer: Tokenizer, lower: bool, max_len: int) -> Targets:
        """The targets of texts, of at most ``max_len`` ids with the EOS."""
        rows = [
            [*row, EOS][:max_len]
            for row in writer.encode_batch([text.lower() for text in texts] if lower else texts)
        ]
        flat = np.fromiter((i for row in rows for i in row), np.int32)
        return cls(flat, np.concatenate([[0], np.cumsum([len(row) for row in rows])]))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def batch(self, indices: Tensor) -> Tensor:
        """The ids of texts [B, T], PAD behind them."""
        rows = indices.numpy()
        start = self._offsets[rows]
        lengths = self._offsets[rows + 1] - start
        column = np.arange(lengths.max())[None]
        inside = column < lengths[:, None]
        ids = self._ids[np.where(inside, start[:, None] + column, 0)]
        return torch.from_numpy(np.where(inside, ids, PAD).astype(np.int64))

    def log_share(self, vocab_size: int) -> Tensor:
        """log of each id's share of all ids [V]; one that never occurs counts as if it did half a time."""
        count = np.maximum(np.bincount(self._ids, minlength=vocab_size), 0.5)
        return torch.from_numpy(np.log(count / count.sum())).float()


def fit_writer(texts: Sequence[str], vocab_size: int, lower: bool, cache: Path) -> Tokenizer:
    """The vocabulary that a decoder writes by, fitted once for a corpus and kept in ``cache``."""
    digest = TextDigest()
    for text in texts:
        digest.update(text)
    folder = cache / value_digest({"texts": digest.hexdigest(), "size": vocab_size, "lower": lower})
    try:
        return Tokenizer.load(folder)
    except DataError:
        writer = Tokenizer.fit([text.lower() for text in texts] if lower else texts, vocab_size)
        writer.save(folder)
        return writer


def ignores_case(teacher: EmbeddingLoader) -> bool:
    """Whether a teacher gives a text the same vector in lower case: then no vector tells of it."""
    one, two = torch.from_numpy(teacher.encode(["The Tin Smith", "the tin smith"]))
    return bool(torch.allclose(one, two, atol=1e-5))
