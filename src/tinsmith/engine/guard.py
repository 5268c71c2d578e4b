"""What watches every step: a loss or a gradient that is not finite, and a loss that leaps.

The verdict comes before the optimiser moves. ``stop`` ends the run at the boundary before the step, ``skip``
drops the step's batches, ``rollback`` also puts back the weights of 100 to 200 steps ago and goes on with
the data that follow (PaLM, Chowdhery et al. 2022, section 5.1: the same data do no harm from another state).
A dropped step counts: the schedule and the budget stay functions of the step.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from tinsmith.engine.config import NONFINITE_POLICIES, SPIKE_POLICIES, check, check_choice
from tinsmith.engine.data import to_device
from tinsmith.engine.diagnosis import diagnose, not_finite
from tinsmith.engine.state import flatten, unflatten
from tinsmith.errors import DivergedError

if TYPE_CHECKING:
    from tinsmith.engine.loop import Loop, Window

log = logging.getLogger(__name__)

_RECENT, _ENOUGH = 100, 20  # losses in the running median; fewer than the second are no measure
_REFRESH = 10  # steps between two looks at the median: it moves slowly and costs more than all else here
_IN_A_ROW = 5  # steps skipped one after another, at most
_RETURNS = 3  # rollbacks to the same weights, at most
_EVERY = 100  # steps between two copies to roll back to


class Guard:
    """Judges each step, and carries out what is to happen then.

    Costs two reads of a number and a copy of torch's generator (4 to 9 us on a CPU; on a GPU the read waits
    for the step); without ``grad_clip`` also a look at the whole gradient.

    Args:
        on_nonfinite: ``"stop"``, ``"skip"`` (at most 5 steps in a row) or ``"rollback"`` (at most 3 times
            to the same weights). With ``"rollback"`` two copies of weights and optimiser are kept in memory
            and in each checkpoint.
        on_spike: ``"ignore"`` (only logged) or ``"rollback"``.
        spike_factor: a spike is a loss of more than so many times the median of the last 100, of more than
            twice what a tenth of them reach (losses of two kinds of batches are no spikes), and of more than
            a tenth of the first median (nor is a hard batch of a task that is all but solved).

    Attributes:
        skipped: steps without a move so far.
        rolls_back: whether weights are kept to go back to.
    """

    def __init__(
        self, on_nonfinite: str = "stop", on_spike: str = "ignore", spike_factor: float = 10.0
    ) -> None:
        check_choice("on_nonfinite", on_nonfinite, NONFINITE_POLICIES)
        check_choice("on_spike", on_spike, SPIKE_POLICIES)
        check(spike_factor > 1, "spike_factor", spike_factor, "above 1")
        self.on_nonfinite, self.on_spike, self.spike_factor = on_nonfinite, on_spike, spike_factor
        self.rolls_back = "rollback" in (on_nonfinite, on_spike)
        self.skipped = 0
        self._in_a_row = self._returns = 0
        self._losses: deque[float] = deque(maxlen=_RECENT)
        self._first: float | None = None  # the first median
        self._limit = math.inf  # above it a loss leaps
        self._in_spike = False
        self._copies: deque[Any] = deque(maxlen=2)  # (step, tensors, skeleton), the older one first
        self._generator: torch.Generator | None = None
        self._noise = Tensor()  # the generator's state before the step
        self._buffers: _Buffers | None = None

    # ---- around a step ------------------------------------------------------------------------------

    def begin(self, loop: Loop) -> None:
        """Remember what a forward pass changes: the generator, and buffers such as running means."""
        if self._generator is None or self._buffers is None:
            self._generator, self._buffers = _generator(loop.parts.device), _Buffers(loop.parts.task)
        self._noise = self._generator.get_state()
        if self._buffers.any:
            self._buffers.remember()
        if self.rolls_back and not self._copies:
            self._copies.append(_copy(loop, loop.state.step))

    def undo(self, loop: Loop) -> None:
        """As if the step's forward and backward had not been."""
        loop.parts.drop_gradients()
        assert self._generator is not None
        assert self._buffers is not None
        self._generator.set_state(self._noise)
        self._buffers.put_back()
        loop.grad_norm = None

    def passed(self, loop: Loop) -> None:
        """Note a step that moved the weights."""
        self._in_a_row = 0
        done = loop.state.step + 1
        if self.rolls_back and done % _EVERY == 0:
            self._copies.append(_copy(loop, done))
            self._returns = 0

    def spike(self, loop: Loop, window: Window) -> str:
        """Note a finite loss; what to say if it leaps and that is not to be ignored."""
        if not window.losses and window.shared_loss is None:
            return ""  # on a GPU they are read only for a rollback
        alone = len(window.losses) == 1 and window.shared_loss is None
        loss = window.losses[0] if alone else window.mean_loss()
        first, self._in_spike = not self._in_spike, loss > self._limit
        if self._in_spike:
            what = (
                f"the loss leapt to {loss:.4g}, over {self.spike_factor:g} times the median of the last ones"
            )
            if self.on_spike == "rollback":
                return what
            if first:
                log.warning("step %d: %s", loop.state.step, what)
        self._losses.append(loss)
        if loop.state.step % _REFRESH == 0 and len(self._losses) >= _ENOUGH:
            ordered = sorted(self._losses)
            median, tenth = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) * 9 // 10]
            if self._first is None:
                self._first = median
            limit = max(self.spike_factor * median, 2 * tenth, self._first / 10)
            self._limit = limit if median > 0 else math.inf
        return ""

    # ---- trouble ------------------------------------------------------------------------------------

    def handle(self, loop: Loop, window: Window, trouble: str, policy: str) -> None:
        """Carry out a policy for a step that must not move the weights.

        Raises:
            DivergedError: the policy is to stop, or the others have been tried often enough.
        """
        self.undo(loop)
        message, found = diagnose(loop, window, trouble)
        if loop.ranks is not None:  # the first of those who found something
            messages = loop.ranks.gather([message, found])
            message = next((text for text, found in messages if found), message)
        self.undo(loop)
        if policy == "stop":
            raise DivergedError(message)
        self.skipped += 1
        if policy == "rollback":
            self._roll_back(loop, message)
            return
        self._in_a_row += 1
        if self._in_a_row > _IN_A_ROW:
            raise DivergedError(f"{message} {_IN_A_ROW} steps before it were skipped for the like: enough.")
        log.warning("skipped: %s", message)

    def _roll_back(self, loop: Loop, message: str) -> None:
        self._returns += 1
        step = self._copies[0][0]
        if self._returns > _RETURNS:
            raise DivergedError(
                f"{message} The weights of step {step} were returned to {_RETURNS} times before: enough."
            )
        _restore(loop, self._copies[0])
        self._copies = deque([self._copies[0]], maxlen=2)
        self._in_spike = False
        log.warning("rolled back to the weights of step %d: %s", step, message)

    def check_weights(self, loop: Loop) -> bool:
        """Before weights are saved: they are finite, or are rolled back. Whether they were.

        Raises:
            DivergedError: they are not, and there is nothing to return to.
        """
        bad = not_finite(loop.parts.task.named_parameters())
        if loop.parts.ema is not None:
            average = loop.parts.ema.state_dict()["shadow"]
            bad += [f"the average of {name}" for name in not_finite(average.items())]
        if not bad:
            return False
        message = f"not finite at step {loop.state.step}: {', '.join(bad[:3])}. They were not saved."
        if not self._copies:
            raise DivergedError(f"{message} The checkpoint before is whole: resume with a smaller rate.")
        self._roll_back(loop, message)
        return True

    # ---- checkpoints --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Tensors and what JSON can hold, nested."""
        return {
            "skipped": self.skipped,
            "in_a_row": self._in_a_row,
            "returns": self._returns,
            "in_spike": self._in_spike,
            "losses": list(self._losses),
            "first": self._first,
            "limit": self._limit,
            "copies": [{"step": step, "tree": unflatten(*copy)} for step, *copy in self._copies],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self.skipped, self._in_spike = state["skipped"], state["in_spike"]
        self._in_a_row, self._returns = state["in_a_row"], state["returns"]
        self._losses = deque(state["losses"], _RECENT)
        self._first, self._limit = state["first"], state["limit"]
        self._copies.clear()
        if self.rolls_back:
            self._copies.extend((copy["step"], *flatten(copy["tree"])) for copy in state["copies"])


class _Buffers:
    """A module's buffers as they were before a step: of those that a forward pass changes, copies."""

    def __init__(self, task: nn.Module) -> None:
        # These norms change theirs behind autograd's back; a change of any other shows in its version.
        norms = [module for module in task.modules() if isinstance(module, _NormBase)]
        self.moving = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        known = {id(buffer) for buffer in self.moving}
        self.others = [buffer for buffer in task.buffers() if id(buffer) not in known]
        self.copies = [buffer.clone() for buffer in self.moving]
        self.known = [(buffer._version, buffer.clone()) for buffer in self.others]
        self.any = bool(self.moving or self.others)

    def remember(self) -> None:
        """Take note of them as they are now."""
        if self.moving:
            torch._foreach_copy_(self.copies, self.moving)
        for i, buffer in enumerate(self.others):
            if buffer._version != self.known[i][0]:
                self.known[i] = (buffer._version, buffer.clone())

    @torch.no_grad()
    def put_back(self) -> None:
        """Make them what they were."""
        if self.moving:
            torch._foreach_copy_(self.moving, self.copies)
        for buffer, (version, before) in zip(self.others, self.known, strict=True):
            if buffer._version != version:
                buffer.copy_(before)


def _copy(loop: Loop, step: int) -> tuple[int, dict[str, Tensor], Any]:
    """What a rollback puts back, of the weights as they are now."""
    parts = loop.parts
    tree = {
        "task": parts.task.state_dict(),
        "optimizer": parts.optimizer.state_dict(),
        "ema": None if parts.ema is None else parts.ema.state_dict(),
        "carry": loop.carry,
    }
    tensors, skeleton = flatten(tree)
    return step, {name: tensor.detach().clone() for name, tensor in tensors.items()}, skeleton


def _restore(loop: Loop, copy: tuple[int, dict[str, Tensor], Any]) -> None:
    parts = loop.parts
    _, tensors, skeleton = copy
    # An optimiser keeps the tensors that it is given, and would go on to change the copy.
    tree = unflatten({name: tensor.clone() for name, tensor in tensors.items()}, skeleton)
    parts.task.load_state_dict(tree["task"])
    parts.optimizer.load_state_dict(tree["optimizer"])
    if parts.ema is not None:
        parts.ema.load_state_dict(tree["ema"])
    loop.carry = to_device(tree["carry"], parts.device)  # after a resume the copy is on the CPU


def _generator(device: torch.device) -> torch.Generator:
    """The one that a model on the device draws from."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator
