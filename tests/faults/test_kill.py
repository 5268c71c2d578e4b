"""A killed and resumed run ends with the bits of the run that was never killed (benchmarks/resume.py)."""

import json
from pathlib import Path

import pytest
from resume import Command, codec, differences, kill_and_resume, plain, position, run_child

CODEC = ["trainer.max_steps=40", "trainer.batch_size=8", "trainer.eval_every=15", "trainer.ema=0.9"]
CODEC += ["trainer.save_seconds=0", "trainer.log_every=1", "logger.tensorboard=false", "model.dropout=0.1"]
CODEC += ["model.dim=8", "model.dilations=[1,2]", "threads=1", "device=cpu"]


@pytest.fixture
def codec_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """``tinsmith train`` and ``resume`` with a tiny teacher on a few sentences."""
    pytest.importorskip("transformers")
    from text.tiny_teachers import WORDS, save_model

    monkeypatch.setenv("TINSMITH_CACHE", str(tmp_path / "cache"))
    teacher = save_model(tmp_path / "teacher", "bert")
    rows = [{"text": f"{a} {b} {a} tin"} for a in WORDS[:12] for b in WORDS[3:12]]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return codec([*CODEC, f"data.path={path}", f"teacher.name={teacher}"])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """What the children compute with is part of the result, and two of them may run at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def test_killed_twice_inside_an_epoch_and_once_at_its_end(tmp_path: Path) -> None:
    # 500 rows, 16 a batch, 2 batches a step: 16 steps an epoch. A process dies before it saves its last step.
    seconds = run_child(plain(epochs=3)(tmp_path / "whole"), None)
    assert seconds
    left = []
    for step in (6, 12, 17):
        run_child(plain(epochs=3, die_at=step)(tmp_path / "killed"), None)
        left.append(position(tmp_path / "killed"))
    assert [at["step"] for at in left] == [5, 11, 16]
    assert left[0]["cursor"] == 160
    assert left[2] == {"step": 16, "epoch": 1, "cursor": 0}
    run_child(plain(epochs=3)(tmp_path / "killed"), None)
    assert differences(tmp_path / "whole", tmp_path / "killed") == []


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"workers": 2}, {"precision": "bf16"}], ids=str)
def test_killed_with(tmp_path: Path, options: dict[str, object]) -> None:
    run_child(plain(epochs=2, **options)(tmp_path / "whole"), None)
    run_child(plain(epochs=2, die_at=21, **options)(tmp_path / "killed"), None)
    run_child(plain(epochs=2, **options)(tmp_path / "killed"), None)
    assert differences(tmp_path / "whole", tmp_path / "killed") == []


def test_a_killed_codec_resumes(tmp_path: Path, codec_command: Command) -> None:
    kill_at_random(codec_command, tmp_path, kills=2)


@pytest.mark.full
def test_plain_killed_twenty_times(tmp_path: Path) -> None:
    kill_at_random(plain(), tmp_path, kills=20)


@pytest.mark.full
def test_codec_killed_twenty_times(tmp_path: Path, codec_command: Command) -> None:
    kill_at_random(codec_command, tmp_path, kills=20)


def kill_at_random(command: Command, folder: Path, kills: int) -> None:
    seconds = run_child(command(folder / "whole"), None)
    left = kill_and_resume(command, folder / "killed", kills, seconds, seed=kills)
    assert len(left) == kills
    assert differences(folder / "whole", folder / "killed") == []
