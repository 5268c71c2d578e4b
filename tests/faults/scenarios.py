"""What is saved while the disk fails: the savers of tinsmith, and what must be true of each afterwards."""

import os
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from faults import shim
from torch import nn

from tinsmith import Trainer
from tinsmith.durable import replace_bytes
from tinsmith.engine import checkpoint
from tinsmith.engine.checkpoint import best_checkpoint, find_checkpoints, prune, read_newest
from tinsmith.errors import DataError, ResourceError

LINKS = {"last", "best"}


def write(root: Path, step: int, metric: float | None = None) -> Path:
    """A checkpoint of run ``a`` whose weights say its step."""
    folder, n = root / f"step-{step:08d}-a", 1
    while folder.exists():
        n += 1
        folder = root / f"step-{step:08d}-a-{n}"
    parts = {
        "model": {"w": torch.full((64,), float(step))},
        "optimizer": {"m": torch.full((2,), float(step))},
    }
    state = {"run_id": "a", "global_step": step, "saved_at": float(step), "best_here": metric}
    checkpoint.write_checkpoint(folder, parts, state)
    return folder


def damage(folder: Path) -> None:
    """Flip a bit of the weights: only a digest shows it."""
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


class Scenario(ABC):
    """One action on a folder that holds something already."""

    errors: tuple[type[BaseException], ...] = (ResourceError,)  # what the action may raise
    before: tuple[int | None, ...] = (1,)  # the steps that may load while the action has not said ok
    new = 2

    def __init__(self, base: Path) -> None:
        """Make the state that the action finds, in ``base``."""
        self.base = base
        base.mkdir()
        self.prepare(base)

    def prepare(self, root: Path) -> None:
        """Put what is there before into ``root``."""
        write(root, 1)

    def ready(self) -> None:  # noqa: B027 (most have nothing in memory)
        """Stand before the action in memory, too."""

    def fresh(self, root: Path) -> Path:
        """A copy of the state before."""
        self.ready()
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.base, root, symlinks=True)
        return root

    @abstractmethod
    def act(self, root: Path) -> None:
        """Save."""

    def wrong(self, root: Path, saved: bool) -> str:
        """What is not as promised, after ``act`` said ok (``saved``) or before."""
        try:
            newest = read_newest(root)
        except DataError as error:
            return f"nothing loads: {error}"
        step = None if newest is None else newest[2]["global_step"]
        if step != self.new and (saved or step not in self.before):
            return f"step {step} loads {'after' if saved else 'before'} the save was done"
        if newest is not None and not self.weights_are(newest[1], newest[2]):
            return f"step {step} loads with other weights"
        return ""

    def weights_are(self, parts: Any, state: Any) -> bool:
        """Whether the weights that loaded are those of the step that loaded."""
        return bool((parts["model"]["w"] == state["global_step"]).all())

    def litter(self, root: Path) -> str:
        """What lies about that is neither a checkpoint nor a link, after a save without faults."""
        prune(root, "a", 9)
        whole = {found.path.name for found in find_checkpoints(root)}
        return ", ".join(sorted({path.name for path in root.iterdir()} - whole - LINKS))


class Write(Scenario):
    """``write_checkpoint`` beside an older one."""

    def act(self, root: Path) -> None:
        write(root, self.new)


class First(Write):
    """``write_checkpoint`` where not even the folders are there."""

    before = (None,)

    def prepare(self, root: Path) -> None:
        """Nothing."""

    def act(self, root: Path) -> None:
        super().act(root / "run" / "checkpoints")

    def wrong(self, root: Path, saved: bool) -> str:
        return super().wrong(root / "run" / "checkpoints", saved)

    def litter(self, root: Path) -> str:
        return super().litter(root / "run" / "checkpoints")


