"""What ``tinsmith runs`` shows of a run: settings, metrics, next commands. Imports no torch."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinsmith.compose import plain_values
from tinsmith.families import FAMILIES, config_type
from tinsmith.runs import Run
from tinsmith.settings import settings_of, show
from tinsmith.yaml_file import parse_yaml, read_yaml, to_yaml

_CLOCK = ("seconds", "time")  # of a row of metrics.jsonl: no result


def row(run: Run) -> dict[str, Any]:
    """A run as a row of ``tinsmith runs ls``."""
    best = run.record.get("best") or {}
    metric = f"{best.get('name', 'metric')} {best['value']:.4g}" if _is_number(best.get("value")) else None
    return {
        "id": run.id,
        "status": run.status,
        "metric": metric,
        "started": str(run.record.get("started", ""))[:16].replace("T", " "),
        "seconds": _seconds(run.record.get("seconds")),
        "name": run.name,
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _seconds(value: Any) -> float | None:
    return round(value, 1) if _is_number(value) else None


def config_of(folder: Path) -> dict[str, str]:
    """The settings of a run as text by dotted key, read without the family's code: it may have changed."""
    path = folder / "config.yaml"
    return {entry.key: show(entry.value) for entry in read_yaml(path, ())} if path.is_file() else {}


def default_config(family: str) -> dict[str, str]:
    """A family's defaults in the form of ``config_of``; empty for a family that is gone."""
    if family not in FAMILIES:
        return {}
    defaults = {key: setting.default for key, setting in settings_of(config_type(family)).items()}
    entries = parse_yaml(to_yaml(plain_values(defaults)), "defaults", ())
    return {entry.key: show(entry.value) for entry in entries}


def differences(a: dict[str, Any], b: dict[str, Any], names: tuple[str, str]) -> list[dict[str, Any]]:
    """The keys whose values differ, as rows with a column for each side."""
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    return [{"key": key, names[0]: a.get(key), names[1]: b.get(key)} for key in keys]


def metrics_of(run: Run) -> dict[str, Any]:
    """The numbers of a run: its best, its last validation, its evaluations (``test.cosine``)."""
    found: dict[str, Any] = {}
    best = run.record.get("best") or {}
    if "value" in best:
        found[f"best.{best.get('name', 'metric')}"] = best["value"]
    for rows in _last_rows(run.path / "metrics.jsonl").values():
        found |= rows
    for path in sorted((run.path / "eval").glob("*.json")):
        table = _load(path.read_text("utf-8", errors="replace"))
        metrics = table.get("metrics")
        numbers = _numbers(metrics if isinstance(metrics, dict) else table)
        found |= {f"{path.stem}.{key}": value for key, value in numbers}
    return found


def _last_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The last line of each split in ``metrics.jsonl``, its keys with the split before them."""
    lines: dict[str, str] = {}
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.endswith("\n"):  # a line that was being written when the process died has none
                    lines["val" if '"val"' in line else "train"] = line
    return {
        split: {f"{split}.{key}": value for key, value in _numbers(_load(line)) if key not in _CLOCK}
        for split, line in sorted(lines.items())
    }


def _load(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _numbers(data: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The numbers of a JSON object, also those of a nested one: ``metrics.cosine``."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{name}", number) for name, number in _numbers(value))
        elif _is_number(value):
            yield key, value


def next_commands(run: Run) -> list[str]:
    """What one does with this run now, with its real path."""
    if run.status in ("interrupted", "killed", "failed", "diverged"):
        return [f"tinsmith resume {run.path}", f"tinsmith report {run.path}"]
    if run.status == "running":
        return [f"tinsmith report {run.path}"]
    return [f"tinsmith {verb} {run.path}" for verb in ("eval", "predict", "report")]
