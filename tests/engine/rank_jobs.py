"""What the processes of ``test_ranks.py`` do: every rank runs each job, and leaves its findings in files.

python rank_jobs.py JOB FOLDER        with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set, or alone
"""

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tinsmith import launched
from tinsmith.engine.accumulate import GradientAccumulator
from tinsmith.engine.data import BatchDataset, Loader
from tinsmith.engine.ranks import Ranks
from tinsmith.engine.trainer import Trainer
from tinsmith.errors import TinsmithError

ROWS, BATCH, WORDS = 37, 8, 12  # 37 = 4 x 8 + 5; two processes get 3 and 2 of the last


class Texts(BatchDataset):
    """Rows of word numbers and, for some words of each, a class; the others do not count (-100)."""

    def __init__(self, poisoned: int | None = None) -> None:
        generator = torch.Generator().manual_seed(3)
        self.words = torch.randint(WORDS, (ROWS, 4), generator=generator)
        self.values = torch.randn(ROWS, 4, 3, generator=generator)
        targets = torch.randint(5, (ROWS, 4), generator=generator)
        self.targets = targets.masked_fill(torch.rand(ROWS, 4, generator=generator) < 0.5, -100)
        if poisoned is not None:
            self.values[poisoned, 1] = torch.nan

    def __len__(self) -> int:
        return ROWS

    def batch(self, indices: Tensor) -> Any:
        return {
            "words": self.words[indices],
            "values": self.values[indices],
            "labels": self.targets[indices].flatten(),
        }


class Net(nn.Module):
    """With a sparse table, a part that some batches do not use, a norm with running means, and noise."""

    def __init__(self, noise: float, norm: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, 3, sparse=True)
        self.norm = nn.BatchNorm1d(3) if norm else nn.Identity()
        self.rare, self.head = nn.Linear(3, 3), nn.Linear(3, 5)
        self.drop = nn.Dropout(noise)

    def forward(self, words: Tensor, values: Tensor) -> Tensor:
        hidden = self.norm((self.table(words) + values).flatten(0, 1))
        rows = (words.flatten() == 3).nonzero()[:, 0]
        if len(rows):  # most batches leave this part without a gradient
            hidden = hidden.index_add(0, rows, self.rare(hidden[rows]))
        return self.head(self.drop(hidden))


def make(
    folder: Path | None, ranks: Ranks | None, noise: float = 0.0, norm: bool = False, **settings: Any
) -> Trainer:
    torch.manual_seed(0 if ranks is None or ranks.first else 1)  # other weights, until rank 0 shares its own
    net = Net(noise, norm)
    options: dict[str, Any] = {
        "device": "cpu",
        "progress": False,
        "log_every": 1,
        "save_seconds": 0,
        "ema": 0.9,
    }
    return Trainer(
        net,
        task_type="classification",
        loss_fn=nn.CrossEntropyLoss(),
        checkpoint_dir=folder,
        ranks=ranks,
        **(options | settings),
    )


def loaders(poisoned: int | None = None, rows: int = BATCH) -> tuple[Loader, Loader]:
    return Loader(Texts(poisoned), rows, shuffle=True, seed=5), Loader(Texts(), 16)


def curve(trainer: Trainer, loader: Loader, valid: Loader, **fit: Any) -> dict[str, Any]:
    """The losses of all steps, the validations, and the weights."""
    losses: list[float] = []
    trainer.add_log_hook(lambda row, step, prefix: losses.append(row["loss"]) if prefix == "train" else None)
    history = trainer.fit(loader, valid, **fit)
    weights = {name: tensor.tolist() for name, tensor in trainer.task.state_dict().items()}
    return {"losses": losses, "valid": history["val_loss"], "weights": weights, "step": trainer.state.step}


def same_curve(folder: Path, ranks: Ranks | None) -> Any:
    """Three epochs; then with two batches a step, and with batches of a single row."""
    whole = curve(make(None, ranks), *loaders(), epochs=3)
    accumulated = curve(make(None, ranks, accumulate=2), *loaders(), epochs=2)
    single = curve(make(None, ranks, max_steps=5), *loaders(rows=1))
    return [whole, accumulated, single]


