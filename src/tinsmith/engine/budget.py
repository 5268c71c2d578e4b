"""How many steps, does the longest batch fit, and how many steps fit into the minutes?"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinsmith.engine import snapshot
from tinsmith.engine.accumulate import GradientAccumulator
from tinsmith.engine.compiled import Compiled
from tinsmith.engine.data import Batches
from tinsmith.engine.loop import Loop
from tinsmith.engine.seed import preserve_rng
from tinsmith.engine.state import State
from tinsmith.engine.window import Means
from tinsmith.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from tinsmith.engine.trainer import Trainer

log = logging.getLogger(__name__)

_WARM_UP, _TIMED = 3, 8  # steps, at least
# Steps differ, as their batches' lengths do: this share of the minutes is timed, up to so many seconds.
_TIMED_SHARE, _TIMED_SECONDS = 0.02, 4.0
_SHARE = 0.98  # of the minutes is planned for: saving takes the rest
_FIRST_REVISION = 8  # at an eighth of the way; the second is half way. A process's first seconds are slow.
_WORTH_COMPILING = 15.0  # minutes: the compiler takes up to one
_NEAR = 0.03  # a plan that is this near is left alone, so that a run with max_steps repeats it


@dataclass(slots=True)
class Pace:
    """What this process's steps have taken since the last plan, and an evaluation (None: not known yet)."""

    steps: int = 0
    seconds: float = 0.0
    eval_seconds: float | None = None

    def step(self, seconds: float) -> None:
        """Note a step."""
        self.steps += 1
        self.seconds += seconds


def plan(trainer: Trainer, batches: Batches, val_batches: Batches | None, epochs: int) -> int | None:
    """Fix the number of steps; returns the epochs to stop at, or None where steps decide."""
    state = trainer.state
    per_epoch = math.ceil(len(batches) / trainer.parts.accumulate)
    of = f"{trainer.max_minutes} min" if trainer.max_minutes else f"{trainer.max_steps} steps"
    choose_call(trainer)
    if trainer.max_minutes or trainer.max_steps:
        limit = None
        if state.max_steps_of != of:
            state.max_steps, state.max_steps_of, state.revise_at = trainer.max_steps, of, 0
        if trainer.max_minutes and not state.max_steps:
            bind(trainer, batches, per_epoch)  # a first guess, so that the timed steps are real ones
            state.max_steps = steps_that_fit(trainer, batches, val_batches)
            state.revise_at = state.step + max(0, state.max_steps - state.step) // _FIRST_REVISION
            log.info("%d steps fit into %.3g minutes", state.max_steps, trainer.max_minutes)
    else:
        limit = state.stage_epoch + epochs
        # 0: of unknown length
        state.max_steps = state.stage_step + per_epoch * epochs if per_epoch else 0
    bind(trainer, batches, state.max_steps - state.stage_step, budget=limit is None)
    if state.step == state.stage_step and not trainer.max_minutes:
        rehearse(trainer, batches)
    trainer.reporter.start(state.max_steps, state.step)
    return limit


def choose_call(trainer: Trainer) -> None:
    """Compile the step where the setting says so, or a checkpoint of a run that compiles by itself."""
    state, parts = trainer.state, trainer.parts
    if trainer.compile != "auto":
        state.compiled = trainer.compile == "on"
    if state.compiled != isinstance(parts.call, Compiled):
        parts.call = Compiled(trainer.task) if state.compiled else trainer.task


def revise(trainer: Trainer, batches: Batches, val_batches: Batches | None) -> None:
    """Correct the number of steps by what steps have really taken, at ``state.revise_at``.

    Saves a checkpoint: a resume from it finds the number, and takes the same steps.
    """
    state, pace = trainer.state, trainer.pace
    left = 60 * trainer.max_minutes * _SHARE - state.seconds
    step_seconds = pace.seconds / max(1, pace.steps)
    steps = state.step + _fitting(trainer, batches, left, step_seconds, _eval_seconds(trainer, val_batches))
    if abs(steps - state.max_steps) > _NEAR * state.max_steps:
        log.info("%d steps, and not %d, fit into %.3g minutes", steps, state.max_steps, trainer.max_minutes)
        state.max_steps = steps
        bind(trainer, batches, steps - state.stage_step, budget=True)
        trainer.reporter.plan(steps)
    half = state.max_steps // 2
    state.revise_at = half if half >= 2 * state.step else 0
    pace.steps, pace.seconds = 0, 0.0
    if trainer.saver is not None:
        trainer.saver.save(trainer)


