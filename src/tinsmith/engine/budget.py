"""Before step 1: does the longest batch fit, and how many steps fit into the minutes?"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from tinsmith.engine import snapshot
from tinsmith.engine.accumulate import GradientAccumulator
from tinsmith.engine.data import Batches
from tinsmith.engine.loop import Loop
from tinsmith.engine.seed import preserve_rng
from tinsmith.engine.state import State
from tinsmith.engine.window import Means
from tinsmith.errors import ResourceError

if TYPE_CHECKING:
    from tinsmith.engine.trainer import Trainer

_WARM_UP, _TIMED = 3, 16  # steps, at least
# Steps differ, as their batches' lengths do: this share of the minutes is timed, up to so many seconds.
_TIMED_SHARE, _TIMED_SECONDS = 0.04, 8.0
_SHARE = 0.97  # of the minutes is planned for: saving and a slower second half take the rest


def rehearse(trainer: Trainer, batches: Batches) -> None:
    """Run the longest batch forward and backward, so that running out of memory comes now, not in hours.

    Leaves no trace: gradients, buffers and generators are as before.

    Raises:
        ResourceError: it does not fit.
    """
    batch = batches.longest()
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
        trainer.optimizer.zero_grad(set_to_none=True)
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
    eval_seconds = _time_evaluation(trainer, val_batches)
    snapshot.restore(trainer, *before)
    left = 60 * trainer.max_minutes * _SHARE - (time.monotonic() - start) - eval_seconds
    every = trainer.eval_every or math.ceil(len(batches) / trainer.parts.accumulate)
    return max(1, int(left / (step_seconds + eval_seconds / max(1, every))))


def _time_steps(trainer: Trainer, batches: Batches) -> float:
    """Seconds per step over the first batches, whose order is as random as any."""
    enough = min(_TIMED_SHARE * 60 * trainer.max_minutes, _TIMED_SECONDS)
    scratch = Loop(trainer.parts, State(), Means())
    start = math.inf
    for step in scratch.steps(batches, None):
        if step == _WARM_UP:
            start = time.monotonic()
        elif step >= _WARM_UP + _TIMED and time.monotonic() - start >= enough:
            break
    float(scratch.means.log()["loss"])  # on a GPU, wait for the last step
    return (time.monotonic() - start) / (step - _WARM_UP)


def _time_evaluation(trainer: Trainer, val_batches: Batches | None) -> float:
    if val_batches is None:
        return 0.0
    start = time.monotonic()
    trainer.eval_epoch(val_batches)
    return time.monotonic() - start
