"""A decoder that writes all tokens at once: slots filled side by side, blanks and repetitions taken out.

Graves et al. 2006 (CTC); as a non-autoregressive decoder: Libovicky and Helcl 2018, arXiv:1811.04719.

Shapes: B batch, S slots, D width, V vocabulary, Z embedding size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.families.codec.config import DecoderConfig
from tinsmith.families.codec.decoder import EOS, PAD, TABLE_SCALE, Channels, FilmBlock, start_words
from tinsmith.nn.mixing import DepthwiseConv

BLANK = PAD
_FIRST_BLANK = 0.0  # log-share: words' shares add up to one


class CtcDecoder(nn.Module):
    """A vector to a text in one pass. Two slots for each token of the longest text.

    Args:
        cfg: sizes. vocab_size: V. z_dim: Z.
    """

    correct = False

    def __init__(self, cfg: DecoderConfig, vocab_size: int, z_dim: int) -> None:
        super().__init__()
        dim = cfg.dim
        self.max_len = cfg.max_len
        self.slots = nn.Embedding(2 * cfg.max_len, dim)
        self.tokens, self.words = nn.Embedding(vocab_size, dim), nn.Embedding(vocab_size, z_dim)
        nn.init.normal_(self.tokens.weight, std=dim**-0.5 / TABLE_SCALE)
        nn.init.normal_(self.words.weight, std=z_dim**-0.5)
        self.unigram = nn.Parameter(torch.zeros(vocab_size))
        self.inp = nn.Linear(z_dim, dim)
        self.blocks = nn.ModuleList(
            FilmBlock(dim, DepthwiseConv(dim, cfg.kernel, d), cfg.drop_path) for d in cfg.dilations
        )
        own = cfg.dilations[:1] if cfg.shared else cfg.dilations
        self.channels = nn.ModuleList(Channels(dim) for _ in own)
        self.norm, self.gate = nn.LayerNorm(dim), nn.Linear(dim, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.ones_(self.gate.bias)
        self.out = nn.Linear(dim, dim, bias=False)

    @torch.no_grad()
    def start_from(self, table: Tensor, log_share: Tensor) -> None:
        """As of ``Decoder``; a blank is as likely as all words together."""
        start_words(self.words, table)
        self.unigram.copy_(log_share)
        self.unigram[BLANK] = _FIRST_BLANK

    def forward(self, z: Tensor) -> Tensor:
        """Unit vectors [B, Z] -> logits [B, S, V]."""
        condition = self.inp(z * math.sqrt(z.shape[-1]))
        h = self.slots.weight + condition[:, None]
        for i, block in enumerate(self.blocks):
            h = block(h, condition, self.channels[i if len(self.channels) > 1 else 0])
        n = self.norm(h)
        own = F.linear(self.out(n) * TABLE_SCALE, self.tokens.weight, self.unigram)
        bag = F.linear(z * TABLE_SCALE, self.words.weight)[:, None]
        return torch.addcmul(own, self.gate(n).to(own.dtype), bag.to(own.dtype))

    def losses(self, z: Tensor, target: Tensor) -> Tensor:
        """Minus the log-likelihood of each text: ``target`` [B, L] (PAD outside, EOS left out) -> [B]."""
        logp = self(z).float().log_softmax(-1)
        plain = (target != PAD) & (target != EOS)
        slots = torch.full((len(z),), logp.shape[1], dtype=torch.long)
        return F.ctc_loss(
            logp.transpose(0, 1),
            target,
            slots,
            plain.sum(1),
            blank=BLANK,
            reduction="none",
            zero_infinity=True,
        )
