"""Training from Python: a model and a trainer from a config, and a front for a plain set of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tinsmith.engine.configured import build_trainer
from tinsmith.engine.contract import Data
from tinsmith.engine.data import Loader
from tinsmith.engine.optim import get_optimizer
from tinsmith.engine.schedules import get_scheduler
from tinsmith.engine.seed import set_seed
from tinsmith.engine.trainer import Trainer as EngineTrainer
from tinsmith.families.trm.config import DepthConfig, HaltConfig, TRMConfig
from tinsmith.families.trm.data import build_data
from tinsmith.families.trm.dataset import GridDataset, Samples
from tinsmith.families.trm.model import TinyRecursiveModel, TRMSpec, build_model
from tinsmith.families.trm.task import TRMTask, build_task


def create_model(config: TRMConfig, spec: TRMSpec | None = None) -> TinyRecursiveModel:
    """The model of a config; the same seed gives the same weights.

    Args:
        spec: of the data (``data.spec``); without it the config's data are built to find out.
    """
    config.validate()
    spec = spec or build_data(config).spec
    set_seed(config.seed, config.trainer.deterministic)
    return build_model(config.model, spec, config.halt.bias, config.halt.weight)


def create_trainer(
    config: TRMConfig, model: TinyRecursiveModel, data: Data, checkpoint_dir: str | Path | None = None
) -> EngineTrainer:
    """A trainer of ``model`` by a config's settings; ``trainer.fit(data.train, data.valid, ...)`` runs it.

    Args:
        checkpoint_dir: where checkpoints go; None saves none.
    """
    return build_trainer(config, build_task(config, model, data), checkpoint_dir)


class Trainer:
    """Deep supervision over pairs of token rows: ``Trainer(model, dataset)()`` trains.

    The loss is a mean and the learning rate is used as given. A sample that halts leaves its place to the
    next, so that batches stay full; checkpoints hold those under way.

    Args:
        model: what is trained.
        dataset: pairs ``(tokens [L], labels [L])`` by index, all of one length; labels of -100 do not count.
        valid: likewise, for a validation after each epoch.
        learning_rate, weight_decay, optim_klass: AdamW by default; ``optim`` is an optimiser of your own.
        batch_size, epochs: rows in a batch; passes over the data. A batch is one supervision step: of a pass
            those samples are left out that find their place taken.
        halt_prob_thres: a sample halts above it. max_recurrent_steps: supervision steps of a sample at most.
        warmup_steps: in which the rate rises; it then falls as a cosine to a hundredth.
        ema_decay_rate: of the average that is validated, and that the model has at the end.
        checkpoint_dir: None saves no checkpoint; ``resume`` goes on from the newest one there.
        seed: of the sample order and the noise.
        cpu: use no other device.
    """

    def __init__(
        self,
        model: TinyRecursiveModel,
        dataset: Any,
        valid: Any = None,
        *,
        optim_klass: type[torch.optim.Optimizer] | None = None,
        optim: torch.optim.Optimizer | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.1,
        batch_size: int = 16,
        epochs: int = 2,
        halt_prob_thres: float = 0.5,
        max_recurrent_steps: int = 12,
        halt_explore: float = 0.1,
        warmup_steps: int = 100,
        ema_decay_rate: float = 0.999,
        grad_clip: float = 1.0,
        checkpoint_dir: str | Path | None = None,
        seed: int = 0,
        cpu: bool = False,
        progress: bool = True,
    ) -> None:
        self.model, self.epochs = model, epochs
        self.train_loader = _loader(dataset, batch_size, seed, train=True)
        self.valid_loader = _loader(valid, 256, seed, train=False) if valid is not None else None
        halt = HaltConfig(
            max_recurrent_steps,
            explore=halt_explore,
            weight=model.halt_loss_weight,
            threshold=halt_prob_thres,
        )
        halt.validate()
        task: nn.Module = TRMTask(model, halt, DepthConfig(threshold=halt_prob_thres))
        if optim is None and optim_klass is not None:
            options: Any = {"lr": learning_rate, "weight_decay": weight_decay}
            optim = optim_klass(model.parameters(), **options)
        optim = optim or get_optimizer(task, "adamw", lr=learning_rate, weight_decay=weight_decay)
        total = max(1, epochs * len(self.train_loader))
        scheduler = get_scheduler(
            optim,
            "cosine_warmup",
            total_epochs=epochs,
            warmup_ratio=min(0.5, warmup_steps / total),
            min_lr=learning_rate / 100,
        )
        self.trainer = EngineTrainer(
            task,
            optim,
            scheduler,
            device="cpu" if cpu else "auto",
            grad_clip=grad_clip,
            ema=ema_decay_rate or None,
            checkpoint_dir=checkpoint_dir,
            seed=seed,
            progress=progress,
        )

    def __call__(self, resume: bool = False) -> dict[str, list[Any]]:
        """Train, put the averaged weights into the model, and return the history."""
        set_seed(self.trainer.seed)
        history = self.trainer.fit(self.train_loader, self.valid_loader, self.epochs, resume=resume)
        average = self.trainer.parts.ema
        if average is not None:
            weights = average.state_dict()["shadow"]
            self.trainer.task.load_state_dict(weights, strict=False)
        self.model.eval()
        return history


def _loader(dataset: Any, batch_size: int, seed: int, train: bool) -> Loader:
    if len(dataset) == 0:
        raise ValueError("the data set is empty")
    pairs = [dataset[i] for i in range(len(dataset))]
    inputs, labels = (np.stack([np.asarray(pair[k], np.int64) for pair in pairs]) for k in (0, 1))
    samples = Samples(inputs, labels, np.zeros(len(pairs), np.float32))
    return Loader(GridDataset(samples), batch_size, shuffle=train, seed=seed, drop_last=train)
