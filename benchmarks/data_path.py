"""What reading costs: the Loader beside the machine's own copying, and beside indexing by hand.

    python benchmarks/data_path.py [--rounds 5] [--megabytes 512] [--threads 2]

Speed: whole epochs of a shuffled ``TensorDataset`` of one tensor, in memory or mapped from a file (which the
page cache holds after a first pass), in bytes of the batches. Beside it, in the same round, ``copy_`` of the
tensor onto another one, too large for the caches. Shown are medians; a share is taken within its round.

Cost: microseconds of a batch of 32 rows of 64 B and 32 whole numbers: through the Loader, through
``randperm`` and indexing by hand, and through torch's ``DataLoader``. What is read stays in the caches.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from shown import show
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tinsmith.engine.data import Loader

ROWS, BATCHES = (64, 1536, 16384), (32, 256, 4096)  # bytes of a row, rows of a batch
BAR_ROW, BAR_BATCH, BAR_SHARE = 1536, 256, 0.5
SMALL, BAR_RATIO = 32, 1.05  # rows of 64 B in a batch; Loader to indexing by hand


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=512, help="of the tensor; three times that is used")
    parser.add_argument("--threads", type=int, help="torch's own number if not given")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    rows, bars = speeds(args.megabytes, args.rounds)
    costs, ratio = cost(args.rounds)
    bars[f"times indexing by hand, {SMALL} rows of 64 B"] = (ratio, "<=", BAR_RATIO)
    return show("data_path", rows + costs, bars)


def speeds(megabytes: int, rounds: int) -> tuple[list[dict[str, Any]], dict[str, tuple[float, str, float]]]:
    """Rows of the table, and the bars."""
    source = torch.rand(megabytes * 250_000)
    target = torch.zeros_like(source)  # its pages are there
    table, bars = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for where, data in (("in memory", source), ("mapped", mapped(source, Path(folder) / "data.npy"))):
            for row in ROWS:
                for batch in BATCHES:
                    found = speed(data, row, batch, partial(target.copy_, source), rounds)
                    table.append({"data": where, "row, bytes": row, "batch": batch, **found})
                    if (row, batch) == (BAR_ROW, BAR_BATCH):
                        bars[f"{where}, rows of 1.5 kB by {batch}: share"] = (found["share"], ">=", BAR_SHARE)
    return table, bars


def mapped(data: Tensor, path: Path) -> Tensor:
    """The same numbers in a file."""
    np.save(path, data.numpy())
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def speed(data: Tensor, row: int, batch: int, copy: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Gigabytes a second of the Loader and of the copy, and the share of one in the other."""
    width = row // data.element_size()
    table = data[: len(data) // width * width].view(-1, width)
    loader = Loader(TensorDataset(table), batch, shuffle=True)
    reads, copies = [], []
    for _ in range(rounds + 1):
        reads.append(1e-9 * table.nbytes / seconds(lambda: consume(loader.epoch(0))))
        copies.append(1e-9 * data.nbytes / seconds(copy))
    reads, copies = reads[1:], copies[1:]
    return {
        "GB/s": round(median(reads), 2),
        "copy, GB/s": round(median(copies), 2),
        "share": round(median(read / copy for read, copy in zip(reads, copies, strict=True)), 3),
    }


def cost(rounds: int, batches: int = 2000) -> tuple[list[dict[str, Any]], float]:
    """Rows of the table, and the Loader's time to that of indexing by hand."""
    x, y = torch.rand(SMALL * batches, 16), torch.arange(SMALL * batches)
    dataset = TensorDataset(x, y)
    loader, theirs = Loader(dataset, SMALL, shuffle=True), DataLoader(dataset, SMALL, shuffle=True)
    ways: dict[str, Callable[[], Any]] = {
        "by hand": lambda: by_hand(x, y),
        "Loader": lambda: consume(loader.epoch(0)),
        "DataLoader": lambda: consume(theirs),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(3 * rounds + 1):
        for name, way in ways.items():
            times[name].append(1e6 * seconds(way) / batches)
    found = {name: median(values[1:]) for name, values in times.items()}
    table = [
        {
            "data": f"{SMALL} rows of 64 B: {name}",
            "us a batch": round(value, 2),
            "above by hand, us": round(value - found["by hand"], 2),
        }
        for name, value in found.items()
    ]
    pairs = zip(times["Loader"][1:], times["by hand"][1:], strict=True)
    return table, round(median(ours / hand for ours, hand in pairs), 3)


def by_hand(x: Tensor, y: Tensor) -> None:
    """What people write."""
    order = torch.randperm(len(x))
    for start in range(0, len(x), SMALL):
        rows = order[start : start + SMALL]
        batch = x[rows], y[rows]
    del batch


def consume(batches: Iterable[Any]) -> None:
    """Read to the end; as in training, a batch lives until the next one is there."""
    for _ in batches:
        pass


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
