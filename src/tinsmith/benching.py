"""``tinsmith bench RUN``: how fast a trained model answers here, and how much memory it takes.

A family has a module ``probe`` with ``calls(run_dir, texts)``: what is timed, by name.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tinsmith import console
from tinsmith.durable import replace_bytes
from tinsmith.families import optional_module

_TEXTS, _SINGLE = 512, 200
_ROUNDS = 5


def bench(args: argparse.Namespace, folder: Path) -> int:
    """Time a run's model: samples a second in batches, milliseconds of one sample alone, megabytes.

    Raises:
        ConfigError: the family has nothing to time.
    """
    from tinsmith.compose import compose
    from tinsmith.runs import read_run_json, settings_file

    family = read_run_json(folder)["family"]
    probe = optional_module(family, "probe", "bench")
    before = _memory_mb()
    texts = probe.texts(compose(family, [], settings_file(folder)).cfg, _TEXTS)
    calls = probe.calls(folder, texts)
    rows = [{"name": name, **measure(call, items)} for name, (call, items) in calls.items()]
    found = {"rows": rows, "memory_mb": _memory_mb(), "memory_mb_before": before, "threads": _threads()}
    replace_bytes(folder / "eval" / "bench.json", json.dumps(found, indent=1).encode())
    memory = f"{found['memory_mb']:.0f} MB of memory ({before:.0f} before the model)"
    console.result(f"{console.table(rows)}\n{memory}, {found['threads']} threads", found)
    return 0


def measure(call: Callable[[Sequence[Any]], Any], items: Sequence[Any]) -> dict[str, float]:
    """``samples_per_sec`` over all items (the median of rounds), ``p50_ms`` and ``p95_ms`` of one alone."""
    call(items)
    whole = statistics.median(_seconds(call, items) for _ in range(_ROUNDS))
    alone = sorted(_seconds(call, [item]) for item in items[:_SINGLE])
    return {
        "samples": len(items),
        "samples_per_sec": round(len(items) / whole, 1),
        "p50_ms": round(1e3 * alone[len(alone) // 2], 3),
        "p95_ms": round(1e3 * alone[min(len(alone) - 1, int(0.95 * len(alone)))], 3),
    }


def _seconds(call: Callable[[Sequence[Any]], Any], items: Sequence[Any]) -> float:
    start = time.perf_counter()
    call(items)
    return time.perf_counter() - start


def _memory_mb() -> float:
    import psutil  # type: ignore[import-untyped]

    return round(float(psutil.Process().memory_info().rss) / 2**20, 1)


def _threads() -> int:
    import torch

    return torch.get_num_threads()
