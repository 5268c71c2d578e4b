"""The page: sections as strings, everything that a run wrote escaped, one file and no request."""

from __future__ import annotations

import math
import shlex
import string
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tinsmith.durable import replace_bytes
from tinsmith.engine.progress import clock
from tinsmith.errors import DataError
from tinsmith.report.curves import charts, validation_metrics
from tinsmith.report.folder import RunFolder, is_number, load_run, lower_is_better
from tinsmith.report.svg import COLOURS
from tinsmith.report.tables import cell, details, escape, grid_table, number, pairs, table, when

_MOST_ROWS = 50  # of a table of the page
_ERROR_TAIL = 6000  # characters of error.txt: the end says what happened


def write_report(run_dirs: Sequence[str | Path], target: str | Path | None = None) -> Path:
    """Write one HTML page about a run, or one that compares several.

    Args:
        run_dirs: run folders. A run that crashed early has a report too: it says what is missing.
        target: the file; by default ``report.html`` in the run's folder, or ``compare-A-B.html`` beside
            the first of several.

    Returns:
        The file that was written.

    Raises:
        DataError: no run folder is given, or one does not exist.
    """
    if not run_dirs:
        raise DataError("a report needs a run folder. See: tinsmith runs ls")
    runs = [load_run(Path(folder)) for folder in run_dirs]
    path = Path(target) if target is not None else _default_target(runs)
    replace_bytes(path, render(runs).encode("utf-8", "replace"))  # a damaged file may hold half a surrogate
    return path


def _default_target(runs: list[RunFolder]) -> Path:
    first = runs[0].path
    if len(runs) == 1:
        return first / "report.html"
    names = "-".join(run.path.absolute().name for run in runs)
    return first.absolute().parent / f"compare-{names[:80]}.html"


def render(runs: list[RunFolder]) -> str:
    """The whole page as text."""
    sections = _single(runs[0]) if len(runs) == 1 else _comparison(runs)
    title = runs[0].name if len(runs) == 1 else "Comparison: " + ", ".join(run.name for run in runs)
    page = string.Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    return page.substitute(title=escape(title), body="\n".join(filter(None, sections)))


def _single(run: RunFolder) -> list[str]:
    return [
        _header(run),
        _tiles(run),
        _notices([run]),
        _section("Curves", _grid(charts([run])) + _validations(run)),
        _section("Evaluation", "".join(_evaluation(one) for one in run.evaluations)),
        _section("Examples", "".join(_example(one) for one in run.examples)),
        _section("Settings", _settings(run)),
        _section("Environment", details("run.json", pairs(_flat_info(run.info)))),
        _section("Next", _commands(run.next_commands())),
    ]


def _comparison(runs: list[RunFolder]) -> list[str]:
    paths = " ".join(shlex.quote(str(run.path)) for run in runs[:2])
    return [
        f"<header><h1>Comparison of {len(runs)} runs</h1></header>",
        _best_table(runs),
        _notices(runs),
        _section("Settings that differ", _differences(runs)),
        _section("Curves", _grid(charts(runs))),
        _section("Evaluation", "".join(_evaluations_together(runs))),
        _section("Next", _commands([f"tinsmith runs diff {paths}", *runs[0].next_commands()[:1]])),
    ]


def _header(run: RunFolder) -> str:
    argv = run.info.get("argv")
    command = shlex.join(map(str, argv)) if isinstance(argv, list) else str(argv or "")
    about = [when(run.info.get("started")), run.info.get("device"), command]
    parts = " · ".join(escape(part) for part in about if part)
    status = f'<span class="status {escape(run.status)}">{escape(run.status)}</span>'
    return f"<header><h1>{escape(run.name)} {status}</h1><p>{parts}</p></header>"