def bind(trainer: Trainer, batches: Batches, total_steps: int, budget: bool = False) -> None:
    """Tell the schedule how long an epoch and the whole run are."""
    if trainer.parts.schedule is not None:
        per_epoch = math.ceil(len(batches) / trainer.parts.accumulate)
        trainer.parts.schedule.bind(max(1, per_epoch), total_steps, budget)


def rehearse(trainer: Trainer, batches: Batches) -> None:
    """Run the longest batch forward and backward, so that running out of memory comes now, not in hours.

    Leaves no trace: gradients, buffers and generators are as before.

    Raises:
        ResourceError: it does not fit.
    """
    batch = batches.longest(1 if trainer.ranks is None else trainer.ranks.size)
    if batch is None:
        return
    buffers = {name: buffer.clone() for name, buffer in trainer.task.named_buffers()}
    scratch = Loop(trainer.parts, State(max_steps=trainer.state.max_steps), Means())
    try:
        with preserve_rng():
            scratch.backward(scratch.forward(batch), GradientAccumulator(1))
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise ResourceError(
            "the longest batch does not fit into memory. Try half the batch size and accumulate=2: "
            "the result is the same."
        ) from error
    finally:
        trainer.parts.drop_gradients()
        for name, buffer in trainer.task.named_buffers():
            buffer.copy_(buffers[name])


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def steps_that_fit(trainer: Trainer, batches: Batches, val_batches: Batches | None) -> int:
    """Time some steps and an evaluation, undo them, and return the number of steps for ``max_minutes``."""
    start = time.monotonic()
    rehearse(trainer, batches)
    before = snapshot.capture(trainer, clone=True)
    step_seconds = _time_steps(trainer, batches)
    compiles = trainer.compile == "auto" and trainer.max_minutes >= _WORTH_COMPILING
    if compiles and not trainer.state.compiled:
        step_seconds, compiles = _try_compiled(trainer, batches, step_seconds)
    trainer.pace = Pace()
    eval_seconds = _eval_seconds(trainer, val_batches)
    snapshot.restore(trainer, *before)
    trainer.state.compiled |= compiles
    left = 60 * trainer.max_minutes * _SHARE - (time.monotonic() - start)
    return _fitting(trainer, batches, left, step_seconds, eval_seconds)


def _try_compiled(trainer: Trainer, batches: Batches, plain: float) -> tuple[float, bool]:
    """Compile the step if that makes it faster than ``plain`` seconds: its seconds, and whether it did."""
    trainer.parts.call = Compiled(trainer.task)
    try:
        seconds = _time_steps(trainer, batches)
    except ConfigError as error:
        log.info("not compiled: %s", error)
        seconds = math.inf
    finally:
        trainer.parts.drop_gradients()
    pays = seconds < plain * (1 - _NEAR)
    if trainer.ranks is not None:
        pays = bool(trainer.ranks.share(pays))
    if not pays:
        trainer.parts.call = trainer.task
        return plain, False
    log.info("compiled: a step takes %.3g s in place of %.3g", seconds, plain)
    return seconds, True


def _fitting(
    trainer: Trainer, batches: Batches, seconds: float, step_seconds: float, eval_seconds: float
) -> int:
    """Steps, at least one, for so many seconds with the evaluations in between and at the end."""
    every = trainer.eval_every or math.ceil(len(batches) / trainer.parts.accumulate)
    steps = max(1, int((seconds - eval_seconds) / (step_seconds + eval_seconds / max(1, every))))
    return steps if trainer.ranks is None else int(trainer.ranks.share(steps))


def _time_steps(trainer: Trainer, batches: Batches) -> float:
    """Seconds per step over the first batches, whose order is as random as any."""
    enough = min(_TIMED_SHARE * 60 * trainer.max_minutes, _TIMED_SECONDS)
    ranks = trainer.ranks
    scratch = Loop(trainer.parts, State(), Means(ranks), ranks=ranks)
    start = math.inf
    for step in scratch.steps(batches, None):
        if step == _WARM_UP:
            start = time.monotonic()
        elif step >= _WARM_UP + _TIMED:
            done = time.monotonic() - start >= enough
            if done if ranks is None else ranks.share(done):
                break
    float(scratch.means.log()["loss"])  # on a GPU, wait for the last step
    return (time.monotonic() - start) / (step - _WARM_UP)


def _eval_seconds(trainer: Trainer, val_batches: Batches | None) -> float:
    """Seconds of the last evaluation; evaluates where this process has not yet."""
    if val_batches is None:
        return 0.0
    if trainer.pace.eval_seconds is None:
        trainer.evaluate_once(val_batches)
    assert trainer.pace.eval_seconds is not None
    return trainer.pace.eval_seconds
