"""When a checkpoint is written, and by whom: at once, or by a thread while the training goes on."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tinsmith.engine import checkpoint
from tinsmith.engine.checkpoint import Parts
from tinsmith.engine.diagnosis import not_finite
from tinsmith.engine.snapshot import capture, copy_tensors

if TYPE_CHECKING:
    from tinsmith.engine.trainer import Trainer

_BACKGROUND_BYTES = 50 << 20  # below, a thread saves less than it costs


@dataclass(slots=True)
class _Job:
    """A checkpoint to write."""

    step: int
    parts: Parts
    values: dict[str, Any]


class Saver:
    """Writes checkpoints every so many seconds and at the end, and keeps the newest and the best.

    The best weights are copied when they are found and written before the next checkpoint: a run that is
    killed in between finds them again, since it takes the same steps again. What is large is copied and
    written by a thread while the training goes on: one at a time, and its error is raised at the next step.
    Of several processes rank 0 writes, at once, and the others tell it what only they know.
    """

    def __init__(self, root: Path, seconds: float, keep: int) -> None:
        self.root, self.seconds, self.keep = root, seconds, keep
        self._last = time.monotonic()
        self._best: _Job | None = None
        self._buffers: dict[str, Tensor] = {}
        self._best_buffers: dict[str, Tensor] = {}  # memory that is there already: two thirds of the time
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._suspect = False
        self._written = -1  # the step that was written last

    def remember_best(self, trainer: Trainer) -> None:
        """Copy the trainer's state as the best so far."""
        trainer.guard.check_weights(trainer.loop)
        self._written = -1
        ranks = trainer.ranks
        writes = ranks is None or ranks.first
        if self._thread is not None:  # it may be writing the last best ones
            self._best_buffers = {}
        parts, values = capture(trainer, trainer.state.best_metric, writes, self._best_buffers)
        self._best = _Job(trainer.state.step, parts, values) if writes else None

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._last >= self.seconds

    def maybe_save(self, trainer: Trainer) -> None:
        """Save if it is time, in the background if it is much.

        Raises:
            ResourceError: this save, or the one in the background, failed.
        """
        if trainer.ranks is not None:
            if trainer.ranks.agreed.get("save"):
                self.save(trainer)
            return
        if self._thread is not None and not self._thread.is_alive():
            self.wait(trainer)
        if self.due() and self._thread is None:
            self.save(trainer, background=True)

    def save(self, trainer: Trainer, background: bool = False) -> None:
        """Write the best weights that wait, then the state as it is now; delete what is old."""
        self.wait(trainer)
        trainer.reporter.sync()
        state = trainer.state
        best_here = state.best_metric if state.best_step == state.step else None
        jobs = [self._best] if self._best is not None and self._best.step != state.step else []
        self._last = time.monotonic()
        parts, values = capture(trainer, best_here)
        if background and _size(parts) >= _BACKGROUND_BYTES:
            jobs.append(_Job(state.step, copy_tensors(parts, self._buffers), values))
            watched = {name for name, _ in trainer.task.named_parameters()}
            self._thread = threading.Thread(target=self._try_to_write, args=(jobs, state.run_id, watched))
            self._thread.start()
        else:
            if trainer.guard.check_weights(trainer.loop):
                parts, values = capture(trainer, best_here)
            try:
                if trainer.ranks is None or trainer.ranks.first:
                    self._write([*jobs, _Job(state.step, parts, values)], state.run_id)
            finally:
                self._forget_written_best()
            if trainer.ranks is not None:
                trainer.ranks.share()  # nobody leaves before it is written

    def wait(self, trainer: Trainer) -> None:
        """Until nothing is being written.

        Raises:
            ResourceError: what was written in the background could not be.
            DivergedError: it was not finite.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._forget_written_best()
        suspect, self._suspect = self._suspect, False
        if suspect:
            trainer.guard.check_weights(trainer.loop)
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _try_to_write(self, jobs: list[_Job], run_id: str, watched: set[str]) -> None:
        """In the thread, which also looks whether the weights are finite: it has the time."""
        try:
            parts = jobs[-1].parts
            weights = [*((name, parts["model"][name]) for name in watched), *parts.get("ema", {}).items()]
            self._suspect = bool(not_finite(weights))
            if not self._suspect:
                self._write(jobs, run_id)
        except BaseException as error:  # the trainer raises it
            self._error = error

    def _write(self, jobs: list[_Job], run_id: str) -> None:
        for job in jobs:
            folder = self._free_name(f"step-{job.step:08d}-{run_id}")
            checkpoint.write_checkpoint(folder, job.parts, job.values)
            self._written = job.step
            checkpoint.link(self.root, "last", folder)
            if job.values["best_here"] is not None:
                checkpoint.link(self.root, "best", folder)
        checkpoint.prune(self.root, run_id, self.keep)

    def _forget_written_best(self) -> None:
        """Only now: what could not be written waits for the next save."""
        if self._best is not None and self._best.step <= self._written:
            self._best = None

    def _free_name(self, name: str) -> Path:
        """The name, or a numbered one: nothing is overwritten when a step is saved again after a resume."""
        folder, n = self.root / name, 1
        while folder.exists():
            n += 1
            folder = self.root / f"{name}-{n}"
        return folder


def _size(parts: Parts) -> int:
    return sum(tensor.nbytes for part in parts.values() for tensor in part.values())
