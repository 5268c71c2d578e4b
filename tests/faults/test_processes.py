"""A run with loader workers that is killed or stopped leaves no process and no shared memory behind.

SIGTERM and SIGINT, to the process or to its whole group, end with exit code 130 and a checkpoint of the last
step that was logged. A driver imports torch once and forks each run, which goes through the command line.

    pytest tests/faults/test_processes.py            # 6 runs
    pytest tests/faults/test_processes.py -m full    # 100 runs
"""

import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import psutil
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tinsmith import families
from tinsmith.engine.checkpoint import read_newest
from tinsmith.engine.config import RunConfig
from tinsmith.engine.contract import Data, Family, Predictor
from tinsmith.engine.supervised import SupervisedTask

MARKER = "TINSMITH_TEST_RUN"  # in the environment of the driver, and so of all that it forks
SHARED = Path("/dev/shm")
PATIENCE = 120.0  # seconds until a driver or a run is taken to hang, on whatever machine
SURVIVE, STOP = 10.0, 5.0  # seconds that processes may outlive a run, and that a run may take to stop

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="looks into /proc and /dev/shm")


# ---- the run, in a forked child ---------------------------------------------------------------------


class Rows(Dataset[tuple[Tensor, Any, Tensor]]):
    """Small samples in short epochs, each with new workers; or wide ones, of which workers always read ahead.

    A wide sample carries a text that is too long for the pipe from a worker to its parent.
    """

    def __init__(self, wide: bool = False, nap: float = 0.0) -> None:
        self.nap = nap
        self.text, self.count = ("x" * 100_000, 100_000) if wide else ("x", 64)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Tensor, Any, Tensor]:
        time.sleep(self.nap)
        return torch.full((4,), float(i)), f"{i}{self.text}", torch.tensor([float(i)])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, x: Tensor, text: list[str]) -> Tensor:
        return self.linear(x / 64)  # type: ignore[no-any-return]


@dataclass
class TinyConfig(RunConfig):
    """Settings of the family that the driver trains."""

    wide: bool = False  # samples that fill the pipe
    nap: float = 0.0  # seconds that a sample takes, for which the parent then waits


def build_data(cfg: TinyConfig) -> Data:
    workers = cfg.trainer.num_workers
    train = DataLoader(Rows(cfg.wide, cfg.nap), batch_size=8, shuffle=True, num_workers=workers)
    return Data(train, DataLoader(Rows(), batch_size=32), None, None)


def unused(*args: Any) -> NoReturn:
    raise AssertionError("no run comes to its end")


def register_family() -> None:
    """Make ``tinsmith train tiny`` work in this process."""
    package = ModuleType("tiny_family")
    package.__spec__ = ModuleSpec("tiny_family", None, is_package=True)
    package.__spec__.submodule_search_locations = ["no presets"]
    config, recipe = ModuleType("tiny_family.config"), ModuleType("tiny_family.recipe")
    build = (build_data, lambda cfg, spec: Net(), lambda cfg, model, data: SupervisedTask(model))
    row = Family("tiny", TinyConfig, *build, unused, Predictor, unused, unused)
    config.__dict__["CONFIG"], recipe.__dict__["FAMILY"] = TinyConfig, row
    sys.modules |= {module.__name__: module for module in (package, config, recipe)}
    families.FAMILIES["tiny"] = "tiny_family"


def serve() -> None:
    """The driver: for each line on stdin (folder, bug to plant, settings) fork a run, and tell its end."""
    register_family()
    warm_up()
    for line in sys.stdin:
        folder, plant, settings = json.loads(line)
        pid = os.fork()
        if pid == 0:
            sys.exit(train(Path(folder), plant, settings))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def warm_up() -> None:
    """Load what every run needs, which is seconds of it: the rest of torch comes with a first step."""
    for name in ("tinsmith.run", "tinsmith.cli", "hydra"):
        importlib.import_module(name)
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()


def train(folder: Path, plant: str, settings: list[str]) -> int:
    """What ``tinsmith train`` does in a process group of its own."""
    from tinsmith.cli import main

    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    if plant:
        PLANTS[plant]()
    common = ["trainer.epochs=1000000", "trainer.num_workers=2", "trainer.log_every=1", "device=cpu"]
    common += ["trainer.save_seconds=0.1", "logger.tensorboard=false", "threads=1"]
    return main(["train", "tiny", "--run-dir", str(folder), "--quiet", *common, *settings])


# ---- killing ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """How a run ends: by which signal, ``delay`` seconds after its first step, alone or with its group."""

    signal: signal.Signals
    delay: float
    group: bool = False
    settings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "-".join([self.signal.name, "group" if self.group else "process", *self.settings])


@dataclass
class Driver:
    """The process that forks the runs. Its environment, and so theirs, holds ``token``."""

    process: subprocess.Popen[str]
    token: str

    def run(self, folder: Path, plant: str, settings: list[str]) -> int:
        """Start a run; its process id."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([str(folder), plant, settings]) + "\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> int:
        """The next number that the driver tells."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def survivors(self) -> list[int]:
        """The processes of runs that are alive."""
        found = [pid for pid in psutil.pids() if marker(pid) == self.token]
        return [pid for pid in found if pid != self.process.pid]


