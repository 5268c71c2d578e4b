"""A language model as a ``Decoder``: prompts of unequal length in one batch, padded in front."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tinsmith.families.lm.model import LanguageModel
from tinsmith.nn.attention import KVCache


class PromptDecoder:
    """Reads prompts, then a token a row at a time.

    Args:
        model: in eval mode. prompts: ids of each, at least one.
        use_cache: keep keys and values; else everything is read again for each token (the slow twin).
    """

    def __init__(
        self, model: LanguageModel, prompts: Sequence[Sequence[int]], use_cache: bool = True
    ) -> None:
        self.model, self.use_cache = model, use_cache
        device = model.embed.weight.device
        longest = max(map(len, prompts))
        self.padded = any(len(prompt) < longest for prompt in prompts)
        rows = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        first = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
        self.tokens = torch.tensor(rows, device=device)
        # Each row counts from its own first token; -1 is padding.
        self.positions = (torch.arange(longest, device=device) - first[:, None]).clamp(min=-1)
        self.cache = self._new_cache()

    def _new_cache(self) -> KVCache:
        return KVCache(len(self.model.blocks), self.padded)

    def start(self) -> Tensor:
        """Logits [N, V] behind the prompts."""
        return self._read(self.tokens, self.positions)

    def step(self, tokens: Tensor) -> Tensor:
        """Take in a token a row [N]; logits [N, V]."""
        new = self.positions[:, -1:] + 1
        self.positions = torch.cat([self.positions, new], 1)
        if self.use_cache:
            return self._read(tokens[:, None], new)
        self.tokens = torch.cat([self.tokens, tokens[:, None]], 1)
        self.cache = self._new_cache()
        return self._read(self.tokens, self.positions)

    def reorder(self, rows: Tensor) -> None:
        """Make row i what row ``rows[i]`` was."""
        self.positions = self.positions.index_select(0, rows)
        if self.use_cache:
            self.cache.reorder(rows)
        else:
            self.tokens = self.tokens.index_select(0, rows)

    def _read(self, tokens: Tensor, positions: Tensor) -> Tensor:
        h = self.model.hidden(tokens, positions=positions, cache=self.cache)
        return self.model.logits(h[:, -1])
