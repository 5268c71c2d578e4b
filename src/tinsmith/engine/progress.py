"""How far a run is: a live line on a terminal, one plain line per log interval everywhere else.

No thread and no library: the training loop asks ``tick`` (0.1 us) whether a redraw is due, and a redraw
is one ``write``. What a terminal is, is decided as users expect: not a pipe, not CI, not TERM=dumb.
"""

from __future__ import annotations

import math
import os
import sys
import time
from typing import Any, TextIO

_INTERVAL = 0.25  # seconds between two redraws
_CYAN, _DIM, _RESET = "\x1b[36m", "\x1b[2m", "\x1b[0m"
_RATES = ("samples_per_sec", "tokens_per_sec", "graphs_per_sec", "steps_per_sec")


class Progress:
    """Show steps, loss, learning rate, rate and time left.

    On a terminal ``show`` redraws one line, at most four times a second. Elsewhere it prints
    ``step 500/2000 loss 1.2300 lr 3.0e-04 812 samples/s eta 02:10``, without carriage returns or colour.
    ``NO_COLOR`` takes the colour away, ``FORCE_COLOR`` gives it to a pipe too. A stream that breaks
    (a closed terminal) silences the progress and never the training.

    Args:
        total_steps: planned steps of the whole run; 0 if not known.
        stream: where to write; standard error by default.
        start_step: the step that the run resumes from, so that the time left is right.
    """

    def __init__(self, total_steps: int, stream: TextIO | None = None, start_step: int = 0) -> None:
        self.total_steps = total_steps
        self._stream: TextIO | None = stream if stream is not None else sys.stderr
        self.live = _is_terminal(self._stream)
        self._colour = _wants_colour(self.live)
        self._start_step, self._start = start_step, time.monotonic()
        self._next = 0.0
        self._shown: tuple[int, dict[str, Any]] | None = None

    def tick(self, step: int) -> bool:
        """Whether a redraw is due at ``step``: always False without a terminal."""
        return self.live and time.monotonic() >= self._next

    def show(self, step: int, record: dict[str, Any]) -> None:
        """Draw or print ``record`` (``loss``, ``lr``, ``samples_per_sec``, ...) as the state at ``step``.

        On a terminal a call before its time only keeps the record for the next redraw.
        """
        self._shown = (step, record)
        if not self.live:
            self._write(self._plain_line(step, record) + "\n")
        elif time.monotonic() >= self._next:
            self._draw()

    def line(self, text: str) -> None:
        """Print ``text`` for good; on a terminal above the live line."""
        self._write(("\r\x1b[K" if self.live else "") + text + "\n")
        if self.live and self._shown is not None:
            self._draw()

    def close(self) -> None:
        """Leave the last state on the screen. Twice does no harm."""
        if self.live and self._shown is not None:
            self._draw()
            self._write("\n")
        self._shown = None
        self.live = False

    def _draw(self) -> None:
        assert self._shown is not None
        self._next = time.monotonic() + _INTERVAL
        self._write("\r" + self._live_line(*self._shown) + "\x1b[K")

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the terminal is gone, or the stream is closed
            self._stream, self.live = None, False

    def _plain_line(self, step: int, record: dict[str, Any]) -> str:
        position, *rest = self._fields(step, record)
        return " ".join([self._paint(f"step {position}", _CYAN), *rest])

    def _live_line(self, step: int, record: dict[str, Any]) -> str:
        """The bar and as much of the text as the terminal is wide, less a column so that it never wraps."""
        width = _columns(self._stream) - 1
        text = "  ".join(self._fields(step, record))
        bar = min(24, width - len(text) - 2)
        if bar < 8 or not self.total_steps:
            return text[:width]
        full = min(bar, bar * step // self.total_steps)
        block = "━" if "utf" in (getattr(self._stream, "encoding", None) or "").lower() else "="
        rest = block * (bar - full) if self._colour else " " * (bar - full)
        return f"{self._paint(block * full, _CYAN)}{self._paint(rest, _DIM)}  {text}"

    def _fields(self, step: int, record: dict[str, Any]) -> list[str]:
        fields = [f"{step}/{self.total_steps}" if self.total_steps else str(step)]
        if "loss" in record:
            fields.append(f"loss {record['loss']:.4f}")
        if "lr" in record:
            fields.append(f"lr {record['lr']:.1e}")
        fields += [
            f"{_rate(record[name])} {name.removesuffix('_per_sec')}/s" for name in _RATES if name in record
        ]
        eta = self._seconds_left(step)
        return fields if eta is None else [*fields, f"eta {clock(eta)}"]

    def _seconds_left(self, step: int) -> float | None:
        done = step - self._start_step
        if not self.total_steps or done <= 0:
            return None
        return (time.monotonic() - self._start) / done * max(0, self.total_steps - step)

    def _paint(self, text: str, code: str) -> str:
        return f"{code}{text}{_RESET}" if self._colour and text else text


def clock(seconds: float) -> str:
    """``02:10``, or ``1:02:10`` from an hour on."""
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute:02d}:{second:02d}"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _is_terminal(stream: TextIO | None) -> bool:
    if stream is None or os.environ.get("TERM") == "dumb":
        return False
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        return False
    return stream.isatty()


def _wants_colour(live: bool) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    return live or os.environ.get("FORCE_COLOR", "") not in ("", "0")


def _columns(stream: TextIO | None) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80 if stream else 80
    except (OSError, ValueError, AttributeError):
        return 80
