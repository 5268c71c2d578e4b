"""Sample-steps a second of training, beside other people's code at the same size, sequence and batch.

    python benchmarks/trm_speed.py [--lucidrains CHECKOUT] [--samsung CHECKOUT] [--dim 128] [--threads 1]

A sample-step is one sample in one supervision step: forward, backward, optimiser, average. Random tokens,
fp32, batch 64, sequence 81; every row is measured in turns in this process. A row without a checkout, or
whose packages are not installed, is left out and said so. Rows of ours: the same mathematics (T=3, n=6, the
same widths, AdamW), and what the presets train with (Muon): other models, whose width and depth stand beside
the ratio. Then the share of held-out 4x4 sudokus that each solves after ``--minutes``.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from shown import show
from torch import Tensor, nn
from trm_sudoku import train

from tinsmith.compose import compose
from tinsmith.engine.contract import Context
from tinsmith.engine.ema import EMA
from tinsmith.engine.optim import get_optimizer
from tinsmith.engine.seed import set_seed
from tinsmith.families.trm import MLPMixer1D, RelationCore, TinyRecursiveModel, TRMTask
from tinsmith.families.trm.config import HaltConfig
from tinsmith.families.trm.cores import GroupSums
from tinsmith.families.trm.data import build_data
from tinsmith.families.trm.model import IGNORE

LENGTH, TOKENS = 81, 11


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lucidrains", type=Path)
    parser.add_argument("--samsung", type=Path)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0.5, help="of training on 4x4 sudokus")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dim, batch = args.dim, args.batch
    same = MLPMixer1D(dim=dim, depth=2, seq_len=LENGTH)
    narrow = MLPMixer1D(dim=dim, depth=2, seq_len=LENGTH, token_hidden=2 * LENGTH, channel_hidden=2 * dim)
    rows: dict[str, Callable[[], Any]] = {
        "ours, T=3 n=6, their widths": ours(same, dim, batch, 3, 6, "adamw"),
        "ours, T=3 n=6, our widths": ours(narrow, dim, batch, 3, 6),
        "ours, T=1 n=2, our widths": ours(narrow, dim, batch, 1, 2),
        "ours, T=1 n=2, relation": ours(
            RelationCore(dim=dim, depth=2, relations=GroupSums(9)), dim, batch, 1, 2
        ),
    }
    exact = {}
    for name, make, path in (("lucidrains", lucidrains, args.lucidrains), ("samsung", samsung, args.samsung)):
        if path is None:
            print(f"the row of {name} is left out: give its checkout with --{name}")
            continue
        try:
            rows[name] = repeated(make(path, dim, LENGTH, TOKENS, batch), batch)
        except ImportError as error:
            print(f"the row of {name} is left out: {error}")
            continue
        exact[name] = solved(make, path, args.minutes)
    rates = {name: batch / seconds for name, seconds in take_turns(rows, args.rounds).items()}
    peers = {name: rate for name, rate in rates.items() if not name.startswith("ours")}
    shown = [
        {"name": name, "per_sec": rate, **{f"x {peer}": rate / other for peer, other in peers.items()}}
        for name, rate in rates.items()
    ]
    if exact:
        words = ["preset=demo", "seed=0", f"threads={args.threads}"]
        exact["ours, the demo"] = train(words, args.minutes)["exact"]
    shown += [{"name": f"{name}, 4x4 solved", "exact": share} for name, share in exact.items()]
    best = max(rate for name, rate in rates.items() if "relation" not in name and name.startswith("ours"))
    bars = {f"ours against {peer}": (best / rate, ">=", 3.0) for peer, rate in peers.items()}
    for peer in peers:
        ahead = exact["ours, the demo"] - exact[peer]
        bars[f"4x4 solved more than by {peer} after {args.minutes:g} min"] = (ahead, ">=", 0.0)
    return show(f"trm speed, D={dim}, batch {batch}, {args.threads} threads", shown, bars)


def ours(
    network: nn.Module, dim: int, batch: int, blocks: int, latents: int, optimizer_type: str = "muon"
) -> Callable[[], None]:
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
    optimizer, average = get_optimizer(task, optimizer_type, lr=1e-4), EMA(task, 0.999)
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


def _imported(folder: Path, names: list[str]) -> list[Any]:
    """Modules of a package, without what the package itself imports: a trainer with packages of its own."""
    if not folder.is_dir():
        raise ImportError(f"there is no {folder}")
    package = types.ModuleType(folder.name)
    package.__path__ = [str(folder)]
    sys.modules[folder.name] = package
    return [importlib.import_module(f"{folder.name}.{name}") for name in names]


@dataclass
class Peer:
    """Somebody else's model: its start for a batch, and a step from a state to loss, logits, the next one."""

    model: nn.Module
    start: Callable[[int], Any]
    forward: Callable[[Any, dict[str, Tensor]], tuple[Tensor, Tensor, Any]]

    def trained(self, lr: float, decay: float) -> tuple[Callable[[Any, dict[str, Tensor]], Any], EMA]:
        """An optimiser step, from a state to the next one, and the average of the weights."""
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=0.1)
        average = EMA(self.model, decay)

        def step(state: Any, rows: dict[str, Tensor]) -> Any:
            loss, _, state = self.forward(state, rows)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            average.update()
            return state

        return step, average


