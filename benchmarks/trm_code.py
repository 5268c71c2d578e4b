"""What retrieved context buys for code completion: twins with and without it, at equal steps.

    python benchmarks/trm_code.py [--steps 1200] [--sets mbpp library] [--encoders chars minilm] [settings]

A span of eight characters of a function is masked, in turn five such spans of each test sample. ``library``:
functions of Python's standard library; ``mbpp``: the 974 short programs of MBPP (TINSMITH_DATA). A sample's
text is a third context at most, more for short code: the documentation, with the most alike other training
sample's code behind it where there is an encoder. All of a set's rows have the same split, length and number
of steps, and so nearly the same time. ``baseline`` copies what follows where the characters in front of the
gap stand already.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from shown import show
from trm_sudoku import train

from tinsmith.engine.contract import Data
from tinsmith.families import load_family
from tinsmith.families.trm.dataset import GridDataset

GAPS = 5  # of a test sample
ROW = ("exact", "cell_accuracy", "baseline", "train", "test", "seconds")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--sets", nargs="+", default=["mbpp", "library"])
    parser.add_argument("--encoders", nargs="+", default=["chars", "minilm"])
    args = parser.parse_intermixed_args()
    mbpp = Path(os.environ.get("TINSMITH_DATA", "")) / "code" / "mbpp.jsonl"
    sets = {
        "library": ["data.train=3000", "data.valid=64", "data.test=200"],
        "mbpp": [f"data.path={mbpp}", "data.train=0", "data.valid=64", "data.test=200"],
    }
    rows = []
    for name in args.sets:
        if name == "mbpp" and not mbpp.exists():
            print("mbpp is left out: set TINSMITH_DATA to a folder with code/mbpp.jsonl")
            continue
        for encoder in ["", *args.encoders]:
            words = ["preset=code", *sets[name], f"retrieval.encoder={encoder}"]
            words += [f"trainer.max_steps={args.steps}", f"trainer.eval_every={args.steps}", *args.settings]
            found = train(words, 0, table)
            rows.append({"set": name, "context": encoder or "none", **{key: found[key] for key in ROW}})
            print(rows[-1], flush=True)
    return show("trm code", rows, {})


def table(predictor: Any, data: Data, split: str) -> list[dict[str, Any]]:
    """The family's table over several gaps of each sample."""
    loader = getattr(data, split)
    samples = loader.dataset.samples[np.repeat(np.arange(len(loader.dataset)), GAPS)]
    loader.dataset = GridDataset(samples, masking=loader.dataset.masking)
    rows: list[dict[str, Any]] = load_family("trm").table(predictor, data, split)
    return rows


if __name__ == "__main__":
    sys.exit(main())
