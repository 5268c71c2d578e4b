"""Where the numbers of a run go: ``metrics.jsonl``, which is the truth, and TensorBoard.

Every logger is a hook ``fn(metrics, step, prefix)`` with a ``close()``; ``prefix`` is "train" or "val".
The hooks for other trackers are in ``trackers.py``. Nothing here imports torch.
"""

from __future__ import annotations

import errno
import importlib
import json
import logging
import math
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tinsmith.errors import DataError

logger = logging.getLogger(__name__)

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}  # JSON has no numbers for these


class LogHook(Protocol):
    """What the trainer calls with each logged record."""

    def __call__(self, metrics: dict[str, Any], step: int, prefix: str) -> None: ...

    def close(self) -> None: ...


class JsonlLogger:
    """One JSON object a line: ``step, split``, the metrics, ``time`` (unix seconds, to the millisecond).

    A line is one ``write`` to a file opened for appending, so that a kill leaves whole lines and at most
    one torn tail. Non-finite numbers are the strings "nan", "inf" and "-inf": the file is always JSON.

    Args:
        path: the file; its folder is made. A torn last line is cut.
        resume_step: the step of the checkpoint that the run goes on from. The rows after it move to
            ``<path>.orphan``: the resumed run writes them again.
    """

    def __init__(self, path: str | Path, resume_step: int | None = None) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _repair(self.path, resume_step)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def __call__(self, metrics: dict[str, Any], step: int, prefix: str) -> None:
        row = {"step": step, "split": prefix, **metrics, "time": round(time.time(), 3)}
        try:
            text = _encode(row)
        except ValueError:  # a nan or an infinity: rare, so the check costs nothing
            text = _encode(_spelled(row))
        self._append(text.encode() + b"\n")

    def _append(self, line: bytes) -> None:
        written = os.write(self._fd, line)
        if written != len(line):  # the disk is full: take the torn part back, or the next line glues to it
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise OSError(errno.ENOSPC, "no room for a line", str(self.path))

    def sync(self) -> None:
        """Force the rows to the disk. Called with each checkpoint: a row costs 1 us, this 100 us or more."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file. Twice does no harm."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``, with non-finite numbers as floats again.

    A torn last line is left out without a word; any other line that is not an object is named in the log.

    Raises:
        DataError: there is no such file.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(f"no metrics at {path}: the run has logged nothing yet, or this is no run") from None
    rows = []
    for number, line in enumerate(data[: _end_of_lines(data)].splitlines(), start=1):
        row = _parse(line)
        if row is None:
            logger.warning("%s:%d is not a JSON object: left out", path, number)
        else:
            rows.append({name: _NON_FINITE.get(v, v) if isinstance(v, str) else v for name, v in row.items()})
    return rows


def _repair(path: Path, resume_step: int | None) -> None:
    """Cut a torn last line, and move what was logged after ``resume_step`` to the orphan file."""
    if not path.exists():
        return
    data = path.read_bytes()
    keep = end = _end_of_lines(data)
    if resume_step is not None:
        keep = _first_row_after(data[:end], resume_step)
        if keep < end:
            _repair(Path(f"{path}.orphan"), None)  # torn if an earlier resume was killed right here
            with open(f"{path}.orphan", "ab") as orphans:
                orphans.write(data[keep:end])
                orphans.flush()
                os.fsync(orphans.fileno())  # before the truncation, or a power loss takes both copies
    if keep < len(data):
        os.truncate(path, keep)


def _end_of_lines(data: bytes) -> int:
    """The length of the whole lines in ``data``: a line is whole when it has its newline."""
    return data.rfind(b"\n") + 1


def _first_row_after(data: bytes, step: int) -> int:
    """The offset of the first row later than ``step``. Rows are in the order of time: so are the rest."""
    offset = 0
    for line in data.splitlines(keepends=True):
        row = _parse(line)
        if row is not None and row.get("step", 0) > step:
            return offset
        offset += len(line)
    return offset


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _plain(value: Any) -> Any:
    """For the encoder: numpy's scalars and tensors become numbers or lists, the rest its text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _spelled(value: Any) -> Any:
    """``value`` with each non-finite float spelled out."""
    if isinstance(value, dict):
        return {name: _spelled(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled(item) for item in value]
    if hasattr(value, "tolist"):
        return _spelled(value.tolist())
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


_encode = json.JSONEncoder(allow_nan=False, default=_plain).encode


class TensorBoardLogger:
    """Scalars such as ``train/loss`` in an event file that TensorBoard shows.

    A record is one event, written at once and without a thread: 40 us, where torch's SummaryWriter takes
    an event and a queue for each scalar (500 us). The file is opened at the first record.

    Args:
        directory: the folder that ``tensorboard --logdir`` gets.
        purge_step: TensorBoard forgets what earlier files of the folder hold from this step on
            (after a resume from step s: s + 1).
    """

    def __init__(self, directory: str | Path, purge_step: int | None = None) -> None:
        self.directory = Path(directory)
        self._purge_step = purge_step
        self._records: Any = None

    def __call__(self, metrics: dict[str, Any], step: int, prefix: str) -> None:
        if self._records is None:
            self._open()
        event = self._event(wall_time=time.time(), step=step)
        for tag, value in scalars(metrics, prefix).items():
            event.summary.value.add(tag=tag, simple_value=value)
        self._records.write(event.SerializeToString())

    def _open(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protobuf and tensorboard, about themselves
            events = importlib.import_module("tensorboard.compat.proto.event_pb2")
            writer = importlib.import_module("tensorboard.summary.writer.record_writer")
        self._event = events.Event
        self.directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{os.getpid()}"  # TensorBoard reads them in this order
        self._records = writer.RecordWriter(open(self.directory / name, "wb", buffering=0))  # noqa: SIM115
        opening = self._event(wall_time=time.time(), step=self._purge_step or 0, file_version="brain.Event:2")
        self._records.write(opening.SerializeToString())
        if self._purge_step is not None:
            start = self._event(wall_time=time.time(), step=self._purge_step)
            start.session_log.status = events.SessionLog.START
            self._records.write(start.SerializeToString())

    def close(self) -> None:
        """Close the event file. Twice does no harm."""
        if self._records is not None and not self._records.closed:
            self._records.close()


def scalars(metrics: dict[str, Any], prefix: str) -> dict[str, float]:
    """``{"train/loss": 0.5, ...}``: the numbers of a record under the names that trackers group by."""
    return {f"{prefix}/{name}": value for name, value in metrics.items() if isinstance(value, int | float)}


class SafeHook:
    """A hook whose first exception is its last: one warning, then it is dropped and training goes on."""

    def __init__(self, hook: Callable[[dict[str, Any], int, str], object]) -> None:
        self.hook = hook
        self.dropped = False

    def __call__(self, metrics: dict[str, Any], step: int, prefix: str) -> None:
        if not self.dropped:
            self._attempt(lambda: self.hook(metrics, step, prefix))

    def sync(self) -> None:
        """Have the hook force to the disk what it wrote, if it has a ``sync``."""
        if not self.dropped:
            self._attempt(getattr(self.hook, "sync", lambda: None))

    def close(self) -> None:
        """Close the hook, if it has a ``close``. Also after a failure: what it wrote is worth keeping."""
        self._attempt(getattr(self.hook, "close", lambda: None))

    def _attempt(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            if not self.dropped:
                name = getattr(self.hook, "__name__", type(self.hook).__name__)
                logger.warning(
                    "logger %s failed (%s: %s): it is off for the rest of the run, training goes on",
                    name,
                    type(error).__name__,
                    error,
                )
            self.dropped = True
