"""The hand-written loop through Accelerate, as its guide shows it."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn

from engine_loops.case import CLIP, Case


def train(case: Case, variant: str) -> None:
    accelerator = Accelerator(cpu=True)
    plain = case.optimizer()
    model, optimizer, loader, scheduler = accelerator.prepare(
        case.model, plain, case.loader(), case.scheduler(plain)
    )
    loss_fn = nn.CrossEntropyLoss()
    running, step = torch.zeros(()), 0
    while step < case.total:
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = loss_fn(model(x), y)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            running += loss.detach()
            step += 1
            if step == case.total:
                break
