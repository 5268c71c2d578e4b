import os
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comparing import same, weights
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tinsmith import EarlyStopping, Trainer, get_optimizer, get_scheduler
from tinsmith.engine.contract import Context, StepOutput, Task
from tinsmith.engine.data import Loader
from tinsmith.engine.seed import get_rng_state
from tinsmith.engine.stopping import EarlyStopping as _EarlyStopping
from tinsmith.errors import ConfigError, DataError, DivergedError, ResourceError

assert EarlyStopping is _EarlyStopping


def data(n: int = 60, seed: int = 0) -> TensorDataset:
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x @ torch.tensor([[1.0], [-2.0], [0.5]]))


def net(dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 1)).to(dtype)


def make(folder: Path | None = None, model: nn.Module | None = None, **options: Any) -> Trainer:
    model = model or net()
    options = {"device": "cpu", "progress": False, "log_every": 2, **options}
    return Trainer(model, get_optimizer(model, "adamw", lr=1e-2), checkpoint_dir=folder, **options)


def stop_at(trainer: Trainer, step: int) -> Trainer:
    trainer.add_log_hook(lambda metrics, at, prefix: trainer.stop() if at == step else None)
    return trainer


# ---- what is trained on -----------------------------------------------------------------------------


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        out: Tensor = self.net(x)
        return out if scale is None else out * scale


class Graphs:
    """What the trainer sees of a PyTorch Geometric batch."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.edge_index = x, y, torch.zeros(2, 0, dtype=torch.long)

    def to(self, device: Any, non_blocking: bool = False) -> "Graphs":
        return Graphs(self.x.to(device), self.y.to(device))


class GraphNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, batch: Graphs) -> Tensor:
        out: Tensor = self.net(batch.x)
        return out


def collate_dict(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    x, y = (torch.stack(part) for part in zip(*rows, strict=True))
    return {"x": x, "scale": torch.ones(len(x), 1), "labels": y}


def collate_graphs(rows: list[tuple[Tensor, Tensor]]) -> Graphs:
    return Graphs(*(torch.stack(part) for part in zip(*rows, strict=True)))


@pytest.mark.parametrize(
    ("model", "collate"),
    [(net, None), (Named, collate_dict), (GraphNet, collate_graphs)],
    ids=["xy", "dict", "graph"],
)
def test_plain_loaders_train(model: Callable[[], nn.Module], collate: Any) -> None:
    trainer = make(model=model())
    loader = DataLoader(data(), batch_size=8, shuffle=True, collate_fn=collate)
    history = trainer.fit(loader, DataLoader(data(seed=1), batch_size=8, collate_fn=collate), epochs=12)
    assert history["val_loss"][-1] < 0.2 * history["val_loss"][0]
    assert history["epoch"] == list(range(1, 13))
    assert set(history) >= {"train_loss", "val_loss", "val_mae", "lr", "epoch", "seconds"}
    assert all(len(values) == 12 for values in history.values())
    assert trainer.predict(DataLoader(data(seed=1), batch_size=7, collate_fn=collate)).shape == (60, 1)


def test_predictions_are_the_models_own() -> None:
    trainer = make(model=net(dropout=0.5))
    x = data().tensors[0]
    expected = trainer.model.eval()(x)
    trainer.model.train()
    torch.testing.assert_close(trainer.predict([x[:25], x[25:]]), expected)
    assert trainer.model.training


def test_classification_has_its_loss_and_its_metrics() -> None:
    x = torch.randn(80, 3, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=16, shuffle=True)
    torch.manual_seed(0)
    trainer = make(model=nn.Linear(3, 2), task_type="classification")
    history = trainer.fit(loader, loader, epochs=10, metric_for_best="accuracy", minimize_metric=False)
    assert trainer.state.best_metric == max(history["val_accuracy"]) > 0.9
    assert (
        history["epoch"][history["val_accuracy"].index(trainer.state.best_metric)] == trainer.state.best_epoch
    )


# ---- numbers ----------------------------------------------------------------------------------------


def test_accumulation_over_ragged_batches_equals_one_big_batch() -> None:
    x, y = (tensor.double() for tensor in data(20).tensors)

    def train(batches: list[tuple[Tensor, Tensor]], accumulate: int) -> dict[str, Tensor]:
        trainer = make(model=net(dtype=torch.float64), accumulate=accumulate, grad_clip=0.1)
        trainer.fit(batches, epochs=3)
        assert trainer.state.step == 3
        return weights(trainer)

    cuts = [0, 1, 9, 12, 20]
    ragged = [(x[a:b], y[a:b]) for a, b in pairwise(cuts)]
    big = train([(x, y)], 1)
    for name, value in train(ragged, 4).items():
        torch.testing.assert_close(value, big[name], rtol=1e-10, atol=1e-12)


def test_a_short_window_at_the_end_of_an_epoch_is_a_step() -> None:
    trainer = make(accumulate=4)
    trainer.fit(Loader(data(60), 10), epochs=2)  # six batches: windows of four and of two
    assert trainer.state.step == 4


def test_the_logged_loss_is_the_mean_over_rows() -> None:
    trainer = make(model=net(), log_every=3)
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0
    x, y = data(10).tensors
    seen: list[float] = []
    trainer.add_log_hook(lambda metrics, step, prefix: seen.append(metrics["loss"]))
    trainer.fit([(x[:1], y[:1]), (x[1:4], y[1:4]), (x[4:], y[4:])], epochs=1)
    expected = nn.functional.mse_loss(trainer.model(x), y).item()
    assert seen == pytest.approx([expected])


def test_evaluation_leaves_no_trace() -> None:
    def train(validate: bool) -> dict[str, Tensor]:
        torch.manual_seed(3)
        trainer = make(model=Sampling(), eval_every=1 if validate else 0)
        noisy = DataLoader(Noisy(), batch_size=4)
        trainer.fit(Loader(data(), 6, shuffle=True), noisy if validate else None, epochs=2)
        assert trainer.model.training
        return weights(trainer)

    assert same(train(True), train(False))


class Sampling(nn.Module):
    """Draws while it trains, and while it is evaluated too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net(dropout=0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x + 0.1 * torch.randn_like(x))
        return out


