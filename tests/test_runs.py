import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tinsmith import cli, runs
from tinsmith.compose import compose
from tinsmith.console import table, to_json
from tinsmith.errors import ConfigError, DataError
from tinsmith.run_view import config_of, differences, metrics_of, next_commands
from tinsmith.runs import (
    find_run,
    first_record,
    list_runs,
    new_run,
    open_run,
    process_record,
    read_run_json,
    remove_run,
    settings_file,
    write_run_json,
    write_settings,
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def a_run(family: str = "fake", name: str = "", **fields: Any) -> Path:
    folder = new_run("runs", family, name)
    write_run_json(folder, **first_record(folder, ["tinsmith"], 42, "cpu") | {"status": "done"} | fields)
    return folder


def a_dead_process() -> dict[str, Any]:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return {"pid": process.pid, "pid_started": "1"}


def test_a_new_run_is_a_new_folder() -> None:
    assert [new_run("runs", "fake", name).name for name in ("", "a", "")] == ["0001", "0002-a", "0003"]
    assert new_run("runs", "other") == Path("runs/other/0001")


def test_a_number_is_never_given_twice() -> None:
    last = [a_run(), a_run()][-1]
    remove_run(last, "runs")
    assert not last.exists()
    assert a_run().name == "0003"
    Path("runs/fake/0009-copied-here").mkdir()
    assert a_run().name == "0010"


def test_two_processes_never_share_a_number() -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda i: new_run("runs", "fake", f"n{i}"), range(40)))
    assert sorted(folder.name[:4] for folder in folders) == [f"{i:04d}" for i in range(1, 41)]


def test_last_is_found_by_scanning_and_the_link_is_not_read() -> None:
    first, second = a_run(), a_run()
    link = Path("runs/fake/last")
    assert os.readlink(link) == "0002"
    link.unlink()
    link.symlink_to(first.name)
    for spec in (
        "last",
        "fake/last",
        "runs/fake/last",
        "runs/fake/last/",
        str(Path.cwd() / "runs/fake/last"),
    ):
        assert find_run(spec).resolve() == second.resolve()


def test_last_of_all_families_is_the_one_that_started_last() -> None:
    a_run("a", started="2026-01-01T00:00:00+00:00")
    newest = a_run("b", started="2026-01-01T03:00:00+02:00")
    a_run("c", started="2026-01-01T00:30:00+00:00")
    assert find_run("last") == newest


def test_a_run_is_found_by_number_name_and_path() -> None:
    named, other = a_run(name="first"), a_run("other", "x")
    for spec in ("fake/0001", "fake/1", "first", "0001-first", "runs/fake/0001-first", "fake/first"):
        assert find_run(spec) == named
    with pytest.raises(ConfigError, match="means several runs: fake/0001, other/0001"):
        find_run("1")
    with pytest.raises(
        ConfigError, match=r"no run 'frist' in runs/\. Did you mean: first\? Newest: other/0001"
    ):
        find_run("frist")
    assert find_run(str(other.resolve())) == other.resolve()


def test_run_json_is_whole_and_keeps_what_was_written() -> None:
    folder = a_run()
    write_run_json(folder, best={"name": "loss", "value": float("nan"), "step": 3}, path=folder)
    record = read_run_json(folder)
    assert (record["seed"], record["best"]["value"], record["path"]) == (42, "nan", str(folder))
    assert record["versions"]["torch"]
    assert [path.name for path in folder.iterdir()] == ["run.json"], "temporary files stay behind"


