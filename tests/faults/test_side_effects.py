"""What a run does besides training, and where it was resumed, never changes what it ends with.

The full counts, a resume at each of 50 steps: ``pytest tests/faults/test_side_effects.py -m full``.
"""

import io
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.plain import Fit, Noisy, digests, plain
from torch.utils.data import DataLoader

from tinsmith import Trainer, get_scheduler
from tinsmith.engine.loggers import JsonlLogger

Digests = dict[str, str]
Hook = Callable[[dict[str, Any], int, str], None]
ACTS = ("evaluation", "sampling", "logging", "checkpointing", "progress")
LOADERS: list[dict[str, Any]] = [
    {"num_workers": 0},
    {"num_workers": 2},
    {"num_workers": 2, "persistent_workers": True},
    {"num_workers": 1, "prefetch_factor": 5},
]


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # no power is lost here


def trained(fit: Fit) -> Digests:
    """The digests of a run at its end, but for the history, which says what was looked at."""
    fit.go(resume=False)
    result = digests(fit.trainer)
    del result["history"]
    return result


def acting(folder: Path, acts: set[str]) -> Fit:
    """The plain run, with some of what a run may do besides training."""
    options: dict[str, Any] = {"log_every": 1 if "logging" in acts else 3, "progress": "progress" in acts}
    if "checkpointing" not in acts:
        options["checkpoint_dir"] = None
    fit = plain(folder, epochs=2, rows=44, eval_every=2, **options)
    if "evaluation" not in acts:
        fit.valid = None
    if "sampling" in acts:
        fit.trainer.add_log_hook(sampler(fit.trainer))
    if "logging" in acts:
        fit.trainer.add_log_hook(JsonlLogger(folder / "metrics.jsonl"))
    return fit


def sampler(trainer: Trainer) -> Hook:
    """Asks the model of noisy samples every third step."""
    loader = DataLoader(Noisy(6), batch_size=4)
    return lambda metrics, step, prefix: None if step % 3 else trainer.predict(loader)  # type: ignore[return-value]


def test_the_32_combinations_of_acts_end_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # the progress lines
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    alone = trained(acting(tmp_path / "alone", set()))
    for number, chosen in enumerate(itertools.product([False, True], repeat=len(ACTS))):
        acts = set(itertools.compress(ACTS, chosen))
        folder = tmp_path / str(number)
        assert trained(acting(folder, acts)) == alone, acts
        assert ("checkpointing" in acts) == (folder / "checkpoints").exists()
        assert ("logging" in acts) == (folder / "metrics.jsonl").exists()


def test_a_hook_that_draws_is_caught(tmp_path: Path) -> None:
    def draws(metrics: dict[str, Any], step: int, prefix: str) -> None:
        torch.rand(1)

    fit = acting(tmp_path, {"evaluation"})
    fit.trainer.add_log_hook(draws)
    wrong, right = trained(fit), trained(acting(tmp_path, {"evaluation"}))
    assert wrong["weights"] != right["weights"]
    assert wrong["rng"] != right["rng"]


def test_a_careless_evaluation_is_caught(tmp_path: Path) -> None:
    fit = acting(tmp_path, set())
    valid, model = DataLoader(Noisy(6), batch_size=4), fit.trainer.model
    # What people write: the loader draws a seed, the samples their noise.
    fit.trainer.add_log_hook(lambda *_: [model.eval()(x) for x, _ in valid] and model.train() and None)
    assert trained(fit)["weights"] != trained(acting(tmp_path, set()))["weights"]


@pytest.mark.parametrize("loader", LOADERS[1:], ids=str)
def test_workers_and_prefetch_end_alike(loader: dict[str, Any], tmp_path: Path) -> None:
    alone = trained(plain(tmp_path / "0", epochs=2))
    assert trained(plain(tmp_path / "1", epochs=2, loader=loader)) == alone


# ---- resumes ----------------------------------------------------------------------------------------

Make = Callable[..., Fit]