class Noisy(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return torch.randn(3), torch.randn(1)


def test_averaged_weights_are_used_for_evaluation_and_prediction() -> None:
    trainer = make(ema=0.9)
    loader = Loader(data(), 10)
    trainer.fit(loader, loader, epochs=2)
    raw = weights(trainer)
    assert trainer.parts.ema is not None
    with trainer.parts.ema.swap():
        averaged = weights(trainer)
        expected = trainer.model(data().tensors[0])
    assert not same(raw, averaged)
    assert same(weights(trainer), raw)
    torch.testing.assert_close(trainer.predict(loader), expected)
    assert trainer.eval_epoch(loader)["loss"] == pytest.approx(
        nn.functional.mse_loss(expected, data().tensors[1]).item(), rel=1e-5
    )


# ---- budgets, stopping, best ------------------------------------------------------------------------


def test_a_budget_in_steps_takes_the_place_of_epochs() -> None:
    trainer = make(max_steps=7, eval_every=3)
    history = trainer.fit(Loader(data(), 6), Loader(data(), 6), epochs=99)
    assert trainer.state.step == 7
    assert history["step"] == [3, 6, 7]


def test_early_stopping(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level("INFO")
    noise = [(torch.randn(8, 3), torch.randn(8, 1)) for _ in range(3)]
    other = [(torch.randn(8, 3), torch.randn(8, 1))]
    trainer = make(tmp_path)
    trainer.fit(noise, other, epochs=200, early_stopping=3)
    assert trainer.state.epoch < 200
    assert trainer.state.finished
    assert f"stopped early at step {trainer.state.step}: no improvement in 3" in caplog.text
    again = make(tmp_path)
    again.fit(noise, other, epochs=200, early_stopping=3, resume=True)
    assert again.state.step == trainer.state.step  # what has stopped stays stopped
    assert same(weights(again), weights(trainer))
    patient = make(tmp_path)
    patient.fit(noise, other, epochs=trainer.state.epoch + 2, early_stopping=50, resume=True)
    assert patient.state.epoch == trainer.state.epoch + 2


def test_the_best_weights_are_kept_beside_the_last(tmp_path: Path) -> None:
    from tinsmith.engine.checkpoint import best_checkpoint, read_checkpoint

    scores = iter([3.0, 1.0, 2.0, 4.0, 5.0])
    seen: list[dict[str, Tensor]] = []
    trainer = make(tmp_path)

    def evaluate(batches: Any) -> dict[str, float]:
        list(batches)
        seen.append(weights(trainer))
        return {"loss": next(scores)}

    trainer.task.evaluate = evaluate  # type: ignore[method-assign]
    trainer.fit(Loader(data(), 10), Loader(data(), 10), epochs=5)
    assert (trainer.state.best_metric, trainer.state.best_epoch) == (1.0, 2)
    best = best_checkpoint(tmp_path)
    assert best is not None
    saved = read_checkpoint(best)[0]["model"]
    assert same({"model." + name: value for name, value in seen[1].items()}, saved)


# ---- resume -----------------------------------------------------------------------------------------


def fronts(name: str, model: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = get_optimizer(model, "adamw", lr=1e-2)
    schedulers: dict[str, Callable[[], Any]] = {
        "cosine_warmup": lambda: get_scheduler(optimizer, "cosine_warmup", total_epochs=6, warmup_epochs=1),
        "plateau": lambda: get_scheduler(optimizer, "plateau"),
        "StepLR": lambda: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5),
        "OneCycleLR": lambda: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=6),
        "ReduceLROnPlateau": lambda: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
        "Muon": lambda: None,
    }
    if name == "Muon":
        optimizer = get_optimizer(model, "muon", lr=1e-2)
    return optimizer, schedulers[name]()


@pytest.mark.parametrize(
    "kind", ["cosine_warmup", "plateau", "StepLR", "OneCycleLR", "ReduceLROnPlateau", "Muon"]
)
@pytest.mark.parametrize("step", [4, 7, 9, 14])
def test_a_stopped_run_resumes_bit_for_bit(tmp_path: Path, kind: str, step: int) -> None:
    def train(folder: Path, stop: int | None = None) -> tuple[dict[str, Tensor], list[float]]:
        torch.manual_seed(11)
        model = net(dropout=0.3)
        optimizer, scheduler = fronts(kind, model)
        trainer = Trainer(
            model,
            optimizer,
            scheduler,
            device="cpu",
            progress=False,
            checkpoint_dir=folder,
            log_every=1,
            accumulate=2,
        )
        if stop is not None:
            stop_at(trainer, stop)
        rates: list[float] = []
        trainer.add_log_hook(
            lambda metrics, at, prefix: rates.append(metrics["lr"]) if prefix == "train" else None
        )
        loader = DataLoader(data(), batch_size=5, shuffle=True)
        try:
            trainer.fit(loader, Loader(data(seed=1), 10), epochs=3, resume=True)
        finally:
            torch.manual_seed(0)
        return weights(trainer), rates

    whole, rates = train(tmp_path / "whole")
    assert len(rates) == 18
    _, before = train(tmp_path / "cut", stop=step)
    after, rest = train(tmp_path / "cut")
    assert same(after, whole)
    assert before + rest == rates


def test_resuming_what_is_finished_changes_nothing(tmp_path: Path) -> None:
    loader = Loader(data(), 6, shuffle=True)
    first = make(tmp_path)
    history = first.fit(loader, epochs=2)
    again = make(tmp_path)
    assert again.fit(loader, epochs=2, resume=True) == history
    assert same(weights(first), weights(again))


def test_fit_goes_on_where_fit_ended(tmp_path: Path) -> None:
    loader = Loader(data(), 6, shuffle=True)
    twice, once = make(), make()
    twice.fit(loader, epochs=2)
    twice.fit(loader, epochs=4)
    once.fit(loader, epochs=4)
    assert twice.state.epoch == 4
    assert same(weights(twice), weights(once))


def test_train_epoch_by_hand_equals_fit() -> None:
    loader = Loader(data(), 6, shuffle=True)
    by_hand, fitted = make(), make()
    means = [by_hand.train_epoch(loader) for _ in range(2)]
    fitted.fit(loader, epochs=2)
    assert same(weights(by_hand), weights(fitted))
    assert [row["loss"] for row in means] == fitted.state.history["train_loss"]


@pytest.mark.parametrize("name", ["folder", "file.pt"])
def test_a_saved_checkpoint_restores_another_trainer(tmp_path: Path, name: str) -> None:
    loader = Loader(data(), 6, shuffle=True)
    one, two = make(ema=0.9), make(ema=0.9, model=nn.Sequential(*net(dropout=0.0)))
    stop_at(one, 6).fit(loader, loader, epochs=3)
    one.save_checkpoint(tmp_path / name)
    two.load_checkpoint(tmp_path / name)
    assert (two.state.step, two.state.cursor) == (6, 36)
    one.fit(loader, loader, epochs=3)
    two.fit(loader, loader, epochs=3)
    assert same(weights(one), weights(two))
    if name.endswith(".pt"):
        plain = torch.load(tmp_path / name, weights_only=True)
        assert set(plain) >= {
            "model",
            "optimizer",
            "scheduler",
            "epoch",
            "global_step",
            "best_metric",
            "metrics",
        }
        one.model.load_state_dict(plain["model"])


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    make().save_checkpoint(tmp_path / "c")
    other = make(model=nn.Linear(3, 1))
    with pytest.raises(DataError, match=r"these weights are of another model: model\.weight is missing"):
        other.load_checkpoint(tmp_path / "c")
    with pytest.raises(DataError, match="no checkpoint at"):
        other.load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "x.pt").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"x\.pt \(7 bytes\) is not a checkpoint"):
        other.load_checkpoint(tmp_path / "x.pt")