def _tiles(run: RunFolder) -> str:
    tiles = []
    headline = run.headline()
    if headline is not None:
        name, value, step = headline
        tiles.append((f"best {name}", number(value), f"at step {step:,}" if is_number(step) else ""))
    if run.seconds is not None:
        tiles.append(("wall time", clock(run.seconds), ""))
    if run.rows:
        planned = run.info.get("total_steps")
        tiles.append(("steps", f"{run.steps:,}", f"of {planned:,}" if is_number(planned) else ""))
    for unit in ("samples", "tokens"):
        rates = sorted(y for y in run.curve("train", f"{unit}_per_sec")[1] if math.isfinite(y))
        if rates:
            tiles.append((f"{unit} per second", number(rates[len(rates) // 2]), "median"))
    if is_number(run.info.get("parameters")):
        tiles.append(("parameters", f"{run.info['parameters']:,}", ""))
    shown = "".join(
        f'<div class="card tile"><span>{escape(name)}</span><b>{escape(value)}</b>'
        f"<span>{escape(note)}</span></div>"
        for name, value, note in tiles
    )
    return f'<div class="tiles">{shown}</div>'


def _notices(runs: list[RunFolder]) -> str:
    """What is not there, and the end of the error of a run that failed."""
    parts = []
    for run in runs:
        where = f"{escape(run.name)}: " if len(runs) > 1 else ""
        if run.missing:
            lines = "<br>".join(f"{where}{escape(text)}" for text in run.missing)
            parts.append(f'<p class="notice">{lines}</p>')
        if run.error:
            tail = run.error[-_ERROR_TAIL:].strip()
            parts.append(f'<div class="notice error">{where}error.txt<pre>{escape(tail)}</pre></div>')
    return "".join(parts)


def _validations(run: RunFolder) -> str:
    """Every validation as a row; of very many, equally spaced ones."""
    rows = [
        {key: value for key, value in row.items() if key not in ("split", "time")}
        for row in run.rows
        if row.get("split") == "val"
    ]
    stride = -(-len(rows) // _MOST_ROWS) if rows else 1
    name = f"All {len(rows)} validations" if stride == 1 else f"Every {stride}th of {len(rows)} validations"
    return details(name, table(rows[::-1][::stride][::-1])) if rows else ""


def _evaluation(evaluation: dict[str, Any], kind: str = "first") -> str:
    """A table of eval/*.json: the model's row first, its baselines below."""
    facts = {
        key: value for key, value in evaluation.items() if key not in ("rows", "metrics", "split") and value
    }
    note = " · ".join(f"{escape(key)} {cell(value)}" for key, value in facts.items())
    title = f"<h3>{escape(evaluation.get('split', ''))}</h3>"
    return f'{title}{table(_evaluation_rows(evaluation), kind)}<p class="note">{note}</p>'


def _evaluation_rows(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [row for row in evaluation.get("rows") or [] if isinstance(row, dict)]
    metrics = evaluation.get("metrics")
    return rows or ([{"name": "model", **metrics}] if isinstance(metrics, dict) else [])


def _evaluations_together(runs: list[RunFolder]) -> list[str]:
    """For each split one table with the rows of all runs."""
    splits: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for evaluation in run.evaluations:
            rows = _evaluation_rows(evaluation)
            named = [{"run": run.name if n == 0 else "", **row} for n, row in enumerate(rows)]
            splits.setdefault(str(evaluation.get("split", "")), []).extend(named)
    return [_evaluation({"split": split, "rows": rows}, "runs") for split, rows in splits.items()]


def _example(example: dict[str, Any]) -> str:
    columns = [str(name) for name in example.get("columns") or []]
    rows = [row for row in example.get("rows") or [] if isinstance(row, list)]
    shown = grid_table(columns, [[cell(value) for value in row] for row in rows[:_MOST_ROWS]], "text")
    more = len(rows) - _MOST_ROWS
    rest = f'<p class="note">and {more:,} more in examples.json</p>' if more > 0 else ""
    return f"<h3>{escape(example.get('title', ''))}</h3>{shown}{rest}"


def _settings(run: RunFolder) -> str:
    if not run.config:
        return ""
    changed = {
        key: value for key, value in run.config.items() if key in run.defaults and value != run.defaults[key]
    }
    rows = [[f"<code>{escape(k)}</code>", cell(v), cell(run.defaults[k])] for k, v in changed.items()]
    if run.defaults and not changed:
        first = '<p class="note">All settings have their default values.</p>'
    else:
        first = grid_table(["setting", "value", "default"], rows, "text")
    title = f"All {len(run.config)} settings"
    return f"{first if run.defaults else ''}{details(title, pairs(run.config))}"


def _differences(runs: list[RunFolder]) -> str:
    """The settings of which not all runs have the same value."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    rows = []
    for key in keys:
        values = [run.config.get(key) for run in runs]
        if any(value != values[0] for value in values):
            rows.append([f"<code>{escape(key)}</code>", *(cell(value) for value in values)])
    if not rows:
        return '<p class="note">None.</p>'
    return grid_table(["setting", *(run.name for run in runs)], rows, "text")


def _best_table(runs: list[RunFolder]) -> str:
    """A row for each run, with the best value of each validation metric; the best of all is marked."""
    metrics = validation_metrics(runs)
    best = {metric: [run.best_of(metric) for run in runs] for metric in metrics}
    rows = []
    for n, run in enumerate(runs):
        key = f"c{n % COLOURS}{' dashed' if n >= COLOURS else ''}"
        time_taken = clock(run.seconds) if run.seconds is not None else "–"
        status = f'<span class="status {escape(run.status)}">{escape(run.status)}</span>'
        rows.append([f'<span class="{key}">{escape(run.name)}</span>', status, f"{run.steps:,}", time_taken])
        for metric in metrics:
            rows[-1].append(_best_cell(best[metric], n, lower_is_better(metric)))
    heads = [f"{metric} {'↓' if lower_is_better(metric) else '↑'}" for metric in metrics]
    return grid_table(["run", "status", "steps", "wall time", *heads], rows, "legend")


def _best_cell(column: list[tuple[float, int] | None], n: int, lower: bool) -> str:
    found = column[n]
    if found is None:
        return "–"
    values = [entry[0] for entry in column if entry is not None]
    text = f'{number(found[0])} <span class="note">step {found[1]:,}</span>'
    return f"<strong>{text}</strong>" if found[0] == (min if lower else max)(values) else text


def _flat_info(info: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in info.items():
        if isinstance(value, dict):
            flat |= _flat_info(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = when(value) if key in ("started", "ended") else value
    return flat


def _commands(lines: Iterable[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _grid(figures: list[str]) -> str:
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""
