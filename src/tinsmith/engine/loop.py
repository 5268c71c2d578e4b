"""The loop: a generator that yields once per optimiser step. The caller logs, evaluates, saves and stops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tinsmith.engine.accumulate import GradientAccumulator
from tinsmith.engine.contract import Context, StepOutput, Task
from tinsmith.engine.data import Batches, to_device
from tinsmith.engine.device import autocast
from tinsmith.engine.ema import EMA
from tinsmith.engine.optim import FiniteCheck, clip_grad_norm, stepper
from tinsmith.engine.schedules import Schedule
from tinsmith.engine.state import State
from tinsmith.engine.window import Means
from tinsmith.errors import ConfigError

if TYPE_CHECKING:
    from tinsmith.engine.exchange import Exchange
    from tinsmith.engine.guard import Guard
    from tinsmith.engine.ranks import Ranks


@dataclass(slots=True)
class Parts:
    """What a step works on. ``schedule`` is the engine's own; a torch scheduler is stepped by the trainer.

    ``call`` is the task, or what was compiled of it.
    """

    task: Task
    optimizer: torch.optim.Optimizer
    schedule: Schedule | None
    device: torch.device
    precision: torch.dtype | None = None
    scaler: torch.amp.GradScaler | None = None
    ema: EMA | None = None
    grad_clip: float | None = None
    accumulate: int = 1
    call: Callable[[Any, Context], StepOutput] = field(init=False)

    def __post_init__(self) -> None:
        self.call = self.task

    def parameters(self) -> list[nn.Parameter]:
        """All parameters that the optimiser moves."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def drop_gradients(self) -> None:
        """``optimizer.zero_grad`` without torch's profiling of it (36 us)."""
        for group in self.optimizer.param_groups:
            for param in group["params"]:
                param.grad = None

    def lr(self) -> float:
        """The learning rate of the first group of parameters."""
        return float(self.optimizer.param_groups[0]["lr"])


@dataclass(slots=True)
class Window:
    """The batches of one optimiser step: ``counts`` says how far each moves the cursor of ``source``.

    Where several processes share the step a batch is this one's part of it, None if it has none, and
    ``shared_loss`` the mean over all of them.
    """

    source: Batches
    epoch: int
    cursor: int
    batches: list[Any] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    last: bool = False
    outs: list[StepOutput] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # of the outs, where they were read
    shared_loss: float | None = None

    @property
    def count(self) -> int:
        """How far the window moves the cursor."""
        return sum(self.counts)

    def mean_loss(self) -> float:
        """The mean of the losses that were read."""
        if self.shared_loss is not None:
            return self.shared_loss
        weights = [float(out.weight) for out in self.outs]
        total = sum(loss * weight for loss, weight in zip(self.losses, weights, strict=True))
        return total / sum(weights) if any(weights) else 0.0


