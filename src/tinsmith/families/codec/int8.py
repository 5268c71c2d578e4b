"""Weights as bytes, after training: a quarter of the size, and of the memory that a look-up reads.

Every matrix is stored as whole numbers from -127 to 127 with a factor for each row (of its output): ``w = s
q``. In use the table stays so; the small matrices are computed with in fp32, which on a CPU without 8-bit dot
products is as fast as it gets.

Shapes: B batch, L length, D width of the convolutions, V vocabulary, Z embedding size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.families.codec.model import FoldedEncoder

_SCALE = ".scale"  # behind the name of a matrix: the name of its factors
_SMALLEST = 1024  # numbers in a matrix that is worth it


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers int8 [..., C] and a factor for each row [..., 1] of a matrix [..., C]."""
    scale = weight.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    return (weight / scale).round().clamp(-127, 127).to(torch.int8), scale


def quantized(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Named weights with the matrices as bytes, each beside its factors."""
    out: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.ndim == 2 and weight.shape[1] > 1 and weight.numel() >= _SMALLEST:
            out[name], out[name + _SCALE] = quantize_rows(weight.float())
        else:
            out[name] = weight
    return out


def dequantized(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What ``quantized`` gave, in fp32 and under the old names."""
    out: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name.endswith(_SCALE) and name.removesuffix(_SCALE) in weights:
            continue
        scale = weights.get(name + _SCALE)
        out[name] = weight if scale is None else weight.float() * scale
    return out


class Int8Encoder(nn.Module):
    """A ``FoldedEncoder`` whose table is of bytes.

    A row holds the weighted static vector and the convolutions' input, each with a factor of its own.
    """

    rows: Tensor
    scale: Tensor

    def __init__(self, folded: FoldedEncoder) -> None:
        super().__init__()
        z = self.z_dim = folded.z_dim
        self.conv = folded.conv
        static, static_scale = quantize_rows(folded.table[:, :z])
        parts, scales = [static], [static_scale, folded.table[:, z : z + 1]]
        if self.conv is not None:
            inp, inp_scale = quantize_rows(folded.table[:, z + 1 :])
            parts, scales = [*parts, inp], [*scales, inp_scale]
        self.register_buffer("rows", torch.cat(parts, 1).contiguous())
        self.register_buffer("scale", torch.cat(scales, 1).contiguous())  # static's, the weight, the input's

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors [B, Z]; arguments as of ``Encoder``."""
        flat = tokens.reshape(-1)
        rows = self.rows.index_select(0, flat).view(*tokens.shape, -1).to(self.scale.dtype)
        scale = self.scale.index_select(0, flat).view(*tokens.shape, -1) * mask[..., None]
        static = torch.bmm(scale[..., :1].mT, rows[..., : self.z_dim])[:, 0]
        z = static / scale[..., 1].sum(1, keepdim=True)
        if self.conv is not None:
            z = z + self.conv.after_input(
                rows[..., self.z_dim :] * scale[..., 2:], mask[..., None].to(scale.dtype)
            )
        return F.normalize(z, dim=-1)

    def static_only(self) -> Int8Encoder:
        """The static tier: the same table without the convolutions."""
        tier = Int8Encoder.__new__(Int8Encoder)
        nn.Module.__init__(tier)
        tier.z_dim, tier.conv = self.z_dim, None
        tier.register_buffer("rows", self.rows[:, : self.z_dim].contiguous())
        tier.register_buffer("scale", self.scale[:, :2].contiguous())
        return tier
