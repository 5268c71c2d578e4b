"""metrics.jsonl, TensorBoard's event file, and what happens when a logger fails."""

import errno
import json
import logging
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from tinsmith.engine.loggers import JsonlLogger, SafeHook, TensorBoardLogger, read_metrics
from tinsmith.errors import DataError


def write_log(path, steps) -> bytes:
    log = JsonlLogger(path)
    for step in steps:
        log({"epoch": 1, "loss": 1 / step, "lr": 3e-4}, step, "train")
    log.close()
    return path.read_bytes()


def steps_of(path) -> list[int]:
    return [row["step"] for row in read_metrics(path)]


def test_a_row_has_step_split_metrics_and_time(tmp_path):
    log = JsonlLogger(tmp_path / "run" / "metrics.jsonl")
    log({"epoch": 2, "loss": 0.25, "note": "é"}, 7, "val")
    log.close()
    (row,) = read_metrics(log.path)
    assert abs(row.pop("time") - os.stat(log.path).st_mtime) < 5
    assert row == {"step": 7, "split": "val", "epoch": 2, "loss": 0.25, "note": "é"}


def test_floats_come_back_bit_for_bit(tmp_path):
    log = JsonlLogger(tmp_path / "m.jsonl")
    value = 0.1 + 0.2
    log({"loss": value, "np": np.float32(0.1), "count": np.int64(3)}, 1, "train")
    (row,) = read_metrics(log.path)
    assert (row["loss"], row["np"], row["count"]) == (value, float(np.float32(0.1)), 3)


def test_non_finite_values_are_valid_json_and_come_back(tmp_path):
    log = JsonlLogger(tmp_path / "m.jsonl")
    log({"loss": math.nan, "up": np.float32(math.inf), "down": [-math.inf, 1.0], "lr": 1e-3}, 1, "train")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    row = json.loads(log.path.read_text(), parse_constant=refuse)
    assert (row["loss"], row["up"], row["down"]) == ("nan", "inf", ["-inf", 1.0])
    (row,) = read_metrics(log.path)
    assert math.isnan(row["loss"])
    assert row["up"] == math.inf
    assert row["lr"] == 1e-3


@pytest.mark.parametrize("resume_step", [0, 20, 33, 50, 99])
def test_a_resume_moves_the_rows_after_its_step_to_the_orphan_file(tmp_path, resume_step):
    path = tmp_path / "metrics.jsonl"
    data = write_log(path, range(1, 51))
    path.write_bytes(data + b'{"step": 51, "lo')
    log = JsonlLogger(path, resume_step=resume_step)
    log({"loss": 0.0}, resume_step + 1, "train")
    log.close()
    kept = min(resume_step, 50)
    assert steps_of(path) == [*range(1, kept + 1), resume_step + 1]
    orphan = tmp_path / "metrics.jsonl.orphan"
    assert (steps_of(orphan) if orphan.exists() else []) == list(range(kept + 1, 51))


def test_the_validation_row_of_the_resumed_step_stays(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = JsonlLogger(path)
    for step, split in [(10, "train"), (10, "val"), (20, "train"), (20, "val")]:
        log({}, step, split)
    log.close()
    JsonlLogger(path, resume_step=10).close()
    assert [(row["step"], row["split"]) for row in read_metrics(path)] == [(10, "train"), (10, "val")]


def test_two_resumes_keep_both_orphans(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_log(path, range(1, 6))
    JsonlLogger(path, resume_step=3).close()
    write_log(path, [4])
    JsonlLogger(path, resume_step=2).close()
    assert steps_of(path) == [1, 2]
    assert steps_of(tmp_path / "metrics.jsonl.orphan") == [4, 5, 3, 4]


def test_a_full_disk_leaves_no_torn_line(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    write_log(path, [1])
    log = JsonlLogger(path)
    whole_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, line: whole_write(fd, line[:11]))
    with pytest.raises(OSError, match="no room") as caught:
        log({"loss": 2.0}, 2, "train")
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    log({"loss": 3.0}, 3, "train")
    assert [json.loads(line)["step"] for line in path.read_bytes().splitlines()] == [1, 3]


def test_a_damaged_line_is_named_and_left_out(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    data = write_log(path, [1, 2, 3]).splitlines(keepends=True)
    path.write_bytes(data[0] + b"\0\0\0\n" + data[2])
    assert steps_of(path) == [1, 3]
    assert f"{path}:2 is not a JSON object" in caplog.text


def test_reading_where_nothing_was_logged_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"no metrics at .*metrics\.jsonl"):
        read_metrics(tmp_path / "metrics.jsonl")


def events_of(folder) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in seen.Scalars(tag)] for tag in seen.Tags()["scalars"]}


def test_tensorboard_reads_the_scalars_and_nothing_else(tmp_path):
    log = TensorBoardLogger(tmp_path / "tb")
    assert not (tmp_path / "tb").exists()
    log({"epoch": 1, "loss": 0.5, "note": "text"}, 10, "train")
    log({"loss": 0.25}, 10, "val")
    assert events_of(tmp_path / "tb") == {
        "train/epoch": [(10, 1.0)],
        "train/loss": [(10, 0.5)],
        "val/loss": [(10, 0.25)],
    }
    log.close()
    log.close()


def test_tensorboard_forgets_what_a_resume_does_again(tmp_path):
    killed = TensorBoardLogger(tmp_path)
    for step in range(1, 7):
        killed({"loss": 1.0}, step, "train")
    killed.close()
    resumed = TensorBoardLogger(tmp_path, purge_step=4)
    resumed({"loss": 2.0}, 4, "train")
    resumed.close()
    assert events_of(tmp_path)["train/loss"] == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]


def test_neither_torch_nor_tensorflow_is_imported(tmp_path):
    script = (
        "import sys\n"
        "from tinsmith.engine.loggers import JsonlLogger, TensorBoardLogger\n"
        "assert 'tensorboard' not in sys.modules\n"
        f"log = TensorBoardLogger({str(tmp_path)!r}); log({{'loss': 1.0}}, 1, 'train'); log.close()\n"
        "assert not {'torch', 'tensorflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


class Broken:
    """A logger whose server is gone from the second call on."""

    def __init__(self) -> None:
        self.calls = 0
        self.closed = False

    def __call__(self, metrics, step, prefix) -> None:
        self.calls += 1
        if self.calls > 1:
            raise ConnectionError("no route to host")

    def close(self) -> None:
        self.closed = True
        raise ConnectionError("still none")


def test_a_failing_hook_warns_once_and_is_dropped(caplog):
    broken = Broken()
    hook = SafeHook(broken)
    for step in range(5):
        hook({"loss": 1.0}, step, "train")
    hook.close()
    assert broken.calls == 2
    assert broken.closed
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "Broken failed (ConnectionError: no route to host)" in warning.getMessage()


def test_a_hook_without_close_can_be_closed_and_interrupts_pass():
    def hook(metrics, step, prefix):
        raise KeyboardInterrupt

    safe = SafeHook(hook)
    with pytest.raises(KeyboardInterrupt):
        safe({}, 1, "train")
    assert not safe.dropped
    safe.close()
