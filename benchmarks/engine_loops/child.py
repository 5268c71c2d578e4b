"""One run of one engine in a process of its own; what it measured goes to ``result.json`` here.

    python -m engine_loops.child MODULE VARIANT SIZE THREADS STARTED STEPS

STARTED is the monotonic time (one for the whole system) at which the process was started; STEPS are the steps
on the clock, 0 for those of the size.
"""

from __future__ import annotations

import os
import sys
import time


def main() -> None:
    name, variant, size_name, threads, started, steps = sys.argv[1:]
    if threads == "1" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    before = time.perf_counter()
    import importlib

    loop = importlib.import_module(f"engine_loops.{name}")
    imported = time.perf_counter() - before

    import json
    import resource
    from dataclasses import replace

    import torch

    from engine_loops.case import SIZES, Case

    torch.set_num_threads(int(threads))
    size = SIZES[size_name]
    if int(steps):
        size = replace(size, warm=min(size.warm, int(steps)), steps=int(steps))
    case = Case(size)
    weights = [p.detach().clone() for p in case.model.parameters()]
    loop.train(case, variant)
    third, first, last = case.model.marks.values()
    assert last, f"the model has seen {case.model.calls} batches of {case.total}"
    assert all(bool((p != w).any()) for p, w in zip(case.model.parameters(), weights, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {
        "us": 1e6 * (last - first) / size.steps,
        "import_s": imported,
        "start_s": third - float(started),
        "mb": peak / (2**20 if sys.platform == "darwin" else 2**10),
    }
    with open("result.json", "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
