"""The loop: a generator that yields once per optimiser step. The caller logs, evaluates, saves and stops."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tinsmith.engine.accumulate import GradientAccumulator
from tinsmith.engine.contract import Context, StepOutput, Task
from tinsmith.engine.data import Batches, to_device
from tinsmith.engine.device import autocast
from tinsmith.engine.ema import EMA
from tinsmith.engine.optim import clip_grad_norm
from tinsmith.engine.schedules import Schedule
from tinsmith.engine.state import State
from tinsmith.engine.window import Means
from tinsmith.errors import DivergedError


@dataclass(slots=True)
class Parts:
    """What a step works on. ``schedule`` is the engine's own; a torch scheduler is stepped by the trainer."""

    task: Task
    optimizer: torch.optim.Optimizer
    schedule: Schedule | None
    device: torch.device
    precision: torch.dtype | None = None
    scaler: torch.amp.GradScaler | None = None
    ema: EMA | None = None
    grad_clip: float | None = None
    accumulate: int = 1

    def parameters(self) -> list[nn.Parameter]:
        """All parameters that the optimiser moves."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def lr(self) -> float:
        """The learning rate of the first group of parameters."""
        return float(self.optimizer.param_groups[0]["lr"])


class Loop:
    """Takes optimiser steps over epochs of batches, from wherever ``state`` stands.

    ``carry`` is the task's state between batches; ``grad_norm`` that of the last step (None if not
    measured); ``epoch_done`` is true after a step that ended an epoch.
    """

    def __init__(self, parts: Parts, state: State, means: Means) -> None:
        self.parts, self.state, self.means = parts, state, means
        self.carry: Any = None
        self.grad_norm: Tensor | None = None
        self.epoch_done = False
        self._parameters = parts.parameters()
        self._check = parts.device.type == "cpu"  # reading a number is free there; on a GPU it would wait

    def steps(self, batches: Batches, epochs: int | None) -> Iterator[int]:
        """Yield the number of the optimiser step just taken, until the steps or the epochs are used up."""
        state = self.state
        while self._goes_on(epochs):
            self.epoch_done = False
            accumulator = GradientAccumulator(self.parts.accumulate)
            read = 0
            rest = iter(batches.epoch(state.epoch, state.cursor))
            current = next(rest, None)
            while current is not None:
                count, batch = current
                self.forward_backward(batch, accumulator)
                read += 1
                state.cursor += count
                state.samples += count
                # Looking one batch ahead tells the last one, whose window may be short.
                current = next(rest, None)
                if not accumulator.ready and current is not None:
                    continue
                self.apply(accumulator)
                self.epoch_done = current is None
                if self.epoch_done:
                    state.epoch, state.cursor = state.epoch + 1, 0
                yield state.step
                if state.max_steps and state.step >= state.max_steps:
                    return
            if not read:  # a cursor at the very end of an epoch
                state.epoch, state.cursor = state.epoch + 1, 0

    def _goes_on(self, epochs: int | None) -> bool:
        state = self.state
        if state.max_steps:
            return state.step < state.max_steps
        return epochs is None or state.epoch < epochs

    def forward_backward(self, batch: Any, accumulator: GradientAccumulator) -> StepOutput:
        """The loss of a batch and its gradient, added to the window's."""
        parts, state = self.parts, self.state
        if parts.device.type != "cpu":
            batch = to_device(batch, parts.device)
        context = Context(state.step, state.max_steps, self.carry)
        if parts.precision is None:
            out: StepOutput = parts.task(batch, context)
        else:
            with autocast(parts.device, parts.precision):
                out = parts.task(batch, context)
        if self._check and not math.isfinite(out.loss.item()):
            raise DivergedError(self._diverged(f"the loss became {out.loss.item()}"))
        loss = out.loss if parts.scaler is None else parts.scaler.scale(out.loss)
        accumulator.backward(loss, out.weight)
        self.carry = out.carry
        self.means.add(out)
        return out

    def apply(self, accumulator: GradientAccumulator) -> None:
        """Move the weights by the window's gradient."""
        parts, state = self.parts, self.state
        if parts.scaler is not None:
            parts.scaler.unscale_(parts.optimizer)
        accumulator.finish(self._parameters)
        if parts.grad_clip is not None:
            self.grad_norm = clip_grad_norm(self._parameters, parts.grad_clip)
            if self._check and not math.isfinite(self.grad_norm.item()):
                raise DivergedError(self._diverged(f"the gradient's norm became {self.grad_norm.item()}"))
        if parts.schedule is not None:
            parts.schedule.set(state.step)
        if parts.scaler is None:
            parts.optimizer.step()
        else:
            parts.scaler.step(parts.optimizer)
            parts.scaler.update()
        parts.optimizer.zero_grad(set_to_none=True)
        if parts.ema is not None:
            parts.ema.update()
        state.step += 1

    def _diverged(self, what: str) -> str:
        lr = self.parts.lr()
        norm = "not measured" if self.grad_norm is None else f"{self.grad_norm.item():.3g}"
        return (
            f"{what} at step {self.state.step} (lr {lr:.3g}, last gradient norm {norm}). The weights were "
            f"not moved by it. Try a tenth of the learning rate, or a smaller grad_clip."
        )
