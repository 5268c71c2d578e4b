"""Two hosts, each a network namespace with an address of its own: they train together, and one is cut off.

Needs root on Linux with ``ip``; run by ``pytest tests/faults/test_two_hosts.py -m full``.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinsmith.engine import checkpoint
from tinsmith.engine.loggers import read_metrics

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from families.tiny import codec

HOSTS = ("tinsmith-a", "tinsmith-b")

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None,
        reason="network namespaces need root on Linux",
    ),
]


def ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


@pytest.fixture
def network() -> Iterator[None]:
    """Two namespaces joined by a cable: 10.77.0.1 and 10.77.0.2."""
    for name in HOSTS:
        ip("netns", "del", name, check=False)
    for name in HOSTS:
        ip("netns", "add", name)
    ip("link", "add", "cable", "netns", HOSTS[0], "type", "veth", "peer", "name", "cable", "netns", HOSTS[1])
    for number, name in enumerate(HOSTS, 1):
        ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "cable")
        ip("-n", name, "link", "set", "cable", "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield
    for name in HOSTS:
        ip("netns", "del", name, check=False)


def start(folder: Path, *words: str) -> list[subprocess.Popen[str]]:
    """The same command line on both hosts, each in a folder of its own; only the first one's gets a run."""
    processes = []
    for number, name in enumerate(HOSTS):
        place = ["--hosts", "2", "--host-rank", str(number), "--head", "10.77.0.1:29500"]
        (folder / name).mkdir(exist_ok=True)
        processes.append(
            subprocess.Popen(
                ["ip", "netns", "exec", name, sys.executable, "-m", "tinsmith", *words, *place],
                cwd=folder / name,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    return processes


def settings(folder: Path) -> list[str]:
    words = [word for word in codec(folder) if not word.startswith("trainer.max_steps")]
    return [
        *words,
        "device=cpu",
        "threads=1",
        "trainer.log_every=1",
        "model.dropout=0",
        "logger.tensorboard=false",
    ]


@pytest.mark.usefixtures("network")
def test_two_hosts_train_together(tmp_path: Path) -> None:
    words = [*settings(tmp_path), "trainer.max_steps=12"]
    for process in start(tmp_path, "train", "codec", *words):
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-3000:]
    assert not (tmp_path / HOSTS[1] / "runs").exists()
    alone = [sys.executable, "-m", "tinsmith", "train", "codec", *words, "--run-dir", str(tmp_path / "alone")]
    subprocess.run(alone, check=True, capture_output=True)
    one, two = (
        [row["loss"] for row in read_metrics(root / "codec/0001/metrics.jsonl") if row["split"] == "train"]
        for root in (tmp_path / "alone", tmp_path / HOSTS[0] / "runs")
    )
    assert len(one) == len(two) == 12
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-5


@pytest.mark.usefixtures("network")
def test_a_host_that_is_cut_off_is_named_within_30_seconds_and_the_run_goes_on(tmp_path: Path) -> None:
    words = [*settings(tmp_path), "trainer.max_steps=1000000", "trainer.save_seconds=0.5"]
    first, second = start(tmp_path, "train", "codec", *words)
    metrics = tmp_path / HOSTS[0] / "runs/codec/0001/metrics.jsonl"
    for _ in range(1200):
        if metrics.exists() and metrics.read_text().count("\n") >= 30:
            break
        assert first.poll() is None, first.communicate()[1][-3000:]
        time.sleep(0.05)
    ip("-n", HOSTS[1], "link", "set", "cable", "down")
    cut = time.monotonic()
    for process, other in ((first, "rank 1"), (second, "rank 0")):
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - cut < 30
        assert process.returncode == 7, errors[-3000:]
        assert f"{other} (process " in errors
        assert "is gone" in errors
        assert "Traceback" not in errors
    run = tmp_path / HOSTS[0] / "runs/codec/0001"
    newest = checkpoint.read_newest(run / "checkpoints")
    assert newest is not None
    more = f"trainer.max_steps={newest[2]['global_step'] + 3}"
    command = [sys.executable, "-m", "tinsmith", "resume", str(run), more]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
