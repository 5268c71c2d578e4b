"""Dilated convolutions over sequences, as shifted slices and matrix products.

Shapes: B batch, L length, D width, K taps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def depthwise(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Convolve each channel by itself: ``y_t = Σ_k w_k x_{t + (k - K // 2) dilation}``, zeros outside.

    On a CPU shifted slices are several times faster than ``nn.Conv1d(groups=D)``.

    Args:
        x: [B, L, D]. weight: [K, D], K odd. dilation: distance between taps.

    Returns:
        [B, L, D].
    """
    taps, length = len(weight), x.shape[1]
    reach = taps // 2 * dilation
    padded = F.pad(x, (0, 0, reach, reach))
    out = padded[:, :length] * weight[0]
    for k in range(1, taps):
        out = torch.addcmul(out, padded[:, k * dilation : k * dilation + length], weight[k])
    return out


class GatedConvBlock(nn.Module):
    """Residual block: ``x + W_o (u · silu(v))`` with ``[u, v] = W_i depthwise(LN(x))``.

    A depthwise convolution (Chollet 2017, arXiv:1610.02357) mixes positions, a gated linear unit (Dauphin et
    al. 2017, arXiv:1612.08083; SiLU as in Shazeer 2020, arXiv:2002.05202) mixes channels. ``W_o`` starts at
    zero and the convolution near the identity, so that a new block changes nothing.

    Args:
        dim: D. kernel: K, odd. dilation: distance between taps.
    """

    def __init__(self, dim: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.norm = nn.LayerNorm(dim)
        taps = 0.1 * torch.randn(kernel, dim)
        taps[kernel // 2] += 1
        self.taps = nn.Parameter(taps)
        self.inp = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``x`` [B, L, D], ``mask`` [B, L, 1]: padding neither gives nor takes."""
        u, v = self.inp(depthwise(self.norm(x) * mask, self.taps, self.dilation)).chunk(2, dim=-1)
        out: Tensor = x + self.out(u * F.silu(v))
        return out
