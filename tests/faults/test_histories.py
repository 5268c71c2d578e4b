"""Random histories of a run (train, crash, save, damage, delete, resume, other workers) against a model.

After a resume a run stands at its newest whole checkpoint, with the bits that the run which nobody touched
had there. The full counts, 200 histories of 30 acts: ``pytest tests/faults/test_histories.py -m full``.
"""

import logging
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.plain import Fit, digests, forget_average, plain
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tinsmith.engine.checkpoint import read_checkpoint
from tinsmith.errors import DataError

EPOCHS = 40  # 200 steps: more than a history takes
PARTS = ("weights", "ema", "optimizer", "rng", "counters")  # the rate is set at the next step


class Crash(BaseException):
    """What ends a process in the middle of a step."""


def fresh(folder: Path, workers: int = 0, save_seconds: float = 0.0) -> Fit:
    """What a new process starts with."""
    fit = plain(folder, EPOCHS, loader={"num_workers": workers}, save_seconds=save_seconds)
    fit.valid = None
    return fit


@cache
def model() -> dict[int, dict[str, str]]:
    """The digests of the run that nobody touches, at each step."""
    fit, known = fresh(Path(), save_seconds=1e9), dict[int, dict[str, str]]()
    fit.trainer.saver = None
    known[0] = digests(fit.trainer)
    fit.trainer.add_log_hook(lambda _, step, prefix: known.update({step: digests(fit.trainer)}))
    fit.go(resume=False)
    return known


def unlike(fit: Fit) -> list[str]:
    """What of a trainer is not as in the model at its step."""
    here, expected = digests(fit.trainer), model()[fit.trainer.state.step]
    return [name for name in PARTS if here[name] != expected[name]]


