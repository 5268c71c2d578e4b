from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tinsmith import Trainer
from tinsmith.engine import checkpoint


class Recorder:
    """A hook that also notes when it is told to force its rows to the disk."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def __call__(self, metrics: dict[str, Any], step: int, prefix: str) -> None:
        self.events.append((prefix, step, metrics))

    def sync(self) -> None:
        self.events.append("sync")


def train(folder: Path | None, recorder: Recorder, **options: Any) -> list[Any]:
    torch.manual_seed(0)
    trainer = Trainer(nn.Linear(2, 1), device="cpu", checkpoint_dir=folder, progress=False, **options)
    trainer.add_log_hook(recorder)
    batches = [(torch.randn(4, 2), torch.randn(4, 1)) for _ in range(10)]
    trainer.fit(batches, batches[:2], epochs=1)
    return recorder.events


def test_a_line_every_so_many_steps_and_one_for_each_evaluation() -> None:
    events = train(None, Recorder(), log_every=4, eval_every=5)
    assert [(prefix, step) for prefix, step, _ in events] == [
        ("train", 4),
        ("val", 5),
        ("train", 8),
        ("val", 10),
    ]
    assert set(events[0][2]) == {"epoch", "loss", "lr", "grad_norm"}
    assert set(events[2][2]) == {"epoch", "loss", "lr", "grad_norm", "samples_per_sec"}
    assert {"epoch", "seconds", "loss"} <= set(events[1][2])
    assert 0 < events[1][2]["seconds"] < events[3][2]["seconds"]


def test_the_log_is_on_the_disk_before_the_checkpoint_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, write = Recorder(), checkpoint.write_checkpoint

    def note(*args: Any) -> None:
        recorder.events.append("checkpoint")
        write(*args)

    monkeypatch.setattr(checkpoint, "write_checkpoint", note)
    events = train(tmp_path, recorder, save_seconds=0, log_every=1)
    saved = [i for i, event in enumerate(events) if event == "checkpoint"]
    assert len(saved) >= 10
    assert all("sync" in events[i - 2 : i] for i in saved)  # the best one is written just before the newest
