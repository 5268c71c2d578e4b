"""Randomness of a process: seed it, save it, put it back.

A state holds tensors and JSON-able values only, so that a checkpoint needs no pickle.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import torch


def set_seed(seed: int, deterministic: bool = True) -> None:
    """Seed torch (all devices), numpy and Python, and have torch use deterministic kernels only.

    Args:
        seed: 0 to 2**63 - 1 (numpy's legacy generator takes the lowest 32 bits).
        deterministic: same seed, same machine, same thread count: same bits; torch then refuses what
            differs from run to run. False leaves torch's switches as they are. cuBLAS reads its own switch
            once, when CUDA starts: call this first.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        _use_deterministic()


@contextmanager
def deterministic_algorithms(enabled: bool = True) -> Iterator[None]:
    """Deterministic kernels inside, torch's switches as they were on leaving. False: does nothing."""
    flags = _get_flags()
    try:
        if enabled:
            _use_deterministic()
        yield
    finally:
        _set_flags(flags)


def get_rng_state() -> dict[str, Any]:
    """The state of all global generators: torch's on each device that is in use, Python's, numpy's.

    Returns:
        Nested dicts of tensors and JSON-able values; ``set_rng_state`` puts it back bit for bit.
    """
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "kind": str(kind),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        # Keys are strings so that they survive JSON.
        state["cuda"] = {str(i): s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what ``get_rng_state`` returned. States of devices that this machine lacks are left out."""
    torch.set_rng_state(state["torch"].cpu())
    python, legacy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = legacy["keys"].numpy().astype(np.uint32)
    np.random.set_state((legacy["kind"], keys, legacy["position"], legacy["has_gauss"], legacy["cached"]))
    if torch.cuda.is_available():
        for index, device_state in state.get("cuda", {}).items():
            if int(index) < torch.cuda.device_count():
                torch.cuda.set_rng_state(device_state.cpu(), int(index))
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())


@contextmanager
def preserve_rng() -> Iterator[None]:
    """Whatever is drawn inside, the generators go on outside as if nothing had been."""
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


class ReproducibilityContext:
    """A seeded block: on leaving, all generators and the switches for determinism are as they were.

    Args:
        seed: as in ``set_seed``.
        deterministic: as in ``set_seed``.
    """

    def __init__(self, seed: int, deterministic: bool = True) -> None:
        self.seed = seed
        self.deterministic = deterministic
        self._saved: list[tuple[dict[str, Any], tuple[bool, ...]]] = []

    def __enter__(self) -> ReproducibilityContext:
        self._saved.append((get_rng_state(), _get_flags()))
        set_seed(self.seed, self.deterministic)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state, flags = self._saved.pop()
        _set_flags(flags)
        set_rng_state(state)


def _use_deterministic() -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # The mode would also fill every torch.empty: a pass over the memory that only finds bugs.
    _set_flags((True, False, False, True, False))


def _get_flags() -> tuple[bool, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )


def _set_flags(flags: tuple[bool, ...]) -> None:
    enabled, warn_only, fill, cudnn_deterministic, cudnn_benchmark = flags
    if "torch._dynamo" in sys.modules or "torch._inductor" in sys.modules:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    else:  # which would load the compiler to tell it too
        torch._C._set_deterministic_algorithms(enabled, warn_only=warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = cudnn_deterministic
    torch.backends.cudnn.benchmark = cudnn_benchmark
