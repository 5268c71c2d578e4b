"""An encoder-decoder's data: pairs as ids, in batches of nearly one length.

Shapes: B batch, S source length, T target length.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith.engine.contract import Data
from tinsmith.engine.data import BatchDataset, Loader
from tinsmith.errors import DataError
from tinsmith.families.seq2seq.config import Seq2SeqConfig
from tinsmith.families.seq2seq.model import Seq2SeqSpec
from tinsmith.families.seq2seq.pairs import Pair, load_pairs, train_joint_bpe_tokenizer
from tinsmith.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_LONGEST = 1 << 20  # more tokens than any text has: what a target's length weighs in the order


class PairDataset(BatchDataset):
    """Pairs by index, as padded batches of ids.

    Args:
        sources: ids of each source, EOS behind. targets: ids of each target, BOS in front and EOS behind.

    Attributes:
        lengths: what to sort by for batches of little padding [N]: by the target's length, then the source's.
    """

    def __init__(
        self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], pad_id: int = 0
    ) -> None:
        self._sides = [_Flat(sources), _Flat(targets)]
        self.pad_id = pad_id
        source, target = (torch.from_numpy(side.lengths) for side in self._sides)
        self.lengths = target * _LONGEST + source

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """``src`` [B, S] and ``tgt`` [B, T + 1], int64."""
        src, tgt = (side.padded(indices.numpy(), self.pad_id) for side in self._sides)
        return {"src": src, "tgt": tgt}


class _Flat:
    """Rows of unequal length in one array."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        self._ids = np.fromiter((i for row in rows for i in row), np.int32, int(self.lengths.sum()))
        self._starts = np.concatenate([[0], self.lengths.cumsum()])[:-1]

    def padded(self, rows: NDArray[np.int64], pad: int) -> Tensor:
        """[B, L], L the longest of the rows."""
        lengths = self.lengths[rows]
        column = np.arange(lengths.max())[None]
        mask = column < lengths[:, None]
        ids = self._ids[np.where(mask, self._starts[rows][:, None] + column, 0)]
        return torch.from_numpy(np.where(mask, ids, pad).astype(np.int64))


def encode_pairs(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of the sources (EOS behind) and of the targets (BOS in front, EOS behind)."""
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    sources = tokenizer.encode_batch([source for source, _ in pairs])
    targets = tokenizer.encode_batch([target for _, target in pairs])
    return [[*ids, eos] for ids in sources], [[bos, *ids, eos] for ids in targets]


def build_data(cfg: Seq2SeqConfig) -> Data:
    """Pairs, the joint byte pairs of the training split, and batches by length.

    Raises:
        DataError: the files are not what they should be; a held-out text is longer than ``data.max_len``.
        MissingExtraError: the package ``tokenizers`` is not installed.
    """
    pairs = load_pairs(cfg.data, cfg.seed)
    sources, targets = ([pair[side] for pair in pairs.train] for side in (0, 1))
    tokenizer = train_joint_bpe_tokenizer(
        sources, targets, cfg.data.vocab_size, cfg.data.min_frequency, split_digits=cfg.data.split_digits
    )
    loaders: dict[str, Loader | None] = {}
    for name in ("train", "valid", "test"):
        chosen = getattr(pairs, name)
        loaders[name] = _loader(cfg, tokenizer, chosen, name) if chosen else None
    if loaders["valid"] is None:
        raise DataError("a validation split is needed: set data.valid, or give more pairs")
    spec = Seq2SeqSpec(
        tokenizer.vocab_size,
        cfg.data.max_len,
        tokenizer.pad_id,
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.unk_id,
    )
    artifacts = {"tokenizer": tokenizer, "pairs": pairs}
    return Data(loaders["train"], loaders["valid"], loaders["test"], spec, artifacts)


def _loader(cfg: Seq2SeqConfig, tokenizer: Tokenizer, pairs: list[Pair], name: str) -> Loader:
    sources, targets = encode_pairs(tokenizer, pairs)
    limit, train = cfg.data.max_len, name == "train"
    # What the decoder reads lacks the last token.
    fits = [len(a) <= limit and len(b) - 1 <= limit for a, b in zip(sources, targets, strict=True)]
    if not all(fits):
        long = len(fits) - sum(fits)
        if not train or not any(fits):
            at = fits.index(False)
            size = max(len(sources[at]), len(targets[at]) - 1)
            raise DataError(
                f"{long:,} pairs of the {name} split are longer than data.max_len={limit} tokens, such as "
                f"{pairs[at][0]!r:.60} ({size}): set data.max_len higher"
            )
        log.warning("left out %d training pairs longer than data.max_len=%d tokens", long, limit)
        sources = [ids for ids, ok in zip(sources, fits, strict=True) if ok]
        targets = [ids for ids, ok in zip(targets, fits, strict=True) if ok]
    dataset = PairDataset(sources, targets, tokenizer.pad_id)
    return Loader(
        dataset,
        cfg.trainer.batch_size if train else 64,
        shuffle=train,
        seed=cfg.seed,
        num_workers=cfg.trainer.num_workers if train else 0,
        lengths=dataset.lengths,
    )
