"""The student encoder: a static average of token vectors, corrected by dilated convolutions.

    z = normalise( S · Σ w_t T_t / Σ w_t  +  O · Σ g_t LN(conv(T))_t / Σ g_t )

``T`` starts as the teacher's vectors of single tokens, ``w`` as smooth inverse frequency (Arora et al.
2017, a = 1e-3), ``S`` as the identity and ``O`` as zero: training starts at a static embedding (model2vec)
and can only improve on it. The gate ``g`` is one (``pooling=mean``) or learned, equal at the start.
No attention: every operation is a look-up, a shift or a matrix product.

Shapes: B batch, L length, D width of the convolutions, V vocabulary, Z embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.families.codec.config import DecoderConfig, ModelConfig
from tinsmith.families.codec.ctc import CtcDecoder
from tinsmith.families.codec.decoder import Decoder
from tinsmith.families.codec.vq import Codes
from tinsmith.nn.mixing import DepthwiseConv, GatedBlock, StateSpace


@dataclass(frozen=True, slots=True)
class CodecSpec:
    """What the data say about the model. Saved with the weights.

    ``z_dim`` is the teacher's size; ``teacher_fingerprint`` is of its files and options. A codec that writes
    has a ``decoder_vocab_size``, and writes in lower case if ``lower``.
    """

    vocab_size: int
    z_dim: int
    max_len: int
    teacher: str
    teacher_fingerprint: str
    domains: tuple[str, ...] = ()
    decoder_vocab_size: int = 0
    lower: bool = False


@dataclass(slots=True)
class Encoded:
    """``z`` [B, Z] before normalisation, ``static`` [B, Z] the static tier's."""

    z: Tensor
    static: Tensor


class Encoder(nn.Module):
    """Tokens to a vector.

    Args:
        cfg: sizes of the convolution path.
        spec: vocabulary and size of the vector.
    """

    def __init__(self, cfg: ModelConfig, spec: CodecSpec) -> None:
        super().__init__()
        z = spec.z_dim
        # Only a batch's few thousand rows get a gradient: a dense one would cost more than the forward.
        self.table = nn.Embedding(spec.vocab_size, z, sparse=True)
        self.log_weight = nn.Embedding(spec.vocab_size, 1, sparse=True)
        nn.init.normal_(self.table.weight, std=z**-0.5)
        nn.init.zeros_(self.log_weight.weight)
        self.static = nn.Linear(z, z, bias=False)
        nn.init.eye_(self.static.weight)
        self.dropout = nn.Dropout(cfg.dropout)
        self.conv = ConvPath(cfg, z) if cfg.conv else None

    @torch.no_grad()
    def start_from(self, table: Tensor, log_weight: Tensor) -> None:
        """Start at a static embedding: ``table`` [V, Z], ``log_weight`` [V]."""
        self.table.weight.copy_(table)
        self.log_weight.weight.copy_(log_weight[:, None])

    def forward(self, tokens: Tensor, mask: Tensor) -> Encoded:
        """Encode padded tokens.

        Args:
            tokens: ids [B, L], any id where padded.
            mask: True where there is a token [B, L]; a row needs at least one.
        """
        x = self.dropout(self.table(tokens))
        mask_BL1 = mask[..., None].to(x.dtype)
        # What is linear acts on the mean, of which there is one a sentence.
        static = self.static(_mean(x, self.log_weight(tokens).exp() * mask_BL1))
        return Encoded(static if self.conv is None else static + self.conv(x, mask_BL1), static)


