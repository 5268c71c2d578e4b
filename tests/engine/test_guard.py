"""What is not finite never moves the weights or reaches the disk, and each policy does what it says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tinsmith.engine import guard as guard_module
from tinsmith.engine.checkpoint import read_newest
from tinsmith.engine.contract import Context, StepOutput, Task
from tinsmith.engine.data import Loader
from tinsmith.engine.optim import get_optimizer
from tinsmith.engine.trainer import Trainer
from tinsmith.errors import ConfigError, DivergedError

NAN, INF = float("nan"), float("inf")
ROWS, BATCH = 64, 8


class Fragile(Task):
    """Regression with dropout and running means. ``plant(task, step, x)`` may spoil the loss of a step."""

    def __init__(self, plant: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 1))
        self.plant = plant

    def forward(self, batch: Any, ctx: Context) -> StepOutput:
        x, y = batch["x"], batch["y"]
        loss = (self.model(x) - y).square().mean()
        if self.plant is not None and self.training:
            loss = self.plant(self, ctx.step, loss)
        return StepOutput(loss, len(x))


def rows(bad: dict[int, float] | None = None) -> list[dict[str, Tensor]]:
    x = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1))
    for index, value in (bad or {}).items():
        x[index, 2] = value
    return [{"x": row, "y": row.nan_to_num(0, 0, 0).sum()[None]} for row in x]


def make(folder: Path | None = None, plant: Any = None, **settings: Any) -> Trainer:
    task = Fragile(plant)
    settings = {"device": "cpu", "progress": False, "save_seconds": 0, "log_every": 1, **settings}
    return Trainer(task, get_optimizer(task, "adamw", lr=1e-2), checkpoint_dir=folder, **settings)


def loader(bad: dict[int, float] | None = None) -> Loader:
    return Loader(rows(bad), BATCH, shuffle=True, seed=3)


def finite(trainer: Trainer) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in trainer.task.state_dict().values())


def at_step(step: int, spoil: Any) -> Any:
    return lambda task, now, loss: spoil(task, loss) if now == step else loss


def infinite_slope(task: Fragile, loss: Tensor) -> Tensor:
    return loss + (task.model[3].weight * 0).sum().sqrt()  # the square root's slope at zero


def spoiled_weight(task: Fragile, loss: Tensor) -> Tensor:
    with torch.no_grad():
        task.model[3].weight[0, 1] = NAN
    return loss * task.model[3].weight.sum()


PLANTED = {
    "loss": (at_step(5, lambda task, loss: loss * NAN), "the loss became nan at step 5"),
    "infinite loss": (at_step(5, lambda task, loss: loss + INF), "the loss became inf at step 5"),
    "gradient": (
        at_step(5, infinite_slope),
        "the gradient's norm became nan at step 5.*gradient of model.3.weight",
    ),
    "weight": (at_step(5, spoiled_weight), "at step 5.*Not finite first: the weights model.3.weight"),
}


@pytest.mark.parametrize("clip", [1.0, None])
@pytest.mark.parametrize("where", PLANTED)
def test_stop_names_the_step_and_saves_what_was_before_it(
    where: str, clip: float | None, tmp_path: Path
) -> None:
    plant, message = PLANTED[where]
    message = (
        message.replace("the gradient's norm became nan", "the gradient became not finite")
        if clip is None
        else message
    )
    trainer = make(tmp_path, plant, grad_clip=clip)
    with pytest.raises(DivergedError, match=message):
        trainer.fit(loader(), epochs=2)
    found = read_newest(tmp_path)
    assert found is not None
    _, parts, state = found
    assert all(tensor.isfinite().all() for tensor in parts["model"].values())
    assert state["global_step"] == (5 if where != "weight" else 4 + 1)
    assert state["cursor"] == 5 * BATCH


def test_bad_data_are_named_by_their_samples(tmp_path: Path) -> None:
    with pytest.raises(DivergedError) as caught:
        make(tmp_path).fit(loader({17: NAN, 41: INF}), epochs=1)
    text = str(caught.value)
    order = loader().order(0).tolist()
    first = min(order.index(17), order.index(41))
    assert f"at step {first // BATCH} " in text
    assert f"Not finite first: the input x of sample {order[first]}." in text
    window = order[first // BATCH * BATCH : (first // BATCH + 1) * BATCH]
    assert f"Samples of the step: {', '.join(map(str, window))}." in text
    assert "Run once more it came out the same" in text
    assert "Mend these samples" in text


def test_an_accident_of_the_machine_is_told_from_bad_data(tmp_path: Path) -> None:
    accidents = []

    def flaky(task: Fragile, step: int, loss: Tensor) -> Tensor:
        if step == 3 and not accidents:
            accidents.append(step)
            return loss * NAN
        return loss

    with pytest.raises(DivergedError, match="it came out differently: suspect the machine"):
        make(tmp_path, flaky).fit(loader(), epochs=1)


def test_the_module_that_spoils_it_is_named(tmp_path: Path) -> None:
    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sub(100).log()

    trainer = make(tmp_path)
    trainer.task.model[2] = Log()
    with pytest.raises(DivergedError, match=r"Not finite first: the output of model\.2 \(Log\)\."):
        trainer.fit(loader(), epochs=1)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_skip_goes_on_as_if_the_step_had_not_been(accumulate: int, tmp_path: Path) -> None:
    trainer = make(tmp_path, on_nonfinite="skip", accumulate=accumulate, ema=0.9)
    seen: list[dict[str, Any]] = []
    trainer.add_log_hook(lambda metrics, step, prefix: seen.append({"step": step, **metrics}))
    bad = loader().order(0).tolist()[20]
    trainer.fit(loader({bad: NAN}), epochs=2)
    steps = -(-ROWS // BATCH // accumulate)
    assert trainer.state.step == 2 * steps
    assert trainer.guard.skipped == 2  # once an epoch
    assert finite(trainer)
    assert [row["step"] for row in seen] == list(range(1, 2 * steps + 1))
    without = [row["step"] for row in seen if "loss" not in row]
    assert len(without) == 2
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in seen if "loss" in row)


def test_stopping_and_resuming_with_skip_equals_skipping_at_once(tmp_path: Path) -> None:
    bad = {loader().order(0).tolist()[20]: NAN}
    at_once = make(tmp_path / "a", on_nonfinite="skip")
    at_once.fit(loader(bad), epochs=2)
    with pytest.raises(DivergedError):
        make(tmp_path / "b").fit(loader(bad), epochs=2)
    torch.manual_seed(99)
    resumed = make(tmp_path / "b", on_nonfinite="skip")
    resumed.fit(loader(bad), epochs=2, resume=True)
    assert same(at_once, resumed)
    assert resumed.guard.skipped == 2


def same(a: Trainer, b: Trainer) -> bool:
    one, two = a.task.state_dict(), b.task.state_dict()
    return all(torch.equal(one[name], two[name]) for name in one)


def test_skipping_ends_after_five_in_a_row(tmp_path: Path) -> None:
    plant = lambda task, step, loss: loss * NAN if step >= 2 else loss  # noqa: E731
    trainer = make(tmp_path, plant, on_nonfinite="skip")
    with pytest.raises(DivergedError, match=r"at step 7.* 5 steps before it were skipped"):
        trainer.fit(loader(), epochs=3)
    assert trainer.state.step == 7


@pytest.fixture
def copies_every_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "_EVERY", 4)


@pytest.mark.usefixtures("copies_every_four")
def test_rollback_puts_back_the_older_copy(tmp_path: Path) -> None:
    kept: dict[int, dict[str, Tensor]] = {}

    def plant(task: Fragile, step: int, loss: Tensor) -> Tensor:
        if step not in kept:
            kept[step] = {name: value.clone() for name, value in task.model.named_parameters()}
        return loss * NAN if step == 10 else loss

    trainer = make(tmp_path, plant, on_nonfinite="rollback", ema=0.9)
    trainer.fit(loader(), epochs=2)
    assert trainer.state.step == 16
    assert trainer.guard.skipped == 1
    assert all(torch.equal(kept[11][name], kept[4][name]) for name in kept[4])  # copies were of 4 and 8
    assert not all(torch.equal(kept[10][name], kept[4][name]) for name in kept[4])
    assert finite(trainer)


@pytest.mark.usefixtures("copies_every_four")
def test_a_rollback_after_a_resume_is_that_of_the_run_never_stopped(tmp_path: Path) -> None:
    plant = lambda task, step, loss: loss * NAN if step in (10, 13) else loss  # noqa: E731
    whole = make(tmp_path / "a", plant, on_nonfinite="rollback")
    whole.fit(loader(), epochs=2)
    for stop in (6, 9, 11, 12, 14):
        folder = tmp_path / str(stop)
        first = make(folder, plant, on_nonfinite="rollback")
        first.add_log_hook(lambda metrics, step, prefix, t=first, at=stop: t.stop() if step == at else None)
        first.fit(loader(), epochs=2)
        assert first.state.step == stop
        torch.manual_seed(99)
        second = make(folder, plant, on_nonfinite="rollback")
        second.fit(loader(), epochs=2, resume=True)
        assert same(whole, second), stop


@pytest.mark.usefixtures("copies_every_four")
def test_rolling_back_ends_after_three_returns_to_the_same_weights(tmp_path: Path) -> None:
    plant = lambda task, step, loss: loss * NAN if step >= 6 else loss  # noqa: E731
    trainer = make(tmp_path, plant, on_nonfinite="rollback")
    with pytest.raises(DivergedError, match="step 0 were returned to 3 times before: enough"):
        trainer.fit(loader(), epochs=3)
    assert finite(trainer)


@pytest.mark.usefixtures("copies_every_four")
def test_bad_weights_are_rolled_back_before_a_save(tmp_path: Path) -> None:
    trainer = make(tmp_path, on_nonfinite="rollback")

    def spoil(metrics: dict[str, Any], step: int, prefix: str) -> None:
        if step == 6:
            with torch.no_grad():
                trainer.task.model[0].bias[0] = INF

    trainer.add_log_hook(spoil)
    trainer.fit(loader(), epochs=2)
    assert trainer.state.step == 16
    assert finite(trainer)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_bad_weights_are_never_saved(ema: float | None, tmp_path: Path) -> None:
    trainer = make(tmp_path, ema=ema)

    def spoil(metrics: dict[str, Any], step: int, prefix: str) -> None:
        if step == 6:
            target = trainer.task.state_dict() if ema is None else trainer.parts.ema.state_dict()["shadow"]
            target["model.0.bias"][0] = INF

    trainer.add_log_hook(spoil)
    what = "model.0.bias" if ema is None else "the average of model.0.bias"
    with pytest.raises(DivergedError, match=f"not finite at step 6: {what}. They were not saved"):
        trainer.fit(loader(), epochs=2)
    with pytest.raises(DivergedError, match="not finite"):
        trainer.save_checkpoint(tmp_path / "by hand")
    found = read_newest(tmp_path)
    assert found is not None
    assert found[2]["global_step"] == 5
    for stem in ("model", "ema"):
        assert all(tensor.isfinite().all() for tensor in found[1].get(stem, {}).values())


def leap(task: Fragile, step: int, loss: Tensor) -> Tensor:
    return loss * 1000 if step == 30 else loss


def test_a_leap_of_the_loss_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make(None, leap)
    trainer.fit(loader(), epochs=5)
    assert caplog.text.count("the loss leapt") == 1
    assert "step 30: the loss leapt to" in caplog.text
    assert trainer.guard.skipped == 0


def test_a_loss_that_leaps_and_then_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    """As runs diverge: the leap was ignored, what follows is not."""
    trainer = make(None, lambda task, step, loss: loss * (1000 if step == 30 else NAN if step == 31 else 1))
    with pytest.raises(DivergedError, match="the loss became nan at step 31"):
        trainer.fit(loader(), epochs=5)


@pytest.mark.usefixtures("copies_every_four")
def test_a_leap_of_the_loss_is_rolled_back_if_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make(None, leap, on_spike="rollback")
    trainer.fit(loader(), epochs=5)
    assert "rolled back to the weights of step 24: the loss leapt to" in caplog.text
    assert "at step 30" in caplog.text
    assert trainer.guard.skipped == 1
    assert trainer.state.step == 40


def test_a_leap_is_measured_by_the_median_of_the_last_hundred(caplog: pytest.LogCaptureFixture) -> None:
    """Losses fall from 100 to 1 over 200 steps; what was common then is a leap now."""
    leaps = {50: 90.0, 312: 30.0, 315: 9.0}
    trainer = make(None, lambda task, step, loss: loss * 0 + leaps.get(step, max(1.0, 100 - step / 2)))
    trainer.fit(loader(), epochs=40)
    assert [record.args[0] for record in caplog.records if record.args] == [312]  # type: ignore[index]


def test_two_kinds_of_batches_are_no_leaps(caplog: pytest.LogCaptureFixture) -> None:
    """Every fifth loss is 40 times the others: only what exceeds those is a leap."""
    leaps = {200: 90.0, 203: 70.0}
    losses = lambda task, step, loss: loss * 0 + leaps.get(step, 40.0 if step % 5 == 0 else 1.0)  # noqa: E731
    make(None, losses).fit(loader(), epochs=26)
    assert [record.args[0] for record in caplog.records if record.args] == [200]  # type: ignore[index]


def test_a_hard_batch_of_a_solved_task_is_no_leap(caplog: pytest.LogCaptureFixture) -> None:
    """Losses fall from 10 to 0.001: what stays under a tenth of the first is no leap, however far it goes."""
    leaps = {160: 0.5, 163: 2.0}
    losses = lambda task, step, loss: loss * 0 + leaps.get(step, 10.0 if step < 40 else 0.001)  # noqa: E731
    make(None, losses).fit(loader(), epochs=26)
    assert [record.args[0] for record in caplog.records if record.args] == [163]  # type: ignore[index]


def test_what_is_not_allowed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"on_nonfinite='stopp': no such choice\. Did you mean: stop"):
        make(on_nonfinite="stopp")
    with pytest.raises(ConfigError, match="spike_factor=1 is not allowed: above 1"):
        make(spike_factor=1)
