from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import same, weights
from torch import nn
from torch.utils.data import TensorDataset

from tinsmith import Trainer, get_optimizer, get_scheduler
from tinsmith.engine import budget
from tinsmith.engine.budget import Pace
from tinsmith.engine.data import Loader


def loader(shuffle: bool = True) -> Loader:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    return Loader(TensorDataset(x, x @ torch.tensor([[1.0], [-2.0], [0.5]])), 6, shuffle=shuffle)


def make(folder: Path | None = None, kind: str = "linear", **options: Any) -> Trainer:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Dropout(0.3), nn.Linear(8, 1))
    optimizer = get_optimizer(model, "adamw", lr=1e-2)
    options = {"device": "cpu", "progress": False, "log_every": 2, **options}
    return Trainer(model, optimizer, get_scheduler(optimizer, kind), checkpoint_dir=folder, **options)


def test_minutes_become_steps_and_stay_over_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "steps_that_fit", lambda *_: 7)  # too few to be corrected
    trainer = make(tmp_path, max_minutes=1.0)
    trainer.add_log_hook(lambda metrics, at, prefix: trainer.stop() if at == 4 else None)
    trainer.fit(loader())
    assert (trainer.state.step, trainer.state.max_steps) == (4, 7)
    monkeypatch.setattr(budget, "steps_that_fit", lambda *_: pytest.fail("measured again"))
    again = make(tmp_path, max_minutes=1.0)
    again.fit(loader(), resume=True)
    assert again.state.step == 7
    monkeypatch.setattr(budget, "steps_that_fit", lambda *_: 11)
    more = make(tmp_path, max_minutes=2.0)
    more.fit(loader(), resume=True)
    assert more.state.step == 11


def test_timing_the_first_steps_leaves_no_trace() -> None:
    timed = make(kind="constant", max_minutes=0.004, ema=0.9)
    timed.fit(loader(), loader(shuffle=False))
    plain = make(kind="constant", max_steps=timed.state.step, ema=0.9)
    plain.fit(loader(), loader(shuffle=False))
    assert timed.state.step >= 1
    assert same(weights(timed), weights(plain))


@pytest.mark.parametrize(
    ("seconds", "evaluation", "expected"),
    [
        (0.25, 0.0, 10 + 211),  # 58.8 s less the 6 that are over, at 0.25 s a step
        (0.25, 2.0, 10 + 112),  # an evaluation of 2 s after each epoch of ten steps, and one at the end
        (0.74, 0.0, 80),  # 81 would fit: near enough
        (99.0, 0.0, 11),  # time is over: one more step, which evaluates and saves
    ],
)
def test_a_plan_is_corrected_by_what_steps_took(seconds: float, evaluation: float, expected: int) -> None:
    trainer = make(max_minutes=1.0)
    state = trainer.state
    state.step, state.max_steps, state.revise_at, state.seconds = 10, 80, 10, 6.0
    trainer.pace = Pace(10, 10 * seconds, evaluation)
    budget.revise(trainer, loader(), loader(shuffle=False))
    assert state.max_steps == expected
    assert trainer.pace.steps == 0


def test_a_killed_run_keeps_the_corrected_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "steps_that_fit", lambda *_: 24)
    rest = iter([37, 20])  # at step 3, and half way of 40
    monkeypatch.setattr(budget, "_fitting", lambda *_: next(rest))
    options = {"max_minutes": 1.0, "save_seconds": 1e9}
    whole = make(tmp_path / "whole", **options)
    whole.fit(loader(), loader(shuffle=False))
    assert whole.state.step == 40
    assert whole.state.revise_at == 0
    assert whole.state.history["lr"][-1] == pytest.approx(1e-2 / 40)  # the schedule goes by the new plan

    rest = iter([37])
    killed = make(tmp_path / "killed", **options)
    move = killed.loop.move

    def die() -> None:
        if killed.state.step == 6:
            raise ZeroDivisionError
        move()

    killed.loop.move = die  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        killed.fit(loader(), loader(shuffle=False))
    rest = iter([20])
    again = make(tmp_path / "killed", **options)
    again.fit(loader(), loader(shuffle=False), resume=True)
    assert again.state.step == 40
    assert same(weights(again), weights(whole))
