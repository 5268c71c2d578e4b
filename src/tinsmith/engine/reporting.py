"""What is seen of a run while it goes on: log lines through the hooks, and the progress line."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tinsmith.engine.loggers import SafeHook
from tinsmith.engine.progress import Progress

if TYPE_CHECKING:
    from tinsmith.engine.loop import Loop

Hook = Callable[[dict[str, Any], int, str], None]


class Reporter:
    """Consumes the steps of a loop. Reads from the device only at a log line, every ``log_every`` steps.

    ``last`` is the newest training record. A hook that raises is reported once and dropped.
    """

    def __init__(self, log_every: int, show: bool) -> None:
        self.log_every, self.show = log_every, show
        self.last: dict[str, Any] = {}
        self._hooks: list[SafeHook] = []
        self._progress: Progress | None = None
        self._mark = (0.0, 0)  # time and samples at the last log line

    def add_hook(self, fn: Hook) -> None:
        """Call ``fn(metrics, step, prefix)`` at every log line and every evaluation."""
        self._hooks.append(SafeHook(fn))

    def start(self, max_steps: int, step: int) -> None:
        """Show progress from ``step`` on; rates are taken anew."""
        self._mark = (0.0, 0)
        if self.show:
            self._progress = Progress(max_steps, start_step=step)

    def plan(self, max_steps: int) -> None:
        """Show another number of steps from here on."""
        if self._progress is not None:
            self._progress.total_steps = max_steps

    def close(self) -> None:
        """Take the progress line away."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def sync(self) -> None:
        """Have the hooks force to the disk what they wrote: a checkpoint must not be ahead of its log."""
        for hook in self._hooks:
            hook.sync()

    def step(self, loop: Loop) -> None:
        """Note a step that was taken."""
        step, progress = loop.state.step, self._progress
        if step % self.log_every == 0:
            self.last = self._record(loop)
            self._call_hooks(self.last, step, "train")
        elif progress is None or not progress.tick(step):
            return
        if progress is not None:
            progress.show(step, self.last)

    def _record(self, loop: Loop) -> dict[str, Any]:
        now, before = time.monotonic(), self._mark
        self._mark = (now, loop.state.samples)
        record: dict[str, Any] = {"epoch": loop.state.epoch, **loop.means.log(), "lr": loop.parts.lr()}
        if loop.grad_norm is not None:
            record["grad_norm"] = float(loop.grad_norm)
        if loop.guard is not None and loop.guard.skipped:
            record["skipped"] = loop.guard.skipped
        if before[0] and now > before[0]:
            record["samples_per_sec"] = (self._mark[1] - before[1]) / (now - before[0])
        return record

    def evaluation(self, loop: Loop, metrics: dict[str, float]) -> None:
        """Note an evaluation; ``seconds`` are those of the training so far."""
        state = loop.state
        step, seconds = state.step, round(state.seconds, 3)
        self._call_hooks({"epoch": state.epoch, "seconds": seconds, **metrics}, step, "val")
        if self._progress is not None:
            shown = " ".join(f"{name} {value:.4f}" for name, value in list(metrics.items())[:6])
            self._progress.line(f"  validation at step {step}: {shown}")

    def _call_hooks(self, metrics: dict[str, Any], step: int, prefix: str) -> None:
        for hook in self._hooks:
            hook(metrics, step, prefix)
