"""A bottleneck of whole numbers: a vector as a few bytes (product quantisation with learned codes).

Shapes: B batch, Z embedding size, G groups.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.engine.config import check

CODES = 256  # in a group: one byte


class Codes(nn.Module):
    """Each of G parts of a vector is replaced by the nearest of its 256 codes (van den Oord et al. 2017).

    The gradient passes as if nothing had been replaced; the codes follow the vectors by the mean squared
    distance (arXiv:1711.00937, equation 3; the vectors are the teacher's, so there is nothing to commit).

    Args:
        z_dim: Z. groups: G, of which Z is a multiple.
    """

    def __init__(self, z_dim: int, groups: int) -> None:
        super().__init__()
        check(z_dim % groups == 0, "decoder.codes", groups, f"a divisor of the vector's size {z_dim}")
        self.groups = groups
        self.codes = nn.Parameter(torch.randn(groups, CODES, z_dim // groups) * z_dim**-0.5)

    @torch.no_grad()
    def start_from(self, vectors: Tensor, rounds: int = 8) -> None:
        """Fit the codes to vectors [N, Z] by k-means, from the first ones on; what is never nearest stays."""
        if len(vectors) < CODES:
            vectors = vectors.repeat(-(-CODES // len(vectors)), 1)
        parts = self._split(vectors)
        self.codes.copy_(parts[:, :CODES])
        for _ in range(rounds):
            nearest = self._nearest(parts)
            for group, part, index in zip(self.codes, parts, nearest, strict=True):
                count = torch.bincount(index, minlength=CODES)
                sums = torch.zeros_like(group).index_add_(0, index, part)
                group[count > 0] = sums[count > 0] / count[count > 0, None]

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors [B, Z] -> unit vectors [B, Z] made of codes, and the mean squared distance."""
        parts = self._split(z)
        index = self._nearest(parts)
        chosen = self.codes.gather(1, index[..., None].expand(-1, -1, self.codes.shape[-1]))
        distance = (chosen - parts.detach()).square().sum((0, 2)).mean()
        flat = chosen.detach().transpose(0, 1).reshape(z.shape)
        return F.normalize(z + (flat - z).detach(), dim=-1), distance

    def encode(self, z: Tensor) -> Tensor:
        """The numbers of the codes: uint8 [B, G]."""
        return self._nearest(self._split(z)).mT.to(torch.uint8)

    def decode(self, numbers: Tensor) -> Tensor:
        """Unit vectors [B, Z] from the numbers [B, G]."""
        index = numbers.long().mT[..., None].expand(-1, -1, self.codes.shape[-1])
        return F.normalize(self.codes.gather(1, index).transpose(0, 1).reshape(len(numbers), -1), dim=-1)

    def _split(self, z: Tensor) -> Tensor:
        """[B, Z] -> [G, B, Z / G]."""
        return z.view(len(z), self.groups, -1).transpose(0, 1)

    def _nearest(self, parts: Tensor) -> Tensor:
        """The nearest code of each part: [G, B]."""
        with torch.no_grad():
            similarity = torch.baddbmm(self.codes.square().sum(-1)[:, None], parts, self.codes.mT, alpha=-2)
            return similarity.argmin(-1)