def test_a_write_that_fails_leaves_the_old_record(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = a_run()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_run_json(folder, status="failed")
    assert read_run_json(folder)["status"] == "done"


def test_a_damaged_record_is_named_and_does_not_hide_other_runs() -> None:
    damaged, good = a_run(), a_run()
    (damaged / "run.json").write_text('{"id": ')
    with pytest.raises(DataError, match=r"cannot read runs/fake/0001/run\.json"):
        read_run_json(damaged)
    with pytest.raises(DataError, match=r"is not a run folder: it has no run\.json"):
        read_run_json(Path())
    assert {run.path: run.status for run in list_runs("runs")} == {damaged: "unknown", good: "done"}


def test_a_record_that_was_changed_is_told_by_its_digest() -> None:
    path = a_run() / "run.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps(good, indent=7))  # white space says nothing
    assert read_run_json(path.parent) == {key: value for key, value in good.items() if key != "digest"}
    path.write_text(json.dumps(good | {"seed": 43}))
    with pytest.raises(DataError, match=r"run\.json is damaged or was changed: its digest differs\. Mend it"):
        read_run_json(path.parent)
    path.write_text('{"family": "fake"}')  # as the message advises
    assert read_run_json(path.parent) == {"family": "fake"}
    path.write_text('{"pid": "many"}')
    with pytest.raises(DataError, match=r"run\.json is damaged: 'pid' is 'many'"):
        read_run_json(path.parent)


def test_settings_that_were_changed_are_told_by_their_digest(fake: str) -> None:
    folder = a_run()
    resolved = compose(fake, ["seed=7"])
    write_settings(folder, resolved)
    assert compose(fake, [], settings_file(folder)).values == resolved.values
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("seed: 7", "seed: 8"))
    with pytest.raises(ConfigError, match=r"config\.yaml was changed since the run wrote it"):
        settings_file(folder)
    path.write_text(path.read_text().partition("\n")[2])  # as the message advises
    assert compose(fake, [], settings_file(folder)).values["seed"] == 8
    path.write_text("# tinsmith fake\n")
    with pytest.raises(ConfigError, match="holds no settings: it was cut"):
        settings_file(folder)
    path.unlink()
    with pytest.raises(ConfigError, match=r"cannot read runs/fake/0001/config\.yaml"):
        settings_file(folder)


def test_a_run_whose_process_is_gone_was_killed() -> None:
    assert open_run(a_run(status="running")).status == "running"
    assert open_run(a_run(status="running", **a_dead_process())).status == "killed"
    assert open_run(a_run(status="done", **a_dead_process())).status == "done"
    again = process_record() | {"pid_started": "1"}  # the number was given to a later process: us
    assert open_run(a_run(status="running", **again)).status == "killed"
    elsewhere = a_dead_process() | {"host": "another"}
    assert open_run(a_run(status="running", **elsewhere)).status == "running", "nobody can know from here"


def test_git_is_recorded_with_its_dirty_flag(tmp_path: Path) -> None:
    assert runs._git() is None
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", *words], check=True, cwd=tmp_path)
    clean = runs._git()
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    Path("new.txt").write_text("x")
    assert runs._git() == clean | {"dirty": True}


def test_rm_removes_only_run_folders_of_the_root_that_do_not_run() -> None:
    folder, outside = a_run(), Path("precious")
    outside.mkdir()
    (outside / "run.json").write_text("{}")
    for wrong in (outside, Path("runs"), Path("runs/fake"), Path("runs/fake/last"), Path("runs/fake/.ids")):
        with pytest.raises(ConfigError, match="nothing was removed"):
            remove_run(wrong, "runs")
    with pytest.raises(ConfigError, match="nothing was removed"):
        remove_run(folder, "elsewhere")
    write_run_json(folder, status="running")
    with pytest.raises(ConfigError, match=f"is running \\(process {os.getpid()}\\): stop it first"):
        remove_run(folder, "runs")
    assert folder.is_dir()
    write_run_json(folder, **a_dead_process())
    remove_run(folder, "runs")
    assert not folder.exists()
    assert not Path("runs/fake/last").is_symlink()


