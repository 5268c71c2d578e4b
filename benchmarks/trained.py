"""A run of a family for a benchmark: trained in a folder of its own, its validation rows read back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tinsmith import console, run, runs
from tinsmith.compose import compose
from tinsmith.engine.loggers import read_metrics


def train(family: str, words: list[str], root: str) -> tuple[list[dict[str, Any]], Path]:
    """Train with settings ``words``; the validation rows of the run, and its folder."""
    console.configure(quiet=True)
    resolved = compose(family, words)
    folders: list[Path] = []

    def make_folder() -> Path:
        folders.append(runs.start_run(root, resolved, sys.argv))
        return folders[0]

    run.train(family, resolved.cfg, make_folder)
    rows = [row for row in read_metrics(folders[0] / "metrics.jsonl") if row["split"] == "val"]
    return rows, folders[0]


def table_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's table of results on the test split."""
    rows: list[dict[str, Any]] = json.loads((path / "eval" / "test.json").read_text("utf-8"))["rows"]
    return rows
