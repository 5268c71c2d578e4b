"""The one Trainer under the name and arguments that users of transformers know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from tinsmith.engine.optim import get_optimizer
from tinsmith.engine.schedules import get_scheduler
from tinsmith.engine.state import History
from tinsmith.engine.trainer import Trainer
from tinsmith.families.seq2seq.model import Transformer
from tinsmith.families.seq2seq.task import Seq2SeqTask


class TransformerTrainer:
    """Trains an encoder-decoder as Vaswani et al. 2017 did: Adam, warm-up and inverse square root, smoothing.

    ``lr`` is the highest rate, reached after ``warmup_steps``; then it falls as ``sqrt(warmup / step)``.

    Args:
        model: a ``Transformer``, or any module (src [B, S], tgt [B, T]) -> logits [B, T, V].
        train_dataloader, val_dataloader: batches (src, tgt) or dicts of them, ids padded behind; ``tgt`` has
            BOS in front and EOS behind.
        lr: the highest rate. warmup_steps: in which it is reached. label_smoothing: e.
        early_stopping_patience: epochs without a better validation loss before it stops; None: never.
        pad_idx: the id of padding; by default the model's, else 0.
        optimizer_type: "adamw", "muon", ...; see ``get_optimizer``.
        **options: of the ``Trainer``: ``device``, ``accumulate``, ``ema``, ``checkpoint_dir`` (None), ...
    """

    def __init__(
        self,
        model: nn.Module,
        train_dataloader: Any,
        val_dataloader: Any = None,
        lr: float = 1e-4,
        warmup_steps: int = 4000,
        label_smoothing: float = 0.1,
        early_stopping_patience: int | None = 5,
        *,
        pad_idx: int | None = None,
        optimizer_type: str = "adamw",
        **options: Any,
    ) -> None:
        self.model = model
        self.train_dataloader, self.val_dataloader = train_dataloader, val_dataloader
        self.patience = early_stopping_patience
        if pad_idx is None:
            pad_idx = model.spec.pad_id if isinstance(model, Transformer) else 0
        self.task = Seq2SeqTask(model, label_smoothing, pad_idx)
        optimizer = get_optimizer(self.task, optimizer_type, lr=lr, betas=(0.9, 0.98))
        schedule = get_scheduler(optimizer, "inverse_sqrt", warmup_steps=warmup_steps)
        self.trainer = Trainer(self.task, optimizer, schedule, **{"checkpoint_dir": None, **options})

    def train(self, epochs: int = 1) -> History:
        """Train for ``epochs`` in all, or until validation stops getting better.

        Returns:
            The history: ``train_loss`` (smoothed), ``val_loss`` (not so), ``val_perplexity``, ``lr``, ...
        """
        patience = self.patience if self.val_dataloader is not None else None
        resume = self.trainer.saver is not None
        return self.trainer.fit(
            self.train_dataloader, self.val_dataloader, epochs, early_stopping=patience, resume=resume
        )

    def plot_training_history(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure of the losses and metrics."""
        return self.trainer.plot_training_history(path)

    def plot_learning_rate(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure of the learning rate."""
        return self.trainer.plot_learning_rate(path)
