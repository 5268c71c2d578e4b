"""Text as tokens of a fixed length, for code completion by filling in a masked span."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)

MARKER = "<sep>"


class TextTokenizer(Protocol):
    """Text to ids and back. ``pad_id``, ``mask_id`` and ``sep_id`` are no text."""

    name: str
    pad_id: int
    mask_id: int
    sep_id: int
    vocab_size: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def to_json(self) -> str: ...


class CharTokenizer:
    """A token for each printable ASCII character and the line end; others are one token, shown as ``?``."""

    name = "chars"
    pad_id, mask_id, sep_id, unk_id = range(4)
    _characters = "\n" + "".join(map(chr, range(32, 127)))

    def __init__(self) -> None:
        self._ids = {c: i + 4 for i, c in enumerate(self._characters)}
        self.vocab_size = len(self._characters) + 4

    def encode(self, text: str) -> list[int]:
        """The ids of the characters; a tab counts as four blanks, ``MARKER`` as one token."""
        parts = text.replace("\t", "    ").split(MARKER)
        ids = [self._ids.get(c, self.unk_id) for c in parts[0]]
        for part in parts[1:]:
            ids.append(self.sep_id)
            ids += [self._ids.get(c, self.unk_id) for c in part]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text; padding and masks leave no trace, the separator is ``MARKER``."""
        special = {self.pad_id: "", self.mask_id: "", self.sep_id: MARKER, self.unk_id: "?"}
        return "".join(special[i] if i in special else self._characters[i - 4] for i in map(int, ids))

    def to_json(self) -> str:
        """Nothing: its name says all."""
        return ""


class SubwordTokenizer:
    """A Hugging Face tokeniser, with ids of our own for padding, mask and separator behind its vocabulary."""

    def __init__(self, backend: Any, name: str) -> None:
        self._backend, self.name = backend, name
        size = backend.get_vocab_size()
        self.pad_id, self.mask_id, self.sep_id, self.vocab_size = size, size + 1, size + 2, size + 3

    def encode(self, text: str) -> list[int]:
        """The ids of the text; ``MARKER`` is one token."""
        ids: list[int] = []
        for i, part in enumerate(text.split(MARKER)):
            ids += [self.sep_id] * (i > 0)
            ids += self._backend.encode(part, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids."""
        parts: list[list[int]] = [[]]
        for i in map(int, ids):
            if i == self.sep_id:
                parts.append([])
            elif i < self.pad_id:
                parts[-1].append(i)
        return MARKER.join(self._backend.decode(part) for part in parts)

    def to_json(self) -> str:
        """The content of a ``tokenizer.json``."""
        return str(self._backend.to_str())


def load_tokenizer(name: str = "chars") -> TextTokenizer:
    """The tokeniser of that name: ``chars``, a folder or file, or a name on the hub.

    What cannot be had is replaced by the character-level one, with a warning.
    """
    if name in ("", "chars"):
        return CharTokenizer()
    try:
        from tokenizers import Tokenizer

        path = Path(name)
        file = path / "tokenizer.json" if path.is_dir() else path
        backend = Tokenizer.from_file(str(file)) if file.is_file() else Tokenizer.from_pretrained(name)
        return SubwordTokenizer(backend, name)
    except Exception as error:  # no package, no network, no such name, a broken file: all have one answer
        why = " ".join(str(error).split()) or type(error).__name__
        log.warning("no tokeniser '%s' (%.200s): falling back to one token a character ('chars')", name, why)
        return CharTokenizer()


def prepare_code_input(context: str, query: str, query_marker: str = MARKER) -> str:
    """The text that the model sees: what is known, the marker, and the code with its gap.

    Args:
        context: what helps: documentation, retrieved snippets. May be empty.
        query: the code.
        query_marker: stands between them.
    """
    return f"{context.strip()}{query_marker}{query}"


def pad_sequence(ids: Sequence[int], length: int, pad_id: int = 0, keep: str = "end") -> list[int]:
    """``ids`` cut or padded on the right to ``length``.

    Args:
        keep: which part of a longer sequence stays: ``end`` (the query stands there) or ``start``.
    """
    if keep not in ("end", "start"):
        raise ValueError(f"keep='{keep}' is not allowed: end or start")
    if len(ids) > length:
        return list(ids[len(ids) - length :] if keep == "end" else ids[:length])
    return [*ids, *[pad_id] * (length - len(ids))]


def tokenize_and_pad(
    texts: Sequence[str], tokenizer: TextTokenizer, length: int, keep: str = "end"
) -> tuple[Tensor, Tensor]:
    """Texts as one tensor.

    Returns:
        Ids [N, length] int64, and where there is a token [N, length] bool.
    """
    rows = [tokenizer.encode(text) for text in texts]
    padded = [pad_sequence(row, length, tokenizer.pad_id, keep) for row in rows]
    ids = torch.tensor(padded, dtype=torch.long).reshape(len(rows), length)
    sizes = torch.tensor([min(len(row), length) for row in rows], dtype=torch.long)
    return ids, torch.arange(length) < sizes[:, None]


_GAP = re.compile(r"_{3,}")  # what a person writes for the masked span


def with_gap(query: str, tokenizer: TextTokenizer, span: int) -> tuple[list[int], int]:
    """Ids of a query whose gap (three or more underscores) is masked, and where the gap begins.

    Raises:
        ValueError: no gap, or more than one.
    """
    gaps = list(_GAP.finditer(query))
    if len(gaps) != 1:
        raise ValueError(f"the code needs one gap of three or more underscores (___), this has {len(gaps)}")
    before = tokenizer.encode(query[: gaps[0].start()])
    after = tokenizer.encode(query[gaps[0].end() :])
    return [*before, *[tokenizer.mask_id] * span, *after], len(before)


class SpanMasking:
    """Hides spans of each sample behind its separator; the labels are their tokens.

    Args:
        tokenizer: of the samples.
        span: tokens that are hidden together; fewer where the code is shorter.
        count: spans of a sample in training. They may overlap.
    """

    def __init__(self, tokenizer: TextTokenizer, span: int, count: int = 1) -> None:
        self.pad_id, self.mask_id, self.sep_id = tokenizer.pad_id, tokenizer.mask_id, tokenizer.sep_id
        self.span, self.count = span, count

    def hide(self, tokens: Any, keys: Any) -> tuple[Any, Any]:
        """``tokens`` [B, L], a random number a span ``keys`` [B, S] -> inputs and labels [B, L] (-100 outside
        of the spans)."""
        length = tokens.shape[1]
        place = np.arange(length)
        is_sep = tokens == self.sep_id
        first = np.where(is_sep.any(1), length - is_sep[:, ::-1].argmax(1), 0)  # behind the last separator
        end = (tokens != self.pad_id).sum(1)  # padding stands on the right
        room = np.maximum(end - first - self.span, 0) + 1
        start = first[:, None] + (keys % room.astype(np.uint64)[:, None]).astype(np.int64)
        stop = np.minimum(start + self.span, end[:, None])
        hidden = ((place >= start[..., None]) & (place < stop[..., None])).any(1)
        return np.where(hidden, self.mask_id, tokens), np.where(hidden, tokens, -100)
