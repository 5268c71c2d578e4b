"""A trainer from the settings of a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinsmith.engine.contract import Task
from tinsmith.engine.device import get_device
from tinsmith.engine.optim import get_optimizer
from tinsmith.engine.schedules import get_scheduler
from tinsmith.engine.trainer import Trainer

if TYPE_CHECKING:
    from tinsmith.engine.ranks import Ranks


def build_trainer(
    cfg: Any,
    task: Task,
    checkpoint_dir: str | Path | None,
    ranks: Ranks | None = None,
    progress: bool = True,
) -> Trainer:
    """The trainer of a run's settings.

    Args:
        cfg: a ``RunConfig``; what ``optimizer`` has beyond the common settings goes to ``get_optimizer``.
        checkpoint_dir: where checkpoints go; None saves none.
        ranks: the processes that share the run, if there are several.
        progress: show a live line.
    """
    options = asdict(cfg.optimizer)
    kind, lr, decay = (options.pop(key) for key in ("name", "lr", "weight_decay"))
    if kind != "muon":
        options.pop("muon_lr", None)  # of matrices that Muon moves
    task.to(get_device(cfg.device) if ranks is None else ranks.device)
    optimizer = get_optimizer(task, kind, lr=lr, weight_decay=decay, **options)
    t = cfg.trainer
    epochs = None if t.max_steps or t.max_minutes else t.epochs
    scheduler = get_scheduler(
        optimizer,
        cfg.scheduler.name,
        total_epochs=epochs,
        warmup_ratio=cfg.scheduler.warmup,
        min_lr=cfg.scheduler.min_lr,
    )
    return Trainer(
        task,
        optimizer,
        scheduler,
        device=cfg.device,
        grad_clip=t.grad_clip,
        mixed_precision=t.mixed_precision,
        compile=t.compile,
        accumulate=t.accumulate,
        ema=t.ema or None,
        log_every=t.log_every,
        checkpoint_dir=checkpoint_dir,
        seed=cfg.seed,
        max_steps=t.max_steps,
        max_minutes=t.max_minutes,
        eval_every=t.eval_every,
        save_seconds=t.save_seconds,
        keep_checkpoints=t.keep_checkpoints,
        on_nonfinite=t.on_nonfinite,
        on_spike=t.on_spike,
        spike_factor=t.spike_factor,
        deterministic=t.deterministic,
        progress=progress,
        ranks=ranks,
    )
