"""Settings of the lattice: what is refused, and what the message proposes."""

import re
from pathlib import Path

import pytest

from tinsmith.compose import compose, groups_of
from tinsmith.errors import ConfigError


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.size=[1,8,8]", "each side has 2 to 32 cells; the nearest that fits is model.size=[2,8,8]"),
        ("model.size=[8,8,100]", "the nearest that fits is model.size=[8,8,32]"),
        ("model.size=[8,8]", "It takes 3 values, here are 2"),
        ("model.steps=4", "the nearest that fit are model.steps=7, or model.size=[5,8,8]"),
        ("model.size=[12,8,8]", "the nearest that fit are model.steps=11, or model.size=[9,8,8]"),
        ("model.steps=0", "model.size=[2,8,8]"),
        ("model.channels=1", "model.channels=1 is not allowed: 2 or more"),
        ("model.bottleneck=0", "model.bottleneck=0 is not allowed"),
        ("mode=dialog", "mode='dialog': no such choice. Did you mean: dialogue?"),
        ("data.source=files", "Did you mean: file?"),
        ("data.mix=1", "data.mix=1.0 is not allowed"),
        ("data.mix_by=step", "data.mix_by='step'"),
        ("dialogue_data.answer=question", "another column than dialogue_data.question"),
        ("loss.kind=cos", "loss.kind='cos'"),
        ("loss.cosine=0", "loss.cosine=0.0 is not allowed: above 0 with loss.kind=cosine"),
        ("loss.temperature=nan", "loss.temperature=nan"),
    ],
)
def test_what_is_refused(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        compose("lattice", [word])


def test_what_a_message_proposes_is_allowed() -> None:
    for words in (["model.steps=7"], ["model.steps=4", "model.size=[5,8,8]"], ["model.size=[2,8,32]"]):
        compose("lattice", words)
    assert compose("lattice", ["loss.kind=mse", "loss.cosine=0"]).cfg.loss.cosine == 0


def test_every_preset_is_allowed() -> None:
    sizes = {}
    for preset in groups_of("lattice")["preset"]:
        sizes[preset] = compose("lattice", [f"preset={preset}"]).cfg.model.size
    assert sizes["fast"] == (4, 4, 4)
    assert sizes["standard"] == (8, 8, 8)
    assert sizes["deep"] == (12, 12, 12)
    assert "demo" in sizes


def test_a_saved_config_is_read_again(tmp_path: Path) -> None:
    first = compose("lattice", ["mode=mixed", "model.size=[6,4,5]", "data.columns.text=t"])
    (tmp_path / "config.yaml").write_text(first.to_yaml(), "utf-8")
    again = compose("lattice", [], tmp_path / "config.yaml")
    assert again.cfg == first.cfg