@pytest.fixture
def two_runs(fake: str) -> tuple[Path, Path]:
    first = a_run(best={"name": "cosine", "value": 0.86, "step": 800}, seconds=12.34)
    second = a_run(name="slow", status="interrupted")
    (first / "config.yaml").write_text("seed: 42\noptimizer:\n  lr: 0.01\n")
    (second / "config.yaml").write_text("seed: 42\noptimizer:\n  lr: 0.02\n")
    rows = [{"step": 1, "split": "train", "loss": 2.0}, {"step": 9, "split": "val", "loss": 1.0, "time": 1}]
    lines = [json.dumps(row) + "\n" for row in rows]
    (first / "metrics.jsonl").write_text("".join(lines) + '{"step": 10, "split": "val", "lo')
    (first / "eval").mkdir()
    test = {"split": "test", "rows": [{"name": "model", "cosine": 0.8}], "metrics": {"cosine": 0.8}}
    (first / "eval/test.json").write_text(json.dumps(test))
    return first, second


def test_metrics_of_a_run_are_its_best_its_last_rows_and_its_evaluations(two_runs: tuple[Path, Path]) -> None:
    assert metrics_of(open_run(two_runs[0])) == {
        "best.cosine": 0.86,
        "train.step": 1,
        "train.loss": 2.0,
        "val.step": 9,
        "val.loss": 1.0,
        "test.cosine": 0.8,
    }
    assert metrics_of(open_run(two_runs[1])) == {}


def test_differences_are_the_leaves_that_differ(two_runs: tuple[Path, Path]) -> None:
    a, b = (config_of(path) for path in two_runs)
    assert differences(a, b, ("a", "b")) == [{"key": "optimizer.lr", "a": "0.01", "b": "0.02"}]
    assert differences({"x": 1}, {"y": 2}, ("a", "b")) == [
        {"key": "x", "a": 1, "b": None},
        {"key": "y", "a": None, "b": 2},
    ]


def test_runs_ls_show_and_diff(two_runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "status", "metric", "started", "seconds", "name"]
    assert first.split()[:4] == ["fake/0001", "done", "cosine", "0.86"]
    assert second.split()[:2] == ["fake/0002", "interrupted"]
    assert second.endswith("slow")
    assert cli.main(["runs", "show", "1"]) == 0
    out = capsys.readouterr().out
    assert "optimizer.lr  0.01   0.001\n" in out
    assert "scheduler" not in out, "a setting that the run does not have"
    assert re.search(r"^test\.cosine +0\.8$", out, re.MULTILINE)
    assert "  tinsmith eval runs/fake/0001" in out
    assert cli.main(["runs", "diff", "1", "slow", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["settings"] == [{"key": "optimizer.lr", "fake/0001": "0.01", "fake/0002": "0.02"}]
    assert {"key": "test.cosine", "fake/0001": 0.8, "fake/0002": None} in data["metrics"]


def test_next_commands_fit_the_status(two_runs: tuple[Path, Path]) -> None:
    assert next_commands(open_run(two_runs[1]))[0] == "tinsmith resume runs/fake/0002-slow"


class Terminal:
    """A stdin with somebody behind it."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self.answer


def test_runs_rm_asks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = a_run()
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    assert cli.main(["runs", "rm", "last"]) == 0
    assert "remove runs/fake/0001 (done)? [y/N]" in capsys.readouterr().err
    assert folder.is_dir()
    monkeypatch.setattr(Terminal, "isatty", lambda self: False)
    assert cli.main(["runs", "rm", "last"]) == 2
    assert "Add --yes" in capsys.readouterr().err
    assert folder.is_dir()
    monkeypatch.setattr(Terminal, "isatty", lambda self: True)
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert cli.main(["runs", "rm", "last"]) == 0
    assert not folder.exists()
    other = a_run()
    assert cli.main(["runs", "rm", "last", "--yes"]) == 0
    assert not other.exists()


def test_a_table_aligns_words_left_and_numbers_right() -> None:
    rows = [{"name": "a", "loss": 0.123456}, {"name": "long", "loss": 12, "ok": True}, {"loss": float("nan")}]
    assert table(rows).splitlines() == [
        "name    loss  ok",
        "a     0.1235  -",
        "long      12  true",
        "-        nan  -",
    ]


def test_json_lines_are_valid_json() -> None:
    assert to_json({"a": float("nan"), "b": [float("-inf"), 1.5], "c": Path("x")}) == (
        '{"a": "nan", "b": ["-inf", 1.5], "c": "x"}'
    )
