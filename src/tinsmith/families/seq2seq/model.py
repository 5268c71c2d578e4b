"""An encoder-decoder: blocks that read the source, and blocks that write the target and see what was read.

Source and target share one table of tokens (their byte pairs are joint); the head is its own and starts at
zero, so that the first loss is ln V.

Shapes: B batch, S source length, T target length, D width, H heads, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tinsmith.families.seq2seq.config import ModelConfig
from tinsmith.nn.attention import KVCache, Rotary, SelfAttention, attend, rms_norm
from tinsmith.nn.blocks import MLP, Block, BlockConfig, Head, init_weights, make_norm
from tinsmith.nn.masks import create_padding_mask


@dataclass(frozen=True, slots=True)
class Seq2SeqSpec:
    """What the data say about the model. Saved with the weights. ``max_len``: tokens of a side."""

    vocab_size: int
    max_len: int
    pad_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    unk_id: int = 3


class CrossAttention(nn.Module):
    """The target's positions attend to the source's.

    Args:
        cfg: sizes and style.
    """

    def __init__(self, cfg: BlockConfig) -> None:
        super().__init__()
        self.num_heads, self.modern = cfg.num_heads, cfg.modern
        self.query = nn.Linear(cfg.dim, cfg.dim, bias=not cfg.modern)
        self.source = nn.Linear(cfg.dim, 2 * cfg.dim, bias=not cfg.modern)
        self.out = nn.Linear(cfg.dim, cfg.dim, bias=not cfg.modern)

    def read(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the source, the same for every target: [B, S, D] -> 2 x [B, H, S, E]."""
        k, v = self.source(memory).unflatten(-1, (2, self.num_heads, -1)).unbind(2)
        k = rms_norm(k) if self.modern else k
        return k.transpose(1, 2), v.transpose(1, 2)

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """``x`` [B, T, D], ``memory`` of ``read``, ``mask`` [B, 1, 1, S], True = may attend -> [B, T, D]."""
        q = self.query(x).unflatten(-1, (self.num_heads, -1))
        q = (rms_norm(q) if self.modern else q).transpose(1, 2)
        out: Tensor = self.out(attend(q, *memory, mask, causal=False))
        return out


class DecoderBlock(nn.Module):
    """Self-attention, attention to the source, perceptron, each a branch behind a norm.

    Args:
        cfg: sizes and style.
    """

    def __init__(self, cfg: BlockConfig) -> None:
        super().__init__()
        self.attention_norm, self.cross_norm, self.mlp_norm = (make_norm(cfg) for _ in range(3))
        self.attention = SelfAttention(cfg.dim, cfg.num_heads, cfg.modern)
        self.cross = CrossAttention(cfg)
        self.mlp = MLP(cfg)
        self.drop = nn.Dropout(cfg.dropout)

    def forward(
        self,
        x: Tensor,
        turns: Tensor | None,
        memory: tuple[Tensor, Tensor],
        source_mask: Tensor | None,
        own: tuple[Tensor | None, bool],
        cache: tuple[KVCache, int] | None = None,
    ) -> Tensor:
        """[B, T, D] -> [B, T, D]. ``own``: mask of the target's positions, and whether it is just causal."""
        x = x + self.drop(self.attention(self.attention_norm(x), turns, *own, cache))
        x = x + self.drop(self.cross(self.cross_norm(x), memory, source_mask))
        out: Tensor = x + self.drop(self.mlp(self.mlp_norm(x)))
        return out


@dataclass(slots=True)
class Memory:
    """What was read: for each block of the decoder keys and values [B, H, S, E], and where the source is."""

    layers: list[tuple[Tensor, Tensor]]
    mask: Tensor | None

    def reorder(self, rows: Tensor) -> None:
        """Make row i what row ``rows[i]`` was."""
        self.layers = [(k.index_select(0, rows), v.index_select(0, rows)) for k, v in self.layers]
        self.mask = None if self.mask is None else self.mask.index_select(0, rows)


