"""Lightning's Trainer with its defaults and the loss on its bar, or with all off that can be."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor, nn

from engine_loops.case import CLIP, Batch, Case

OFF = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Module(lightning.LightningModule):
    def __init__(self, case: Case, log_loss: bool) -> None:
        super().__init__()
        self.case, self.net, self.log_loss = case, case.model, log_loss
        self.loss_fn = nn.CrossEntropyLoss()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        x, y = batch
        loss: Tensor = self.loss_fn(self.net(x), y)
        if self.log_loss:
            self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer: torch.optim.Optimizer = self.case.optimizer()
        scheduler = {"scheduler": self.case.scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def train(case: Case, variant: str) -> None:
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        max_steps=case.total,
        gradient_clip_val=CLIP,
        **(OFF if variant == "off" else {}),
    )
    trainer.fit(Module(case, log_loss=variant != "off"), case.loader())
