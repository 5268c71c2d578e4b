"""What a run ends with, for people and in its folder: tables, examples, bars, the next commands. No torch."""

from __future__ import annotations

import json
import time
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from tinsmith import console
from tinsmith.console import to_json
from tinsmith.durable import replace_bytes
from tinsmith.errors import CheckError, ConfigError
from tinsmith.overrides import parse_requirement

if TYPE_CHECKING:
    from tinsmith.engine.contract import Data, Family, Predictor

_WIDEST = 64  # characters of a text in a table of examples


def write_table(
    family: Family, predictor: Predictor, data: Data, folder: Path, split: str, start: float
) -> list[dict[str, Any]]:
    """Measure the rows of the evaluation table, and keep them in ``eval/<split>.json``.

    Args:
        start: ``time.monotonic()`` of when the evaluation began.
    """
    rows = family.table(predictor, data, split)
    metrics = {key: value for key, value in rows[0].items() if key != "name"}
    record = {"split": split, "rows": rows, "metrics": metrics, "seconds": round(time.monotonic() - start, 3)}
    (folder / "eval").mkdir(exist_ok=True)
    replace_bytes(
        folder / "eval" / f"{split}.json", (json.dumps(json.loads(to_json(record)), indent=1)).encode()
    )
    return rows


def check_required(row: dict[str, Any], require: list[str]) -> int:
    """0 if the row holds every bar such as ``cosine>=0.9``.

    Raises:
        ConfigError: a bar on what is not measured.
        CheckError: a bar that is missed.
    """
    for text in require:
        bar = parse_requirement(text)
        value = row.get(bar.metric)
        if not isinstance(value, (int, float)):
            known = ", ".join(key for key in row if key != "name")
            raise ConfigError(f"--require {text}: '{bar.metric}' is not measured. Measured: {known}.")
        if not bar.holds(value):
            raise CheckError(f"{bar.metric} is {value:.4g}, required is {bar.metric}{bar.sign}{bar.bound:g}.")
    return 0


def show_examples(examples: list[dict[str, Any]]) -> None:
    """Print the tables of ``Family.examples``."""
    for example in examples:
        console.say(f"\n{example['title']}")
        console.say(console.table(_as_rows(example)))


def _as_rows(example: dict[str, Any]) -> list[dict[str, Any]]:
    """An example's rows for ``console.table``, whose columns need names of their own."""
    names = [name + " " * example["columns"][:i].count(name) for i, name in enumerate(example["columns"])]
    rows = [[shorten(x, _WIDEST) if isinstance(x, str) else x for x in row] for row in example["rows"]]
    return [dict(zip(names, row, strict=True)) for row in rows]


def show_next(folder: Path, cfg: Any) -> None:
    """Print the commands to go on with."""
    console.say("\nNext:")
    more = () if cfg.curriculum else ("resume {} " + _more(cfg),)  # a curriculum's budget is its stages
    for words in ("eval {}", "predict {} lines.txt", "report {}", *more):
        console.say(f"  {console.program()} {words.format(folder)}")


def _more(cfg: Any) -> str:
    """The setting that doubles a run's budget."""
    t = cfg.trainer
    for name in ("max_minutes", "max_steps", "epochs"):
        if getattr(t, name):
            return f"trainer.{name}={2 * getattr(t, name):g}"
    raise AssertionError("a run has a budget")
