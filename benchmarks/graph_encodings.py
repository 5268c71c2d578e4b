"""Encodings of 12,000 graphs of the size of molecules: seconds to compute, and seconds from the cache.

python benchmarks/graph_encodings.py [--count 12000] [pe=default]

The graphs are random ones with the sizes and degrees of ZINC's (``molecule_like.py``); for the figures it
does not matter what their atoms are.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from molecule_like import molecule_like
from shown import show

from tinsmith.compose import compose
from tinsmith.families.graph.batches import GraphDataset, Layout
from tinsmith.families.graph.encode import encode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=12_000)
    parser.add_argument("settings", nargs="*", default=["pe=default"])
    args = parser.parse_intermixed_args()
    graphs = molecule_like(args.count)
    rows: list[dict[str, Any]] = []
    for chosen in [args.settings, ["pe=rwse"], ["pe=all"]]:
        pe = compose("graph", chosen).cfg.pe
        with tempfile.TemporaryDirectory() as folder:
            seconds = [timed(graphs, pe, Path(folder)) for _ in range(2)]
            size = sum(path.stat().st_size for path in Path(folder).rglob("*.npy"))
            data = GraphDataset(graphs, encode(graphs, pe, cache=Path(folder)), Layout(pe, (3,)))
            start = time.perf_counter()
            for first in range(0, 320, 32):
                data.batch(torch.arange(first, first + 32))
            batch = (time.perf_counter() - start) / 10
        rows.append(
            {
                "encodings": " ".join(chosen),
                "computed, s": round(seconds[0], 2),
                "from the cache, s": round(seconds[1], 3),
                "MB on disk": round(size / 1e6, 1),
                "a batch of 32, ms": round(1e3 * batch, 2),
            }
        )
    scale = 12_000 / args.count
    bars = {
        "seconds for 12,000": (rows[0]["computed, s"] * scale, "<=", 10),
        "seconds from the cache": (rows[0]["from the cache, s"], "<=", 1),
    }
    return show("graph encodings", rows, bars)


def timed(graphs: Any, pe: Any, folder: Path) -> float:
    start = time.perf_counter()
    encode(graphs, pe, cache=folder)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