class Loop:
    """Takes optimiser steps over epochs of batches, from wherever ``state`` stands.

    The counters and the means move when a step is done with, so that whatever interrupts it leaves the
    boundary before it. ``carry`` is the task's state between batches; ``grad_norm`` that of the last step
    (None if not measured); ``epoch_done`` is true after a step that ended an epoch.
    """

    def __init__(
        self,
        parts: Parts,
        state: State,
        means: Means,
        guard: Guard | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.parts, self.state, self.means, self.guard, self.ranks = parts, state, means, guard, ranks
        self.carry: Any = None
        self.grad_norm: Tensor | None = None
        self.epoch_done = False
        self._parameters = parts.parameters()
        self._finite = FiniteCheck(self._parameters)
        # On a GPU reading a number waits, and a loss that is not finite shows in the gradient's norm; but not
        # under a GradScaler, which takes an overflow for its own doing and would leave out every step.
        self._reads = parts.device.type == "cpu" or parts.scaler is not None
        self._reads |= guard is not None and guard.on_spike == "rollback"
        self._exchange: Exchange | None = None
        self._move = stepper(parts.optimizer)

    def steps(self, batches: Batches, epochs: int | None) -> Iterator[int]:
        """Yield the number of the optimiser step just taken, until the steps or the epochs are used up."""
        state = self.state
        while self._goes_on(epochs):
            self.epoch_done, read = False, False
            for window in self._windows(batches):
                read = True
                self.step(window)
                state.samples += window.count
                state.cursor += window.count
                self.epoch_done = window.last
                if window.last:
                    state.epoch, state.cursor = state.epoch + 1, 0
                state.step += 1
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

    def _windows(self, batches: Batches) -> Iterator[Window]:
        """The rest of the epoch. Looking one batch ahead tells the last window, which may be short."""
        epoch, cursor = self.state.epoch, self.state.cursor
        share = (self.ranks.rank, self.ranks.size) if self.ranks is not None else ()
        rest = iter(batches.epoch(epoch, cursor, *share))
        current = next(rest, None)
        while current is not None:
            window = Window(batches, epoch, cursor)
            while current is not None and len(window.batches) < self.parts.accumulate:
                count, batch = current
                window.counts.append(count)
                window.batches.append(batch)
                current = next(rest, None)
            window.last = current is None
            cursor += window.count
            yield window

    def step(self, window: Window) -> None:
        """One optimiser step; where the guard finds trouble, its policy in place of the step."""
        guard = self.guard
        if guard is not None:
            guard.begin(self)
        carry, trouble = self.compute(window)
        if guard is not None:
            policy = guard.on_nonfinite if trouble else guard.on_spike
            if trouble := trouble or guard.spike(self, window):
                guard.handle(self, window, trouble, policy)
                return
        self.move()
        self.carry = carry
        for out in window.outs:
            self.means.add(out)
        if guard is not None:
            guard.passed(self)

    def compute(self, window: Window) -> tuple[Any, str]:
        """The window's gradient, clipped. Returns the carry, and what is not finite ("" if all is well)."""
        parts = self.parts
        accumulator = GradientAccumulator(parts.accumulate, shared=self.ranks is not None)
        carry, trouble = self._accumulate(window, accumulator)
        if self.ranks is not None:
            trouble = self._share(window, accumulator, trouble)
        elif not trouble:
            accumulator.finish(self._parameters)
        if trouble:
            return carry, trouble
        if parts.scaler is not None:
            parts.scaler.unscale_(parts.optimizer)
        return carry, self._clip()

    def _accumulate(self, window: Window, accumulator: GradientAccumulator) -> tuple[Any, str]:
        """Forward and backward over the window, up to a loss that is not finite."""
        carry = self.carry
        for batch in window.batches:
            if batch is None:
                continue
            out = self.forward(batch, carry)
            window.outs.append(out)
            carry = out.carry
            if self._reads and self.guard is not None:
                window.losses.append(loss := out.loss.item())
                if not math.isfinite(loss):
                    return carry, f"the loss became {loss}"
            self.backward(out, accumulator)
        return carry, ""

    def _share(self, window: Window, accumulator: GradientAccumulator, trouble: str) -> str:
        """Make the gradients those of all processes; any process's trouble is that of all."""
        assert self.ranks is not None
        if any(out.carry is not None for out in window.outs):
            raise ConfigError("a task that keeps a state between batches trains in one process (no --nproc)")
        if self._exchange is None:
            from tinsmith.engine.exchange import Exchange

            self._exchange = Exchange(self.ranks, self.parts.task, self._parameters)
        loss = sum(out.loss.detach() * out.weight for out in window.outs)
        window.shared_loss, culprit = self._exchange(accumulator, loss, bool(trouble))
        return trouble or ("" if culprit is None else f"the loss of rank {culprit} became not finite")

    def forward(self, batch: Any, carry: Any = None) -> StepOutput:
        """The task's answer to a batch."""
        parts, state = self.parts, self.state
        if parts.device.type != "cpu":
            batch = to_device(batch, parts.device)
        context = Context(state.step, state.max_steps, carry)
        if parts.precision is None:
            out = parts.call(batch, context)
        else:
            with autocast(parts.device, parts.precision):
                out = parts.call(batch, context)
        return out

    def backward(self, out: StepOutput, accumulator: GradientAccumulator) -> None:
        """Add a batch's gradient to the window's."""
        scaler = self.parts.scaler
        accumulator.backward(out.loss if scaler is None else scaler.scale(out.loss), out.weight)

    def _clip(self) -> str:
        """Clip the gradient; what is not finite of it."""
        parts, watched = self.parts, self.guard is not None and self.parts.scaler is None
        if parts.grad_clip is not None:
            self.grad_norm = clip_grad_norm(self._parameters, parts.grad_clip)
            # A GradScaler finds its factor by overflowing, and leaves such a step out by itself.
            if watched and not math.isfinite(norm := self.grad_norm.item()):
                return f"the gradient's norm became {norm}"
        elif watched and not self._finite():
            return "the gradient became not finite"
        return ""

    def move(self) -> None:
        """Move the weights by the gradient, at the learning rate of the step."""
        parts = self.parts
        if parts.schedule is not None:
            parts.schedule.set(self.state.step - self.state.stage_step)
        if parts.scaler is None:
            self._move()
        else:
            parts.scaler.step(parts.optimizer)
            parts.scaler.update()
        parts.drop_gradients()
        if parts.ema is not None:
            parts.ema.update()
