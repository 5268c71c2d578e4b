"""Stages of a curriculum: what they change, what is carried over, and an exact resume inside any of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tinsmith.engine.config import CurriculumStage
from tinsmith.engine.curriculum import Build, CurriculumScheduler, carry_over
from tinsmith.engine.data import Loader
from tinsmith.engine.optim import get_optimizer
from tinsmith.engine.schedules import get_scheduler
from tinsmith.engine.trainer import Trainer
from tinsmith.errors import ConfigError

STAGES = [
    CurriculumStage(seq_len=3, dim=4, batch=8, epochs=2),
    CurriculumStage(seq_len=6, dim=4, batch=4, epochs=1),
    CurriculumStage(seq_len=6, dim=8, batch=8, epochs=2),
]
ROWS = 24


class Net(nn.Module):
    """Mean of token vectors, dropout, a layer. ``dim``: width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(10, dim)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(dim, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.drop(self.table(tokens)).mean(1))
        return out


def rows(seq_len: int) -> list[tuple[Tensor, Tensor]]:
    tokens = torch.randint(10, (ROWS, 6), generator=torch.Generator().manual_seed(0))
    return [(row[:seq_len], row.float().mean()[None]) for row in tokens]


def builder(folder: Path | None, seen: list[Any], stop_at: int = -1) -> Build:
    def build(stage: CurriculumStage) -> tuple[Trainer, Any, Any]:
        assert stage.dim is not None
        assert stage.seq_len is not None
        assert stage.batch is not None
        model = Net(stage.dim)
        optimizer = get_optimizer(model, "adamw", lr=0.01)
        schedule = get_scheduler(optimizer, "linear", total_epochs=stage.epochs)
        trainer = Trainer(
            model,
            optimizer,
            schedule,
            device="cpu",
            ema=0.9,
            checkpoint_dir=folder,
            save_seconds=0,
            log_every=1,
        )
        trainer.reporter.show = False

        def note(metrics: dict[str, Any], step: int, prefix: str) -> None:
            seen.append((prefix, step, metrics["epoch"], stage.dim, metrics.get("lr")))
            if prefix == "train" and step == stop_at:
                trainer.stop()

        trainer.add_log_hook(note)
        data = rows(stage.seq_len)
        return trainer, Loader(data, stage.batch, shuffle=True), Loader(data, ROWS)

    return build


def train(folder: Path | None, stop_at: int = -1, resume: bool = False) -> tuple[Trainer, list[Any]]:
    seen: list[Any] = []
    trainer = CurriculumScheduler(STAGES).train(builder(folder, seen, stop_at), resume=resume)
    return trainer, seen


def digest(trainer: Trainer) -> list[Tensor]:
    assert trainer.parts.ema is not None
    tensors = [*trainer.task.state_dict().values(), *trainer.parts.ema.state_dict()["shadow"].values()]
    for state in trainer.optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    return tensors


def test_the_stages_follow_one_another() -> None:
    torch.manual_seed(0)
    trainer, seen = train(None)
    steps = [row for row in seen if row[0] == "train"]
    # 24 rows: 3 steps an epoch in batches of 8, 6 in batches of 4
    assert [row[1] for row in steps] == list(range(1, 19))
    assert [row[3] for row in steps] == [4] * 12 + [8] * 6
    assert trainer.state.epoch == 5
    assert trainer.state.history["epoch"] == [1, 2, 3, 4, 5]
    rates = [row[4] for row in steps]
    assert [i for i, rate in enumerate(rates) if rate == max(rates)] == [0, 6, 12]  # a schedule for each
    assert trainer.state.best_step is not None
    assert trainer.state.best_step > 12  # the best of a narrower model is no best of this one


def test_a_stage_of_equal_shapes_keeps_the_moments() -> None:
    torch.manual_seed(0)
    kept: dict[int, int] = {}
    seen: list[Any] = []
    inner = builder(None, seen)

    def build(stage: CurriculumStage) -> tuple[Trainer, Any, Any]:
        built = inner(stage)
        trainer = built[0]

        def note(metrics: dict[str, Any], step: int, prefix: str) -> None:
            kept[step] = int(next(iter(trainer.optimizer.state.values()))["step"])

        trainer.add_log_hook(note)
        return built

    CurriculumScheduler(STAGES).train(build)
    assert kept[6] == 6
    assert kept[12] == 12  # another batch and length: the optimiser goes on
    assert kept[18] == 6  # another width: it starts anew


@pytest.mark.parametrize("stop_at", [2, 6, 9, 12, 13, 17])
def test_a_resume_inside_any_stage_is_exact(stop_at: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole, seen = train(tmp_path / "whole")
    torch.manual_seed(0)
    with pytest.raises(_Stopped):
        _train_until(tmp_path / "cut", stop_at)
    torch.manual_seed(99)  # whatever a new process starts with
    resumed, rest = train(tmp_path / "cut", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(digest(whole), digest(resumed), strict=True))
    assert [row for row in rest if row[0] == "train"] == [
        row for row in seen if row[0] == "train" and row[1] > stop_at
    ]


class _Stopped(Exception):
    pass


def _train_until(folder: Path, stop_at: int) -> None:
    """Train and come to a sudden end after a step was saved, as a kill does."""
    inner = builder(folder, [])

    def build(stage: CurriculumStage) -> tuple[Trainer, Any, Any]:
        built = inner(stage)
        trainer, save = built[0], built[0].saver.save  # type: ignore[union-attr]

        def save_and_die(*args: Any, **options: Any) -> None:
            save(*args, **options)
            if trainer.state.step == stop_at:
                raise _Stopped

        trainer.saver.save = save_and_die  # type: ignore[method-assign, union-attr]
        return built

    CurriculumScheduler(STAGES).train(build)


def test_the_overlap_of_two_widths_is_carried_over() -> None:
    narrow, wide = Net(3), Net(5)
    before = {name: tensor.clone() for name, tensor in wide.state_dict().items()}
    assert carry_over({**narrow.state_dict(), "odd": torch.zeros(1)}, wide) == []
    torch.testing.assert_close(wide.table.weight[:, :3], narrow.table.weight)
    torch.testing.assert_close(wide.table.weight[:, 3:], before["table.weight"][:, 3:])
    torch.testing.assert_close(wide.head.weight[:, :3], narrow.head.weight)
    assert carry_over({"table.weight": torch.zeros(10)}, wide) == ["table.weight", "head.weight", "head.bias"]
    back = Net(2)
    carry_over(wide.state_dict(), back)
    torch.testing.assert_close(back.table.weight, narrow.table.weight[:, :2])


def test_the_stage_of_an_epoch() -> None:
    scheduler = CurriculumScheduler(STAGES)
    assert scheduler.total_epochs == 5
    assert [STAGES.index(scheduler.stage_at(epoch)) for epoch in range(7)] == [0, 0, 1, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CurriculumScheduler([]), "at least one stage"),
        (lambda: CurriculumScheduler([CurriculumStage(dim=0)]), "curriculum dim=0 is not allowed: 1 or more"),
        (
            lambda: CurriculumScheduler([CurriculumStage()]).train(
                lambda stage: (Trainer(Net(2), device="cpu", max_steps=3, checkpoint_dir=None), [], None)
            ),
            "counts in epochs",
        ),
    ],
)
def test_mistakes_are_explained(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_checkpoint_of_a_longer_curriculum_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(ConfigError, match="the checkpoint is of stage 3, the curriculum has 2"):
        CurriculumScheduler(STAGES[:2]).train(builder(tmp_path, []), resume=True)
