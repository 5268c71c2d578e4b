"""Every system call of a save fails in every way: what said ok is there, and nothing else is ever lost.

The full counts: pytest tests/faults/test_system_calls.py -m full
"""

import contextlib
import errno
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
from faults import scenarios, shim
from faults.scenarios import Replace, Scenario, Write, again, read_newest, write
from faults.shim import Fault, Mode, Op

from tinsmith.durable import sync_folder
from tinsmith.errors import ResourceError

INTERRUPTIBLE = {"open", "create", "truncate", "write", "fsync", "ftruncate", "close"}  # by POSIX
KILLS = (Mode.KILL_BEFORE, Mode.KILL_AFTER)
FULL_DISK = (errno.ENOSPC, errno.EIO, errno.EDQUOT)


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[shim.Call]:
    with shim.watched_process(tmp_path_factory.mktemp("shim")) as function:
        yield function


# ---- in the watched process ---------------------------------------------------------------------------


def make(name: str, folder: str) -> Scenario:
    scenario: type[Scenario] = globals().get(name) or getattr(scenarios, name)
    return scenario(Path(folder) / "base")


def record(name: str, folder: str) -> None:
    """Record the calls of a scenario without a fault in ``folder/journal``."""
    scenarios.record(make(name, folder), Path(folder))


def faults(ops: list[Op]) -> list[Fault]:
    """Everything that can go wrong at each of the calls."""
    found = []
    for nth, op in enumerate(ops, 1):
        found += [Fault(nth, Mode.FAIL, why, sticky) for why in FULL_DISK for sticky in (False, True)]
        found += [Fault(nth, mode) for mode in KILLS]
        if op.call == "write":
            found += [Fault(nth, Mode.SHORT, errno.ENOSPC, sticky) for sticky in (False, True)]
        if op.call in INTERRUPTIBLE:
            found.append(Fault(nth, Mode.FAIL, errno.EINTR))
    return found


def sweep(name: str, folder: str, cap: int) -> tuple[int, int, list[str]]:
    """Try at most ``cap`` of the faults. Returns how many there are, how many were tried, what went wrong."""
    scenario = make(name, folder)
    ops = [op for op in scenarios.record(scenario, Path(folder)) if op.call != "mark"]
    every = faults(ops)
    chosen = every if len(every) <= cap else random.Random(0).sample(every, cap)
    problems = []
    for fault in chosen:
        if problem := case(scenario, scenario.fresh(Path(folder) / "case"), fault):
            problems.append(f"{ops[fault.nth - 1].call} {ops[fault.nth - 1].path}: {fault}: {problem}")
    return len(every), len(chosen), problems


def case(scenario: Scenario, root: Path, fault: Fault) -> str:
    """One fault, and a save without faults afterwards. Returns what is wrong, or nothing."""
    if fault.mode not in KILLS:
        return save_and_again(scenario, root, fault)  # a fork per case would double the time
    killed, answer, pid = shim.in_child(partial(save_and_again, scenario, root, fault))
    if not killed:
        return f"not killed: {answer}"
    with mock.patch.object(os, "getpid", return_value=pid):  # as a resumed run has in a container
        return scenario.wrong(root, saved=False) or again(scenario, root)


def save_and_again(scenario: Scenario, root: Path, fault: Fault) -> str:
    try:
        with shim.watching(root, fault):
            scenario.act(root)
        saved = True
    except scenario.errors as error:
        saved = False
        if fault.errno == errno.EINTR:
            return f"an interrupted call was not survived: {error}"
    return scenario.wrong(root, saved) or again(scenario, root)


# ---- planted bugs: savers that must be caught --------------------------------------------------------


class Swallows(Write):
    """Says ok when the disk is full."""

    def act(self, root: Path) -> None:
        with contextlib.suppress(ResourceError):
            super().act(root)


class Blocked(Replace):
    """A fixed temporary name that must not exist: what a killed process leaves stops every later one."""

    def act(self, root: Path) -> None:
        temporary = root / ".tmp"
        with temporary.open("xb") as file:
            file.write(self.content(self.new))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(root / "a.json")
        sync_folder(root)


# ---- in pytest ----------------------------------------------------------------------------------------

FAST = {"Write": 40, "First": 20, "Save": 30, "Prune": 20, "Replace": 40}  # cases that are tried


