"""Validation loss over seconds on tiny Shakespeare, at nanoGPT's setting for a CPU; its own code beside it.

    python benchmarks/lm_quality.py [--seconds 45 180] [--nanogpt PATH] [settings of the run]

The whole validation split (the last tenth), windows that do not overlap. The seconds are those of training,
evaluations included, from the first step on.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import nanogpt
import numpy as np
import torch
from shown import data_folder, show
from trained import train

from tinsmith.compose import compose
from tinsmith.families.lm.data import build_data

BARS = {45: 1.75, 180: 1.55}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[45, 180])
    parser.add_argument("--runs", default="runs", help="where the run folders go")
    parser.add_argument("--nanogpt", help="a checkout of nanoGPT, for a row of its own code")
    parser.add_argument("settings", nargs="*")
    args = parser.parse_intermixed_args()
    path = data_folder() / "lm" / "tinyshakespeare.txt.gz"
    peer = nanogpt.load(args.nanogpt)
    rows: list[dict[str, Any]] = []
    bars = {}
    for seconds in args.seconds:
        words = ["preset=shakespeare", f"data.path={path}", f"name=shakespeare-{seconds:g}s"]
        words += [f"trainer.max_minutes={seconds / 60}", "trainer.eval_every=1000000", *args.settings]
        curve, folder = train("lm", words, args.runs)
        last = curve[-1]
        rows.append(
            {
                "name": "tinsmith",
                "budget": seconds,
                "steps": last["step"],
                "seconds": round(last["seconds"], 1),
                "loss": last["loss"],
            }
        )
        if seconds in BARS:
            bars[f"loss after {seconds:g} s"] = (last["loss"], "<=", BARS[int(seconds)])
        print(f"{seconds:g} s: {folder}", file=sys.stderr)
        if peer is not None:
            rows.append(theirs(peer, words, seconds))
    return show("lm quality", rows, bars)


def theirs(module: Any, words: list[str], seconds: float) -> dict[str, Any]:
    """nanoGPT's own model on the same ids for the same time."""
    data = build_data(compose("lm", words).cfg)
    ids = {
        name: torch.from_numpy(np.concatenate(data.artifacts["ids"][name])).long()
        for name in ("train", "valid")
    }
    run = nanogpt.Run(module, ids["train"], data.spec.vocab_size, 0)
    start = time.perf_counter()
    run.train(seconds)
    took = time.perf_counter() - start
    return {
        "name": "nanoGPT",
        "budget": seconds,
        "steps": run.number,
        "seconds": round(took, 1),
        "loss": run.loss(ids["valid"]),
    }


if __name__ == "__main__":
    sys.exit(main())
