"""What a trained codec is tried on: sentences of its own held-out data, and the calls whose speed counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tinsmith.families.codec.config import CodecConfig
from tinsmith.families.codec.data import read_corpus
from tinsmith.families.codec.predict import Codec

Call = tuple[Callable[[Any], Any], Sequence[Any]]
_WRITTEN = 64  # vectors that are written out for a rate


def texts(cfg: CodecConfig, count: int) -> list[str]:
    """Up to ``count`` held-out sentences of a run's settings, evenly spread. The teacher is not needed."""
    corpus = read_corpus(cfg)
    rows = corpus.test or corpus.valid
    picked = torch.linspace(0, len(rows) - 1, min(count, len(rows))).long().tolist()
    return [rows[i]["text"] for i in picked]


def calls(run_dir: Path, sentences: list[str]) -> dict[str, Call]:
    """What is timed: encoding by either tier, and writing where there is a decoder."""
    codec = Codec.load(run_dir)
    found: dict[str, Call] = {
        "encode": (codec.encode, sentences),
        "encode, static tier": (lambda items: codec.encode(items, tier="static"), sentences),
    }
    if codec.decoder is not None:
        vectors = codec.encode(sentences[:_WRITTEN])
        found["decode"] = (lambda items: codec.decode(torch.stack(list(items))), list(vectors))
    return found
