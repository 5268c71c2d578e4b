"""Signals that end a run after the step under way, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")


@contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[list[str]]:
    """Call ``stop`` at the first Ctrl-C, SIGTERM or SIGUSR1 (batch systems send it); yield the names caught.

    The second one does what it did before: it kills. Outside of the main thread nothing is changed, since
    Python hands signals to the main thread alone.
    """
    caught: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}

    def handle(number: int, frame: FrameType | None) -> None:
        caught.append(signal.Signals(number).name)
        restore()
        stop()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in numbers:
        signal.signal(number, handle)
    try:
        yield caught
    finally:
        restore()


@contextmanager
def hold_signals() -> Iterator[None]:
    """Let the signals that stop a run wait, and keep them from processes that are started meanwhile.

    Ctrl-C and batch systems signal all processes of a run at once. torch's loader workers die of SIGTERM,
    and the run of their death before it can save: the parent alone decides when they end.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [getattr(signal, name) for name in _SIGNALS])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
