"""``tinsmith export`` and ``tinsmith bench`` as they are typed."""

import json
from pathlib import Path

import pytest

from tinsmith.cli import main
from tinsmith.families.codec import export


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from families.tiny import COMMON, codec

    monkeypatch.chdir(tmp_path)
    settings = [*codec(tmp_path), *COMMON, "trainer.max_steps=3"]
    assert main(["train", "codec", *settings, "--quiet"]) == 0
    return tmp_path / "runs" / "codec" / "0001"


def test_export(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    capsys.readouterr()
    assert main(["export", "last", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["failed"] == []
    assert (run / "export" / "safetensors" / "parity.json").is_file()
    assert main(["export", "last", "format=torch_export", "-o", "elsewhere"]) == 0
    assert Path("elsewhere/encoder.pt2").is_file()
    monkeypatch.setitem(export._TOLERANCE, "safetensors", -1.0)
    capsys.readouterr()
    assert main(["export", "last"]) == 5
    assert "differs too much: max_abs is 0, required is <= -1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["format=onx"], "format=onx is not known. Did you mean: onnx?"),
        (["quant=int4"], "quant=int4 is not known. Did you mean: int8?"),
        (["form=st"], "export takes no 'form=st'. Did you mean: format?"),
        (["format=st", "quant=int8"], "quant=int8 is for format=safetensors and format=onnx"),
    ],
)
def test_mistakes(run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "last", *words]) == 2
    assert message in capsys.readouterr().err


def test_bench(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["bench", "last", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["rows"]] == ["encode", "encode, static tier"]
    assert all(row["samples_per_sec"] > 0 and row["p50_ms"] <= row["p95_ms"] for row in found["rows"])
    assert found["memory_mb"] > 0
    assert json.loads((run / "eval" / "bench.json").read_text()) == found
    assert main(["bench", "last", "extra"]) == 2
