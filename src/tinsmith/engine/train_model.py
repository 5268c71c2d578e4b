"""Training in one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tinsmith.engine.optim import get_optimizer
from tinsmith.engine.replay import as_batches
from tinsmith.engine.schedules import get_scheduler
from tinsmith.engine.state import History
from tinsmith.engine.supervised import split_batch
from tinsmith.engine.trainer import Trainer


def train_model(
    model: nn.Module,
    train_dataloader: Any,
    val_dataloader: Any = None,
    epochs: int = 10,
    learning_rate: float = 1e-3,
    device: str | torch.device | None = None,
    early_stopping_patience: int | None = None,
    *,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    task_type: str | None = None,
    checkpoint_dir: str | Path | None = None,
    **options: Any,
) -> History:
    """Train ``model`` in place with AdamW, a warm-up of 5% and a cosine, and return the history.

    Args:
        train_dataloader, val_dataloader: batches as ``SupervisedTask`` takes them.
        epochs: passes over the training set.
        learning_rate: its highest value.
        device: the best there is if None.
        early_stopping_patience: epochs without a better validation loss before it stops.
        loss_fn: (outputs, target) -> scalar mean; by default the one of ``task_type``.
        task_type: ``regression`` or ``classification``; by default as the targets of the first batch look:
            whole numbers are classes.
        checkpoint_dir: keep checkpoints there, and go on from the newest if there is one. The model then
            ends with the weights of the last epoch, as without.
        **options: further arguments of ``Trainer``.

    Returns:
        Lists with an entry an epoch: ``train_loss``, ``val_loss``, ``val_accuracy`` of a classification, ...

    Raises:
        ConfigError, DivergedError, ResourceError: as ``Trainer``.
    """
    batches = as_batches(train_dataloader)
    optimizer = get_optimizer(model, "adamw", lr=learning_rate)
    trainer = Trainer(
        model,
        optimizer,
        get_scheduler(optimizer, "cosine_warmup", total_epochs=epochs, warmup_ratio=0.05),
        loss_fn,
        device=device or "auto",
        task_type=task_type or _task_type(batches.longest()),
        checkpoint_dir=checkpoint_dir,
        **options,
    )
    return trainer.fit(
        batches,
        val_dataloader,
        epochs,
        early_stopping=early_stopping_patience,
        resume=checkpoint_dir is not None,
    )


def _task_type(batch: Any) -> str:
    _, target = split_batch(batch)
    whole = isinstance(target, Tensor) and not target.is_floating_point() and not target.is_complex()
    return "classification" if whole else "regression"
