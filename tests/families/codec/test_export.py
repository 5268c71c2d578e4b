"""Export: every format that can be read here comes near, and what does not come near is said."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from families.codec.test_text_task import BOTH
from families.tiny import build, sentences

from tinsmith.errors import ConfigError, MissingExtraError
from tinsmith.families.codec import Codec, export
from tinsmith.families.codec.model import FoldedEncoder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("codec")
    built = build("codec", root, *BOTH)
    built.trainer(root / "checkpoints", max_steps=10).fit(built.data.train)
    built.family.save_model(built.cfg, built.task, built.data, root / "model")
    return root


TEXTS = [*sentences(40), "the old house is good , and the red tin of his good cups and pots is new ."]


def test_safetensors(run: Path, tmp_path: Path) -> None:
    report = export.export(run, tmp_path / "out", "safetensors", False, TEXTS)
    assert report["failed"] == []
    assert report["max_abs"] == 0
    copy, own = Codec.load(tmp_path / "out"), Codec.load(run)
    assert copy.decode(own.encode(TEXTS)) == own.decode(own.encode(TEXTS))
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "pipeline_tag: sentence-similarity" in card
    assert own.spec.teacher_fingerprint in card
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["failed"] == []


def test_int8(run: Path, tmp_path: Path) -> None:
    report = export.export(run, tmp_path / "out", "safetensors", True, TEXTS)
    assert report["min_cosine"] > 0.99
    assert 0.2 < report["of_fp32"] < 1
    copy = Codec.load(tmp_path / "out")
    assert copy.int8
    assert len(copy.decode(copy.encode(TEXTS))) == len(TEXTS)
    assert copy.encode(TEXTS, tier="static").shape == (len(TEXTS), 16)


@pytest.mark.parametrize("form", ["safetensors", "torch_export"])
def test_no_format_holds_a_pickle(form: str, run: Path, tmp_path: Path) -> None:
    from faults.test_no_pickle import scan

    export.export(run, tmp_path / "out", form, False, TEXTS)
    count, found = scan(tmp_path / "out")
    assert count > 3
    assert found == []


def test_what_is_beyond_its_tolerance_is_said() -> None:
    report = {"format": "onnx", "max_abs": 2e-4, "min_cosine": 0.98, "of_fp32": 0.31}
    assert export._failed(report, False) == ["max_abs is 0.0002, required is <= 0.0001"]
    assert len(export._failed(report, True)) == 2
    assert len(export._failed({**report, "max_abs": float("nan")}, False)) == 1


@pytest.mark.parametrize(
    "options", [[], ["model.block=ssm"], ["model.pooling=gated"], ["model.conv=false"]], ids=str
)
def test_torch_export_takes_any_batch_and_length(options: list[str], run: Path, tmp_path: Path) -> None:
    built = build("codec", run, *options)
    built.trainer(tmp_path / "checkpoints", max_steps=4).fit(built.data.train)
    built.family.save_model(built.cfg, built.task, built.data, tmp_path / "model")
    report = export.export(tmp_path / "model", tmp_path / "out", "torch_export", False, TEXTS)
    assert report["failed"] == []
    program = torch.export.load(tmp_path / "out" / "encoder.pt2").module()
    codec = Codec.load(tmp_path / "model")
    assert isinstance(codec.encoder, FoldedEncoder)
    for rows, length in ((1, 1), (1, 3), (2, 17), (7, 2)):
        tokens, mask = torch.randint(5, 20, (rows, length)), torch.ones(rows, length, dtype=torch.bool)
        mask[-1, length // 2 + 1 :] = False
        torch.testing.assert_close(program(tokens, mask), codec.encoder(tokens, mask), rtol=0, atol=1e-5)


needs_st = pytest.mark.skipif(
    find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed"
)


@needs_st
def test_the_static_tier_needs_no_tinsmith(run: Path, tmp_path: Path) -> None:
    report = export.export(run, tmp_path / "out", "st_static", False, TEXTS)
    assert report["failed"] == []
    assert report["max_abs"] > 0  # another program's arithmetic
    assert "tinsmith" not in (tmp_path / "out" / "modules.json").read_text("utf-8")


@needs_st
def test_sentence_transformers_loads_it_once_tinsmith_is_imported(run: Path, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(json.dumps(Codec.load(run).encode(TEXTS).tolist()))
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    assert export.export(run, tmp_path / "out", "st", False, TEXTS)["failed"] == []
    code = f"""
import json
import tinsmith
from sentence_transformers import SentenceTransformer
import torch
texts, own = (json.load(open({str(tmp_path)!r} + name)) for name in ("/texts.json", "/own.json"))
model = SentenceTransformer({str(tmp_path / "out")!r}, device="cpu")
z = model.encode(texts, convert_to_tensor=True, batch_size=7)
print(float((z - torch.tensor(own)).abs().max()))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert float(out.stdout.split("\n")[-2]) < 1e-6


def test_onnx_says_what_it_needs(run: Path, tmp_path: Path) -> None:
    if find_spec("onnx") is not None:
        pytest.skip("onnx is installed: test_onnx_comes_near")
    with pytest.raises(MissingExtraError, match=r"pip install 'tinsmith\[export\]'"):
        export.export(run, tmp_path / "out", "onnx", False, TEXTS)


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="onnxruntime is not installed")
@pytest.mark.parametrize("int8", [False, True])
def test_onnx_comes_near(int8: bool, run: Path, tmp_path: Path) -> None:
    report = export.export(run, tmp_path / "out", "onnx", int8, TEXTS)
    assert [line for line in report["failed"] if not line.startswith("of_fp32")] == []


def test_int8_is_not_for_every_format(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="quant=int8 is for format=safetensors and format=onnx"):
        export.export(run, tmp_path / "out", "st", True, TEXTS)
