"""Training in forked children that are killed, resumed, and compared with a run that is never killed.

The parent imports torch and trains a little once: a child then costs a fork, where a new process would pay
seconds before its first step and be killed before its first checkpoint.
"""

import json
import os
import random
import select
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from faults.plain import Run, digest, digests
from torch import nn

from tinsmith import Trainer
from tinsmith.engine.checkpoint import read_newest

WATCHDOG = 120.0  # seconds without a step: a hang, however slow the machine
KILLS_PER_RUN = 10
FILE_OPERATIONS = 25  # of one save, about: what it writes, renames, links and prunes
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate"}

Plant = Callable[[Trainer], None]  # a bug of the restoring, planted


# ---- what is compared -------------------------------------------------------------------------------


def differences(whole: Path, killed: Path) -> list[str]:
    """What of a killed run is not as in the whole one: the parts of its end, and single steps.

    A step that was lost and taken again counts each time: every step that any attempt took is compared.
    """
    ends = [json.loads((folder / "end.json").read_text("utf-8")) for folder in (whole, killed)]
    wrong = [name for name in ends[0] if ends[0][name] != ends[1][name]]
    expected = {row["step"]: row for row in trace(whole)}
    taken = trace(killed)
    for row in taken:
        right = expected.get(row["step"], dict.fromkeys(row))
        wrong += [f"step {row['step']}: {name}" for name in row if row[name] != right[name]]
    wrong += [f"step {step}: never taken" for step in expected.keys() - {row["step"] for row in taken}]
    return wrong


def trace(folder: Path) -> list[dict[str, Any]]:
    """The steps that were taken in a folder, attempt by attempt: samples, loss and learning rate."""
    files = sorted(folder.glob("trace-*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text("utf-8").splitlines()]


# ---- the child --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kill:
    """When a child dies.

    ``step``: before the weights of optimiser step ``number`` are saved. ``instant``: ``delay`` seconds after
    it took ``number`` steps. ``operation``: before it changes the file system for the ``number``-th time.
    """

    kind: Literal["step", "instant", "operation"]
    number: int
    delay: float = 0.0


def die_at_change(number: int) -> None:
    """Have this process die before it changes the file system for the ``number``-th time."""
    sys.addaudithook(partial(_count_changes, [number], os.getpid()))


def _count_changes(left: list[int], pid: int, event: str, args: tuple[Any, ...]) -> None:
    """An audit hook, which Python calls before it does what it is about to do."""
    if event in _CHANGES or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)):
        left[0] -= 1
        if left[0] == 0:
            os.kill(pid, signal.SIGKILL)


def _train(run: Run, folder: Path, kill: Kill | None, plant: Plant | None, tell: int) -> None:
    os.fsync = lambda fd: None  # a kill leaves the page cache as it is: no need to wait for a disk
    fit = run(folder)
    if plant is not None and read_newest(fit.root) is not None:
        fit.trainer.load_checkpoint(fit.root)
        plant(fit.trainer)
    _record(fit.trainer, folder / f"trace-{time.monotonic_ns()}.jsonl", kill, tell)
    if kill is not None and kill.kind == "operation":
        die_at_change(kill.number)
    fit.go()
    (folder / "end.json").write_text(json.dumps(digests(fit.trainer)), "utf-8")


