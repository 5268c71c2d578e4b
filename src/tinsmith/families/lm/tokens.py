"""Tokens that need no training: characters and bytes. Byte pairs are ``text.tokenizer.Tokenizer``.

All three have the same methods, and the special ids PAD 0, BOS 1, EOS 2, UNK 3.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tinsmith.durable import replace_bytes
from tinsmith.errors import DataError
from tinsmith.text import tokenizer as pairs
from tinsmith.text.tokenizer import SPECIALS, Tokenizer

CHARS = "characters.json"
_FIRST = len(SPECIALS)  # the first id of a character or byte
_PIECE = 20_000  # characters that the byte-pair encoder gets at once


class Tokens(Protocol):
    """Text to ids and back."""

    pad_id: int
    bos_id: int
    eos_id: int
    unk_id: int

    @property
    def vocab_size(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def byte_lengths(self) -> list[int]: ...
    def save(self, folder: str | Path) -> None: ...


class CharTokenizer:
    """A token for each character of a text; one that was not there is UNK, shown as the replacement mark.

    Args:
        characters: all of them, in the order of their ids from 4 on.
    """

    pad_id, bos_id, eos_id, unk_id = range(_FIRST)

    def __init__(self, characters: str) -> None:
        if len(set(characters)) != len(characters):
            raise DataError("a character stands twice in the vocabulary")
        self.characters = characters
        self._points = np.array([ord(c) for c in characters], np.uint32)
        self._order = np.argsort(self._points)

    @classmethod
    def fit(cls, text: str) -> CharTokenizer:
        """The characters of a text, sorted."""
        return cls("".join(sorted(set(text))))

    @property
    def vocab_size(self) -> int:
        """Characters and the four special tokens."""
        return _FIRST + len(self.characters)

    def encode_array(self, text: str) -> NDArray[np.int32]:
        """The ids of a text, fast for megabytes."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        if not len(self.characters):
            return np.full(len(points), self.unk_id, np.int32)
        ordered = self._points[self._order]
        at = np.searchsorted(ordered, points).clip(max=len(ordered) - 1)
        ids: NDArray[np.int32] = np.where(ordered[at] == points, self._order[at] + _FIRST, self.unk_id)
        return ids.astype(np.int32)

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids up to the first EOS; PAD and BOS are left out."""
        kept = _shown(ids, self.eos_id, (self.pad_id, self.bos_id))
        return "".join("\ufffd" if i == self.unk_id else self.characters[i - _FIRST] for i in kept)

    def byte_lengths(self) -> list[int]:
        """UTF-8 bytes of each id; UNK counts as one."""
        return [0, 0, 0, 1, *(len(c.encode("utf-8", "surrogatepass")) for c in self.characters)]

    def save(self, folder: str | Path) -> None:
        """Write ``characters.json``."""
        replace_bytes(Path(folder) / CHARS, json.dumps({"characters": self.characters}).encode())

    @classmethod
    def load(cls, folder: str | Path) -> CharTokenizer:
        """Load what ``save`` wrote; a damaged file is a ``DataError``."""
        path = Path(folder) / CHARS
        try:
            characters = json.loads(path.read_bytes())["characters"]
            if not isinstance(characters, str):
                raise ValueError("characters is not a text")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path}: no characters here, or a damaged file: {error}") from None
        return cls(characters)


class ByteTokenizer:
    """A token for each UTF-8 byte: nothing to fit, every text round-trips."""

    pad_id, bos_id, eos_id, unk_id = range(_FIRST)
    vocab_size = _FIRST + 256

    def encode_array(self, text: str) -> NDArray[np.int32]:
        """The ids of a text, fast for megabytes."""
        return np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int32) + _FIRST

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids up to the first EOS; the others of the special tokens are left out."""
        kept = _shown(ids, self.eos_id, (self.pad_id, self.bos_id, self.unk_id))
        return bytes(i - _FIRST for i in kept).decode("utf-8", "replace")

    def byte_lengths(self) -> list[int]:
        """One for each byte."""
        return [0] * _FIRST + [1] * 256

    def save(self, folder: str | Path) -> None:
        """Nothing has to be kept."""


def _shown(ids: Iterable[int], end: int, without: tuple[int, ...]) -> list[int]:
    """The ids before the end, but for those that are not text."""
    kept = []
    for i in ids:
        if i == end:
            break
        if i not in without:
            kept.append(int(i))
    return kept


def encode_documents(tokens: Tokens, documents: Sequence[str]) -> list[NDArray[np.int32]]:
    """The ids of each document, BOS in front."""
    if isinstance(tokens, CharTokenizer | ByteTokenizer):
        parts = [tokens.encode_array(text) for text in documents]
    else:
        assert isinstance(tokens, Tokenizer)
        parts = [_encode_long(tokens, text) for text in documents]
    return [np.concatenate([np.array([tokens.bos_id], np.int32), part]) for part in parts]


def _encode_long(tokenizer: Tokenizer, text: str) -> NDArray[np.int32]:
    """Piece by piece, cut behind line ends: the encoder keeps far more than the ids of what it gets."""
    rows = tokenizer.encode_batch(cut(text, _PIECE))
    return np.fromiter((i for row in rows for i in row), np.int32)


def cut(text: str, size: int) -> list[str]:
    """Pieces of about ``size`` characters that end where a line does; together they are the text."""
    pieces, start = [], 0
    while start < len(text):
        end = text.find("\n", start + size)
        end = len(text) if end < 0 else end + 1
        pieces.append(text[start:end])
        start = end
    return pieces


def files_of(level: str) -> tuple[str, ...]:
    """The files that a model's folder keeps of its tokens."""
    return {"char": (CHARS,), "byte": (), "bpe": (pairs.FILE, pairs.META)}[level]


def load_tokens(level: str, folder: Path) -> Tokens:
    """The tokens of a model's folder."""
    if level == "char":
        return CharTokenizer.load(folder)
    return ByteTokenizer() if level == "byte" else Tokenizer.load(folder)
