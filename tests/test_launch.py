"""``--nproc``: one run of several processes from the command line, and what becomes of it when one dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tinsmith.cli import main
from tinsmith.engine import checkpoint
from tinsmith.engine.loggers import read_metrics
from tinsmith.errors import ConfigError
from tinsmith.launch import Place

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from families.tiny import codec


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run that is long enough to be disturbed."""
    words = [*codec(tmp_path_factory.mktemp("codec")), "trainer.max_steps=400"]
    words.append("optimizer.name=adamw")  # Muon may round to bf16, which shows the order of the sums
    return [*words, "device=cpu", "threads=2", "trainer.log_every=1", "logger.tensorboard=false"]


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """A command line in a process of its own."""
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "tinsmith", *words],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(folder: Path, *words: str) -> tuple[int, str]:
    """Exit code and stderr."""
    process = start(folder, *words)
    _, errors = process.communicate(timeout=180)
    return process.returncode, errors


def losses(folder: Path) -> list[float]:
    rows = read_metrics(folder / "runs/codec/0001/metrics.jsonl")
    return [row["loss"] for row in rows if row["split"] == "train"]


def weights(folder: Path) -> dict[str, Any]:
    newest = checkpoint.read_newest(folder / "runs/codec/0001/checkpoints")
    assert newest is not None
    return {
        f"{stem}/{name}": tensor
        for stem in ("model", "optimizer")
        for name, tensor in newest[1][stem].items()
    }


def after_steps(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until a run has logged so many steps."""
    for _ in range(1200):
        file = folder / "runs/codec/0001/metrics.jsonl"
        if file.exists() and file.read_text().count("\n") >= count:
            return
        assert process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.05)
    raise AssertionError("the run did not come so far")


def rank(process: subprocess.Popen[str], number: int) -> psutil.Process:
    """The process of a rank."""
    children = psutil.Process(process.pid).children(recursive=True)
    return next(child for child in children if child.environ().get("RANK") == str(number))


@pytest.fixture(scope="module")
def together(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing disturbed."""
    folder = tmp_path_factory.mktemp("together")
    code, errors = run(folder, "train", "codec", *settings, "--nproc", "2")
    assert code == 0, errors[-3000:]
    return folder


def test_two_processes_leave_one_run_with_the_curve_of_one(
    together: Path, settings: list[str], tmp_path: Path
) -> None:
    assert [path.name for path in (together / "runs/codec").glob("[0-9]*")] == ["0001"]
    record = json.loads((together / "runs/codec/0001/run.json").read_text())
    assert (record["status"], record["steps"]) == ("done", 400)
    assert main(["train", "codec", *settings, "--run-dir", str(tmp_path / "runs"), "--quiet"]) == 0
    one, two = losses(tmp_path), losses(together)
    assert len(one) == len(two) == 400
    assert max(abs(a - b) for a, b in zip(one[:50], two[:50], strict=True)) < 1e-5


def test_ctrl_c_saves_and_a_resume_is_exact(together: Path, settings: list[str], tmp_path: Path) -> None:
    process = start(tmp_path, "train", "codec", *settings, "--nproc", "2")
    after_steps(tmp_path, 8, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 130, errors[-3000:]
    assert "Traceback" not in errors
    stopped = checkpoint.read_newest(tmp_path / "runs/codec/0001/checkpoints")
    assert stopped is not None
    assert 8 <= stopped[2]["global_step"] < 400
    assert f"SIGINT at step {stopped[2]['global_step']}. A checkpoint is in" in errors
    goes_on_as_if_nothing_had_been(tmp_path, together)


def test_a_killed_process_ends_the_run_by_name_and_a_resume_is_exact(
    together: Path, settings: list[str], tmp_path: Path
) -> None:
    process = start(tmp_path, "train", "codec", *settings, "trainer.save_seconds=0.1", "--nproc", "2")
    after_steps(tmp_path, 30, process)
    victim = rank(process, 1)
    victim.kill()
    killed = time.monotonic()
    _, errors = process.communicate(timeout=90)
    assert time.monotonic() - killed < 30
    assert process.returncode == 7, errors[-3000:]
    assert f"rank 1 (process {victim.pid}) was ended by SIGKILL" in errors
    assert "resume last --nproc 2" in errors
    assert "Traceback" not in errors
    assert checkpoint.read_newest(tmp_path / "runs/codec/0001/checkpoints") is not None
    goes_on_as_if_nothing_had_been(tmp_path, together)


def goes_on_as_if_nothing_had_been(folder: Path, together: Path) -> None:
    code, errors = run(folder, "resume", "last", "--nproc", "2")
    assert code == 0, errors[-3000:]
    assert losses(folder) == losses(together)
    after, before = weights(folder), weights(together)
    assert after.keys() == before.keys()
    assert all(after[name].equal(before[name]) for name in after)


def test_a_mistake_is_told_once(settings: list[str], tmp_path: Path) -> None:
    code, errors = run(tmp_path, "train", "codec", *settings, "data.path=nowhere.jsonl", "--nproc", "2")
    assert (code, errors.count("nowhere.jsonl")) == (3, 1), errors
    assert errors.startswith("error:")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("place", "what"),
    [
        (Place(0), "--nproc 0"),
        (Place(1, hosts=2, host=2, head="a:1"), "--host-rank 2"),
        (Place(1, hosts=2), "--head NAME:PORT"),
        (Place(1, hosts=2, head="a"), "--head NAME:PORT"),
        (Place(1, hosts=0), "--hosts 0"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(place: Place, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        place.validate()


def test_fewer_processes_than_asked_for_are_noticed(settings: list[str], tmp_path: Path) -> None:
    """Each process knows how many were started: a launcher that starts fewer trains nothing unnoticed."""
    meeting = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "TINSMITH_NPROC": "3",
    }
    meeting |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29717", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tinsmith", "train", "codec", *settings, "trainer.max_steps=2"]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **meeting, "RANK": rank, "LOCAL_RANK": rank},
            cwd=tmp_path,
            text=True,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        for rank in "01"
    ]
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert [code for _, code in ended] == [2, 2]
    assert "3 processes were asked for, 2 found each other" in ended[0][0]