def test_another_number_of_threads_warns_or_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make().save_checkpoint(tmp_path / "c")
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    make().load_checkpoint(tmp_path / "c")
    assert f"threads {threads} -> {threads + 1}" in caplog.text
    with pytest.raises(ConfigError, match="not the environment of the checkpoint"):
        make().load_checkpoint(tmp_path / "c", strict=True)


# ---- hooks, signals, failures -----------------------------------------------------------------------


def test_a_hook_that_raises_is_dropped_and_training_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    trainer, calls = make(), []

    def broken(metrics: dict[str, Any], step: int, prefix: str) -> None:
        calls.append(step)
        raise RuntimeError("no network")

    trainer.add_log_hook(broken)
    trainer.fit(Loader(data(), 6), epochs=2)
    assert trainer.state.epoch == 2
    assert len(calls) == 1
    assert caplog.text.count("no network") == 1


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_after_the_step_with_a_checkpoint(tmp_path: Path, name: str) -> None:
    trainer = make(tmp_path, log_every=1)
    number = getattr(signal, name)
    trainer.add_log_hook(lambda metrics, step, prefix: os.kill(os.getpid(), number) if step == 5 else None)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match=rf"{name} at step 5\. A checkpoint is in"):
        trainer.fit(Loader(data(), 6), epochs=3)
    assert signal.getsignal(number) is before
    again = make(tmp_path)
    again.load_checkpoint(tmp_path)
    assert again.state.step == 5
    assert not again.state.finished


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_weights_move(what: str, tmp_path: Path) -> None:
    class Bad(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model = net()

        def forward(self, batch: Any, ctx: Context) -> StepOutput:
            loss = self.model(batch[0]).square().mean()
            if ctx.step == 3:
                # the square root of zero has an infinite slope
                bad = loss * float("nan") if what == "loss" else (self.model(batch[0]) * 0).sum().sqrt()
                loss = loss + bad
            return StepOutput(loss, 1.0)

    task = Bad()
    trainer = Trainer(
        task,
        get_optimizer(task, "adamw"),
        device="cpu",
        progress=False,
        checkpoint_dir=tmp_path,
        save_seconds=0,
    )
    with pytest.raises(DivergedError, match=rf"the {what}.* at step 3"):
        trainer.fit(Loader(data(), 6), epochs=1)
    at_three = weights(trainer)
    trainer.load_checkpoint(tmp_path)
    assert trainer.state.step == 3
    assert same(weights(trainer), at_three)


def test_the_longest_batch_is_tried_first() -> None:
    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = net(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if len(x) > 2:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            out: Tensor = self.net(x)
            return out

    model = Greedy()
    lengths = [1] * 10 + [9] * 3
    with pytest.raises(ResourceError, match="half the batch size and accumulate=2"):
        make(model=model).fit(Loader(data(13), 3, lengths=lengths), epochs=1)
    assert model.calls == 1


def test_rehearsing_leaves_no_trace() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(x)
            return out

    from tinsmith.engine.budget import rehearse

    trainer = make(model=Counting())
    before, generators = weights(trainer), repr(get_rng_state())
    rehearse(trainer, Loader(data(), 6))
    assert same(weights(trainer), before)
    assert repr(get_rng_state()) == generators
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_mistakes_are_explained() -> None:
    with pytest.raises(ConfigError, match="accumulate=0"):
        make(accumulate=0)
    with pytest.raises(ConfigError, match=r"metric_for_best='f1' is not measured\. Measured: loss"):
        make().fit(Loader(data(), 30), Loader(data(), 30), metric_for_best="f1")
    with pytest.raises(ValueError, match=r"a batch must be \(x, y\)"):
        make().fit([SimpleNamespace(x=1)])


def test_the_figures_of_a_run(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    trainer = make()
    trainer.fit(Loader(data(), 6), Loader(data(), 6), epochs=2)
    trainer.plot_training_history(tmp_path / "history.png")
    trainer.plot_learning_rate(tmp_path / "lr.png")
    assert (tmp_path / "history.png").stat().st_size > 1000 < (tmp_path / "lr.png").stat().st_size
