"""The first losses of each family's tiny run: a refactor does not move them.

A change that is meant to move them rewrites the files: run this test with TINSMITH_REWRITE_GOLDEN=1.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from families.tiny import build

from tinsmith.families import FAMILIES

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.mark.parametrize("name", FAMILIES)
def test_first_five_losses(name: str, tmp_path: Path) -> None:
    losses: list[float] = []

    def note(metrics: dict[str, Any], step: int, prefix: str) -> None:
        if prefix == "train":
            losses.append(metrics["loss"])

    built = build(name, tmp_path)
    trainer = built.trainer(tmp_path / "checkpoints", max_steps=5)
    trainer.add_log_hook(note)
    trainer.fit(built.data.train)
    path = GOLDEN / f"{name}.json"
    if os.environ.get("TINSMITH_REWRITE_GOLDEN"):
        path.write_text(json.dumps({"losses": losses}) + "\n", "utf-8")
    assert losses == pytest.approx(json.loads(path.read_text("utf-8"))["losses"], rel=1e-4), __doc__
