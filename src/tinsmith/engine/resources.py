"""What training takes from the machine: CPU, memory, GPU memory and time; warnings before it runs out.

Importing this module imports neither torch nor psutil.
"""

from __future__ import annotations

import importlib
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

from tinsmith.engine.config import check
from tinsmith.engine.loggers import JsonlLogger, SafeHook

logger = logging.getLogger(__name__)

_MB = 2**20
_QUIET = 60.0  # seconds between two warnings of a kind
_SHARE_OF = {"cpu": "all cores", "memory": "the machine's memory", "gpu_memory": "the GPU's memory"}
_ADVICE = {
    "cpu": "Other programs, or more loader workers and threads than cores, slow training down: stop them, or "
    "lower trainer.num_workers and threads.",
    "memory": "At 100 % the system kills the run (it can be resumed): close other programs, or lower "
    "trainer.num_workers or trainer.batch_size (with trainer.accumulate raised, the result stays).",
    "gpu_memory": "A longer batch may not fit: lower trainer.batch_size (with trainer.accumulate raised, the "
    "result stays), or stop what else uses the GPU.",
    "slow_batch": "If the data are what is slow, raise trainer.num_workers; if the machine is busy, wait or "
    "stop what else runs; or raise slow_batch_threshold.",
}


class ResourceMonitor:
    """Samples the machine every few seconds while training steps, and warns above thresholds.

    It has no thread: the trainer calls ``step``. A sample is a line in ``path`` with ``step``, ``cpu``,
    ``memory`` and ``gpu_memory`` (percent), ``rss_mb`` (this process, MiB), ``step_seconds`` and
    ``slowest_step_seconds`` (mean and most since the last sample). A warning's record carries ``resource``,
    ``value``, ``threshold``, ``step`` and ``left_out``. What fails here is warned of once and never stops
    training.

    Args:
        cpu_warning_threshold: percent of all cores in use, 0 to 100; 0 = no warning (training is meant to
            use them).
        memory_warning_threshold: percent of the machine's memory in use; 0 = no warning.
        gpu_memory_warning_threshold: percent in use on the fullest GPU that torch has put something on.
        slow_batch_threshold: seconds of one optimiser step; 0 = no warning.
        path: file for the samples, such as ``resources.jsonl``; a torn last line is cut. The rows of a
            killed run stay when it is resumed: they tell of the machine, not of the training.
        every_seconds: least seconds between two samples, above 0.

    Raises:
        ConfigError: a threshold that is not allowed.
    """

    def __init__(
        self,
        cpu_warning_threshold: float = 0.0,
        memory_warning_threshold: float = 90.0,
        gpu_memory_warning_threshold: float = 95.0,
        slow_batch_threshold: float = 0.0,
        path: str | Path | None = None,
        every_seconds: float = 5.0,
    ) -> None:
        self.thresholds = {
            "cpu": cpu_warning_threshold,
            "memory": memory_warning_threshold,
            "gpu_memory": gpu_memory_warning_threshold,
        }
        for kind, value in self.thresholds.items():
            check(
                0 <= value <= 100, f"{kind}_warning_threshold", value, "a percentage, 0 (no warning) to 100"
            )
        check(slow_batch_threshold >= 0, "slow_batch_threshold", slow_batch_threshold, "seconds, 0 or more")
        check(every_seconds > 0, "every_seconds", every_seconds, "seconds, above 0")
        self.every_seconds = every_seconds
        self._slow = slow_batch_threshold or math.inf
        self._seconds, self._steps, self._slowest = 0.0, 0, 0.0  # of the steps since the last sample
        self._quiet: dict[str, tuple[float, int]] = {}  # kind -> (no warning before, how many were left out)
        self._file = _open(path)
        self._due = time.monotonic() + every_seconds
        self._guarded(_cpu_percent)  # it measures since its last call: this is the first

    def step(self, seconds: float, step: int) -> None:
        """Note an optimiser step that took ``seconds``. Costs 0.5 us unless a sample is due."""
        self._seconds += seconds
        self._steps += 1
        if seconds > self._slowest:
            self._slowest = seconds
        if seconds > self._slow:
            self._warn("slow_batch", seconds, self._slow, step)
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self.every_seconds
            self._guarded(self._sample, step)

    def close(self) -> None:
        """Close the file; later steps are not watched. Twice does no harm."""
        self._due = self._slow = math.inf
        if self._file is not None:
            self._file.close()

    def _sample(self, step: int) -> None:
        row = read_machine()
        for kind, threshold in self.thresholds.items():
            if threshold and row.get(kind, 0.0) >= threshold:
                self._warn(kind, row[kind], threshold, step)
        row["step_seconds"] = self._seconds / self._steps
        row["slowest_step_seconds"] = self._slowest
        self._seconds, self._steps, self._slowest = 0.0, 0, 0.0
        if self._file is not None:
            self._file({name: round(value, 6) for name, value in row.items()}, step, "resources")

    def _warn(self, kind: str, value: float, threshold: float, step: int) -> None:
        now = time.monotonic()
        until, left_out = self._quiet.get(kind, (now, 0))
        if now < until:
            self._quiet[kind] = (until, left_out + 1)
            return
        self._quiet[kind] = (now + _QUIET, 0)
        since = f" ({left_out} such warnings were left out in between.)" if left_out else ""
        fields = {
            "resource": kind,
            "value": value,
            "threshold": threshold,
            "step": step,
            "left_out": left_out,
        }
        logger.warning("%s%s", _message(kind, value, threshold, step), since, extra=fields)

    def _guarded(self, call: Any, *args: Any) -> None:
        """Whatever goes wrong in a sample ends the samples, never the training."""
        try:
            call(*args)
        except Exception as error:
            self._due = math.inf
            logger.warning(
                "the resource monitor failed (%s: %s): no more samples in this run, training goes on",
                type(error).__name__,
                error,
            )


def read_machine() -> dict[str, float]:
    """``cpu``, ``memory`` and, where torch uses a GPU, ``gpu_memory`` in percent; ``rss_mb`` in MiB."""
    psutil = importlib.import_module("psutil")
    row = {
        "cpu": _cpu_percent(),
        "memory": float(psutil.virtual_memory().percent),
        "rss_mb": psutil.Process().memory_info().rss / _MB,
    }
    gpu = _gpu_memory_percent()
    return row if gpu is None else {**row, "gpu_memory": gpu}


def _cpu_percent() -> float:
    """Percent of all cores in use since the last call."""
    return float(importlib.import_module("psutil").cpu_percent(None))


def _gpu_memory_percent() -> float | None:
    """Percent in use, by whomever, of the fullest GPU that this process has allocated on.

    A GPU that torch has not touched is not asked: the question alone would take some 300 MB there.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    used = [i for i in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(i)]
    pairs = [torch.cuda.mem_get_info(i) for i in used]
    return max((100.0 * (total - free) / total for free, total in pairs), default=None)


def _message(kind: str, value: float, threshold: float, step: int) -> str:
    if kind == "slow_batch":
        text = f"step {step} took {value:.3g} s, above slow_batch_threshold={threshold:g} s."
    else:
        limit = f"{kind}_warning_threshold={threshold:g}"
        text = f"{value:.0f} % of {_SHARE_OF[kind]} in use at step {step} ({limit})."
    return f"{text} {_ADVICE[kind]}"


def _open(path: str | Path | None) -> SafeHook | None:
    try:
        return None if path is None else SafeHook(JsonlLogger(path))
    except OSError as error:
        logger.warning("the samples of the resource monitor are not written: %s", error)
        return None
