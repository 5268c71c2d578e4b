"""A run folder as a report reads it: whatever is there, and the names of what is not."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from tinsmith.engine.loggers import read_metrics
from tinsmith.errors import ConfigError, DataError
from tinsmith.run_view import config_of, default_config, next_commands
from tinsmith.runs import Run, read_run_json

_LOWER_IS_BETTER = ("loss", "error", "mse", "mae", "rmse", "nll", "perplexity", "ppl", "bits", "bpb")
_WHAT = {
    "run.json": "the status, the environment and the times are not known",
    "metrics.jsonl": "no curves: the run stopped before its first logged step",
    "config.yaml": "the settings are not known",
}


@dataclass
class RunFolder:
    """What a run left.

    ``info`` is run.json, ``rows`` metrics.jsonl, ``config`` config.yaml by dotted key and as text,
    ``defaults`` the family's own values of the same keys (empty if the family is not known here),
    ``evaluations`` the files of eval/, ``examples`` examples.json. ``missing`` says in words what is not
    there or damaged.
    """

    path: Path
    info: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    missing: list[str] = field(default_factory=list)

    @property
    def family(self) -> str:
        return str(self.info.get("family") or self.path.absolute().parent.name)

    @property
    def name(self) -> str:
        """``codec/0007-small``: as the command line names it."""
        return f"{self.family}/{self.path.absolute().name}"

    @property
    def status(self) -> str:
        """As recorded, but "killed" if it says running and the process is gone."""
        return self._run().status

    def next_commands(self) -> list[str]:
        """What one does with this run now, as ``tinsmith runs show`` says it."""
        return [line for line in next_commands(self._run()) if not line.startswith("tinsmith report")]

    def _run(self) -> Run:
        return Run(self.path, {"status": "failed" if self.error else "unknown", **self.info})

    @property
    def seconds(self) -> float | None:
        """Wall time: as recorded, or from the first to the last row of a run that could not record it."""
        recorded = self.info.get("seconds")
        if is_number(recorded):
            return float(recorded)
        times = [row["time"] for row in self.rows if is_number(row.get("time"))]
        return times[-1] - times[0] if times else None

    @property
    def steps(self) -> int:
        """The last logged step."""
        return max((int(row["step"]) for row in self.rows if _is_finite(row.get("step"))), default=0)

    def curve(self, split: str, key: str) -> tuple[list[float], list[float]]:
        """The steps and the values of ``key`` in the rows of ``split``, non-finite values included."""
        points = [
            (float(row["step"]), float(row[key]))
            for row in self.rows
            if row.get("split") == split and is_number(row.get(key)) and _is_finite(row.get("step"))
        ]
        return [x for x, _ in points], [y for _, y in points]

    def best_of(self, metric: str) -> tuple[float, int] | None:
        """The best validation value of ``metric`` and its step."""
        points = [(y, int(x)) for x, y in zip(*self.curve("val", metric), strict=True) if math.isfinite(y)]
        if not points:
            return None
        return (min if lower_is_better(metric) else max)(points, key=lambda point: point[0])

    def headline(self) -> tuple[str, float, int | None] | None:
        """Name, value and step of the metric that decided what is best: as recorded, else the loss."""
        best = self.info.get("best")
        if isinstance(best, dict) and is_number(best.get("value")):
            return str(best.get("name", "metric")), float(best["value"]), best.get("step")
        found = self.best_of("loss")
        return ("loss", *found) if found else None


def load_run(path: Path) -> RunFolder:
    """Read a run folder. Only its absence is an error: a run that crashed early has a report too.

    Raises:
        DataError: there is no such folder.
    """
    if not path.is_dir():
        raise DataError(f"no run folder at {path}. See: tinsmith runs ls")
    run = RunFolder(path)
    run.missing = [f"no {name}: {what}" for name, what in _WHAT.items() if not (path / name).exists()]
    run.info = _read_record(run)
    run.examples = [
        table for table in _read_json(run, "examples.json", list) or [] if isinstance(table, dict)
    ]
    for file in sorted((path / "eval").glob("*.json")):
        table = _read_json(run, f"eval/{file.name}", dict)
        if table is not None:
            run.evaluations.append({"split": file.stem, **table})
    if (path / "metrics.jsonl").exists():
        run.rows = read_metrics(path / "metrics.jsonl")
    if (path / "error.txt").exists():
        run.error = (path / "error.txt").read_text(encoding="utf-8", errors="replace")
    _read_settings(run)
    return run


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether ``value`` is a number that a float holds, which true and false and 400 digits are not."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 1 << 1000)


def _is_finite(value: Any) -> TypeGuard[int | float]:
    return is_number(value) and math.isfinite(value)


def lower_is_better(metric: str) -> bool:
    """By the words of its name: the report has no other knowledge of a metric."""
    words = metric.lower().replace("/", "_").replace("-", "_").split("_")
    return any(word in _LOWER_IS_BETTER for word in words)


def _read_record(run: RunFolder) -> dict[str, Any]:
    if not (run.path / "run.json").exists():
        return {}
    try:
        return read_run_json(run.path)
    except DataError as error:
        run.missing.append(f"run.json cannot be read: {error}")
        return {}


def _read_json(run: RunFolder, name: str, kind: type) -> Any:
    try:
        value = json.loads((run.path / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError, RecursionError) as error:
        run.missing.append(f"{name} cannot be read: {error}")
        return None
    if not isinstance(value, kind):
        run.missing.append(f"{name} cannot be read: it holds no {kind.__name__}")
        return None
    return value


def _read_settings(run: RunFolder) -> None:
    try:
        run.config = config_of(run.path)
    except ConfigError as error:
        run.missing.append(f"config.yaml cannot be read: {error}")
    with contextlib.suppress(ConfigError, ImportError):  # another version's family: no defaults to compare
        run.defaults = default_config(run.family)
