"""What every benchmark prints: a table for people, then one line of JSON with its rows and its bars."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from tinsmith.console import table


def data_folder() -> Path:
    """The folder of real data, or an exit that says where to get it."""
    folder = os.environ.get("TINSMITH_DATA")
    if not folder:
        print("skipped: this bar is measured on real data; set TINSMITH_DATA to its folder")
        sys.exit(0)
    return Path(folder)


def sentence_files() -> list[str]:
    """Settings for the mixed sentences of four domains, with held-out ones."""
    folder = data_folder() / "sentences"
    splits = {"path": "train", "valid": "valid", "test": "test"}
    return [f"data.{key}={folder}/mixed_{split}.jsonl.gz" for key, split in splits.items()]


def show(name: str, rows: list[dict[str, Any]], bars: dict[str, tuple[float, str, float]]) -> int:
    """Print rows and bars; 0 if every bar holds, else 5.

    Args:
        bars: name -> (measured, ``>=`` or ``<=``, bar).
    """
    print(f"\n{name}\n{table(rows)}")
    checked = [
        {
            "bar": bar,
            "measured": value,
            "required": f"{sign}{limit:g}",
            "ok": "yes" if (value >= limit if sign == ">=" else value <= limit) else "NO",
        }
        for bar, (value, sign, limit) in bars.items()
    ]
    if checked:
        print(f"\n{table(checked)}")
    machine = {
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps({"benchmark": name, "rows": rows, "bars": checked, "machine": machine}))
    return 0 if all(row["ok"] == "yes" for row in checked) else 5
