"""What a language model has to beat: no knowledge at all, the frequencies of tokens, and of pairs of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]


def uniform_nats(documents: Sequence[Ids], vocab_size: int) -> float:
    """``ln V`` for each target."""
    return math.log(vocab_size) * sum(max(0, len(ids) - 1) for ids in documents)


def unigram_nats(train: Sequence[Ids], documents: Sequence[Ids], vocab_size: int) -> float:
    """``-ln (c(t) + 1) / (N + V)`` for each target t: add-one smoothing."""
    log_p = _log_unigram(train, vocab_size)
    return -float(sum(log_p[ids[1:]].sum() for ids in documents))


def _log_unigram(train: Sequence[Ids], vocab_size: int) -> NDArray[np.float64]:
    counts = np.bincount(np.concatenate([ids[1:] for ids in train]), minlength=vocab_size) + 1.0
    log_p: NDArray[np.float64] = np.log(counts / counts.sum())
    return log_p


def bigram_nats(train: Sequence[Ids], documents: Sequence[Ids], vocab_size: int) -> float:
    """``-ln (c(s, t) + u p(t)) / (c(s) + u)``: what followed s, and where little did, what is frequent.

    u is the number of different tokens that followed s (Witten and Bell 1991, method C).
    """
    p = np.exp(_log_unigram(train, vocab_size))
    codes = np.concatenate([_pairs(ids, vocab_size) for ids in train])
    known, counts = np.unique(codes, return_counts=True)
    before = known // vocab_size
    total = np.bincount(before, weights=counts, minlength=vocab_size)
    kinds = np.maximum(1.0, np.bincount(before, minlength=vocab_size))
    nats = 0.0
    for ids in documents:
        pairs = _pairs(ids, vocab_size)
        at = np.searchsorted(known, pairs).clip(max=len(known) - 1)
        count = np.where(known[at] == pairs, counts[at], 0)
        s, t = pairs // vocab_size, pairs % vocab_size
        nats -= float(np.log((count + kinds[s] * p[t]) / (total[s] + kinds[s])).sum())
    return nats


def _pairs(ids: Ids, vocab_size: int) -> NDArray[np.int64]:
    wide = ids.astype(np.int64)
    pairs: NDArray[np.int64] = wide[:-1] * vocab_size + wide[1:]
    return pairs
