"""An encoder-decoder as a ``Decoder``: sources are read once, targets grow a token at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tinsmith.families.seq2seq.model import Transformer
from tinsmith.nn.attention import KVCache


class SourceDecoder:
    """Reads sources, then writes.

    Args:
        model: in eval mode. sources: ids of each, EOS behind.
        start_id: the first id of every target.
        use_cache: keep keys and values; else the whole target is read again for each token (the slow twin).
    """

    def __init__(
        self, model: Transformer, sources: Sequence[Sequence[int]], start_id: int, use_cache: bool = True
    ) -> None:
        self.model, self.use_cache = model, use_cache
        device = model.embed.weight.device
        longest, pad = max(map(len, sources)), model.spec.pad_id
        rows = [list(ids) + [pad] * (longest - len(ids)) for ids in sources]
        self.memory = model.read(torch.tensor(rows, device=device))
        if all(len(ids) == longest for ids in sources):
            self.memory.mask = None
        self.owner = torch.arange(len(sources), device=device)  # the source of each row
        self.tokens = torch.full((len(sources), 1), start_id, device=device)
        self.cache = KVCache(len(model.decoder))

    def start(self) -> Tensor:
        """Logits [N, V] of the first token."""
        return self._read(self.tokens)

    def step(self, tokens: Tensor) -> Tensor:
        """Take in a token a row [N]; logits [N, V]."""
        if self.use_cache:
            return self._read(tokens[:, None])
        self.tokens = torch.cat([self.tokens, tokens[:, None]], 1)
        self.cache = KVCache(len(self.model.decoder))
        return self._read(self.tokens)

    def reorder(self, rows: Tensor) -> None:
        """Make row i what row ``rows[i]`` was."""
        owner = self.owner.index_select(0, rows)
        if len(owner) != len(self.owner) or not torch.equal(owner, self.owner):
            self.memory.reorder(rows)  # beams of one source share what was read of it: nothing to copy
        self.owner = owner
        if self.use_cache:
            self.cache.reorder(rows)
        else:
            self.tokens = self.tokens.index_select(0, rows)

    def _read(self, tokens: Tensor) -> Tensor:
        h = self.model.write(self.memory, tokens, self.cache)
        out: Tensor = self.model.head(h[:, -1])
        return out