class Histories(RuleBasedStateMachine):
    """A folder of checkpoints, who trains there at the moment, and what we did to the folder ourselves."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.root = self.folder / "checkpoints"
        self.fit: Fit | None = None
        self.workers, self.end = 0, 0
        self.damaged: set[Path] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    # ---- what the model knows -----------------------------------------------------------------------

    def found(self) -> list[Path]:
        return sorted(path for path in self.root.glob("step-*") if path.is_dir())

    def newest(self) -> int:
        """The step of the newest checkpoint that we did not harm; 0 where there is none."""
        return max((int(path.name.split("-")[1]) for path in set(self.found()) - self.damaged), default=0)

    def load(self, fit: Fit) -> None:
        fit.trainer.load_checkpoint(self.root)

    # ---- what a user does ---------------------------------------------------------------------------

    @precondition(lambda self: self.fit is None)
    @rule()
    def resume(self) -> None:
        fit = fresh(self.folder, self.workers)
        if self.found() and not self.newest():
            fit.epochs = 1
            with pytest.raises(DataError, match="damaged"):
                fit.go()  # never from the start without a word
            shutil.rmtree(self.root)  # the user starts anew
            self.damaged.clear()
            return
        if self.found():
            torch.manual_seed(99)  # whatever a new process starts with
            self.load(fit)
        assert fit.trainer.state.step == self.newest()
        assert unlike(fit) == []
        self.fit = fit
        fit.trainer.add_log_hook(lambda _, step, prefix: fit.trainer.stop() if step == self.end else None)

    @precondition(lambda self: self.fit is not None)
    @rule(steps=st.integers(1, 4))
    def train(self, steps: int) -> None:
        """Some steps, and Ctrl-C: the step is saved."""
        fit, before = self._fit(), self.newest()
        self.end = fit.trainer.state.step + steps
        fit.go()
        assert fit.trainer.state.step == self.end
        assert unlike(fit) == []
        self._saved(fit, before)

    @precondition(lambda self: self.fit is not None and self.fit.trainer.state.step > 0)
    @rule()
    def save(self) -> None:
        fit, before = self._fit(), self.newest()
        assert fit.trainer.saver is not None
        fit.trainer.saver.save(fit.trainer)
        self._saved(fit, before)

    @precondition(lambda self: self.fit is not None)
    @rule(steps=st.integers(0, 4), seconds=st.sampled_from([0.0, 1e9]))
    def crash(self, steps: int, seconds: float) -> None:
        """Some steps, each saved or none; then death in the middle of the next."""
        fit, before = self._fit(), self.newest()
        assert fit.trainer.saver is not None
        fit.trainer.saver.seconds, self.end = seconds, 0
        last = fit.trainer.state.step + steps

        def die(*_: Any) -> None:
            if fit.trainer.state.step == last:
                raise Crash

        fit.trainer.optimizer.register_step_post_hook(die)
        with pytest.raises(Crash):
            fit.go()
        assert self.newest() == (max(before, last) if steps and not seconds else before)
        self.fit = None

    @rule()
    def kill(self) -> None:
        self.fit = None

    @rule(workers=st.sampled_from([0, 0, 0, 1, 2]))
    def change_workers(self, workers: int) -> None:
        self.workers = workers

    # ---- what befalls the disk ----------------------------------------------------------------------

    @precondition(lambda self: bool(self.found()))
    @rule(data=st.data(), how=st.sampled_from(["flip", "cut", "remove"]))
    def damage(self, data: st.DataObject, how: str) -> None:
        folder = data.draw(st.sampled_from(self.found()))
        path = data.draw(st.sampled_from(sorted(path for path in folder.iterdir() if path.stat().st_size)))
        content = bytearray(path.read_bytes())
        if how == "remove":
            path.unlink()
        elif how == "cut" or path.name == "MANIFEST.json":  # where a flip in the white space is harmless
            path.write_bytes(content[: len(content) // 2])
        else:
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            path.write_bytes(content)
        self.damaged.add(folder)

    @precondition(lambda self: bool(self.found()))
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        folder = data.draw(st.sampled_from(self.found()))
        shutil.rmtree(folder)
        self.damaged.discard(folder)

    # ---- what must hold -----------------------------------------------------------------------------

    def _fit(self) -> Fit:
        assert self.fit is not None
        return self.fit

    def _saved(self, fit: Fit, before: int) -> None:
        """What was just saved is there and whole, and nothing good and newer went away for it."""
        step = fit.trainer.state.step
        assert self.newest() == max(before, step)
        here = [path for path in self.found() if path.name.startswith(f"step-{step:08d}")]
        whole = [read_checkpoint(path)[1]["global_step"] for path in here if path not in self.damaged]
        assert whole
        assert set(whole) == {step}


def check(machine: type[Histories], examples: int, acts: int, **options: Any) -> None:
    logging.disable(logging.WARNING)  # of each damaged folder, each time that one looks at it
    patch = pytest.MonkeyPatch()
    patch.setattr(os, "fsync", lambda fd: None)  # no power is lost here
    options |= {
        "max_examples": examples,
        "stateful_step_count": acts,
        "suppress_health_check": [*HealthCheck],
    }
    try:
        run_state_machine_as_test(
            machine, settings=settings(derandomize=True, database=None, deadline=None, **options)
        )
    finally:
        patch.undo()
        logging.disable(logging.NOTSET)


def test_a_history_ends_where_its_newest_whole_checkpoint_stands() -> None:
    check(Histories, examples=8, acts=12)


@pytest.mark.full
def test_two_hundred_histories() -> None:
    check(Histories, examples=200, acts=30)


class ForgetsAverage(Histories):
    def load(self, fit: Fit) -> None:
        super().load(fit)
        forget_average(fit.trainer)


class TakesTheOneBefore(Histories):
    def load(self, fit: Fit) -> None:
        whole = sorted(set(self.found()) - self.damaged)
        fit.trainer.load_checkpoint(whole[-2] if len(whole) > 1 else self.root)


@pytest.mark.parametrize("machine", [ForgetsAverage, TakesTheOneBefore])
def test_a_planted_bug_is_caught(machine: type[Histories]) -> None:
    with pytest.raises(AssertionError):
        check(machine, examples=20, acts=12, phases=[Phase.generate])