def marker(pid: int) -> str:
    try:
        return psutil.Process(pid).environ().get(MARKER, "")
    except psutil.Error:  # gone, a zombie, or another user's
        return ""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    temporary = tmp_path_factory.mktemp("driver")
    token = f"{os.getpid()}-{time.monotonic_ns()}"
    env = os.environ | {MARKER: token, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Driver(process, token)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


def faults_after(driver: Driver, case: Case, folder: Path, plant: str = "", slack: float = 1.0) -> list[str]:
    """End a run as ``case`` says, and tell what is not as promised. ``slack``: times the seconds allowed."""
    folder.mkdir()
    shared = set(os.listdir(SHARED))
    pid = driver.run(folder, plant, case.settings)
    wait_for(lambda: any(path.stat().st_size for path in folder.rglob("metrics.jsonl")), pid)
    time.sleep(case.delay)
    (os.killpg if case.group else os.kill)(pid, case.signal)
    in_time = vanish(partial(psutil.pid_exists, pid), STOP * slack)
    if not in_time:
        os.kill(pid, signal.SIGKILL)
    code = driver.read()
    faults = ["processes are left"] if not vanish(driver.survivors, SURVIVE * slack) else []
    faults += ["shared memory is left"] * (
        not vanish(partial(new_shared, shared, case.signal), SURVIVE * slack)
    )
    if case.signal != signal.SIGKILL:
        faults += ["it stopped late"] * (not in_time)
        faults += [f"exit code {code}"] * (code != 130)
        faults += ["the last step is not saved"] * (not saved_last_step(folder))
    elif not loads(folder):
        faults.append("the checkpoints do not load")
    return faults


def wait_for(condition: Callable[[], bool], pid: int) -> None:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < PATIENCE, f"process {pid} does not come to its first step"
        time.sleep(0.02)


def vanish(left: Callable[[], Any], seconds: float) -> bool:
    """Whether ``left()`` becomes empty within ``seconds``."""
    end = time.monotonic() + seconds
    while left():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def new_shared(before: set[str], how: signal.Signals) -> set[str]:
    """What is new in shared memory, but for what names a process that lives: other programs use it too.

    Not counted after SIGKILL: a semaphore of 32 bytes, whose name lasts for an instant while a worker's queue
    is made. No process can take that one back.
    """
    new = set(os.listdir(SHARED)) - before
    if how == signal.SIGKILL:
        new = {name for name in new if not name.startswith("sem.")}
    return {n for n in new if not any(p.isdigit() and psutil.pid_exists(int(p)) for p in n.split("_"))}


def saved_last_step(folder: Path) -> bool:
    """Whether the newest checkpoint loads and stands where the log does."""
    newest = read_newest(next(folder.rglob("checkpoints"), folder))
    lines = next(folder.rglob("metrics.jsonl")).read_text("utf-8").splitlines()
    return newest is not None and newest[2]["global_step"] == json.loads(lines[-1])["step"]


def loads(folder: Path) -> bool:
    """Whether a whole checkpoint is found, unless none was finished."""
    finished = [path.parent for path in folder.rglob("step-*/MANIFEST.json") if path.parent.name[0] != "."]
    return not finished or read_newest(finished[0].parent) is not None


# ---- the tests --------------------------------------------------------------------------------------

KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
WIDE, SLOW = ["wide=true"], ["nap=0.02"]
FEW = [
    Case(KILL, 0.15),
    Case(KILL, 0.2, settings=WIDE),  # torch's watchdog does not end workers that wait for room in the pipe
    Case(TERM, 0.3),
    Case(TERM, 0.1, group=True, settings=SLOW),  # torch's workers die of it, and a run of their death
    Case(INT, 0.2),
    Case(INT, 0.0, group=True),
]


@pytest.mark.parametrize("case", FEW, ids=str)
def test_a_run_that_is_ended_leaves_nothing(driver: Driver, case: Case, tmp_path: Path) -> None:
    faults = faults_after(driver, case, tmp_path / "run", slack=4.0 if case.signal != KILL else 1.0)
    kill_all(driver)
    assert faults == []


@pytest.mark.full
def test_a_hundred_runs_that_are_ended_leave_nothing(driver: Driver, tmp_path: Path) -> None:
    rng, faults = random.Random(0), []
    for i in range(100):
        settings = rng.choice([[], WIDE, SLOW])
        case = Case((KILL, TERM, INT)[i % 3], rng.uniform(0, 0.6), rng.random() < 0.5, settings)
        faults += [(case, fault) for fault in faults_after(driver, case, tmp_path / str(i))]
    kill_all(driver)
    assert faults == []


def kill_all(driver: Driver) -> None:
    for pid in driver.survivors():
        os.kill(pid, signal.SIGKILL)


# ---- the tester, tested -----------------------------------------------------------------------------


def leave_a_process() -> None:
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
        os._exit(0)


def leave_shared_memory() -> None:
    (SHARED / f"torch_{os.getpid()}_planted").write_bytes(b"x")


def ignore_signals() -> None:
    from tinsmith.engine import trainer
    from tinsmith.engine.interrupt import stop_on_signals

    trainer.stop_on_signals = lambda stop: stop_on_signals(lambda: None)


def save_nothing() -> None:
    from tinsmith.engine.saver import Saver

    Saver.save = lambda *args, **options: None


PLANTS = {f.__name__: f for f in (leave_a_process, leave_shared_memory, ignore_signals, save_nothing)}


@pytest.mark.parametrize(
    ("plant", "fault"),
    [
        (leave_a_process, "processes are left"),
        (leave_shared_memory, "shared memory is left"),
        (ignore_signals, "it stopped late"),
        (save_nothing, "the last step is not saved"),
    ],
)
def test_a_planted_bug_is_found(
    driver: Driver, tmp_path: Path, plant: Callable[[], None], fault: str
) -> None:
    faults = faults_after(driver, Case(TERM, 0.0), tmp_path / "run", plant.__name__, slack=0.2)
    kill_all(driver)
    for path in SHARED.glob("*_planted"):
        path.unlink()
    assert fault in faults


if __name__ == "__main__":
    serve()
