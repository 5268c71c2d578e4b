"""The step compiled by torch beside the step as it is, for families at their own settings.

    python benchmarks/compiled.py [lm lattice trm] [--threads 2] [--rounds 8] [--cold]

Each family's trainer, the two in turns, medians over rounds. ``first`` is the seconds until the first four
steps are done, which the compiler takes; its cache of kernels on disk makes a second time shorter
(``--cold``: none is used).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator

import torch
from shown import show

from tinsmith.compose import compose
from tinsmith.engine import budget
from tinsmith.engine.configured import build_trainer
from tinsmith.engine.seed import set_seed
from tinsmith.families import load_family

SETTINGS = {"lm": ["preset=demo"], "lattice": [], "trm": ["preset=sudoku9", "data.train=2000"]}
FIRST, TIMED = 4, 4  # steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("families", nargs="*", default=list(SETTINGS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--cold", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for family in args.families:
        with tempfile.TemporaryDirectory() as cache:
            if args.cold:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            rows.append(measured(family, args.rounds))
        print(rows[-1], flush=True)
    return show("compiled steps", rows, {})


def measured(name: str, rounds: int) -> dict[str, float | str]:
    """Seconds to begin and milliseconds a step, plain and compiled."""
    steps = {how: begin(name, how) for how in ("off", "on")}
    first = {how: seconds(rest, FIRST) for how, rest in steps.items()}
    times: dict[str, list[float]] = {how: [] for how in steps}
    for _ in range(rounds):
        for how, rest in steps.items():
            times[how].append(1000 * seconds(rest, TIMED) / TIMED)
    plain, compiled = (statistics.median(times[how]) for how in ("off", "on"))
    return {
        "name": name,
        "first, s": round(first["on"], 1),
        "plain, ms": round(plain, 1),
        "compiled, ms": round(compiled, 1),
        "rate": round(plain / compiled, 2),
    }


def begin(name: str, how: str) -> Iterator[int]:
    """The steps of a family's trainer."""
    cfg = compose(name, [*SETTINGS.get(name, []), f"trainer.compile={how}", "device=cpu"]).cfg
    family = load_family(name)
    set_seed(cfg.seed)
    data = family.build_data(cfg)
    task = family.build_task(cfg, family.build_model(cfg, data.spec), data)
    trainer = build_trainer(cfg, task, None, progress=False)
    trainer.state.max_steps = 10**6
    budget.choose_call(trainer)
    budget.bind(trainer, data.train, trainer.state.max_steps)
    trainer.task.train()
    return trainer.loop.steps(data.train, None)


def seconds(steps: Iterator[int], count: int) -> float:
    """How long so many steps take."""
    start = time.monotonic()
    for _ in range(count):
        next(steps)
    return time.monotonic() - start


if __name__ == "__main__":
    sys.exit(main())
