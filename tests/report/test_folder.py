"""Reading a run folder: what is there, and what is said of the rest."""

import json

import pytest

from tinsmith.engine.loggers import JsonlLogger
from tinsmith.errors import DataError
from tinsmith.report import folder
from tinsmith.report.folder import RunFolder, load_run, lower_is_better


def test_an_empty_folder_is_a_run_that_crashed_early(tmp_path):
    (tmp_path / "error.txt").write_text("RuntimeError: boom")
    run = load_run(tmp_path)
    assert [text.split(":")[0] for text in run.missing] == [
        "no run.json",
        "no metrics.jsonl",
        "no config.yaml",
    ]
    assert (run.status, run.error, run.steps, run.seconds, run.headline()) == (
        "failed",
        "RuntimeError: boom",
        0,
        None,
        None,
    )


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no run folder at .*0009\. See: tinsmith runs ls"):
        load_run(tmp_path / "0009")


@pytest.mark.parametrize("text", ['{"status": "do', "[1, 2]", "\xff"])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    (tmp_path / "config.yaml").write_text("a: [1")
    run = load_run(tmp_path)
    assert any(line.startswith("run.json cannot be read: ") for line in run.missing)
    assert any(line.startswith("config.yaml cannot be read: ") for line in run.missing)
    assert run.status == "unknown"


def test_settings_are_read_by_dotted_key_beside_the_defaults(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "default_config", {"codec": {"seed": "42"}}.__getitem__)
    path = tmp_path / "codec" / "0001"
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("seed: 7\npart:\n  dims: [1, 2]\n")
    run = load_run(path)
    assert run.config == {"seed": "7", "part.dims": "[1,2]"}
    assert run.defaults == {"seed": "42"}


def test_the_settings_of_an_unknown_family_have_no_defaults(tmp_path):
    (tmp_path / "run.json").write_text('{"family": "gone"}')
    assert load_run(tmp_path).defaults == {}


def test_a_run_whose_process_is_gone_was_killed(tmp_path):
    (tmp_path / "run.json").write_text('{"status": "running", "pid": 2147483646}')
    run = load_run(tmp_path)
    assert run.status == "killed"
    assert run.next_commands() == [f"tinsmith resume {tmp_path}"]


def test_curves_and_the_best_values_come_from_the_rows(tmp_path):
    log = JsonlLogger(tmp_path / "metrics.jsonl")
    for step, loss, cosine in [(10, 2.0, 0.1), (20, 1.0, 0.9), (30, float("nan"), 0.8)]:
        log({"loss": loss, "cosine": cosine}, step, "val")
    log({"loss": 0.5}, 30, "train")
    log.close()
    run = load_run(tmp_path)
    assert run.curve("train", "loss") == ([30.0], [0.5])
    assert run.best_of("loss") == (1.0, 20)
    assert run.best_of("cosine") == (0.9, 20)
    assert run.best_of("other") is None
    assert run.headline() == ("loss", 1.0, 20)
    assert run.steps == 30


@pytest.mark.parametrize(
    ("info", "headline"),
    [
        ({"best": {"name": "cosine", "value": 0.9, "step": 7}}, ("cosine", 0.9, 7)),
        ({"best": {"name": "cosine", "value": 1}}, ("cosine", 1.0, None)),
        ({"best": None}, None),
    ],
)
def test_the_headline_is_the_recorded_best(tmp_path, info, headline):
    assert RunFolder(tmp_path, info=info).headline() == headline


def test_evaluations_keep_their_split(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "test.json").write_text(json.dumps({"rows": []}))
    (tmp_path / "eval" / "b.json").write_text(json.dumps({"split": "valid"}))
    assert [one["split"] for one in load_run(tmp_path).evaluations] == ["valid", "test"]


@pytest.mark.parametrize("metric", ["loss", "val/loss", "rmse", "bits-per-byte", "perplexity", "halt_loss"])
def test_errors_fall(metric):
    assert lower_is_better(metric)


@pytest.mark.parametrize("metric", ["cosine", "r1", "accuracy", "bleu", "closseness"])
def test_scores_rise(metric):
    assert not lower_is_better(metric)