def _record(trainer: Trainer, path: Path, kill: Kill | None, tell: int) -> None:
    """Write a line for each step, one ``write`` each, and tell the parent of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    samples: list[str] = []
    losses: list[float] = []

    def after_forward(task: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        if task.training:
            samples.append(digest(args[0]))
            losses.append(out.loss.item())

    def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        row = {"step": trainer.state.step + 1, "lr": optimizer.param_groups[0]["lr"]}
        os.write(file, json.dumps({**row, "samples": samples, "loss": losses}).encode() + b"\n")
        samples.clear()
        losses.clear()
        if kill == Kill("step", trainer.state.step + 1):
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(tell, b".")

    trainer.task.register_forward_hook(after_forward)
    trainer.optimizer.register_step_post_hook(after_step)


# ---- the parent -------------------------------------------------------------------------------------


def attempt(run: Run, folder: Path, kill: Kill | None = None, plant: Plant | None = None) -> bool:
    """Train in a child, or go on with what is there; whether it came to the end before its kill."""
    return Child(partial(_train, run, folder, kill, plant), folder).ended(kill)


class Child:
    """A forked process that does ``work(tell)``, where a byte written to ``tell`` says that it is alive."""

    def __init__(self, work: Callable[[int], None], folder: Path) -> None:
        self.error = folder / "error.txt"
        folder.mkdir(parents=True, exist_ok=True)
        self.steps, self.tell = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # since Python 3.12, where there are threads
            self.pid = os.fork()
        if self.pid == 0:
            self._work(work)

    def _work(self, work: Callable[[int], None]) -> NoReturn:
        """Work, and leave the process without a word to whoever forked it."""
        code = 1
        try:
            work(self.tell)
            code = 0
        except BaseException:
            self.error.write_text(traceback.format_exc(), "utf-8")
        finally:
            os._exit(code)

    def ended(self, kill: Kill | None = None) -> bool:
        """Wait for it; false if it was killed. Raises AssertionError with its error, or if it hangs."""
        status = None
        try:
            status = _watch(self.pid, self.steps, kill)
        finally:
            os.close(self.steps)
            os.close(self.tell)
            if status is None:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return False
        assert status == 0, self.error.read_text("utf-8")
        return True


def _watch(pid: int, steps: int, kill: Kill | None) -> int:
    """Wait for a child's end, which may be in our hands; its status."""
    to_go = kill.number if kill is not None and kill.kind == "instant" else sys.maxsize
    last = time.monotonic()
    while True:
        if to_go <= 0 and kill is not None:
            time.sleep(kill.delay)
            os.kill(pid, signal.SIGKILL)
            return os.waitpid(pid, 0)[1]
        # Not until the pipe's end: a killed child's workers hold it open for a while.
        if select.select([steps], [], [], 0.01)[0]:
            to_go -= len(os.read(steps, to_go if to_go < 1 << 16 else 1 << 16))
            last = time.monotonic()
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        assert time.monotonic() - last < WATCHDOG, f"no step in {WATCHDOG:.0f} s"


def kill_again_and_again(run: Run, folder: Path, kills: int, seed: int = 0) -> Counter[str]:
    """Runs that are killed up to ten times each, at random instants and, a third of them, inside a save.

    Returns:
        How many kills of each kind struck, and how many attempts went on from a checkpoint (``resumed``).

    Raises:
        AssertionError: a run did not end as the one that was never killed; says what differs.
    """
    start = time.monotonic()
    assert attempt(run, folder / "whole")
    length = len(trace(folder / "whole"))
    pace = (time.monotonic() - start) / length
    rng, counts, killed = random.Random(seed), Counter[str](), folder / "killed"
    while counts["instant"] + counts["operation"] < kills:
        counts.update(_killed_run(run, killed, lambda: _random_kill(rng, 2 * length // KILLS_PER_RUN, pace)))
        counts["resumed"] += sum(_first_step(path) > 1 for path in killed.glob("trace-*.jsonl"))
        wrong = differences(folder / "whole", killed)
        assert not wrong, f"run {counts['runs']}: {', '.join(wrong[:20])}"
        counts["runs"] += 1
        shutil.rmtree(killed)
    return counts


def _killed_run(run: Run, folder: Path, next_kill: Callable[[], Kill]) -> list[str]:
    """A run that is killed until it comes to its end first, or is left alone; the kinds of the kills."""
    struck: list[str] = []
    while len(struck) < KILLS_PER_RUN:
        kill = next_kill()
        if attempt(run, folder, kill):
            return struck
        struck.append(kill.kind)
    attempt(run, folder)
    return struck


def _random_kill(rng: random.Random, steps: int, pace: float) -> Kill:
    if rng.random() < 1 / 3:
        return Kill("operation", rng.randint(1, FILE_OPERATIONS * steps // 2))
    return Kill("instant", rng.randint(1, steps), rng.uniform(0, pace))


def _first_step(path: Path) -> int:
    line = path.read_text("utf-8").partition("\n")[0]
    return int(json.loads(line)["step"]) if line else 0