def lucidrains(path: Path, dim: int, length: int, tokens: int, batch: int) -> Peer:
    """lucidrains' model with the mixer of the same depth, T=3 and n=6; its loss is a sum over the batch."""
    mixer, trm = _imported(path / "tiny_recursive_model", ["mlp_mixer_1d", "trm"])
    torch.manual_seed(0)
    network = mixer.MLPMixer1D(dim=dim, depth=2, seq_len=length)
    model = trm.TinyRecursiveModel(dim=dim, num_tokens=tokens, network=network)

    def forward(state: Any, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor, Any]:
        loss, _, outputs, latents, logits, _ = model(rows["inputs"], *state, labels=rows["labels"])
        return loss / len(rows["inputs"]), logits, (outputs, latents)

    return Peer(model, lambda _: model.get_initial(), forward)


def samsung(path: Path, dim: int, length: int, tokens: int, batch: int) -> Peer:
    """Samsung's model with ``mlp_t``, fp32, T=3 and n=6.

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
        "seq_len": length,
        "puzzle_emb_ndim": dim,
        "num_puzzle_identifiers": 1,
        "vocab_size": tokens,
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

    def start(count: int) -> Any:
        shape = (count, length + model.puzzle_emb_len, dim)
        states = [init.expand(shape).clone() for init in (model.H_init, model.L_init)]
        return peer.TinyRecursiveReasoningModel_ACTV1InnerCarry(*states)

    def forward(state: Any, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor, Any]:
        identifiers = torch.zeros(len(rows["inputs"]), dtype=torch.int32)
        state, logits, (halt, _) = model(state, rows | {"puzzle_identifiers": identifiers})
        loss = F.cross_entropy(logits.flatten(0, 1), rows["labels"].flatten())
        return loss + 0.5 * F.binary_cross_entropy_with_logits(halt, torch.zeros_like(halt)), logits, state

    return Peer(model, start, forward)


def repeated(peer: Peer, batch: int) -> Callable[[], None]:
    """The peer's optimiser step on one random batch, with its carry."""
    step, _ = peer.trained(1e-4, 0.999)
    rows, state = random_batch(batch), [peer.start(batch)]

    def again() -> None:
        state[0] = step(state[0], rows)

    return again


def solved(make: Callable[..., Peer], path: Path, minutes: float) -> float:
    """Share of held-out 4x4 boards that a peer solves in eight steps, after so many minutes on our demo's.

    Its model at our demo's width under the same learning rate, decay and average, eight steps a batch.
    """
    cfg = compose("trm", ["preset=demo", "seed=0"]).cfg
    set_seed(0)
    data = build_data(cfg)
    peer = make(path, cfg.model.dim, data.spec.seq_len, data.spec.num_tokens, cfg.trainer.batch_size)
    step, average = peer.trained(1e-3, 0.99)
    start, epoch = time.monotonic(), 0
    while time.monotonic() - start < 60 * minutes:
        for _, rows in data.train.epoch(epoch):
            state, full = peer.start(len(rows["inputs"])), with_all_labels(rows)
            for _ in range(cfg.halt.max_steps):
                state = step(state, full)
            if time.monotonic() - start >= 60 * minutes:
                break
        epoch += 1
    right = total = 0
    peer.model.eval()
    with torch.no_grad(), average.swap():
        for _, rows in data.test.epoch(0):
            state, full = peer.start(len(rows["inputs"])), with_all_labels(rows)
            for _ in range(cfg.halt.max_steps):
                _, logits, state = peer.forward(state, full)
            ok = (logits.argmax(-1) == rows["labels"]) | (rows["labels"] == IGNORE)
            right, total = right + int(ok.all(1).sum()), total + len(ok)
    return right / total


def with_all_labels(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """The boards with the given cells among the labels: the peers' losses want one for each cell."""
    return rows | {"labels": torch.where(rows["labels"] == IGNORE, rows["inputs"], rows["labels"])}


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
