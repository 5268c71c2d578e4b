"""The public names and calls, with the arguments that their users were promised."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tinsmith
from tinsmith import (
    EMA,
    CrossEntropyLoss,
    EarlyStopping,
    GradientAccumulator,
    LabelSmoothing,
    MeanSquaredError,
    ReproducibilityContext,
    Trainer,
    get_device,
    get_loss_fn,
    get_metrics,
    get_optimizer,
    get_scheduler,
    log_model_info,
    set_seed,
)


def loader() -> DataLoader[Any]:
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, x[:, :1]), batch_size=8, shuffle=True)


@pytest.mark.parametrize("name", tinsmith.__all__)
def test_every_name_exists_and_says_what_it_is(name: str) -> None:
    assert inspect.getdoc(getattr(tinsmith, name))


def test_the_trainer_with_all_it_takes(tmp_path: Path) -> None:
    model = nn.Linear(4, 1)
    optimizer = get_optimizer(model, optimizer_type="adamw", lr=1e-2, weight_decay=0.01)
    scheduler = get_scheduler(
        optimizer, scheduler_type="cosine_warmup", total_epochs=3, warmup_epochs=1, min_lr=1e-5
    )
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        loss_fn=get_loss_fn("regression", loss_type="huber"),
        metrics=get_metrics("regression"),
        device="cpu",
        task_type="regression",
        grad_clip=1.0,
        mixed_precision=False,
        accumulate=1,
        ema=None,
        log_every=50,
        checkpoint_dir=tmp_path / "checkpoints",
    )
    seen = []
    trainer.add_log_hook(lambda metrics, step, prefix: seen.append(prefix))
    history = trainer.fit(
        loader(), loader(), epochs=3, metric_for_best="loss", minimize_metric=True, early_stopping=20
    )
    assert {"train_loss", "val_loss", "val_mae", "lr", "epoch", "seconds"} <= set(history)
    assert isinstance(trainer.train_epoch(loader()), dict)
    assert isinstance(trainer.eval_epoch(loader()), dict)
    trainer.save_checkpoint(tmp_path / "one")
    trainer.load_checkpoint(tmp_path / "one")
    assert trainer.predict(loader()).shape == (40, 1)
    assert "val" in seen


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd", "muon"])
def test_optimisers(kind: str) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1))
    Trainer(
        model, get_optimizer(model, kind, lr=1e-3), device="cpu", checkpoint_dir=None, progress=False
    ).fit(loader())


SCHEDULES: list[tuple[str, dict[str, Any]]] = [
    ("cosine_warmup", {"total_epochs": 4, "warmup_epochs": 1}),
    ("step", {"step_size": 2, "gamma": 0.5}),
    ("linear", {"total_epochs": 4}),
    ("constant", {}),
    ("noam", {"warmup_epochs": 1}),
    ("inverse_sqrt", {"warmup_epochs": 1}),
    ("wsd", {"total_epochs": 4}),
    ("one_cycle", {"total_epochs": 4}),
    ("plateau", {}),
]


@pytest.mark.parametrize(("kind", "options"), SCHEDULES, ids=[kind for kind, _ in SCHEDULES])
def test_schedules(kind: str, options: dict[str, Any]) -> None:
    model = nn.Linear(4, 1)
    optimizer = get_optimizer(model, "adamw", lr=1e-3)
    scheduler = get_scheduler(optimizer, kind, **options)
    trainer = Trainer(model, optimizer, scheduler, device="cpu", checkpoint_dir=None, progress=False)
    rates = trainer.fit(loader(), loader(), epochs=4)["lr"]
    assert all(0 <= rate <= 1e-3 for rate in rates)


@pytest.mark.parametrize(
    ("task", "kind"),
    [("regression", kind) for kind in ("mse", "mae", "huber")]
    + [("classification", kind) for kind in ("cross_entropy", "bce_logits")]
    + [("embeddings", kind) for kind in ("cosine", "mse", "combined", "info_nce")],
)
def test_losses(task: str, kind: str) -> None:
    fn = get_loss_fn(task, loss_type=kind)
    outputs = torch.randn(6, 3, requires_grad=True)
    target = torch.randint(3, (6,)) if kind == "cross_entropy" else torch.rand(6, 3)
    fn(outputs, target).backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


def test_losses_with_a_name() -> None:
    logits, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, -1, 1])
    loss = CrossEntropyLoss(label_smoothing=0.1, reduction="mean", weight=torch.ones(3), ignore_index=-1)
    assert loss(logits, target).ndim == 0
    assert MeanSquaredError(reduction="mean", weight=None)(logits, logits) == 0
    assert LabelSmoothing(smoothing=0.1, pad_idx=0)(logits, target.clamp(min=0)).ndim == 0
    assert get_loss_fn("edge_prediction")(torch.randn(4), torch.tensor([0.0, 1, 1, 0])).ndim == 0
    for task in ("classification", "edge_prediction"):
        assert get_metrics(task, num_classes=3)


def test_around_the_loop() -> None:
    stop = EarlyStopping(
        patience=2, mode="max", min_delta=0.0, target=0.9, convergence_threshold=None, max_minutes=None
    )
    assert [stop(value) for value in (0.5, 0.95)] == [False, True]
    assert GradientAccumulator(accumulation_steps=4)
    assert EMA(nn.Linear(2, 2), 0.9)
    set_seed(42, deterministic=True)
    torch.use_deterministic_algorithms(False)
    before = torch.get_rng_state()
    with ReproducibilityContext(seed=123):
        first = torch.rand(2)
    with ReproducibilityContext(seed=123):
        assert torch.equal(torch.rand(2), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(get_device(), torch.device)
    assert log_model_info(nn.Linear(2, 2))["parameters"] == 6
