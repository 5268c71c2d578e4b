"""A run beside other programs: parallel loops that do not spin for a core that somebody else has.

A parallel loop ends when the last of its threads does. GNU's OpenMP, which torch brings on Linux, has the
others spin meanwhile, 300,000 turns or some milliseconds. That is best on a free machine and ruinous on a
busy one: the thread that is waited for stands in the kernel's queue, often behind the very thread that spins
for it, so that loops of microseconds take a slice of the scheduler each (``benchmarks/contention.py``).

OpenMP spins for 100 turns only, and then sleeps, while it manages more threads than there are cores
(``gomp_throttled_spin_count_var``). So while the kernel says that threads of this process stand in its queue,
a thread of its own keeps a second, idle team of OpenMP's. What is computed stays the same, bit for bit.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

_TASKS = Path("/proc/self/task")
_TICK = 1.0  # seconds between two looks
_BUSY, _FREE = 0.5, 0.4  # seconds in the queue a second, all threads together: begin above, end below
_HOLD, _MAX_HOLD = 2, 64  # ticks that it stays, at least; doubled when the others are back as soon
_LOOP = 1 << 20  # numbers enough for torch to use all its threads

_lock = threading.Lock()
_watching = False
_ended = threading.Event()


def watch() -> None:
    """From now on, in this process: spin little while other programs want the cores.

    Does nothing where the kernel does not tell (not Linux), nor a second time.
    """
    global _watching
    with _lock:
        if not _watching and queued() is not None:
            _watching = True
            thread = threading.Thread(target=_watch, args=(_shares(),), name="tinsmith-cores", daemon=True)
            thread.start()
            atexit.register(_end, thread)


def _end(thread: threading.Thread) -> None:
    """Leave no thread to the interpreter's end, which would abort the process in the middle of a loop."""
    _ended.set()
    thread.join()


def queued() -> float | None:
    """Seconds that this process's threads, those that still live, ever waited for a core; None: unknown."""
    waits = []
    for task in _TASKS.iterdir() if _TASKS.is_dir() else ():
        with contextlib.suppress(OSError, IndexError, ValueError):  # a thread that has just ended
            waits.append(int((task / "schedstat").read_text().split()[1]))
    return sum(waits) / 1e9 if waits else None


def _shares() -> Iterator[float]:
    """Every tick to the end of the process, the seconds in the queue for a second of the clock."""
    before, then = queued(), time.monotonic()
    while before is not None and not _ended.wait(_TICK):
        after, now = queued(), time.monotonic()
        if after is not None:
            yield max(0.0, after - before) / (now - then)
        before, then = after, now


def _watch(shares: Iterator[float]) -> None:
    """Keep an idle team while the cores are wanted; ends with ``shares``."""
    hold = _HOLD
    with contextlib.suppress(StopIteration):
        while True:
            calm = _count(shares, lambda share: share > _BUSY)
            hold = min(2 * hold, _MAX_HOLD) if calm <= hold else _HOLD
            with _idle_team():
                for _ in range(hold):
                    next(shares)
                _count(shares, lambda share: share < _FREE)


def _count(shares: Iterator[float], wanted: Callable[[float], bool]) -> int:
    """Read on to a share that is wanted; how many it took."""
    count = 1
    while not wanted(next(shares)):
        count += 1
    return count


@contextlib.contextmanager
def _idle_team() -> Iterator[None]:
    """A thread that has had a parallel loop of its own and keeps OpenMP's threads for the next one."""
    done, ready = threading.Event(), threading.Event()

    def keep() -> None:
        torch.zeros(_LOOP, device="cpu").add_(1)
        ready.set()
        done.wait()

    thread = threading.Thread(target=keep, name="tinsmith-idle-team", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()
