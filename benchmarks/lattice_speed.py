"""Seconds an epoch, memory and quality of a lattice: over sizes of the cube, and over numbers of samples.

    python benchmarks/lattice_speed.py [--samples 1000 10000 100000] [--sizes 4 8 12] [--threads 2]

Autoencoder mode, batches of 32, 16 channels, 8 steps (the least that reaches the far face of a larger cube),
fp32. The sentences' vectors are computed first and kept; each row is a process of its own, with one epoch of
training and one validation. Memory is the most that the process held, torch and the data included; of that,
``training MB`` came on top of what was held before the model was built. Sizes are compared at 10,000 samples,
numbers of samples at 8x8x8.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shown import data_folder, show

from tinsmith.compose import compose
from tinsmith.engine.configured import build_trainer
from tinsmith.engine.seed import set_seed
from tinsmith.families import load_family
from tinsmith.text.corpora import load_corpus
from tinsmith.text.store import build_store, default_cache
from tinsmith.text.teachers import EmbeddingLoader

STANDARD, SAMPLES = 8, 10_000  # the cube and the epoch that the bars are about


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[1000, SAMPLES, 100_000])
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, STANDARD, 12])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs="*", help=argparse.SUPPRESS)  # the settings of a row, in its process
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(one(args.one)))
        return 0
    folder = data_folder() / "sentences"
    plan = [(size, SAMPLES) for size in args.sizes]
    plan += [(STANDARD, count) for count in args.samples if (STANDARD, count) not in plan]
    with tempfile.TemporaryDirectory() as scratch:
        files = save_vectors(folder, Path(scratch), {count for _, count in plan})
        rows = [measure(size, count, files[count], args.threads) for size, count in plan]
    bars = {}
    for row in rows:
        if (row["cube"], row["samples"]) == (cube(STANDARD), SAMPLES):
            bars = {
                "seconds of an epoch of 10,000": (row["epoch s"], "<=", 20),
                "MB at batch 32": (row["peak MB"], "<=", 500),
            }
    return show("lattice speed", rows, bars)


def save_vectors(folder: Path, scratch: Path, counts: set[int]) -> dict[int, list[str]]:
    """Files of the teacher's vectors of so many sentences each; the settings that name them, by number."""
    corpus = load_corpus(folder / "mixed_train.jsonl.gz", folder / "mixed_valid.jsonl.gz")
    teacher = EmbeddingLoader("minilm", normalize=True, device="cpu", max_len=128)
    train, valid = (
        build_store(default_cache() / "vectors", [row["text"] for row in rows], teacher).vectors
        for rows in (corpus.train, corpus.valid)
    )
    order = np.random.default_rng(0).permutation(len(train))
    np.save(scratch / "valid.npy", np.asarray(valid, np.float32))
    settings = {}
    for count in counts:
        np.save(scratch / f"{count}.npy", train[np.sort(order[:count])])
        settings[count] = [f"data.path={scratch}/{count}.npy", f"data.valid={scratch}/valid.npy"]
    return settings


def cube(size: int) -> str:
    return f"{size}x{size}x{size}"


def measure(size: int, samples: int, files: list[str], threads: int) -> dict[str, Any]:
    """A row of the table, from a process of its own."""
    steps = max(8, size - 1)
    settings = [
        *files,
        "mode=autoencoder",
        "data.source=file",
        f"data.max_samples={samples}",  # all of the file
        f"model.size=[{size},{size},{size}]",
        "model.channels=16",
        f"model.steps={steps}",
        "trainer.batch_size=32",
        "trainer.epochs=1",
        "device=cpu",
        f"threads={threads}",
    ]
    command = [sys.executable, __file__, "--one", *settings]
    out = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=True)
    row = {"cube": cube(size), "steps": steps, "samples": samples}
    print(f"{row['cube']}, {samples} samples: done", file=sys.stderr)
    return {**row, **json.loads(out.stdout.splitlines()[-1])}


def one(settings: list[str]) -> dict[str, Any]:
    """Train an epoch and validate, in this process."""
    cfg = compose("lattice", settings).cfg
    family = load_family("lattice")
    torch.set_num_threads(cfg.threads)
    set_seed(cfg.seed)
    data = family.build_data(cfg)
    before = peak_mb()
    task = family.build_task(cfg, family.build_model(cfg, data.spec), data)
    trainer = build_trainer(cfg, task, None)
    trainer.reporter.show = False
    start = time.perf_counter()
    trainer.fit(data.train, None, 1)
    seconds, peak = time.perf_counter() - start, peak_mb()
    valid = trainer.eval_epoch(data.valid)
    return {
        "parameters": sum(weight.numel() for weight in task.model.parameters()),
        "epoch s": round(seconds, 2),
        "samples/s": round(len(data.train.dataset) / seconds),
        "peak MB": round(peak),
        "training MB": round(peak - before),
        "cosine": round(valid["cosine"], 4),
    }


def peak_mb() -> float:
    """Of this process alone: ``ru_maxrss`` would hold that of the one it was forked off."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    sys.exit(main())