@pytest.mark.parametrize("name", FAST)
def test_a_failing_call_loses_nothing(call: shim.Call, tmp_path: Path, name: str) -> None:
    faults, tried, problems = call(sweep, name, str(tmp_path), FAST[name])
    assert faults > tried == FAST[name]
    assert problems == []


@pytest.mark.full
@pytest.mark.parametrize("name", FAST)
def test_no_failing_call_loses_anything(call: shim.Call, tmp_path: Path, name: str) -> None:
    faults, tried, problems = call(sweep, name, str(tmp_path), 10_000)
    print(f"{name}: {tried} of {faults} cases")
    assert tried == faults > 100
    assert problems == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("InPlace", "the file holds"),
        ("Swallows", "step 1 loads after"),
        ("Blocked", "way: .*File exists"),
    ],
)
def test_a_bad_saver_is_caught(call: shim.Call, tmp_path: Path, name: str, message: str) -> None:
    problems = call(sweep, name, str(tmp_path), 30)[-1]
    assert any(re.search(message, problem) for problem in problems)


@pytest.mark.slow
def test_the_shim_sees_what_strace_sees(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    library = shim.build(tmp_path)
    script = f"from faults.test_system_calls import record; record('Save', {str(tmp_path)!r})"
    trace = ["strace", "-f", "-qq", "-y", "-s0", "--seccomp-bpf", "-o", str(tmp_path / "trace")]
    trace += ["-e", "trace=" + ",".join(NAMES), "-E", f"LD_PRELOAD={library}"]
    environment = {key: value for key, value in shim.environment(library).items() if key != "LD_PRELOAD"}
    done = subprocess.run([*trace, sys.executable, "-c", script], env=environment, capture_output=True)
    if b"PTRACE" in done.stderr:
        pytest.skip("this machine forbids strace")
    assert done.returncode == 0, done.stderr
    seen = Counter(
        KINDS.get(op.call, op.call)
        for op in shim.read_journal(tmp_path / "journal")
        if op.call not in ("failed", "mark") and (Path(op.path).suffix or op.call not in ("open", "close"))
    )
    assert sum(seen.values()) > 100
    assert strace_counts((tmp_path / "trace").read_text(), str(tmp_path / "case")) == seen


KINDS = {"create": "open", "truncate": "open", "rmdir": "unlink"}
NAMES = {
    **dict.fromkeys(["open", "openat", "creat"], "open"),
    **dict.fromkeys(["write", "pwrite64", "writev"], "write"),
    **dict.fromkeys(["fsync", "fdatasync"], "fsync"),
    **dict.fromkeys(["rename", "renameat", "renameat2"], "rename"),
    **dict.fromkeys(["mkdir", "mkdirat"], "mkdir"),
    **dict.fromkeys(["unlink", "unlinkat", "rmdir"], "unlink"),
    **dict.fromkeys(["symlink", "symlinkat"], "symlink"),
    **{name: name for name in ("close", "ftruncate")},
}


def strace_counts(trace: str, root: str) -> Counter[str]:
    """The successful calls below ``root`` of the forked child; of files only, where opendir opens folders."""
    counts: Counter[str] = Counter()
    parent = trace.split()[0]
    for line in trace.splitlines():
        match = re.match(r"(\d+) +(\w+)\((.*)\) += \d+", line)
        if match and match[1] != parent and root in line:
            kind = NAMES[match[2]]
            file = re.search(r"\.(json|safetensors|tmp)>", line)
            counts[kind] += bool(file or kind not in ("open", "close"))
    return counts


def fill(root: Path) -> int:
    """Save until the disk is full. Returns the last step that said ok."""
    for step in range(1, 10_000):
        try:
            write(root, step)
        except ResourceError:
            return step - 1
    raise AssertionError("the disk never got full")


def test_a_full_file_system(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        (disk / "ballast").write_bytes(bytes(100_000))
        last = fill(disk / "checkpoints")
        assert last > 0
        newest = read_newest(disk / "checkpoints")
        assert newest is not None
        assert newest[2]["global_step"] == last
        (disk / "ballast").unlink()
        write(disk / "checkpoints", last + 1)
        assert not list((disk / "checkpoints").glob(".tmp-*"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    write(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(ResourceError, match="File too large"):
            write(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    write(tmp_path, 3)
    newest = read_newest(tmp_path)
    assert newest is not None
    assert newest[2]["global_step"] == 3
