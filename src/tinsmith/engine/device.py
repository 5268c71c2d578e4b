"""Where a model runs, how large it is, and whether mixed precision pays there."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from tinsmith.engine.config import check_choice
from tinsmith.errors import ConfigError

logger = logging.getLogger(__name__)

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

# Elements of a weight from which bf16 was faster than fp32 at every row count measured (32 to 8,000 rows,
# AVX512-BF16): x0.9 to x0.2 of the time at 128x512 and above, x1.4 to x3 at 64x64 and below.
_LARGE_WEIGHT = 128 * 512


def get_device(device: str | torch.device = "auto") -> torch.device:
    """The device by name; "auto" is the first of CUDA, MPS, CPU that this machine has.

    Args:
        device: "auto", "cpu", "cuda", "cuda:1", "mps" or a ``torch.device``.

    Raises:
        ConfigError: the name is no device, or the machine has no such device.
    """
    name = str(device)
    kind, _, index = name.partition(":")
    check_choice("device", kind, ("auto", "cpu", "cuda", "mps"))
    if name == "auto":
        kind = name = _best_kind()
    if index and not index.isdigit():
        raise ConfigError(f"device='{name}': the index must be a number, as in 'cuda:0'.")
    if kind != "cpu" and int(index or 0) >= _count(kind):
        raise ConfigError(
            f"device='{name}': torch finds {_count(kind)} {kind} device(s) here. Use auto or cpu."
        )
    return torch.device(name)


def _best_kind() -> str:
    return next(kind for kind in ("cuda", "mps", "cpu") if _count(kind))


def _count(kind: str) -> int:
    if kind == "cuda":
        return torch.cuda.device_count()
    return int(kind == "cpu" or torch.backends.mps.is_available())


def log_model_info(model: nn.Module) -> dict[str, Any]:
    """Log the size of ``model`` in one line and return it; shared parameters count once.

    Returns:
        ``name``, ``parameters``, ``trainable``, ``size_mb`` (parameters and buffers, 10**6 bytes),
        ``device`` and ``dtype`` of the first parameter.
    """
    params = list(model.parameters())
    tensors = [*params, *model.buffers()]
    info = {
        "name": type(model).__name__,
        "parameters": sum(p.numel() for p in params),
        "trainable": sum(p.numel() for p in params if p.requires_grad),
        "size_mb": sum(t.numel() * t.element_size() for t in tensors) / 1e6,
        "device": str(params[0].device) if params else "cpu",
        "dtype": str(params[0].dtype).removeprefix("torch.") if params else "none",
    }
    logger.info(
        "%s: %s parameters (%s trainable), %.1f MB, %s, %s",
        info["name"],
        f"{info['parameters']:,}",
        f"{info['trainable']:,}",
        info["size_mb"],
        info["dtype"],
        info["device"],
    )
    return info


def resolve_precision(
    mixed_precision: bool | str | None, device: torch.device, model: nn.Module | None = None
) -> torch.dtype | None:
    """The dtype for autocast, or None for full precision.

    "auto" is bf16 where the device computes in it: a GPU with bf16 units, or a CPU with bf16
    instructions (AVX512-BF16, AMX) if ``model`` has a weight matrix large enough to gain; else None.
    A CPU without the instructions emulates them, 2.6 times slower than fp32.

    Args:
        mixed_precision: False, None or "off"; "auto" (or True); "bf16"; "fp16" (not on a CPU).
        device: where the model runs.
        model: lets "auto" look at the weights' sizes; without it the device alone decides.

    Raises:
        ConfigError: unknown value, or fp16 on a CPU.
    """
    if mixed_precision is None or mixed_precision is False or mixed_precision == "off":
        return None
    wanted = "auto" if mixed_precision is True else str(mixed_precision)
    check_choice("mixed_precision", wanted, ("auto", "off", *_DTYPES))
    if wanted == "auto":
        return torch.bfloat16 if _gains_by_bf16(device, model) else None
    if device.type == "cpu" and wanted == "fp16":
        raise ConfigError("mixed_precision='fp16': a CPU has no use for it. Use auto, bf16 or off.")
    if device.type == "cpu" and not _cpu_has_bf16():
        logger.warning("this CPU has no bf16 instructions: bf16 is about 2.6 times slower than fp32 here")
    return _DTYPES[wanted]


def _gains_by_bf16(device: torch.device, model: nn.Module | None) -> bool:
    if not computes_in_bf16(device):
        return False
    return device.type == "cuda" or model is None or _has_large_matmul(model)


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware; elsewhere they are emulated, slowly."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _cpu_has_bf16()


def _cpu_has_bf16() -> bool:
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)


def _has_large_matmul(model: nn.Module) -> bool:
    """Whether a weight that is multiplied (an embedding is only looked up) is large enough to gain."""
    return any(
        p.ndim >= 2 and p.numel() >= _LARGE_WEIGHT
        for module in model.modules()
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for p in module.parameters(recurse=False)
    )


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Mixed precision of ``dtype`` inside; with None a context that does nothing."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
