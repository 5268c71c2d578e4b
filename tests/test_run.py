"""A run from the command line, end to end, and what it leaves in its folder."""

import json
import os
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tinsmith.cli import main
from tinsmith.engine.loggers import read_metrics
from tinsmith.engine.reporting import Reporter

pytest.importorskip("transformers")

from families.tiny import codec, sentences

Tin = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("codec")
    return [*codec(folder), "device=cpu", "threads=1", "trainer.log_every=2", "trainer.eval_every=6"]


@pytest.fixture
def tin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Tin:
    """Run a command line in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(list(words))
        return code, *capfd.readouterr()

    return run


def test_a_run_leaves_all_that_is_promised(tin: Tin, settings: list[str]) -> None:
    code, out, _ = tin("train", "codec", *settings, "name=first")
    assert code == 0
    folder = Path("runs/codec/0001-first")
    for name in ("run.json", "config.yaml", "metrics.jsonl", "log.txt", "examples.json", "eval/test.json"):
        assert (folder / name).stat().st_size, name
    assert list((folder / "tb").iterdir())
    assert {path.name for path in (folder / "model").iterdir()} >= {"model.safetensors", "config.json"}
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["steps"], record["total_steps"]) == ("done", 12, 12)
    assert record["best"]["name"] == "cosine"
    table = json.loads((folder / "eval/test.json").read_text())
    assert [row["name"] for row in table["rows"]] == [
        "codec",
        "static tier",
        "untrained static",
        "linear",
        "constant",
        "teacher",
    ]
    assert table["rows"][-1]["cosine"] == pytest.approx(1, abs=1e-5)
    for line in ("untrained static", "Next:", f"tinsmith resume {folder} trainer.max_steps=24"):
        assert line in out
    rows = read_metrics(folder / "metrics.jsonl")
    train = [row for row in rows if row["split"] == "train"]
    assert [row["step"] for row in train] == [2, 4, 6, 8, 10, 12]
    assert set(train[-1]) >= {"step", "epoch", "split", "loss", "lr", "grad_norm", "samples_per_sec", "time"}
    assert [row["step"] for row in rows if row["split"] == "val"] == [6, 12]
    assert "train 64 valid 16 test 16" in (folder / "log.txt").read_text()


def test_resume_with_a_larger_budget_equals_the_run_that_had_it(tin: Tin, settings: list[str]) -> None:
    words = [*settings, "scheduler.name=constant"]  # any other schedule would know the larger budget
    assert tin("train", "codec", *words)[0] == 0
    assert tin("resume", "last", "trainer.max_steps=20")[0] == 0
    assert tin("train", "codec", *words, "trainer.max_steps=20")[0] == 0
    one, two = (read_metrics(f"runs/codec/000{n}/metrics.jsonl") for n in (1, 2))
    assert one[-1]["step"] == 20
    both = [[(row["step"], row["split"], row["cosine"]) for row in rows] for rows in (one, two)]
    assert [row for row in both[0] if row[0] != 12] == [row for row in both[1] if row[0] != 12]
    assert "max_steps: 20" in Path("runs/codec/0001/config.yaml").read_text()


def test_a_signal_ends_a_run_with_a_checkpoint(tin: Tin, settings: list[str], monkeypatch: Any) -> None:
    note_step = Reporter.step

    def at_step_seven(reporter: Reporter, loop: Any) -> None:
        note_step(reporter, loop)
        if loop.state.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "step", at_step_seven)
        code, _, err = tin("train", "codec", *settings)
    assert code == 130
    assert "stopped: SIGTERM at step 7. A checkpoint is in runs/codec/0001/checkpoints." in err
    assert json.loads(Path("runs/codec/0001/run.json").read_text())["status"] == "interrupted"
    assert tin("resume", "last")[0] == 0
    assert tin("train", "codec", *settings)[0] == 0
    models = [Path(f"runs/codec/000{n}/model/model.safetensors").read_bytes() for n in (1, 2)]
    assert models[0] == models[1]


STAGES = (
    "curriculum=[{seq_len: 3, dim: 8, epochs: 1}, {seq_len: 6, batch: 16, epochs: 1}, {dim: 12, epochs: 1}]"
)


@pytest.mark.parametrize("stop_at", [5, 8, 10, 15])
def test_a_curriculum_resumes_in_any_stage(
    stop_at: int, tin: Tin, settings: list[str], monkeypatch: Any
) -> None:
    """64 sentences: 8 steps, then 4 of larger batches, then 8 of a wider model."""
    note_step = Reporter.step
    words = ["train", "codec", *settings, "trainer.max_steps=0", "trainer.accumulate=1", STAGES]

    def stop(reporter: Reporter, loop: Any) -> None:
        note_step(reporter, loop)
        if loop.state.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "step", stop)
        assert tin(*words)[0] == 130
    assert tin("resume", "last")[0] == 0
    assert tin(*words)[0] == 0
    models = [Path(f"runs/codec/000{n}/model") for n in (1, 2)]
    assert json.loads((models[0] / "config.json").read_text())["model"]["dim"] == 12
    assert len({(model / "model.safetensors").read_bytes() for model in models}) == 1
    logs = [read_metrics(model.parent / "metrics.jsonl") for model in models]
    assert [row["step"] for row in logs[0] if row["split"] == "train"] == list(range(2, 21, 2))
    for one, two in zip(*logs, strict=True):
        assert one.get("loss") == two.get("loss")


def test_a_stage_that_the_family_cannot_have_is_explained(tin: Tin, settings: list[str]) -> None:
    code, _, err = tin("train", "codec", *settings, "trainer.max_steps=0", "curriculum=[{epochs: 0}]")
    assert code == 2
    assert "curriculum epochs=0 is not allowed: 1 or more" in err
    code, _, err = tin("train", "codec", *settings, "curriculum=[{epochs: 1}]")
    assert code == 2
    assert "it counts in epochs: set neither trainer.max_steps nor trainer.max_minutes" in err


def test_a_run_killed_before_its_first_checkpoint_starts_anew(tin: Tin, settings: list[str]) -> None:
    assert tin("train", "codec", *settings)[0] == 0
    for path in Path("runs/codec/0001/checkpoints").glob("step-*"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    code, out, _ = tin("resume", "last")
    assert code == 0
    assert "no checkpoint yet: starting from the first step" in out


def test_resume_refuses_what_would_be_another_run(tin: Tin, settings: list[str]) -> None:
    assert tin("train", "codec", *settings)[0] == 0
    code, _, err = tin("resume", "last", "model.dim=16")
    assert code == 2
    assert "a resume cannot change model.dim (from 8 to 16)" in err
    assert "tinsmith train codec model.dim=16" in err


def test_eval_scores_a_split_and_holds_it_against_bars(tin: Tin, settings: list[str]) -> None:
    assert tin("train", "codec", *settings)[0] == 0
    code, out, _ = tin("eval", "last", "--split", "valid", "--json")
    assert code == 0
    rows = json.loads(out)["rows"]
    saved = json.loads(Path("runs/codec/0001/eval/valid.json").read_text())
    assert saved["metrics"]["cosine"] == rows[0]["cosine"]
    assert tin("eval", "last", "--require", "cosine>=-1")[0] == 0
    code, _, err = tin("eval", "last", "--require", "cosine>=1.5")
    assert (code, "required is cosine>=1.5" in err) == (5, True)
    code, _, err = tin("eval", "last", "--require", "bleu>=1")
    assert (code, "'bleu' is not measured. Measured: cosine" in err) == (2, True)


def test_eval_with_another_teacher_is_refused(tin: Tin, settings: list[str], tmp_path: Path) -> None:
    from text.tiny_teachers import save_model

    assert tin("train", "codec", *settings)[0] == 0
    other = save_model(tmp_path / "other", "bert", seed=5)
    config = Path("runs/codec/0001/config.yaml")
    mine = next(word for word in settings if word.startswith("teacher.name=")).partition("=")[2]
    settings_of_run = config.read_text().partition("\n")[2]  # without the digest: a change that is meant
    config.write_text(settings_of_run.replace(mine, str(other)))
    code, _, err = tin("eval", "last")
    assert code == 3
    assert "this student learned from another teacher" in err


def test_predict_answers_every_line(tin: Tin, settings: list[str]) -> None:
    assert tin("train", "codec", *settings)[0] == 0
    texts = sentences(3)
    Path("in.txt").write_text("\n".join([texts[0], json.dumps({"text": texts[1]}), texts[2]]))
    assert tin("predict", "last", "in.txt", "-o", "out.jsonl")[0] == 0
    answers = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [answer["text"] for answer in answers] == texts
    assert all(len(answer["z"]) == 16 for answer in answers)
    assert all(sum(x * x for x in answer["z"]) == pytest.approx(1, abs=1e-4) for answer in answers)
    Path("bad.txt").write_text('fine\n{"text": \n')
    code, _, err = tin("predict", "last", "bad.txt", "-o", "never.jsonl")
    assert (code, "bad.txt:2" in err) == (3, True)
    assert not Path("never.jsonl").exists()


def test_the_next_commands_are_those_that_the_reader_can_type(
    tin: Tin, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [".venv/bin/tinsmith", "train"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert "\n  .venv/bin/tinsmith eval runs/codec/0001\n" in tin("train", "codec", *settings)[1]


def test_a_dry_run_leaves_nothing(tin: Tin, settings: list[str]) -> None:
    code, out, _ = tin("train", "codec", *settings, "--dry-run")
    assert code == 0
    assert "Nothing was kept." in out
    assert "run folder" not in out
    assert list(Path.cwd().iterdir()) == []


def test_json_keeps_stdout_to_machines(tin: Tin, settings: list[str]) -> None:
    code, out, err = tin("train", "codec", *settings, "--json")
    assert code == 0
    assert json.loads(out)["rows"][0]["name"] == "codec"
    assert "run folder" in err
    code, out, _ = tin("train", "codec", *settings, "--quiet")
    assert code == 0
    assert out.splitlines()[0].split()[0] == "name"


def test_report_and_runs(tin: Tin, settings: list[str]) -> None:
    assert tin("train", "codec", *settings)[0] == 0
    assert tin("report", "last")[0] == 0
    page = Path("runs/codec/0001/report.html").read_text()
    assert "cosine" in page
    assert "://" not in page.replace("http://www.w3.org", "")
    code, out, _ = tin("runs", "ls")
    assert (code, "codec/0001" in out) == (0, True)


def test_scored_pairs_add_a_correlation(tin: Tin, settings: list[str]) -> None:
    texts = sentences(12)
    rows = [{"text": a, "other": b, "score": n} for n, (a, b) in enumerate(pairwise(texts))]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert tin("train", "codec", *settings, "data.pairs=pairs.jsonl")[0] == 0
    table = json.loads(Path("runs/codec/0001/eval/test.json").read_text())["rows"]
    measured = {row["name"]: row["spearman"] for row in table if "spearman" in row}
    assert set(measured) == {"codec", "static tier", "teacher"}
    assert all(-1 <= value <= 1 for value in measured.values())


def test_given_vectors_are_the_targets(tin: Tin, settings: list[str], tmp_path: Path) -> None:
    from tinsmith.text.teachers import EmbeddingLoader

    name = next(word for word in settings if word.startswith("teacher.name=")).partition("=")[2]
    teacher = EmbeddingLoader(name, device="cpu")
    texts = sentences(40)
    vectors = 3 * teacher.encode(texts)  # of any length: the direction counts
    rows = [{"text": text, "teacher": vector.tolist()} for text, vector in zip(texts, vectors, strict=True)]
    Path("given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [word for word in settings if not word.startswith(("data.path", "data.valid", "data.test"))]
    shares = ["data.path=given.jsonl", "data.valid_share=0.2", "data.test_share=0.2"]
    assert tin("train", "codec", *words, *shares)[0] == 0
    bare = [{"text": text} for text in texts]
    Path("given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
    assert tin("train", "codec", *words, *shares)[0] == 0
    one, two = (read_metrics(f"runs/codec/000{n}/metrics.jsonl") for n in (1, 2))
    assert "vectors of the train split are those of the file" in Path("runs/codec/0001/log.txt").read_text()
    for a, b in zip(one, two, strict=True):
        assert a["cosine"] == pytest.approx(b["cosine"], abs=1e-3)
