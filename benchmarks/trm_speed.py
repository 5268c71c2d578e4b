"""Sample-steps a second of training, beside other people's code at the same size, sequence and batch.

    python benchmarks/trm_speed.py [--lucidrains CHECKOUT] [--samsung CHECKOUT] [--dim 128] [--threads 1]

A sample-step is one sample in one supervision step: forward, backward, AdamW, average. Random tokens, fp32,
batch 64, sequence 81; every row is measured in turns in this process. A row without a checkout, or whose
packages are not installed, is left out and said so. Rows of ours: the same mathematics (T=3, n=6, the same
widths), and what the presets train with: other models, whose width and depth stand beside the ratio.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from shown import show
from torch import Tensor, nn

from tinsmith.engine.contract import Context
from tinsmith.engine.ema import EMA
from tinsmith.engine.optim import get_optimizer
from tinsmith.families.trm import MLPMixer1D, RelationCore, TinyRecursiveModel, TRMTask
from tinsmith.families.trm.config import HaltConfig
from tinsmith.families.trm.cores import GroupSums

LENGTH, TOKENS = 81, 11


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lucidrains", type=Path)
    parser.add_argument("--samsung", type=Path)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dim, batch = args.dim, args.batch
    same = MLPMixer1D(dim=dim, depth=2, seq_len=LENGTH)
    narrow = MLPMixer1D(dim=dim, depth=2, seq_len=LENGTH, token_hidden=2 * LENGTH, channel_hidden=2 * dim)
    rows: dict[str, Callable[[], Any]] = {
        "ours, T=3 n=6, their widths": ours(same, dim, batch, 3, 6),
        "ours, T=3 n=6, our widths": ours(narrow, dim, batch, 3, 6),
        "ours, T=1 n=2, our widths": ours(narrow, dim, batch, 1, 2),
        "ours, T=1 n=2, relation": ours(
            RelationCore(dim=dim, depth=2, relations=GroupSums(9)), dim, batch, 1, 2
        ),
    }
    for name, make, path in (("lucidrains", lucidrains, args.lucidrains), ("samsung", samsung, args.samsung)):
        if path is None:
            print(f"the row of {name} is left out: give its checkout with --{name}")
            continue
        try:
            rows[name] = make(path, dim, batch)
        except ImportError as error:
            print(f"the row of {name} is left out: {error}")
    rates = {name: batch / seconds for name, seconds in take_turns(rows, args.rounds).items()}
    peers = {name: rate for name, rate in rates.items() if not name.startswith("ours")}
    shown = [
        {"name": name, "per_sec": rate, **{f"x {peer}": rate / other for peer, other in peers.items()}}
        for name, rate in rates.items()
    ]
    best = max(rate for name, rate in rates.items() if "relation" not in name and name.startswith("ours"))
    bars = {f"ours against {peer}": (best / rate, ">=", 3.0) for peer, rate in peers.items()}
    return show(f"trm speed, D={dim}, batch {batch}, {args.threads} threads", shown, bars)


def ours(network: nn.Module, dim: int, batch: int, blocks: int, latents: int) -> Callable[[], None]:
    """An optimiser step of our task with its carry."""
    torch.manual_seed(0)
    model = TinyRecursiveModel(
        dim=dim,
        num_tokens=TOKENS,
        network=network,
        num_refinement_blocks=blocks,
        num_latent_refinements=latents,
    )
    task = TRMTask(model, HaltConfig(16))
    optimizer, average = get_optimizer(task, "adamw", lr=1e-4), EMA(task, 0.999)
    rows = random_batch(batch) | {"rank": torch.ones(batch)}
    carry: list[Any] = [None]

    def step() -> None:
        out = task(rows, Context(0, 0, carry[0]))
        out.loss.backward()
        carry[0] = out.carry
        optimizer.step()
        optimizer.zero_grad()
        average.update()

    return step


def random_batch(batch: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs, labels = (torch.randint(1, TOKENS, (batch, LENGTH), generator=generator) for _ in range(2))
    return {"inputs": inputs, "labels": labels}


def _module(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.exists():
        raise ImportError(f"there is no {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _defining(path: Path, text: str) -> Path:
    """The file of the checkout's package that holds ``text``: the package itself imports too much."""
    files = sorted((path / "tiny_recursive_model").glob("*.py"))
    found = [file for file in files if "dense" not in file.name and text in file.read_text("utf-8")]
    if not found:
        raise ImportError(f"no file in {path}/tiny_recursive_model has {text!r}")
    return found[0]


def lucidrains(path: Path, dim: int, batch: int) -> Callable[[], None]:
    """An optimiser step of lucidrains' model with the mixer of the same depth, T=3 and n=6."""
    mixer = _module(_defining(path, "def MLPMixer1D("), "peer_mixer")
    trm = _module(_defining(path, "class TinyRecursiveModel("), "peer_trm")
    torch.manual_seed(0)
    network = mixer.MLPMixer1D(dim=dim, depth=2, seq_len=LENGTH)
    model = trm.TinyRecursiveModel(dim=dim, num_tokens=TOKENS, network=network)
    optimizer, average = torch.optim.AdamW(model.parameters(), lr=1e-4), EMA(model, 0.999)
    rows, state = random_batch(batch), list(model.get_initial())

    def step() -> None:
        loss, _, state[0], state[1], *_ = model(rows["inputs"], state[0], state[1], labels=rows["labels"])
        (loss / batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update()

    return step


def samsung(path: Path, dim: int, batch: int) -> Callable[[], None]:
    """An optimiser step of Samsung's model with ``mlp_t``, fp32, T=3 and n=6.

    Its inner model alone: the wrapper that replaces halted samples names a CUDA device. Its cost is left out.
    """
    sys.path.insert(0, str(path))
    try:
        from models.recursive_reasoning import trm as peer
    finally:
        sys.path.pop(0)
    torch.manual_seed(0)
    settings = {
        "batch_size": batch,
        "seq_len": LENGTH,
        "puzzle_emb_ndim": dim,
        "num_puzzle_identifiers": 1,
        "vocab_size": TOKENS,
        "H_cycles": 3,
        "L_cycles": 6,
        "H_layers": 0,
        "L_layers": 2,
        "hidden_size": dim,
        "expansion": 4,
        "num_heads": 8,
        "pos_encodings": "none",
        "halt_max_steps": 16,
        "halt_exploration_prob": 0.1,
        "forward_dtype": "float32",
        "mlp_t": True,
    }
    model = peer.TinyRecursiveReasoningModel_ACTV1(settings).inner
    optimizer, average = torch.optim.AdamW(model.parameters(), lr=1e-4), EMA(model, 0.999)
    rows = random_batch(batch) | {"puzzle_identifiers": torch.zeros(batch, dtype=torch.int32)}
    shape = (batch, LENGTH + model.puzzle_emb_len, dim)
    start = [init.expand(shape).clone() for init in (model.H_init, model.L_init)]
    carry = [peer.TinyRecursiveReasoningModel_ACTV1InnerCarry(*start)]

    def step() -> None:
        carry[0], logits, (halt, _) = model(carry[0], rows)
        loss = F.cross_entropy(logits.flatten(0, 1), rows["labels"].flatten())
        (loss + 0.5 * F.binary_cross_entropy_with_logits(halt, torch.zeros(batch))).backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update()

    return step


def take_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median seconds of each call, after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for k in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if k:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    sys.exit(main())
