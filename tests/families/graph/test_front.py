"""What stands around the family: the scripts under Hydra's names, the page's Python, pictures, presets."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from families.tiny import build

from tinsmith.compose import compose, groups_of
from tinsmith.errors import ConfigError
from tinsmith.families.graph import GraphPredictor

ROOT = Path(__file__).parents[3]
TINY = [
    "trainer.max_steps=2",
    "model.dim=8",
    "model.num_layers=1",
    "model.num_heads=2",
    "device=cpu",
    "threads=1",
]


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_choice_of_every_group_is_a_whole_config(tmp_path: Path) -> None:
    groups = groups_of("graph")
    assert set(groups["pe"]) == {"none", "rwse", "rrwp", "heat", "wavelet", "lap", "default", "all"}
    assert set(groups["model"]) == {"graph_transformer", "gps", "gine", "gcn"}
    for group, choices in groups.items():
        for choice in choices:
            more = [f"dataset.path={tmp_path}", "dataset.subset=a"] if group == "dataset" else []
            cfg = compose("graph", [f"{group}={choice}", *more]).cfg
            if group in ("dataset", "model"):
                assert getattr(cfg, group).name == choice


def test_pe_default_is_the_default() -> None:
    assert compose("graph", ["pe=default"]).cfg.pe == compose("graph").cfg.pe
    assert compose("graph", ["pe=all", "pe=default"]).cfg.pe == compose("graph").cfg.pe


def test_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINSMITH_CACHE", str(tmp_path / "cache"))
    words = ["train", "graph", "dataset=csl", "model=graph_transformer", "pe=default", *TINY]
    assert script("train").main(words) == 0
    assert Path("runs/graph/0001/model/model.safetensors").exists()
    found = script("evaluate").words(["checkpoint=runs/graph/0001/checkpoints", "split=valid", "--quiet"])
    assert found == ["eval", str(tmp_path / "runs/graph/0001"), "--split", "valid", "--quiet"]
    assert script("evaluate").main(found) == 0


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = ROOT / "src/tinsmith/families/graph/README.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    exec(code, {})  # the page's own text


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tinsmith.families.graph import pictures

    built = build("graph", tmp_path)
    built.family.save_model(built.cfg, built.task, built.data, tmp_path / "model")
    graphs = built.data.artifacts["sets"].splits["test"]
    figure = pictures.draw_attention(GraphPredictor.load(tmp_path), graphs, which=1, node=3)
    pictures.save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000
    for name in ("degree", "rrwp", "heat", "wavelet", "lap", "hier"):
        assert pictures.draw_encoding(graphs, name=name, scale=-1)
    with pytest.raises(ConfigError, match="the graph has nodes 0 to"):
        pictures.draw_attention(GraphPredictor.load(tmp_path), graphs, node=41)
    with pytest.raises(ConfigError, match="'spd' is no encoding of nodes"):
        pictures.draw_encoding(graphs, name="spd")
