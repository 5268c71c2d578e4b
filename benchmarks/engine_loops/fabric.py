"""The hand-written loop through Lightning Fabric."""

from __future__ import annotations

import torch
from lightning.fabric import Fabric
from torch import nn

from engine_loops.case import CLIP, Case


def train(case: Case, variant: str) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    plain = case.optimizer()
    scheduler = case.scheduler(plain)
    model, optimizer = fabric.setup(case.model, plain)
    loader, loss_fn = fabric.setup_dataloaders(case.loader()), nn.CrossEntropyLoss()
    running, step = torch.zeros(()), 0
    while step < case.total:
        for x, y in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            fabric.backward(loss)
            fabric.clip_gradients(model, optimizer, max_norm=CLIP)
            optimizer.step()
            scheduler.step()
            running += loss.detach()
            step += 1
            if step == case.total:
                break