def resumed(folder: Path, ranks: Ranks | None) -> Any:
    """The same number of steps at a stretch, and in two parts with a resume inside an epoch."""
    noisy = {"noise": 0.3, "norm": True}
    stretch = curve(make(folder / "stretch", ranks, max_steps=13, **noisy), *loaders())
    part = make(folder / "parts", ranks, **noisy)
    part.add_log_hook(lambda row, step, prefix: part.stop() if step == 6 else None)
    curve(part, *loaders(), epochs=9)
    assert part.state.step == 7, part.state.step
    torch.manual_seed(99)
    parts = curve(make(folder / "parts", ranks, max_steps=13, **noisy), *loaders(), resume=True)
    return [stretch, parts]


def begun(folder: Path, ranks: Ranks | None) -> Any:
    """Seven steps (a wish to stop is agreed on in the next one), for somebody else to go on with."""
    trainer = make(folder / "begun", ranks)
    trainer.add_log_hook(lambda row, step, prefix: trainer.stop() if step == 6 else None)
    return curve(trainer, *loaders(), epochs=9)


def gone_on(folder: Path, ranks: Ranks | None) -> Any:
    """Six more of them."""
    return curve(make(folder / "begun", ranks, max_steps=13), *loaders(), resume=True)


def poisoned(folder: Path, ranks: Ranks | None) -> Any:
    """A row that is not finite: the message of each process, and whether a skip goes on."""
    try:
        curve(make(folder / "poisoned", ranks), *loaders(poisoned=11), epochs=2)
    except TinsmithError as error:
        message = str(error)
    skipping = make(folder / "skipping", ranks, on_nonfinite="skip")
    after = curve(skipping, *loaders(poisoned=11), epochs=2)
    return {"message": message, "skipped": skipping.guard.skipped, "after": after}


def exchanged(folder: Path, ranks: Ranks | None) -> Any:
    """JSON and tensors, as they arrive."""
    assert ranks is not None
    trees = ranks.gather_tree({"a": [torch.full((ranks.rank,), 7.0)], "rank": ranks.rank})
    parts = {"p": {"x": torch.arange(3), "empty": torch.empty(0, 2)}} if ranks.first else None
    shared = ranks.share_parts(parts)
    return {
        "gathered": ranks.gather({"rank": ranks.rank, "nan": float("nan")}),
        "shared": ranks.share("from 0" if ranks.first else None),
        "nothing": ranks.share(None),
        "trees": [[tree["rank"], tree["a"][0].tolist()] for tree in trees],
        "parts": {name: tensor.tolist() for name, tensor in shared["p"].items()},
    }


def dying(folder: Path, ranks: Ranks | None) -> Any:
    """Rank 1 is killed in the middle; the message of the other."""
    assert ranks is not None
    trainer = make(folder / "dying", ranks)
    if ranks.rank == 1:
        trainer.add_log_hook(
            lambda row, step, prefix: os.kill(os.getpid(), signal.SIGKILL) if step == 6 else None
        )
    try:
        curve(trainer, *loaders(), epochs=50)
    except TinsmithError as error:
        return str(error)


def unweighted(folder: Path, ranks: Ranks | None) -> Any:
    """A planted bug: every process's gradient counts alike, however many words it has."""
    take, GradientAccumulator.take = GradientAccumulator.take, lambda self: (1.0, 1.0)  # type: ignore[method-assign]
    try:
        return curve(make(None, ranks), *loaders(), epochs=3)
    finally:
        GradientAccumulator.take = take  # type: ignore[method-assign]


def forgetful(folder: Path, ranks: Ranks | None) -> Any:
    """A planted bug: a checkpoint knows the noise of rank 0 alone."""
    assert ranks is not None
    ranks.gather_tree = lambda tree: [tree]  # type: ignore[method-assign]
    return resumed(folder / "forgetful", ranks)


def main(jobs: str, folder: Path) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    ranks = Ranks("cpu") if launched.is_launched() else None
    for name in jobs.split(","):
        job: Callable[[Path, Ranks | None], Any] = globals()[name]
        found = job(folder, ranks)
        size = 1 if ranks is None else ranks.size
        (folder / f"{name}-{size}-{launched.rank()}.json").write_text(json.dumps(found))
    if ranks is not None and "dying" not in jobs:
        ranks.leave()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