class Transformer(nn.Module):
    """Logits of the target's next token from the source and the target so far.

    Args:
        cfg: sizes and style. spec: vocabulary, special ids and the longest text.
    """

    def __init__(self, cfg: ModelConfig, spec: Seq2SeqSpec) -> None:
        super().__init__()
        self.cfg, self.spec, self.modern = cfg, spec, cfg.style == "modern"
        kind = cfg.mlp or ("relu2" if self.modern else "gelu")
        mlp_dim = cfg.mlp_dim or 3 * cfg.dim
        block = BlockConfig(cfg.dim, cfg.num_heads, mlp_dim, kind, self.modern, cfg.dropout, cfg.num_layers)
        self.embed = nn.Embedding(spec.vocab_size, cfg.dim)
        if self.modern:
            self.rotary = Rotary(cfg.dim // cfg.num_heads, spec.max_len)
        else:
            self.place = nn.Embedding(spec.max_len, cfg.dim)
        self.drop = nn.Dropout(cfg.dropout)
        self.encoder = nn.ModuleList(Block(block) for _ in range(cfg.encoder_layers or cfg.num_layers))
        self.encoder_norm = make_norm(block)
        self.decoder = nn.ModuleList(DecoderBlock(block) for _ in range(cfg.num_layers))
        self.norm = make_norm(block)
        self.head = Head(spec.vocab_size, cfg.dim)
        init_weights(self, block)

    def forward(self, src: Tensor, tgt: Tensor, keep: Tensor | None = None) -> Tensor:
        """Logits behind each token of the target.

        Args:
            src: ids [B, S], padded behind. tgt: ids [B, T] from BOS on, padded behind.
            keep: positions whose logits are wanted [B, T], N of them: the head, a good part of all
                arithmetic, then does not see padding.

        Returns:
            [B, T, V], or [N, V] with ``keep``.
        """
        h = self.write(self.read(src), tgt)
        if keep is not None:  # by number: the gradient of a boolean index is far slower
            h = h.flatten(0, 1).index_select(0, keep.flatten().nonzero()[:, 0])
        out: Tensor = self.head(h)
        return out

    def read(self, src: Tensor) -> Memory:
        """Encode sources: ids [B, S] -> keys and values for each block of the decoder."""
        mask = create_padding_mask(src, self.spec.pad_id)
        x, turns = self._embedded(src, None)
        for block in self.encoder:
            x = block(x, turns, mask)
        x = self.encoder_norm(x)
        layers = [block.cross.read(x) for block in self.decoder]  # type: ignore[union-attr, operator]
        return Memory(layers, mask)

    def write(self, memory: Memory, tgt: Tensor, cache: KVCache | None = None) -> Tensor:
        """What the head reads: ids [B, T] (with a cache: the new ones) -> [B, T, D].

        A target's padding is behind it, where nothing before it can look: it needs no mask.
        """
        positions: Tensor | None = None
        own: tuple[Tensor | None, bool] = (None, True)
        if cache is not None:
            positions = torch.arange(cache.length, cache.length + tgt.shape[1], device=tgt.device)
            cache.extend(positions.expand(tgt.shape))
            own = cache.visible(1 << 60)
        x, turns = self._embedded(tgt, positions)
        for layer, block in enumerate(self.decoder):
            held = None if cache is None else (cache, layer)
            x = block(x, turns, memory.layers[layer], memory.mask, own, held)
        out: Tensor = self.norm(x)
        return out

    def _embedded(self, tokens: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Token vectors [B, L, D], and the turns of their positions where those are rotary."""
        x, length = self.embed(tokens), tokens.shape[1]
        if self.modern:
            turns = self.rotary.first(length, x.device) if positions is None else self.rotary.at(positions)
            return self.drop(rms_norm(x)), turns
        if positions is None:
            positions = torch.arange(length, device=tokens.device)
        return self.drop(x + self.place(positions)), None


def build_model(cfg: ModelConfig, spec: Seq2SeqSpec) -> Transformer:
    """The model for a spec, with its start weights."""
    return Transformer(cfg, spec)