class Save(Scenario):
    """``Saver.save`` of a trainer whose best weights wait: two checkpoints, links, two pruned."""

    before = (2, 3)  # the best weights are written first
    new = 4

    def prepare(self, root: Path) -> None:
        torch.manual_seed(0)
        self.trainer = Trainer(nn.Linear(3, 2), device="cpu", progress=False, checkpoint_dir=root)
        self.at(1, best=True)
        self.trainer.saver.save(self.trainer)
        self.at(2)
        self.trainer.saver.save(self.trainer)

    def ready(self) -> None:
        self.at(3, best=True)
        self.trainer.saver.remember_best(self.trainer)
        self.at(4)

    def at(self, step: int, best: bool = False) -> None:
        """Stand at a step, with weights that say so."""
        state = self.trainer.state
        state.step = step
        if best:
            state.best_step, state.best_metric = step, 1.0 / step
        with torch.no_grad():
            self.trainer.model.weight.fill_(step)

    def act(self, root: Path) -> None:
        self.trainer.saver.root = root
        self.trainer.saver.save(self.trainer)

    def wrong(self, root: Path, saved: bool) -> str:
        best = best_checkpoint(root)
        step = best and int(best.name.split("-")[1])
        if step != 3 and (saved or step != 1):
            return f"step {step} is the best {'after' if saved else 'before'} the save was done"
        return super().wrong(root, saved)

    def weights_are(self, parts: Any, state: Any) -> bool:
        return bool((parts["model"]["model.weight"] == state["global_step"]).all())


class Prune(Scenario):
    """``prune`` where the newest two are damaged, with what a process left that was killed in ``link``."""

    errors = ()  # it logs
    before = (3,)
    new = 3

    def prepare(self, root: Path) -> None:
        write(root, 1, metric=0.9)  # all that may go
        write(root, 2, metric=0.5)
        whole = write(root, 3)
        for step in (4, 5):
            damage(write(root, step, metric=1 / step))
        (root / ".tmp-last-1").symlink_to(whole.name)

    def act(self, root: Path) -> None:
        prune(root, "a", 2)

    def wrong(self, root: Path, saved: bool) -> str:
        return super().wrong(root, saved) or ("" if best_checkpoint(root) else "the best checkpoint is gone")


class Replace(Scenario):
    """``replace_bytes`` of a file."""

    errors = (OSError,)

    def prepare(self, root: Path) -> None:
        (root / "a.json").write_bytes(self.content(1))

    def content(self, step: int) -> bytes:
        """What the file holds at a step."""
        return b"%d" % step * 30_000

    def act(self, root: Path) -> None:
        replace_bytes(root / "a.json", self.content(self.new))

    def wrong(self, root: Path, saved: bool) -> str:
        file = root / "a.json"
        data = file.read_bytes() if file.exists() else None
        fine = data == self.content(self.new) or (not saved and data == self.content(1))
        return "" if fine else f"the file holds {data and data[:3]!r}..., {data and len(data)} bytes"

    def litter(self, root: Path) -> str:
        return ", ".join(sorted({path.name for path in root.iterdir()} - {"a.json"}))


def record(scenario: Scenario, folder: Path) -> list[shim.Op]:
    """The calls of the scenario without a fault, with a mark where the new checkpoint is said to be saved."""
    root, journal = scenario.fresh(folder / "case"), folder / "journal"
    write_checkpoint = checkpoint.write_checkpoint

    def act() -> str:
        with shim.watching(root, journal=journal) as watch:

            def write_and_tell(path: Path, parts: Any, state: Any) -> None:
                write_checkpoint(path, parts, state)
                watch.shim_mark(b"saved" if state["global_step"] == scenario.new else b"")

            with mock.patch.object(checkpoint, "write_checkpoint", write_and_tell):
                scenario.act(root)
            watch.shim_mark(b"saved")
        return ""

    _, problem, _ = shim.in_child(act)  # which leaves the trainer of this process as it was
    assert problem == ""
    return shim.read_journal(journal)


def again(scenario: Scenario, root: Path) -> str:
    """Save without a fault after all that. Returns what is wrong, or nothing."""
    try:
        scenario.act(root)
    except OSError as error:
        return f"what it left is in the way: {error}"
    if problem := scenario.wrong(root, saved=True):
        return f"then without a fault: {problem}"
    litter = scenario.litter(root)
    return litter and f"litter: {litter}"


class InPlace(Replace):
    """A planted bug for both testers: overwrites the only file there is."""

    def act(self, root: Path) -> None:
        with (root / "a.json").open("wb") as file:
            file.write(self.content(self.new))
            file.flush()
            os.fsync(file.fileno())
