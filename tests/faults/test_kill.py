"""A run that is killed and resumed, again and again, ends with the bits of the run that was never killed.

The full counts, 400 kills of each family: ``pytest tests/faults/test_kill.py -m full``.
"""

import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import resume
from families.tiny import COMMON, TINY, build
from faults.forks import Child, Kill, Plant, attempt, die_at_change, differences, kill_again_and_again, trace
from faults.plain import Fit, Run, forget_average, forget_generators, forget_moments, plain, skip_a_sample

from tinsmith.cli import main
from tinsmith.engine import saver
from tinsmith.engine.checkpoint import read_newest

# What makes a family draw at random.
NOISE = {name: ["model.dropout=0.1"] for name in ("codec", "lm", "seq2seq")}
STEPS = {"max_steps": 24, "eval_every": 5, "ema": 0.9, "accumulate": 3, "save_seconds": 0}


def family(name: str, data: Path, folder: Path) -> Fit:
    """The tiny run of a family, with all that a resume can get wrong."""
    built = build(name, data, *NOISE.get(name, []))
    trainer = built.trainer(folder / "checkpoints", **STEPS)
    return Fit(trainer, built.data.train, built.data.valid)


@pytest.fixture(scope="module", params=["plain", "background", *TINY])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Has trained once already in this process: the children need not load what torch loads late."""
    folder = tmp_path_factory.mktemp(request.param)
    made: Run = partial(family, request.param, folder) if request.param in TINY else plain
    first = made(folder / "warm")
    first.trainer.train_epoch(first.train)
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "background":  # no state is too small for a thread to save
            patch.setattr(saver, "_BACKGROUND_BYTES", 0)
        yield made


def test_killed_at_random_instants_and_inside_saves(run: Run, tmp_path: Path) -> None:
    survives(run, tmp_path, kills=40)


@pytest.mark.full
def test_killed_four_hundred_times(run: Run, tmp_path: Path) -> None:
    survives(run, tmp_path, kills=400)


def survives(run: Run, folder: Path, kills: int) -> None:
    counts = kill_again_and_again(run, folder, kills)
    assert counts["operation"] > kills / 6
    assert counts["instant"] > kills / 3
    assert counts["resumed"] > kills / 2  # the others were killed before there was a checkpoint


def test_killed_twice_inside_an_epoch_and_once_at_its_end(tmp_path: Path) -> None:
    # 70 rows, 8 a batch, 2 batches a step: 5 steps an epoch, and each is saved. A child dies before its save.
    attempt(plain, tmp_path / "whole")
    places = []
    for step in (3, 4, 6):
        assert not attempt(plain, tmp_path / "killed", Kill("step", step))
        newest = read_newest(tmp_path / "killed" / "checkpoints")
        assert newest is not None
        places.append([newest[2][key] for key in ("global_step", "epoch", "cursor")])
    assert places == [[2, 0, 32], [3, 0, 48], [5, 1, 0]]
    assert attempt(plain, tmp_path / "killed")
    assert differences(tmp_path / "whole", tmp_path / "killed") == []
    taken = [row["step"] for row in trace(tmp_path / "killed")]
    assert taken == [1, 2, 3, 3, 4, 4, 5, 6, *range(6, 26)]


@pytest.mark.parametrize("options", [{"loader": {"num_workers": 2}}, {"mixed_precision": "bf16"}], ids=str)
def test_killed_with(options: dict[str, object], tmp_path: Path) -> None:
    other = partial(plain, epochs=2, **options)
    attempt(other, tmp_path / "whole")
    assert not attempt(other, tmp_path / "killed", Kill("step", 8))
    assert attempt(other, tmp_path / "killed")
    assert differences(tmp_path / "whole", tmp_path / "killed") == []


# ---- through the command line -----------------------------------------------------------------------


def command(words: list[str], place: Path, change: int = 0) -> None:
    """``tinsmith train``, or where there is a run ``tinsmith resume``; dies before a change of the files."""
    if change:
        die_at_change(change)
    found = sorted((place / "codec").glob("[0-9]*/config.yaml"))
    train = ["train", "codec", *words, "--run-dir", str(place)]
    assert main([*(["resume", str(found[-1].parent)] if found else train), "--quiet"]) == 0


def test_a_killed_command_resumes_and_its_log_is_whole(tmp_path: Path) -> None:
    rng = random.Random(1)
    options = [f"trainer.{name}={value}" for name, value in STEPS.items()]
    words = [*TINY["codec"].settings(tmp_path), *COMMON, *NOISE["codec"], *options]
    assert Child(lambda _: command(words, tmp_path / "whole"), tmp_path).ended()
    killed = 0
    for _ in range(8):
        change = rng.randint(1, 150)
        if Child(lambda _, n=change: command(words, tmp_path / "killed", n), tmp_path).ended():
            break
        killed += 1
    else:
        assert Child(lambda _: command(words, tmp_path / "killed"), tmp_path).ended()
    assert killed >= 4
    one, two = (sorted((tmp_path / name / "codec").glob("[0-9]*"))[-1] for name in ("whole", "killed"))
    assert resume.differences(one, two) == []


@pytest.mark.full
@pytest.mark.parametrize("name", ["plain", "codec"])
def test_killed_twenty_times_in_new_processes(name: str, tmp_path: Path) -> None:
    words = [*TINY["codec"].settings(tmp_path), *COMMON, "trainer.max_steps=40", "trainer.save_seconds=0"]
    start = resume.plain() if name == "plain" else resume.codec(words)
    seconds = resume.run_child(start(tmp_path / "whole"), None)
    assert len(resume.kill_and_resume(start, tmp_path / "killed", 20, seconds, seed=20)) == 20
    assert resume.differences(tmp_path / "whole", tmp_path / "killed") == []


# ---- the tester, tested -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bug", "shown"),
    [
        (forget_average, {"ema"}),
        (forget_generators, {"weights", "rng", "step 8: loss"}),
        (forget_moments, {"weights", "optimizer", "step 9: loss"}),
        (skip_a_sample, {"weights", "step 8: samples"}),
    ],
)
def test_a_planted_bug_is_caught(bug: Plant, shown: set[str], tmp_path: Path) -> None:
    attempt(plain, tmp_path / "whole")
    attempt(plain, tmp_path / "killed", Kill("step", 8))  # inside the second epoch
    attempt(plain, tmp_path / "killed", plant=bug)
    assert shown <= set(differences(tmp_path / "whole", tmp_path / "killed"))


def test_a_child_that_fails_or_hangs_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(folder: Path) -> Fit:
        raise RuntimeError("no such data")

    def hangs(folder: Path) -> Fit:
        time.sleep(600)
        raise AssertionError

    with pytest.raises(AssertionError, match="RuntimeError: no such data"):
        attempt(fails, tmp_path)
    monkeypatch.setattr("faults.forks.WATCHDOG", 0.1)
    with pytest.raises(AssertionError, match="no step in"):
        attempt(hangs, tmp_path)
