"""A causal language model: a stack of blocks that see what is before them.

Modern: ``x = norm(E[tokens])``, blocks with rotary positions, ``logits = H norm(x)`` with ``H = 0`` at the
start, so that the first loss is ln V. Plain: GPT-2's (LayerNorm, GELU, learned positions), as a baseline.

Shapes: B batch, T new tokens, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tinsmith.families.lm.config import ModelConfig
from tinsmith.nn.attention import KVCache, Rotary, rms_norm
from tinsmith.nn.blocks import Block, BlockConfig, Head, init_weights, make_norm
from tinsmith.nn.masks import create_causal_mask

IGNORED = -100  # a target that does not count


@dataclass(frozen=True, slots=True)
class LMSpec:
    """What the data say about the model. Saved with the weights.

    ``level`` is what a token is (char, byte, bpe); ``byte_lengths`` the bytes that each id stands for.
    """

    vocab_size: int
    context: int
    level: str = "char"
    byte_lengths: tuple[int, ...] = ()


class LanguageModel(nn.Module):
    """Logits of the next token at every position.

    Args:
        cfg: sizes and style. spec: vocabulary and context.
    """

    def __init__(self, cfg: ModelConfig, spec: LMSpec) -> None:
        super().__init__()
        self.cfg, self.spec, self.modern = cfg, spec, cfg.style == "modern"
        kind = cfg.mlp or ("relu2" if self.modern else "gelu")
        mlp_dim = cfg.mlp_dim or 4 * cfg.dim
        block = BlockConfig(cfg.dim, cfg.num_heads, mlp_dim, kind, self.modern, cfg.dropout, cfg.num_layers)
        self.embed = nn.Embedding(spec.vocab_size, cfg.dim)
        if self.modern:
            self.rotary = Rotary(cfg.dim // cfg.num_heads, spec.context)
        else:
            self.place = nn.Embedding(spec.context, cfg.dim)
        self.drop = nn.Dropout(cfg.dropout)
        self.blocks = nn.ModuleList(Block(block) for _ in range(cfg.num_layers))
        self.norm = make_norm(block)
        self.head = Head(spec.vocab_size, cfg.dim)
        init_weights(self, block)

    def forward(
        self,
        tokens: Tensor,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Logits of what follows each token.

        A position sees itself and the ``context - 1`` positions before it, of its own segment.

        Args:
            tokens: ids [B, T].
            segments: number of the document that each token is of [B, T], 0 for padding; None: of one.
            positions: place of each token in its document [B, T], -1 for padding in front; None: 0, 1, 2, ...
            cache: what was read before; takes these tokens in.

        Returns:
            [B, T, V].
        """
        return self.logits(self.hidden(tokens, segments, positions, cache))

    def hidden(
        self,
        tokens: Tensor,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """What the head reads: [B, T, D]; arguments as of ``forward``."""
        if cache is not None:
            if positions is None:
                positions = torch.arange(cache.length, cache.length + tokens.shape[1], device=tokens.device)
                positions = positions.expand(tokens.shape)
            cache.extend(positions)
            mask, causal = cache.visible(self.spec.context)
        else:
            mask, causal = self._mask(tokens.shape[1], segments, tokens.device)
        x, turns = self._embedded(tokens, positions)
        for layer, block in enumerate(self.blocks):
            x = block(x, turns, mask, causal, None if cache is None else (cache, layer))
        out: Tensor = self.norm(x)
        return out

    def logits(self, h: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        out: Tensor = self.head(h)
        c = self.cfg.softcap
        return c * torch.tanh(out / c) if c else out

    def _mask(self, length: int, segments: Tensor | None, device: torch.device) -> tuple[Tensor | None, bool]:
        window = self.spec.context
        if segments is None and length <= window:
            return None, True
        mask = create_causal_mask(length, device)
        if length > window:
            mask = mask & ~mask.tril(-window)
        if segments is not None:
            mask = mask & (segments[:, None, :, None] == segments[:, None, None, :])
        return mask, False

    def _embedded(self, tokens: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Token vectors [B, T, D], and the turns of their positions where those are rotary."""
        x, length = self.embed(tokens), tokens.shape[1]
        if self.modern:
            turns = self.rotary.first(length, x.device) if positions is None else self.rotary.at(positions)
            return self.drop(rms_norm(x)), turns
        if positions is None:
            positions = torch.arange(length, device=tokens.device)
        return self.drop(x + self.place(positions.clamp(min=0))), None


def build_model(cfg: ModelConfig, spec: LMSpec) -> LanguageModel:
    """The model for a spec, with its start weights."""
    return LanguageModel(cfg, spec)
