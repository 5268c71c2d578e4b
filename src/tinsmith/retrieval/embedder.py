"""Texts to unit vectors, by whatever encoder there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.errors import ConfigError

_PRIME = np.uint64(0x100000001B3)  # of the FNV-1a hash


class Encoder(Protocol):
    """Anything with ``encode(texts) -> [N, Z]``: a trained codec, a teacher, a SentenceTransformer."""

    def encode(self, texts: list[str]) -> Any: ...


class TextEmbedder:
    """Texts to vectors of length one.

    Args:
        encoder: an object with ``encode`` (``Codec.load("runs/codec/0001")``); ``"chars"`` for hashed
            n-grams of characters, which need no model; else a teacher's preset, folder or hub name.
        batch_size: texts that are handed over at once.
    """

    def __init__(self, encoder: str | Encoder = "chars", batch_size: int = 256) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} is not allowed: 1 or more")
        self.batch_size = batch_size
        self.name = encoder if isinstance(encoder, str) else type(encoder).__name__
        self._encoder: Encoder = _by_name(encoder) if isinstance(encoder, str) else encoder
        self._size = 0

    @property
    def size(self) -> int:
        """Z."""
        if not self._size:
            self._size = self.encode(["size"]).shape[1]
        return self._size

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [N, Z] float32, on the CPU; an empty text counts as a blank."""
        if isinstance(texts, str):
            raise TypeError("encode takes a list of texts, not one string")
        texts = [text or " " for text in texts]
        parts = [
            torch.as_tensor(self._encoder.encode(texts[i : i + self.batch_size])).float().cpu()
            for i in range(0, len(texts), self.batch_size)
        ]
        return F.normalize(torch.cat(parts), dim=-1) if parts else torch.zeros(0, self._size)


def _by_name(name: str) -> Encoder:
    if name == "chars":
        return CharEncoder()
    from tinsmith.text.teachers import EmbeddingLoader  # transformers: seconds

    return EmbeddingLoader(name)


class CharEncoder:
    """Hashed n-grams of characters: the feature hashing of Weinberger et al. 2009 (arXiv:0902.2206).

    Each n-gram adds a sign to one of Z places; counts enter as square roots. No training, no package.

    Args:
        size: Z. lengths: n of the n-grams.
    """

    def __init__(self, size: int = 384, lengths: Sequence[int] = (3, 4, 5)) -> None:
        self.size, self.lengths = size, tuple(lengths)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[N, Z], length one (zero for a text without a character)."""
        out = np.zeros((len(texts), self.size), np.float32)
        for row, text in zip(out, texts, strict=True):
            codes, counts = np.unique(self._grams(text), return_counts=True)
            signs = np.where(codes & np.uint64(1), 1.0, -1.0)
            np.add.at(
                row,
                ((codes >> np.uint64(1)) % np.uint64(self.size)).astype(np.int64),
                signs * np.sqrt(counts),
            )
        norms = np.linalg.norm(out, axis=1, keepdims=True)
        unit: NDArray[np.float32] = out / np.maximum(norms, 1e-12)
        return unit

    def _grams(self, text: str) -> NDArray[np.uint64]:
        """A hash of each n-gram of the text, between two blanks and in lower case."""
        plain = " ".join(text.lower().split())
        data = np.frombuffer(f" {plain} ".encode(errors="replace"), np.uint8).astype(np.uint64)
        parts = []
        for n in self.lengths:
            count = max(0, len(data) - n + 1)
            hashed = np.full(count, n, np.uint64)
            for i in range(n):
                hashed = (hashed ^ data[i : i + count]) * _PRIME
                hashed ^= hashed >> np.uint64(29)
            parts.append(hashed)
        return np.concatenate(parts)
