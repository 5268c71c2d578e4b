"""Several processes give what one gives: curve, resume, guard; and nobody waits for one that is gone."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

JOBS = Path(__file__).with_name("rank_jobs.py")


def start(jobs: str, folder: Path, size: int) -> list[subprocess.Popen[str]]:
    """The processes of some jobs; one that is alone knows of no others."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    meeting |= {"LOCAL_WORLD_SIZE": str(size), "TINSMITH_NPROC": str(size), "OMP_NUM_THREADS": "1"}
    alone = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    return [
        subprocess.Popen(
            [sys.executable, str(JOBS), jobs, str(folder)],
            env=alone if size == 1 else {**alone, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def run(jobs: str, folder: Path, size: int) -> None:
    """Run jobs to their end; a failure shows what the process wrote."""
    for process in start(jobs, folder, size):
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-3000:]


def found(folder: Path, job: str, size: int, rank: int = 0) -> Any:
    return json.loads((folder / f"{job}-{size}-{rank}.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one, two and three processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    run("exchanged,same_curve,resumed,begun,poisoned,unweighted,forgetful", folder, 2)
    run("same_curve", folder, 3)
    run("same_curve,gone_on", folder, 1)
    return folder


def far(a: dict[str, Any], b: dict[str, Any], key: str = "losses") -> float:
    assert len(a[key]) == len(b[key])
    return max(abs(x - y) for x, y in zip(a[key], b[key], strict=True))


def weights(curve: dict[str, Any]) -> torch.Tensor:
    return torch.cat([torch.tensor(value).flatten() for value in curve["weights"].values()])


@pytest.mark.parametrize("size", [2, 3])
def test_the_loss_curve_is_that_of_one_process(folder: Path, size: int) -> None:
    alone, together = found(folder, "same_curve", 1), found(folder, "same_curve", size)
    assert [len(curve["losses"]) for curve in alone] == [15, 6, 5]
    for one, many in zip(alone, together, strict=True):
        assert far(one, many) < 1e-5
        assert far(one, many, "valid") < 1e-5
        torch.testing.assert_close(weights(one), weights(many), atol=1e-5, rtol=0)


def test_all_processes_have_the_same_weights_to_the_bit(folder: Path) -> None:
    for job in ("same_curve", "resumed"):
        for first, second in zip(found(folder, job, 2), found(folder, job, 2, rank=1), strict=True):
            assert first["weights"] == second["weights"]


def test_a_resume_is_exact_with_noise_of_every_process(folder: Path) -> None:
    stretch, parts = found(folder, "resumed", 2)
    assert stretch["step"] == parts["step"] == 13
    assert stretch["losses"][7:] == parts["losses"]
    assert stretch["weights"] == parts["weights"]


def test_planted_bugs_are_caught(folder: Path) -> None:
    assert far(found(folder, "same_curve", 1)[0], found(folder, "unweighted", 2)) > 1e-4
    stretch, parts = found(folder, "forgetful", 2)
    assert stretch["losses"][7:] != parts["losses"]


def test_one_process_goes_on_with_what_two_began(folder: Path) -> None:
    alone, together = found(folder, "same_curve", 1)[0], found(folder, "begun", 2)
    after = found(folder, "gone_on", 1)
    assert (len(together["losses"]), len(after["losses"])) == (7, 6)
    whole = {"losses": together["losses"] + after["losses"]}
    assert far({"losses": alone["losses"][:13]}, whole) < 1e-5


def test_what_one_process_finds_all_of_them_say(folder: Path) -> None:
    first, second = (found(folder, "poisoned", 2, rank) for rank in (0, 1))
    assert first["message"] == second["message"]
    assert "values of sample 11" in first["message"]
    assert "not moved" in first["message"]
    assert first["skipped"] == second["skipped"] == 2  # once an epoch
    assert first["after"]["weights"] == second["after"]["weights"]
    assert torch.isfinite(weights(first["after"])).all()


def test_json_and_tensors_arrive_as_they_were(folder: Path) -> None:
    for rank in (0, 1):
        got = found(folder, "exchanged", 2, rank)
        assert [row["rank"] for row in got["gathered"]] == [0, 1]
        assert all(row["nan"] != row["nan"] for row in got["gathered"])
        assert (got["shared"], got["nothing"]) == ("from 0", None)
        assert got["trees"] == [[0, []], [1, [7.0]]]
        assert got["parts"] == {"x": [0, 1, 2], "empty": []}


def test_a_killed_process_is_named_within_seconds(tmp_path: Path) -> None:
    processes = start("dying", tmp_path, 2)
    processes[1].communicate(timeout=120)
    start_of_wait = time.monotonic()
    processes[0].communicate(timeout=60)
    assert time.monotonic() - start_of_wait < 15
    message = found(tmp_path, "dying", 2)
    assert f"rank 1 (process {processes[1].pid} on " in message
    assert "is gone" in message
    assert "resume" in message
