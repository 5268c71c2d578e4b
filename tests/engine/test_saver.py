"""Saving in the background: what is written is the state of its step, one at a time, and no error is lost."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tinsmith.engine import checkpoint, saver
from tinsmith.engine.checkpoint import find_checkpoints, read_checkpoint
from tinsmith.engine.data import Loader
from tinsmith.engine.snapshot import copy_tensors
from tinsmith.engine.trainer import Trainer
from tinsmith.errors import ResourceError


@pytest.fixture
def in_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saver, "_BACKGROUND_BYTES", 0)


def make(folder: Path, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 1))
    settings = {"save_seconds": 0, "keep_checkpoints": 99, "log_every": 1, "ema": 0.9, **settings}
    return Trainer(model, device="cpu", progress=False, checkpoint_dir=folder, **settings)


def loader() -> Loader:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    return Loader([(row, row.sum()[None]) for row in x], 4, shuffle=True)


def slow(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[str]:
    """Make every write of a checkpoint take that long; the names of the threads that wrote."""
    write, threads = checkpoint.write_checkpoint, []

    def wait_and_write(*args: Any) -> None:
        threads.append(threading.current_thread().name)
        time.sleep(seconds)
        write(*args)

    monkeypatch.setattr(checkpoint, "write_checkpoint", wait_and_write)
    return threads


@pytest.mark.usefixtures("in_background")
def test_a_state_is_that_of_its_step_though_training_went_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, kept = make(tmp_path), {}

    def keep(metrics: dict[str, Any], step: int, prefix: str) -> None:
        kept[step] = {name: tensor.clone() for name, tensor in trainer.task.state_dict().items()}

    trainer.add_log_hook(keep)
    threads = slow(monkeypatch, 0.02)
    trainer.fit(loader(), epochs=3)
    found = find_checkpoints(tmp_path)
    assert found[0].step == 30
    assert 1 < len(found) < 30  # training did not wait for the writer
    assert threads[-1] == "MainThread"  # the last one does
    assert "MainThread" not in threads[:-1]
    for item in found:
        parts, _ = read_checkpoint(item.path)
        assert all(torch.equal(parts["model"][name], tensor) for name, tensor in kept[item.step].items())


@pytest.mark.usefixtures("in_background")
def test_a_resume_from_a_state_saved_in_the_background_is_exact(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole")
    whole.fit(loader(), epochs=3)
    first = make(tmp_path / "cut")
    first.add_log_hook(lambda metrics, step, prefix: first.stop() if step == 13 else None)
    first.fit(loader(), epochs=3)
    newest = find_checkpoints(tmp_path / "cut")
    for item in newest[:1]:  # the last one, of the end of fit; those before are the background's
        (item.path / checkpoint.STATE).unlink()
    torch.manual_seed(99)
    resumed = make(tmp_path / "cut")
    resumed.fit(loader(), epochs=3, resume=True)
    for name, tensor in whole.task.state_dict().items():
        assert torch.equal(tensor, resumed.task.state_dict()[name])


@pytest.mark.usefixtures("in_background")
def test_an_error_of_the_writer_is_raised_at_a_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, written = make(tmp_path), []
    write = checkpoint.write_checkpoint

    def full(folder: Path, *args: Any) -> None:
        written.append(folder)
        if len(written) == 2:
            time.sleep(0.01)
            raise ResourceError("the disk is full")
        write(folder, *args)

    monkeypatch.setattr(checkpoint, "write_checkpoint", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        trainer.fit(loader(), epochs=500)
    assert 2 <= trainer.state.step < 4000
    assert len(written) == 2
    assert len(find_checkpoints(tmp_path)) == 1
    assert threading.active_count() == 1 or not any("try_to_write" in t.name for t in threading.enumerate())


@pytest.mark.usefixtures("in_background")
def test_fit_waits_for_the_writer_whatever_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(tmp_path)
    slow(monkeypatch, 0.2)

    class Mistake(Exception):
        pass

    def broken(*args: Any) -> bool:
        raise Mistake

    trainer.add_log_hook(lambda metrics, step, prefix: setattr(trainer.reporter, "step", broken))
    with pytest.raises(Mistake):
        trainer.fit(loader(), epochs=3)
    assert [item.step for item in find_checkpoints(tmp_path)] == [1]


def test_what_is_small_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = slow(monkeypatch, 0)
    make(tmp_path).fit(loader(), epochs=1)
    assert set(threads) == {"MainThread"}


def test_copies_are_apart_and_tied_tensors_stay_tied() -> None:
    tied, view = torch.randn(3), torch.randn(4, 4).T
    parts = {"model": {"a": tied, "b": tied, "t": view, "none": torch.empty(0)}, "extra": {}}
    buffers: dict[str, Tensor] = {}
    copies = copy_tensors(parts, buffers)
    assert copies.keys() == parts.keys()
    assert copies["model"]["a"] is copies["model"]["b"]
    assert torch.equal(copies["model"]["t"], view)
    before = copies["model"]["a"]
    tied.add_(1)
    assert not torch.equal(before, tied)
    assert copy_tensors(parts, buffers)["model"]["a"] is before  # written over, not made anew
    assert torch.equal(before, tied)


def test_an_older_checkpoint_starts_a_branch_of_its_own(tmp_path: Path) -> None:
    """What is trained from it is neither pruned as old nor passed over for what it left behind."""
    first = make(tmp_path, keep_checkpoints=2)
    first.fit(loader(), epochs=2)
    older = min(find_checkpoints(tmp_path), key=lambda item: item.step)
    assert older.step < 20
    branch = make(tmp_path, keep_checkpoints=2)
    branch.load_checkpoint(older.path)
    branch.max_steps = older.step + 1
    branch.fit(loader())
    again = make(tmp_path)
    again.load_checkpoint(tmp_path)
    assert again.state.step == older.step + 1
    assert {item.step for item in find_checkpoints(tmp_path)} >= {20, older.step + 1}


def test_the_best_of_a_failed_save_is_written_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(tmp_path, save_seconds=1e9)
    trainer.fit(loader(), epochs=1)
    assert trainer.saver is not None
    trainer.state.best_step, trainer.state.best_metric = trainer.state.step, 0.5
    trainer.saver.remember_best(trainer)
    trainer.state.step += 1
    with monkeypatch.context() as patch:
        patch.setattr(
            checkpoint, "write_checkpoint", lambda *args: (_ for _ in ()).throw(ResourceError("full"))
        )
        with pytest.raises(ResourceError):
            trainer.saver.save(trainer)
    trainer.saver.save(trainer)
    best = [item.step for item in find_checkpoints(tmp_path) if item.metric == 0.5]
    assert best == [trainer.state.step - 1]
