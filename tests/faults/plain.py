"""A plain user's run that draws from every generator, and digests of all that a resume has to bring back."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tinsmith import Trainer, get_optimizer, get_scheduler, set_seed
from tinsmith.engine.seed import get_rng_state


@dataclass
class Fit:
    """A trainer that has not begun, and what it trains on."""

    trainer: Trainer
    train: Any
    valid: Any = None
    epochs: int = 1

    @property
    def root(self) -> Path:
        """Where the checkpoints are."""
        assert self.trainer.saver is not None
        return self.trainer.saver.root

    def go(self, resume: bool = True) -> None:
        """Train to the end, from the newest checkpoint if there is one."""
        self.trainer.fit(self.train, self.valid, epochs=self.epochs, resume=resume)


Run = Callable[[Path], Fit]  # a folder -> a new process' trainer, whose checkpoints are there


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Samples that draw from every global generator each time that they are read."""

    def __init__(self, rows: int = 70) -> None:
        self.x = torch.randn(rows, 8, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(8) + random.random() + float(np.random.rand())
        return self.x[i] + 0.1 * noise, self.x[i].sum().sin()[None]


def plain(
    folder: Path, epochs: int = 5, rows: int = 70, loader: dict[str, Any] | None = None, **options: Any
) -> Fit:
    """A user with a plain module: dropout, noise, EMA; an epoch ends with a short batch in a short window."""
    torch.set_num_threads(1)
    set_seed(7)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 1))
    optimizer = get_optimizer(model, "adamw", lr=3e-3)
    schedule = get_scheduler(optimizer, "cosine_warmup", total_epochs=epochs, warmup_epochs=1)
    common = {"device": "cpu", "accumulate": 2, "ema": 0.9, "log_every": 1, "save_seconds": 0.0}
    options = {**common, "checkpoint_dir": folder / "checkpoints", "progress": False, **options}
    train = DataLoader(Noisy(rows), batch_size=8, shuffle=True, **(loader or {}))
    return Fit(
        Trainer(model, optimizer, schedule, **options), train, DataLoader(Noisy(8), batch_size=4), epochs
    )


def digest(tree: Any) -> str:
    """xxh3-128 of nested dicts and lists of tensors and plain values."""
    result = xxhash.xxh3_128()

    def visit(node: Any) -> None:
        if isinstance(node, Tensor):
            dense = node.detach().to_dense() if node.is_sparse else node.detach()
            result.update(f"{dense.dtype}{tuple(dense.shape)}".encode())
            result.update(dense.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif hasattr(node, "items"):
            visit([*node.items()])
        elif isinstance(node, (list, tuple)):
            result.update(f"[{len(node)}".encode())
            for item in node:
                visit(item)
        else:
            result.update(f"{node!r},".encode())

    visit(tree)
    return str(result.hexdigest())


def digests(trainer: Trainer) -> dict[str, str]:
    """A digest of each thing that a resume has to bring back."""
    state, ema = trainer.state, trainer.parts.ema
    history = {name: values for name, values in state.history.items() if name != "seconds"}
    return {
        "weights": digest(trainer.task.state_dict()),
        "ema": digest(None if ema is None else ema.state_dict()),
        "optimizer": digest(trainer.optimizer.state_dict()["state"]),
        "lr": digest([group["lr"] for group in trainer.optimizer.param_groups]),
        "rng": digest(get_rng_state()),
        "counters": digest([state.step, state.epoch, state.cursor, state.samples]),
        "history": digest([history, state.best_metric, state.best_step]),
    }


# ---- bugs of the restoring, for the testers' own tests ---------------------------------------------------


def forget_average(trainer: Trainer) -> None:
    ema, weights = trainer.parts.ema, trainer.task.state_dict()
    assert ema is not None
    for name, average in ema.state_dict()["shadow"].items():
        average.copy_(weights[name])


def forget_generators(trainer: Trainer) -> None:
    torch.manual_seed(99)


def forget_moments(trainer: Trainer) -> None:
    trainer.optimizer.state.clear()


def skip_a_sample(trainer: Trainer) -> None:
    trainer.state.cursor += 1
