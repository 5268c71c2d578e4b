"""Milliseconds of a training step at nanoGPT's setting for a CPU: AdamW, Muon, and nanoGPT's own code.

    python benchmarks/lm_speed.py [--rounds 15] [--steps 8] [--nanogpt PATH]

All take turns in one process, a few steps each; the median over the rounds. Random ids: no data is needed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import nanogpt
import torch
from shown import show

from tinsmith.engine.contract import Context
from tinsmith.engine.optim import clip_grad_norm, get_optimizer
from tinsmith.families.lm.config import ModelConfig
from tinsmith.families.lm.model import LanguageModel, LMSpec
from tinsmith.families.lm.task import LanguageModelTask

VOCAB = 69


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--nanogpt", help="a checkout of nanoGPT, for a row of its own code")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ids = torch.randint(4, VOCAB, (200_000,), generator=torch.Generator().manual_seed(0))
    calls: dict[str, Callable[[], Any]] = {
        "modern, AdamW": ours(ids, "modern", "adamw"),
        "modern, Muon": ours(ids, "modern", "muon"),
        "plain, AdamW": ours(ids, "plain", "adamw"),
    }
    peer = nanogpt.load(args.nanogpt)
    if peer is not None:
        calls["nanoGPT"] = nanogpt.Run(peer, ids, VOCAB, 2000).step
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(args.rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(args.steps):
                call()
            if turn:  # the first warms up
                times[name].append(1000 * (time.perf_counter() - start) / args.steps)
    ms = {name: statistics.median(values) for name, values in times.items()}
    tokens = nanogpt.BLOCK * nanogpt.BATCH
    rows = [
        {"name": name, "ms": round(value, 2), "tokens_per_sec": round(1000 * tokens / value)}
        for name, value in ms.items()
    ]
    bars = {"Muon's cost, ms": (ms["modern, Muon"] - ms["modern, AdamW"], "<=", 10)}
    if peer is not None:
        bars["step rate against nanoGPT's"] = (ms["nanoGPT"] / ms["modern, AdamW"], ">=", 1)
    return show("lm speed", rows, bars)


def ours(ids: torch.Tensor, style: str, kind: str) -> Callable[[], None]:
    """A step of our model, as the engine takes it."""
    torch.manual_seed(0)
    task = LanguageModelTask(LanguageModel(ModelConfig(style=style), LMSpec(VOCAB, nanogpt.BLOCK)))
    optimizer = get_optimizer(task, kind, lr=1e-3)
    parameters = list(task.parameters())

    def step() -> None:
        starts = torch.randint(len(ids) - nanogpt.BLOCK, (nanogpt.BATCH,))
        window = ids[starts[:, None] + torch.arange(nanogpt.BLOCK + 1)]
        task((window[:, :-1], window[:, 1:]), Context()).loss.backward()
        clip_grad_norm(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


if __name__ == "__main__":
    sys.exit(main())
