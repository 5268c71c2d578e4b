"""What the command line writes. Text for people on stdout, or with ``--json`` machine lines on stdout only.

Warnings, errors and the library's log go to stderr. Colour only on a terminal (NO_COLOR, FORCE_COLOR).
"""

import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

_state = {"quiet": False, "json": False}


def configure(quiet: bool = False, json_lines: bool = False, debug: bool = False) -> None:
    """Set the switches of this process and send the library's log to stderr."""
    _state.update(quiet=quiet, json=json_lines)
    log = logging.getLogger("tinsmith")
    log.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
    for handler in [handler for handler in log.handlers if isinstance(handler, _Stderr)]:
        log.removeHandler(handler)
    log.addHandler(_Stderr())


def is_json() -> bool:
    """Whether stdout carries machine lines."""
    return _state["json"]


def is_quiet() -> bool:
    """Whether only results, warnings and errors are written."""
    return _state["quiet"]


def say(text: str = "") -> None:
    """Write progress or advice: nothing with ``--quiet``, stderr with ``--json``."""
    if not _state["quiet"]:
        _write(sys.stderr if _state["json"] else sys.stdout, text)


def result(text: str, data: Any) -> None:
    """Write what the user asked for: ``data`` as one JSON line with ``--json``, else ``text``."""
    _write(sys.stdout, to_json(data) if _state["json"] else text)


def program() -> str:
    """How a reader calls this command: by its name where the shell finds it, else as it was called now."""
    called = sys.argv[0]
    return called if os.path.basename(called) == "tinsmith" and not shutil.which("tinsmith") else "tinsmith"


def warn(text: str) -> None:
    """Write ``warning: text`` to stderr."""
    _write(sys.stderr, _label("warning:", "33") + " " + text)


def error(text: str, label: str = "error:") -> None:
    """Write ``error: text`` (or another label) to stderr."""
    _write(sys.stderr, _label(label, "1;31") + " " + text)


def to_json(data: Any) -> str:
    """One line of valid JSON: NaN and infinities become the texts ``"nan"`` and ``"inf"``."""
    return json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, default=str)


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as aligned columns under their names; numbers to the right, a missing value as ``-``."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[cell(row.get(name)) for name in names] for row in rows]
    right = [any(_is_number(row.get(name)) for row in rows) for name in names]
    widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]
    lines = [
        "  ".join(
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in [names, *cells]
    ]
    return "\n".join(lines)


def cell(value: Any) -> str:
    """A value as a table shows it: four digits of a float, ``-`` for None."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _label(text: str, code: str) -> str:
    colour = bool(os.environ.get("FORCE_COLOR")) or sys.stderr.isatty()
    return f"\x1b[{code}m{text}\x1b[0m" if colour and not os.environ.get("NO_COLOR") else text


def _write(stream: TextIO, text: str) -> None:
    stream.write(text + "\n")
    stream.flush()


class _Stderr(logging.Handler):
    """The library's log on stderr, whatever stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            warn(self.format(record))
        else:
            _write(sys.stderr, self.format(record))
