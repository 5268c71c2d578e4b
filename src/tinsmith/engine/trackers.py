"""Hooks for Weights & Biases, trackio and MLflow, all of them local unless their own variable says otherwise.

Each is made for a run folder and imported when it is made. A run's name in the tracker is
``<family>-<number>``, and a resume goes on in the same run.
"""

from __future__ import annotations

import importlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinsmith.engine.loggers import LogHook, scalars
from tinsmith.errors import MissingExtraError


@dataclass(frozen=True)
class _Tracker:
    """A tracker's own two functions behind the signature of a hook."""

    log: Callable[[dict[str, float], int], object]
    finish: Callable[[], object]

    def __call__(self, metrics: dict[str, Any], step: int, prefix: str) -> None:
        self.log(scalars(metrics, prefix), step)

    def close(self) -> None:
        self.finish()


def wandb_hook(run_dir: str | Path, config: dict[str, Any] | None = None) -> LogHook:
    """Log to Weights & Biases: offline, in the run folder, unless ``WANDB_MODE`` says otherwise."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # "offline" should mean it
    wandb = _tracker_module("wandb")
    run = wandb.init(
        project="tinsmith",
        dir=str(run_dir),
        name=_run_name(run_dir),
        id=_run_name(run_dir),
        config=config,
        resume="allow",
        mode=os.environ.get("WANDB_MODE", "offline"),
    )
    return _Tracker(lambda metrics, step: run.log(metrics, step=step), run.finish)


def trackio_hook(run_dir: str | Path, config: dict[str, Any] | None = None) -> LogHook:
    """Log to trackio: a sqlite file in the run folder, unless ``TRACKIO_DIR`` says otherwise."""
    os.environ.setdefault("TRACKIO_DIR", str(Path(run_dir).absolute() / "trackio"))  # its import reads this
    trackio = _tracker_module("trackio")
    trackio.init(project="tinsmith", name=_run_name(run_dir), config=config, resume="allow", embed=False)
    return _Tracker(lambda metrics, step: trackio.log(metrics, step=step), trackio.finish)


class _MlflowHook:
    """MLflow makes a transaction of every call (24 ms), so a call carries ``batch`` numbers."""

    def __init__(self, mlflow: Any, run_dir: Path, config: dict[str, Any], batch: int = 200) -> None:
        self._mlflow, self._batch = mlflow, batch
        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{run_dir / 'mlflow.db'}")
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        self._run_id = self._find_or_make_run(_run_name(run_dir), config)
        self._pending: list[Any] = []

    def _find_or_make_run(self, name: str, config: dict[str, Any]) -> str:
        experiment = self._client.get_experiment_by_name("tinsmith")
        number = experiment.experiment_id if experiment else self._client.create_experiment("tinsmith")
        found = self._client.search_runs([number], f'tags."mlflow.runName" = "{name}"', max_results=1)
        if found:
            return str(found[0].info.run_id)
        run_id = str(self._client.create_run(number, run_name=name).info.run_id)
        for key, value in _flat(config):
            self._client.log_param(run_id, key, value)
        return run_id

    def __call__(self, metrics: dict[str, Any], step: int, prefix: str) -> None:
        now = int(time.time() * 1000)
        for tag, value in scalars(metrics, prefix).items():
            key = re.sub(r"[^\w\-./ ]", "_", tag)  # MLflow refuses other characters, such as precision@5's
            self._pending.append(self._mlflow.entities.Metric(key, float(value), now, step))
        if len(self._pending) >= self._batch:
            self._send()

    def _send(self) -> None:
        batch, self._pending = self._pending, []
        self._client.log_batch(self._run_id, metrics=batch)

    def close(self) -> None:
        if self._pending:
            self._send()
        self._client.set_terminated(self._run_id)


def mlflow_hook(run_dir: str | Path, config: dict[str, Any] | None = None) -> LogHook:
    """Log to MLflow: ``mlflow.db`` in the run folder (its file store raises), or ``MLFLOW_TRACKING_URI``."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    return _MlflowHook(_tracker_module("mlflow"), Path(run_dir).absolute(), config or {})


def _tracker_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"logger.{name}=true needs {name}, which is not installed. Run: pip install {name}"
        ) from error


def _run_name(run_dir: str | Path) -> str:
    """``codec-0007`` for ``runs/codec/0007``, without what a tracker refuses in an identifier."""
    path = Path(run_dir).absolute()
    return re.sub(r"[^\w.-]", "_", f"{path.parent.name}-{path.name}")


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as pairs of dotted key and value."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
