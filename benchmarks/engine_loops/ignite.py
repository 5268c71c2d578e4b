"""Ignite's Engine around the body of the hand-written loop, with a running average and its bar, or bare."""

from __future__ import annotations

import torch
from ignite.engine import Engine
from torch import Tensor, nn

from engine_loops.case import CLIP, Batch, Case


def train(case: Case, variant: str) -> None:
    model, loss_fn = case.model, nn.CrossEntropyLoss()
    optimizer = case.optimizer()
    scheduler = case.scheduler(optimizer)

    def step(engine: Engine, batch: Batch) -> Tensor:
        x, y = batch
        optimizer.zero_grad()
        loss: Tensor = loss_fn(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        scheduler.step()
        return loss.detach()

    engine = Engine(step)
    if variant == "bar":
        watch(engine)
    engine.run(case.loader(), max_iters=case.total)


def watch(engine: Engine) -> None:
    """Show the running loss on a bar; without tqdm only keep it."""
    from ignite.handlers import ProgressBar
    from ignite.metrics import RunningAverage

    RunningAverage(output_transform=lambda loss: loss).attach(engine, "loss")
    try:
        bar = ProgressBar()
    except ModuleNotFoundError:
        return
    bar.attach(engine, ["loss"])
