"""Build shim.c, and call functions of a test in a process that it watches.

The process imports torch once; a function that it calls forks a child per case, and sets the shim there.
"""

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SOURCE = Path(__file__).with_name("shim.c")


class Mode(IntEnum):
    """What happens at the call; the numbers of shim.c."""

    FAIL = 1
    SHORT = 2  # half of the data is written; sticky: then every call fails
    KILL_BEFORE = 3
    KILL_AFTER = 4


@dataclass(frozen=True)
class Fault:
    """What goes wrong at the ``nth`` watched call, and with ``sticky`` at every later one."""

    nth: int
    mode: Mode
    errno: int = 0
    sticky: bool = False


class Op(NamedTuple):
    """One recorded call."""

    call: str
    path: str
    other: str
    offset: int
    data: bytes


# ---- in pytest ----------------------------------------------------------------------------------------


def build(folder: Path) -> Path:
    """Compile the shim; where that cannot be, skip the test."""
    if not sys.platform.startswith("linux") or shutil.which("cc") is None:
        pytest.skip("the fault shim needs Linux and a C compiler (cc)")
    library = folder / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return library


def environment(library: Path) -> dict[str, str]:
    """The environment of a process that the shim watches and that imports what this one does."""
    path = os.pathsep.join(filter(None, sys.path))
    return {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


Call = Callable[..., Any]


@contextlib.contextmanager
def watched_process(folder: Path) -> Iterator[Call]:
    """``call(function, *args)`` runs a function of a test module there, on arguments that JSON can hold."""
    command = [sys.executable, str(Path(__file__))]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment(build(folder)), **pipes) as process:

        def call(function: Callable[..., Any], *args: Any) -> Any:
            name = f"faults.{function.__module__.rpartition('.')[2]}"
            print(json.dumps([name, function.__name__, args]), file=process.stdin, flush=True)
            answer = process.stdout.readline()
            assert answer, f"the watched process died in {function.__name__}"
            return json.loads(answer)

        yield call
        process.stdin.close()


def read_journal(path: Path) -> list[Op]:
    """The calls that were recorded."""
    ops, rest = [], path.read_bytes()
    while rest:
        head, _, rest = rest.partition(b"\n")
        call, name, other, offset, size = head.decode().split("\t")
        ops.append(Op(call, name, other, int(offset), rest[: int(size)]))
        rest = rest[int(size) :]
    return ops


# ---- in the watched process ---------------------------------------------------------------------------


@contextlib.contextmanager
def watching(root: Path, fault: Fault | None = None, journal: Path | None = None) -> Iterator[Any]:
    """Watch the calls below ``root``. Yields the shim: ``shim_count()`` so far, ``shim_mark(label)``."""
    shim = ctypes.CDLL(None)
    shim.shim_count.restype = ctypes.c_long
    shim.shim_record(os.fsencode(journal or ""))
    shim.shim_watch(os.fsencode(root.resolve()))
    if fault is not None:
        shim.shim_arm(ctypes.c_long(fault.nth), int(fault.mode), fault.errno, int(fault.sticky))
    try:
        yield shim
    finally:
        shim.shim_watch(b"")
        shim.shim_record(b"")


def in_child(work: Callable[[], str]) -> tuple[bool, str, int]:
    """Run ``work`` in a fork. Returns whether it was killed, what it returned, and its process number."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer = "it never returned"
        try:
            answer = work()
        except BaseException as error:  # the child must not run on as the parent does
            answer = f"it raised {error!r}"
        finally:
            os.write(writer, answer.encode())
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read().decode()
    killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    return killed, answer, pid


def serve() -> None:
    """Answer the calls of ``watched_process``. What the functions print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        module, name, args = json.loads(line)
        print(json.dumps(getattr(import_module(module), name)(*args)), file=answers, flush=True)


if __name__ == "__main__":
    serve()