def unwatched(folder: Path, epochs: int, **options: Any) -> Fit:
    """Without a validation set: the mean training loss decides what is best, and here the rate as well."""
    fit = plain(folder, epochs, **options)
    fit.valid, optimizer = None, fit.trainer.optimizer
    schedule = get_scheduler(optimizer, "plateau", factor=0.5, patience=0)
    fit.trainer.scheduler = fit.trainer.parts.schedule = schedule
    return fit


def whole(make: Make, folder: Path, epochs: int, **options: Any) -> tuple[Digests, dict[int, Path]]:
    """A run that nobody touches: its end, and its checkpoint of every step."""
    fit = make(folder, epochs, keep_checkpoints=1000, eval_every=4, **options)
    fit.go()
    places = {int(path.name.split("-")[1]): path for path in fit.root.glob("step-*")}
    return digests(fit.trainer), places


def resumed(make: Make, place: Path, epochs: int, stop_at: int = 0, **options: Any) -> Fit:
    """The run, gone on with from the checkpoint ``place`` in a trainer of its own."""
    fit = make(place.parent / "elsewhere", epochs, eval_every=4, **options)
    torch.manual_seed(99)  # whatever a new process starts with
    fit.trainer.load_checkpoint(place)
    stop = fit.trainer.stop
    fit.trainer.add_log_hook(lambda metrics, step, prefix: stop() if step == stop_at else None)
    fit.go(resume=False)
    return fit


def resume_everywhere(make: Make, folder: Path, epochs: int, steps: int, **options: Any) -> None:
    end, places = whole(make, folder, epochs, **options)
    assert sorted(places) == list(range(1, steps + 1))
    wrong = {}
    for step, place in places.items():
        after = digests(resumed(make, place, epochs, checkpoint_dir=None, **options).trainer)
        wrong[step] = [name for name in end if after[name] != end[name]]
    assert not any(wrong.values()), {step: names for step, names in wrong.items() if names}


@pytest.mark.parametrize("accumulate", [2, 3, 1])
def test_a_resume_at_any_step_ends_alike(accumulate: int, tmp_path: Path) -> None:
    per_epoch = {1: 9, 2: 5, 3: 3}[accumulate]  # nine batches, the last one short
    epochs = 5 if accumulate == 2 else 2
    resume_everywhere(plain, tmp_path, epochs, epochs * per_epoch, accumulate=accumulate)


def test_a_resume_at_any_step_ends_alike_where_nothing_validates(tmp_path: Path) -> None:
    resume_everywhere(unwatched, tmp_path, epochs=4, steps=20)


@pytest.mark.full
@pytest.mark.parametrize("loader", LOADERS, ids=str)
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_a_resume_at_any_of_fifty_steps_ends_alike(
    accumulate: int, loader: dict[str, Any], tmp_path: Path
) -> None:
    per_epoch = {1: 9, 2: 5, 3: 3}[accumulate]
    epochs = -(-50 // per_epoch)
    resume_everywhere(plain, tmp_path, epochs, epochs * per_epoch, accumulate=accumulate, loader=loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_three_resumes_in_one_epoch_and_other_workers(workers: int, tmp_path: Path) -> None:
    end, places = whole(plain, tmp_path, epochs=3, accumulate=1)
    place = places[10]
    for step in (12, 14, 17):  # of the second epoch, steps 10 to 18
        fit = resumed(plain, place, 3, stop_at=step, accumulate=1, loader={"num_workers": workers})
        place = max(fit.root.glob("step-*"))
        assert f"step-{step:08d}" in place.name
    assert digests(resumed(plain, place, 3, accumulate=1).trainer) == end


def test_a_resume_that_forgets_is_caught(tmp_path: Path) -> None:
    end, places = whole(plain, tmp_path, epochs=2)
    fit = plain(tmp_path / "other", 2, eval_every=4)
    fit.trainer.load_checkpoint(places[4])
    fit.trainer.loop.means = type(fit.trainer.loop.means)()
    fit.go(resume=False)
    after = digests(fit.trainer)
    assert [name for name in end if after[name] != end[name]] == ["history"]
