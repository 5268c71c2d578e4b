"""What sharding would buy at tinsmith's largest size: two processes, a transformer of 97 million weights.

    python benchmarks/sharding.py

torch's own tools on gloo, each in processes of its own: plain copies (``DistributedDataParallel``), the
optimiser's state shared out (``ZeroRedundancyOptimizer``), weights, gradients and state shared out
(``fully_shard``, FSDP2). Seconds of a step and the peak of a process's memory.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
import torch.distributed as dist
from shown import show
from torch import nn

DIM, LAYERS, VOCAB, LENGTH, STEPS = 768, 12, 8000, 64, 5
WAYS = ("copies", "optimiser's state shared", "all shared")


def main() -> int:
    rows = [measured(way) for way in WAYS]
    return show("sharding", rows, {})


def measured(way: str) -> dict[str, Any]:
    """One way, in two processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", __file__, way]
    out = subprocess.run(launch, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return {"name": way} | {key: max(one[key] for one in found) for key in found[0]}


def child(way: str) -> None:
    """Train a few steps as one of the two."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    layers = [
        nn.TransformerEncoderLayer(DIM, 12, 4 * DIM, 0.0, batch_first=True, norm_first=True)
        for _ in range(LAYERS)
    ]
    model: nn.Module = nn.Sequential(nn.Embedding(VOCAB, DIM), *layers, nn.Linear(DIM, VOCAB))
    if way == "all shared":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    else:
        model = nn.parallel.DistributedDataParallel(model)
    if way == "optimiser's state shared":
        from torch.distributed.optim import ZeroRedundancyOptimizer

        optimizer: torch.optim.Optimizer = ZeroRedundancyOptimizer(
            model.parameters(), torch.optim.AdamW, lr=1e-4
        )
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(dist.get_rank())
    times = []
    for _ in range(STEPS):
        ids = torch.randint(VOCAB, (2, LENGTH), generator=generator)
        start = time.monotonic()
        nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.monotonic() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"step, s": round(statistics.median(times), 2), "peak, MB": round(peak)}))
    dist.destroy_process_group()


if __name__ == "__main__":
    if "RANK" in os.environ:
        child(sys.argv[1])
        sys.exit(0)
    sys.exit(main())
