"""Masks of attention. Boolean, True = may attend, as ``F.scaled_dot_product_attention`` reads them.

``nn.Transformer`` and ``nn.MultiheadAttention`` mean the opposite: ``to_torch_transformer`` converts.
Shapes: B batch, T queries, S keys.
"""

from __future__ import annotations

import torch
from torch import Tensor


def create_padding_mask(tokens: Tensor, pad_idx: int = 0) -> Tensor:
    """Which keys are tokens: True = may attend.

    Args:
        tokens: ids [B, S].
        pad_idx: the id of padding.

    Returns:
        [B, 1, 1, S].
    """
    return (tokens != pad_idx)[:, None, None, :]


def create_causal_mask(size: int, device: torch.device | str | None = None) -> Tensor:
    """Each position sees itself and what is before it: True = may attend.

    Returns:
        [1, 1, size, size], the lower triangle.
    """
    return torch.ones(size, size, dtype=torch.bool, device=device).tril()[None, None]


def create_combined_mask(tokens: Tensor, pad_idx: int = 0) -> Tensor:
    """Padding and causality together: True = may attend.

    Args:
        tokens: ids [B, T].
        pad_idx: the id of padding.

    Returns:
        [B, 1, T, T].
    """
    return create_padding_mask(tokens, pad_idx) & create_causal_mask(tokens.shape[1], tokens.device)


def to_torch_transformer(mask: Tensor, num_heads: int = 1) -> Tensor:
    """A mask of this module as ``nn.Transformer`` takes it, where True = blocked.

    Args:
        mask: [B, 1, 1, S], [1, 1, T, T] or [B, 1, T, S].
        num_heads: of the ``nn.Transformer``; needed for the third kind.

    Returns:
        ``*_key_padding_mask`` [B, S], ``*_mask`` [T, T], or ``*_mask`` [B * num_heads, T, S].
    """
    if mask.dtype != torch.bool or mask.ndim != 4 or mask.shape[1] != 1:
        raise ValueError(f"a boolean mask [B, 1, T, S] is needed, not {mask.dtype} {list(mask.shape)}")
    blocked = ~mask[:, 0]
    if mask.shape[2] == 1 and mask.shape[3] != 1:
        return blocked[:, 0]
    if mask.shape[0] == 1:
        return blocked[0]
    return blocked.repeat_interleave(num_heads, 0)
