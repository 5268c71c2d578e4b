"""A NaN or an infinity in a family's data, loss, gradient or weights: caught in its step, never saved.

``pytest tests/faults/test_not_finite.py -m full``: at every step of a run.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from families.tiny import Built, build, folder, name
from torch import Tensor

from tinsmith.engine.checkpoint import find_checkpoints, read_checkpoint
from tinsmith.engine.contract import Context, StepOutput, Task
from tinsmith.engine.trainer import Trainer
from tinsmith.errors import DivergedError

__all__ = ["folder", "name"]  # fixtures

NAN, INF = float("nan"), float("inf")
STEPS = 8
Plant = Callable[[Task, Any, float], None]


def in_data(task: Task, batch: Any, value: float) -> None:
    """Into the first floating-point tensor that a batch computes with (a rank only sorts; some are empty)."""
    found = (t for name, t in batch.items() if t.is_floating_point() and t.numel() and name != "rank")
    tensor = next(found, None)
    if tensor is None:
        pytest.skip("the batches of this family hold whole numbers alone")
    tensor.view(-1)[3] = value


def in_weights(task: Task, batch: Any, value: float) -> None:
    """Into all weights, since the step need not use all rows of a table."""
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.fill_(value)


def nothing(task: Task, batch: Any, value: float) -> None:
    pass


class _Spoil(torch.autograd.Function):
    """The identity, whose gradient is not finite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: float) -> Tensor:
        ctx.value = value
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.value, None


BEFORE: dict[str, Plant] = {"data": in_data, "weights": in_weights, "loss": nothing, "gradient": nothing}


class Planted(Task):
    """A family's task; at step ``at`` something in it is not finite."""

    def __init__(self, inner: Task, where: str, value: float, at: int) -> None:
        super().__init__()
        self.inner, self.where, self.value, self.at = inner, where, value, at
        self.model, self.monitor = inner.model, inner.monitor
        self.evaluate = inner.evaluate  # type: ignore[method-assign]

    def forward(self, batch: Any, ctx: Context) -> StepOutput:
        if ctx.step != self.at or not self.training:
            out: StepOutput = self.inner(batch, ctx)
            return out
        batch = {name: tensor.clone() for name, tensor in batch.items()}
        BEFORE[self.where](self.inner, batch, self.value)
        out = self.inner(batch, ctx)
        if self.where == "loss":
            out.loss = out.loss * self.value
        if self.where == "gradient":
            out.loss = _Spoil.apply(out.loss, self.value)  # type: ignore[no-untyped-call]
        return out


def planted(built: Built, where: str, value: float, at: int, checkpoints: Path, policy: str) -> Trainer:
    task = Planted(built.task, where, value, at)
    settings = {"max_steps": STEPS, "save_seconds": 0, "ema": 0.9, "eval_every": 3, "on_nonfinite": policy}
    return Built(built.family, built.cfg, built.data, task).trainer(checkpoints, **settings)


def saved(checkpoints: Path) -> Iterator[tuple[int, Tensor]]:
    for found in find_checkpoints(checkpoints):
        parts, _ = read_checkpoint(found.path)
        for stem in ("model", "ema"):
            for tensor in parts[stem].values():
                yield found.step, tensor


CASES = [(where, value) for where in BEFORE for value in (NAN, INF)]
EVERY = [pytest.param(at, marks=pytest.mark.full) for at in range(STEPS) if at != 5]


@pytest.mark.parametrize("at", [5, *EVERY])
@pytest.mark.parametrize(("where", "value"), CASES)
def test_stop(where: str, value: float, at: int, name: str, folder: Path, tmp_path: Path) -> None:
    built = build(name, folder)
    trainer = planted(built, where, value, at, tmp_path, "stop")
    with pytest.raises(DivergedError, match=rf"became (nan|inf|-inf) at step {at} ") as caught:
        trainer.fit(built.data.train, built.data.valid)
    assert trainer.state.step == at
    assert all(tensor.isfinite().all() for _, tensor in saved(tmp_path))
    assert max((step for step, _ in saved(tmp_path)), default=0) == at  # the boundary before the step
    assert "Samples of the step: " in str(caught.value)


@pytest.mark.parametrize("at", [5, *EVERY])
@pytest.mark.parametrize(
    ("policy", "where"),
    # Spoiled weights are beyond skipping.
    [("skip", "data"), ("skip", "loss"), ("skip", "gradient"), *(("rollback", where) for where in BEFORE)],
)
def test_going_on(policy: str, where: str, at: int, name: str, folder: Path, tmp_path: Path) -> None:
    built = build(name, folder)
    trainer = planted(built, where, NAN, at, tmp_path, policy)
    trainer.fit(built.data.train, built.data.valid)
    assert (trainer.state.step, trainer.guard.skipped) == (STEPS, 1)
    assert all(tensor.isfinite().all() for _, tensor in saved(tmp_path))
    assert {step for step, _ in saved(tmp_path)} >= {STEPS}


def test_without_the_guard_it_would_be_saved(name: str, folder: Path, tmp_path: Path) -> None:
    """The tester sees what it looks for."""
    built = build(name, folder)
    trainer = planted(built, "gradient", NAN, 5, tmp_path, "stop")
    trainer.loop.guard = None
    trainer.guard.check_weights = lambda loop: False  # type: ignore[method-assign]
    trainer.fit(built.data.train)
    assert not all(tensor.isfinite().all() for _, tensor in saved(tmp_path))
