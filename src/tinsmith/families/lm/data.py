"""A language model's data: windows over a stream of tokens, or rows packed with whole documents.

Shapes: B batch, T context, N tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.engine.contract import Data
from tinsmith.engine.data import BatchDataset, Loader
from tinsmith.errors import DataError
from tinsmith.families.lm.config import LMConfig
from tinsmith.families.lm.documents import load_documents
from tinsmith.families.lm.model import IGNORED, LMSpec
from tinsmith.families.lm.tokens import ByteTokenizer, CharTokenizer, Tokens, cut, encode_documents
from tinsmith.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

Ids = NDArray[np.int32]


class StreamDataset(BatchDataset):
    """Windows of T tokens over one stream, each token's target the next one.

    Args:
        ids: the stream [N]; documents one behind the other, BOS in front of each.
        context: T. stride: from one window's first token to the next one's; T: none overlap, and every token
            but the first is a target exactly once.
    """

    def __init__(self, ids: Ids, context: int, stride: int = 0) -> None:
        if len(ids) < 2:
            raise DataError(f"a text of {len(ids)} tokens has nothing to predict")
        self.context, stride = context, stride or context
        self._ids = torch.from_numpy(np.concatenate([ids, np.zeros(context, np.int32)]))
        self._size = len(ids)
        last = max(1, len(ids) - 1 if stride == context else len(ids) - context)
        self._starts = torch.arange(0, last, stride)

    def __len__(self) -> int:
        return len(self._starts)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """``tokens`` and ``targets`` [B, T], int64; targets beyond the end of the stream do not count."""
        place = self._starts[indices][:, None] + torch.arange(self.context + 1)
        window = self._ids[place.clamp(max=len(self._ids) - 1)].long()
        targets = window[:, 1:].masked_fill(place[:, 1:] >= self._size, IGNORED)
        return {"tokens": window[:, :-1], "targets": targets}


class PackedDataset(BatchDataset):
    """Rows of T tokens that hold whole documents (or pieces of T of a longer one), each seen by itself.

    Args:
        documents: ids of each, BOS in front.
        context: T.
    """

    def __init__(self, documents: Sequence[Ids], context: int) -> None:
        self.context = context
        self._pieces = [piece for ids in documents for piece in split_document(ids, context + 1)]
        if not self._pieces:
            raise DataError("no document of two tokens or more: there is nothing to predict")
        self._rows = best_fit([len(piece) - 1 for piece in self._pieces], context)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """``tokens``, ``targets``, ``segments`` (0: padding), ``positions`` in a segment, all [B, T]."""
        shape = (len(indices), self.context)
        tokens, segments, positions = (np.zeros(shape, np.int64) for _ in range(3))
        targets = np.full(shape, IGNORED, np.int64)
        for row, index in enumerate(indices.tolist()):
            at = 0
            for number, which in enumerate(self._rows[index], 1):
                piece = self._pieces[which]
                where = slice(at, at + len(piece) - 1)
                tokens[row, where], targets[row, where] = piece[:-1], piece[1:]
                segments[row, where], positions[row, where] = number, np.arange(len(piece) - 1)
                at += len(piece) - 1
        parts = {"tokens": tokens, "targets": targets, "segments": segments, "positions": positions}
        return {name: torch.from_numpy(value) for name, value in parts.items()}


def split_document(ids: Ids, size: int) -> list[Ids]:
    """Pieces of at most ``size`` ids, each from the last id of the one before on: no target is lost."""
    bounds = [*range(0, max(1, len(ids) - 1), size - 1), len(ids) - 1]
    return [ids[a : b + 1] for a, b in pairwise(bounds) if b > a]


def best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Put items into as few bins as this can: the largest first, each where the least room is left over.

    Args:
        sizes: of the items, 1 to ``capacity`` each.

    Returns:
        The items of each bin.
    """
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # bins by the room that they have
    bins: list[list[int]] = []
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        size = sizes[item]
        room = next((r for r in range(size, capacity + 1) if with_room[r]), None)
        if room is None:
            bins.append([])
            at, room = len(bins) - 1, capacity
        else:
            at = with_room[room].pop()
        bins[at].append(item)
        with_room[room - size].append(at)
    return bins


def build_data(cfg: LMConfig) -> Data:
    """Documents, their tokens, and windows or rows of each split.

    Raises:
        DataError: the files are not what they should be, or hold too little text.
        MissingExtraError: ``data.level=bpe`` without the package ``tokenizers``.
    """
    documents = load_documents(cfg.data, cfg.seed)
    tokens = fit_tokens(cfg, documents.train)
    ids = {name: encode_documents(tokens, getattr(documents, name)) for name in ("train", "valid", "test")}
    counts = {name: sum(map(len, parts)) for name, parts in ids.items()}
    log.info(
        "%s; %d kinds of tokens", ", ".join(f"{n} {c:,} tokens" for n, c in counts.items()), tokens.vocab_size
    )
    loaders: dict[str, Loader | None] = {"test": None}
    for name, parts in ids.items():
        if parts:
            train = name == "train"
            size = cfg.trainer.batch_size if train else 64
            dataset = make_dataset(cfg, parts, train)
            workers = cfg.trainer.num_workers if train else 0
            loaders[name] = Loader(dataset, size, shuffle=train, seed=cfg.seed, num_workers=workers)
    if loaders.get("valid") is None:
        raise DataError("a validation split is needed: set data.valid, or give more text")
    spec = LMSpec(
        vocab_size=tokens.vocab_size,
        context=cfg.data.context,
        level=cfg.data.level,
        byte_lengths=tuple(tokens.byte_lengths()),
    )
    joined = cfg.data.packing == "stream"  # the last token of a document predicts the next one's BOS
    artifacts = {"tokens": tokens, "documents": documents, "ids": ids, "joined": joined}
    return Data(loaders["train"], loaders["valid"], loaders["test"], spec, artifacts)


def make_dataset(cfg: LMConfig, documents: list[Ids], train: bool) -> BatchDataset:
    """The windows or rows of a split; those of a held-out split never overlap."""
    if cfg.data.packing == "fit":
        return PackedDataset(documents, cfg.data.context)
    return StreamDataset(np.concatenate(documents), cfg.data.context, cfg.data.stride if train else 0)


def fit_tokens(cfg: LMConfig, documents: list[str]) -> Tokens:
    """The tokens of ``data.level``, from the training split alone."""
    if cfg.data.level == "char":
        return CharTokenizer.fit("".join(sorted(set().union(*map(set, documents)))))
    if cfg.data.level == "byte":
        return ByteTokenizer()
    return Tokenizer.fit((piece for text in documents for piece in cut(text, 2000)), cfg.data.vocab_size)
