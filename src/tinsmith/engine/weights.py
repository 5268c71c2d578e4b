"""The weights of a module as a file."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from torch import nn

from tinsmith.durable import replace_bytes


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's weights as safetensors, whole or not at all."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    replace_bytes(path, safetensors.torch.save(weights))
