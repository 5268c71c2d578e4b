"""The loop that people write by hand; with ``ema`` an average of the weights in each step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine_loops.case import CLIP, EMA_DECAY, Case


def train(case: Case, variant: str) -> None:
    model, loader, loss_fn = case.model, case.loader(), nn.CrossEntropyLoss()
    optimizer = case.optimizer()
    scheduler = case.scheduler(optimizer)
    params: list[Tensor] = list(model.parameters())
    average = [p.detach().clone() for p in params] if variant == "ema" else []
    running, step = torch.zeros(()), 0
    while step < case.total:
        for x, y in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            scheduler.step()
            if average:
                with torch.no_grad():
                    torch._foreach_lerp_(average, params, 1 - EMA_DECAY)
            running += loss.detach()
            step += 1
            if step == case.total:
                break
