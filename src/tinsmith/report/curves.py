"""Which curves a report shows, and in which order."""

from __future__ import annotations

from tinsmith.report.folder import RunFolder, is_number
from tinsmith.report.svg import MAX_POINTS, Series, chart

_NOT_CURVES = ("step", "split", "epoch", "seconds", "time")
_LAST = ("lr", "grad_norm", "samples_per_sec", "tokens_per_sec")  # how it went comes after what came out
_TITLES = {
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "samples_per_sec": "samples per second",
    "tokens_per_sec": "tokens per second",
}
_SPLITS = {"train": "training", "val": "validation"}
_POINT_BUDGET = 20_000  # of a page: keeps it far below 500 KB, however many runs are compared


def charts(runs: list[RunFolder]) -> list[str]:
    """A figure for each number that was logged: of one run with both splits in it, else run by run."""
    plan = _of_one(runs[0]) if len(runs) == 1 else _of_several(runs)
    total = sum(len(series) for _, series in plan)
    points = max(20, min(MAX_POINTS, _POINT_BUDGET // max(1, total)))
    return [chart(title, series, points) for title, series in plan]


def validation_metrics(runs: list[RunFolder]) -> list[str]:
    """The numbers of the validation rows, the loss first."""
    return _keys(runs, "val")


def _of_one(run: RunFolder) -> list[tuple[str, list[Series]]]:
    plan = []
    for key in _order([*_keys([run], "val"), *_keys([run], "train")]):
        series = [
            Series(_SPLITS[split], *run.curve(split, key), colour) for colour, split in enumerate(_SPLITS)
        ]
        plan.append((_TITLES.get(key, key), [one for one in series if one.x]))
    return plan


def _of_several(runs: list[RunFolder]) -> list[tuple[str, list[Series]]]:
    plan = []
    for split in ("val", "train"):
        for key in _keys(runs, split):
            series = [Series(run.name, *run.curve(split, key), colour) for colour, run in enumerate(runs)]
            title = _TITLES.get(key, f"{key}, {_SPLITS[split]}")
            plan.append((title, [one for one in series if one.x]))
    return plan


def _keys(runs: list[RunFolder], split: str) -> list[str]:
    """The names of the numbers in the rows of a split."""
    found: dict[str, None] = {}
    for run in runs:
        for row in run.rows:
            if row.get("split") == split:
                found |= dict.fromkeys(key for key, value in row.items() if is_number(value))
    return _order([key for key in found if key not in _NOT_CURVES])


def _order(keys: list[str]) -> list[str]:
    first = [key for key in ("loss",) if key in keys]
    last = [key for key in _LAST if key in keys]
    return [*first, *dict.fromkeys(key for key in keys if key not in (*first, *last)), *last]