def _mean(x: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean over the positions: [B, L, D], [B, L, 1] -> [B, D]."""
    share = weight / weight.sum(1, keepdim=True)
    return torch.bmm(share.mT.to(x.dtype), x)[:, 0]


class ConvPath(nn.Module):
    """What the context adds to the vector, from the token vectors: zero at the start."""

    def __init__(self, cfg: ModelConfig, z_dim: int) -> None:
        super().__init__()
        self.inp = nn.Linear(z_dim, cfg.dim)
        self.blocks = nn.ModuleList(_block(cfg, dilation) for dilation in cfg.dilations)
        self.norm = nn.LayerNorm(cfg.dim)
        self.gate = nn.Linear(cfg.dim, 1) if cfg.pooling == "gated" else None
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)
        self.out = nn.Linear(cfg.dim, z_dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``x`` [B, L, Z], ``mask`` [B, L, 1] -> [B, Z]."""
        return self.after_input(self.inp(x), mask)

    def after_input(self, h: Tensor, mask: Tensor) -> Tensor:
        """``forward`` from the output of ``inp`` on: ``h`` [B, L, D] -> [B, Z]."""
        for block in self.blocks:
            h = block(h, mask)
        h = self.norm(h)
        gate = mask if self.gate is None else torch.sigmoid(self.gate(h)) * mask
        out: Tensor = self.out(_mean(h, gate))
        return out


def _block(cfg: ModelConfig, dilation: int) -> GatedBlock:
    mix = StateSpace(cfg.dim) if cfg.block == "ssm" else DepthwiseConv(cfg.dim, cfg.kernel, dilation)
    return GatedBlock(cfg.dim, mix, cfg.drop_path)


class FoldedEncoder(nn.Module):
    """An ``Encoder`` for use: equal outputs, about half the arithmetic.

    All that is linear before the first block is folded into one table (a row holds the weighted static
    vector, its weight, and the convolutions' input), all that is linear after the last acts on the mean.
    """

    table: Tensor

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        with torch.no_grad():
            rows = encoder.table.weight
            weight = encoder.log_weight.weight.exp()
            parts = [encoder.static(rows) * weight, weight]
            self.z_dim = rows.shape[1]
            self.conv = encoder.conv
            if self.conv is not None:
                parts.append(self.conv.inp(rows))
            self.register_buffer("table", torch.cat(parts, 1))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors [B, Z]; arguments as of ``Encoder``."""
        mask_BL1 = mask[..., None].to(self.table.dtype)
        rows = F.embedding(tokens, self.table) * mask_BL1
        static, weight = rows[..., : self.z_dim].sum(1), rows[..., self.z_dim].sum(1, keepdim=True)
        z = static / weight
        if self.conv is not None:
            z = z + self.conv.after_input(rows[..., self.z_dim + 1 :], mask_BL1)
        return F.normalize(z, dim=-1)

    def static_only(self) -> FoldedEncoder:
        """The static tier: the same table without the convolutions."""
        tier = FoldedEncoder.__new__(FoldedEncoder)
        nn.Module.__init__(tier)
        tier.z_dim, tier.conv = self.z_dim, None
        tier.register_buffer("table", self.table[:, : self.z_dim + 1].contiguous())
        return tier


class CodecModel(nn.Module):
    """An encoder and a decoder, and where it is wanted the bottleneck between them.

    Args:
        cfg, decoder: sizes. spec: vocabularies and size of the vector.
    """

    def __init__(self, cfg: ModelConfig, decoder: DecoderConfig, spec: CodecSpec) -> None:
        super().__init__()
        self.encoder = Encoder(cfg, spec)
        kind = CtcDecoder if decoder.kind == "ctc" else Decoder
        self.decoder = kind(decoder, spec.decoder_vocab_size, spec.z_dim)
        self.codes = Codes(spec.z_dim, decoder.codes) if decoder.codes else None

    def forward(self, tokens: Tensor, mask: Tensor) -> Encoded:
        """As of ``Encoder``."""
        encoded: Encoded = self.encoder(tokens, mask)
        return encoded

    def squeeze(self, z: Tensor) -> Tensor:
        """Unit vectors [B, Z] as they leave the bottleneck."""
        return z if self.codes is None else self.codes(z)[0]


def build_model(
    cfg: ModelConfig, spec: CodecSpec, decoder: DecoderConfig | None = None
) -> Encoder | CodecModel:
    """The encoder for a spec, with random weights, and its decoder if the spec has a vocabulary for one."""
    if not spec.decoder_vocab_size:
        return Encoder(cfg, spec)
    return CodecModel(cfg, decoder or DecoderConfig(), spec)


def encoder_of(model: Encoder | CodecModel) -> Encoder:
    """The encoder of a model that may have a decoder too."""
    return model.encoder if isinstance(model, CodecModel) else model
