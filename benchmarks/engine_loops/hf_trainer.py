"""The Trainer of transformers with its defaults, but for what is the same in every loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from engine_loops.case import CLIP, LR, WEIGHT_DECAY, Case


class WithLoss(nn.Module):
    """A model as the Trainer wants it: the labels go in, the loss comes out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.loss_fn = model, nn.CrossEntropyLoss()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(x)
        return {"loss": self.loss_fn(logits, labels), "logits": logits}


class Prepared(Trainer):
    """Reads batches that are made already."""

    def get_train_dataloader(self) -> Any:
        batches: Any = self.train_dataset
        return torch.utils.data.DataLoader(batches, batch_size=None, shuffle=True)


def train(case: Case, variant: str) -> None:
    settings = TrainingArguments(
        output_dir="out",
        use_cpu=True,
        max_steps=case.total,
        learning_rate=LR,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=CLIP,
        lr_scheduler_type="cosine",
        optim="adamw_torch_fused",
        report_to="none",
    )
    batches: Any = [{"x": x, "labels": y} for x, y in case.batches]
    Prepared(model=WithLoss(case.model), args=settings, train_dataset=batches).train()
