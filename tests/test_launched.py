"""What a process leaves for its launcher."""

import json
from pathlib import Path

import pytest

from tinsmith import launched
from tinsmith.cli import main


def test_a_process_alone_is_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (launched.is_launched(), launched.rank()) == (False, 0)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (launched.is_launched(), launched.rank()) == (True, 1)


def test_errors_go_to_the_launcher_where_there_is_one_and_else_to_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    assert main(["trian"]) == 2
    assert "Did you mean: train?" in capsys.readouterr().err
    assert not file.exists()
    monkeypatch.setenv(launched.NPROC, "2")
    assert main(["trian"]) == 2
    assert not capsys.readouterr().err
    told = json.loads(file.read_text())["message"]
    assert "Did you mean: train?" in told["message"]
    assert (told["extraInfo"]["code"], told["extraInfo"]["lost"]) == (2, False)
