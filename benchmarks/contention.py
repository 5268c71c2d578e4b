"""Training steps beside another program that keeps a core busy, with and without our watch over the cores.

    python benchmarks/contention.py [--seconds 15] [--threads 2]

A small transformer (four layers of 64) by a plain loop. The other program trains another one, with one
thread. ``one thread`` is what a user would do who knows.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from shown import show
from torch import nn

from tinsmith.engine.contention import watch

OTHER = "import contention, torch; torch.set_num_threads(1); contention.step_time(1e9)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each row")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [{"name": "machine alone", "ms": step_time(args.seconds)}]
    with another():
        rows.append({"name": "beside another", "ms": step_time(args.seconds)})
        torch.set_num_threads(1)
        rows.append({"name": "beside another, one thread", "ms": step_time(args.seconds)})
        torch.set_num_threads(args.threads)
        watch()
        time.sleep(1)
        rows.append({"name": "beside another, watched", "ms": step_time(args.seconds)})
    step_time(10)  # the watch sees that the other is gone
    rows.append({"name": "alone again, watched", "ms": step_time(args.seconds)})
    return show("contention", rows, {})


def step_time(seconds: float) -> float:
    """Milliseconds of a step, the mean over the second half of ``seconds``."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x = torch.randn(32, 32, 64)
    for _ in range(2):
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds / 2:
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
    return round(1000 * (time.perf_counter() - start) / steps, 1)


@contextlib.contextmanager
def another() -> Iterator[None]:
    """A busy process beside."""
    with subprocess.Popen([sys.executable, "-c", OTHER], cwd=Path(__file__).parent) as process:
        time.sleep(5)  # its imports
        try:
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
