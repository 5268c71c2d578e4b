"""Training in stages: short sequences, narrow models and large batches first.

The stages run around the trainer, which has no notion of them. Each has a trainer of its own; a change of
width builds the model anew and carries the overlapping weights over. Steps, epochs, time and history go on
through all stages; each has its own schedule, and its own best.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tinsmith.engine import checkpoint
from tinsmith.engine.config import CurriculumStage
from tinsmith.engine.trainer import Trainer
from tinsmith.errors import ConfigError

log = logging.getLogger(__name__)


Built = tuple[Trainer, Any, Any]  # a stage's trainer, training loader, and validation loader or None
Build = Callable[[CurriculumStage], Built]


class CurriculumScheduler:
    """Runs the stages one after another; a resume inside any of them is exact.

    Example::

        short = CurriculumStage(seq_len=16, dim=32, epochs=2)
        long = CurriculumStage(seq_len=64, dim=64, epochs=4)

        def build(stage):
            model = make_model(stage.dim)
            trainer = Trainer(model, checkpoint_dir="checkpoints")
            return trainer, train_loader(stage.seq_len), val_loader(stage.seq_len)

        trainer = CurriculumScheduler([short, long]).train(build, resume=True)

    Raises:
        ConfigError: no stages, or one that is not allowed.
    """

    def __init__(self, stages: Sequence[CurriculumStage]) -> None:
        if not stages:
            raise ConfigError("a curriculum needs at least one stage, such as CurriculumStage(epochs=1)")
        self.stages = list(stages)
        for stage in self.stages:
            stage.validate()

    def __len__(self) -> int:
        return len(self.stages)

    def __iter__(self) -> Iterator[CurriculumStage]:
        return iter(self.stages)

    @property
    def total_epochs(self) -> int:
        """The epochs of all stages."""
        return sum(stage.epochs for stage in self.stages)

    def stage_at(self, epoch: int) -> CurriculumStage:
        """The stage of an epoch, counted from 0 through all stages; the last one from its end on."""
        for stage in self.stages:
            if epoch < stage.epochs:
                return stage
            epoch -= stage.epochs
        return self.stages[-1]

    def train(
        self, build: Build, resume: bool = False, first: tuple[int, Built] | None = None, **options: Any
    ) -> Trainer:
        """Train all stages, and return the last one's trainer.

        Args:
            build: a stage's trainer, its training loader, and its validation loader or None. All trainers
                have the same ``checkpoint_dir``, and no budget of steps or minutes.
            resume: go on from the newest whole checkpoint, in the stage that it is of.
            first: the number, from 0, of the stage to begin with and what ``build`` gave for it, loaded
                already if it is to go on.
            options: further arguments of ``Trainer.fit``.

        Raises:
            ConfigError: a trainer with a budget of its own, or a checkpoint of more stages than there are.
        """
        number, built = first or self._first(build, resume)
        while True:
            trainer, train_loader, val_loader = built
            if trainer.max_steps or trainer.max_minutes:
                raise ConfigError("a curriculum counts in epochs: set neither max_steps nor max_minutes")
            log.info("stage %d of %d: %s", number + 1, len(self), self.stages[number])
            trainer.fit(train_loader, val_loader, self.stages[number].epochs, resume=resume, **options)
            number += 1
            if number == len(self):
                return trainer
            built, resume = build(self.stages[number]), False
            pass_on(trainer, built[0])

    def _first(self, build: Build, resume: bool) -> tuple[int, Built]:
        """The stage to begin with."""
        built = build(self.stages[0])
        saver = built[0].saver
        number = self.stage_of_newest(saver.root) if resume and saver is not None else 0
        return number, built if number == 0 else build(self.stages[number])

    def stage_of_newest(self, checkpoints: Path) -> int:
        """The number, from 0, of the stage that the newest whole checkpoint is of; 0 where there is none.

        Raises:
            ConfigError: there are not so many stages.
            DataError: there are checkpoints, and all are damaged.
        """
        newest = checkpoint.read_newest(checkpoints)
        number = 0 if newest is None else int(newest[2].get("stage", 0))
        if number >= len(self):
            raise ConfigError(
                f"the checkpoint is of stage {number + 1}, the curriculum has {len(self)}: "
                "give it all of its stages again, or another checkpoint_dir"
            )
        return number


def pass_on(old: Trainer, new: Trainer) -> None:
    """Start the next stage: ``new`` goes on where ``old`` ended.

    Weights are carried over where they overlap. Moments of the optimiser, average and carry go along if no
    shape has changed, else they start anew.
    """
    before, after = old.task.state_dict(), new.task.state_dict()
    same = {name: t.shape for name, t in before.items()} == {name: t.shape for name, t in after.items()}
    carry_over(before, new.task)
    if same:
        new.optimizer.load_state_dict(old.optimizer.state_dict())
        new.loop.carry = old.loop.carry
    if new.parts.ema is not None:
        _pass_on_average(old, new, same)
    state = new.state
    state.take_over(old.state)
    state.stage, state.stage_epoch, state.stage_step = state.stage + 1, state.epoch, state.step
    state.best_metric = state.best_epoch = state.best_step = None
    state.cursor, state.finished = 0, False


def _pass_on_average(old: Trainer, new: Trainer, same: bool) -> None:
    assert new.parts.ema is not None
    if same and old.parts.ema is not None:
        new.parts.ema.load_state_dict(old.parts.ema.state_dict())
    else:
        weights, average = new.task.state_dict(), new.parts.ema.state_dict()["shadow"]
        new.parts.ema.load_state_dict({"shadow": {name: weights[name] for name in average}, "updates": 0})


@torch.no_grad()
def carry_over(weights: dict[str, Tensor], module: nn.Module) -> list[str]:
    """Copy weights into a module of another width: of each tensor the part that both have.

    Args:
        weights: name -> tensor.
        module: what is not covered stays as it is initialised.

    Returns:
        The names of the module's tensors that got nothing: new ones, or ones with another number of axes.
    """
    left = []
    for name, target in module.state_dict().items():
        source = weights.get(name)
        if source is None or source.ndim != target.ndim:
            left.append(name)
            continue
        part = tuple(slice(min(a, b)) for a, b in zip(source.shape, target.shape, strict=True))
        target[part] = source[part].to(target)
    return left
