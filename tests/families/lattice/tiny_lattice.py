"""Small lattices and the vectors they are tested on."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.families.lattice.config import ModelConfig
from tinsmith.families.lattice.data import LatticeSpec
from tinsmith.families.lattice.model import Lattice

Z = 12


def spec(mode: str = "autoencoder", z_dim: int = Z) -> LatticeSpec:
    return LatticeSpec(z_dim, "given", "given", mode)


def unit(n: int, z: int = Z, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(n, z, generator=torch.Generator().manual_seed(seed)), dim=-1)


def lattice(mode: str, trained: bool = True, **options: Any) -> Lattice:
    """With random weights everywhere, as after training."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"size": (4, 3, 2), "channels": 5, "steps": 4, "bottleneck": 6, **options}
    model = Lattice(ModelConfig(**settings), spec(mode))
    if trained:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model
