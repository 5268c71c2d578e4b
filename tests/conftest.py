"""A tiny family for the tests of the command line, in the table of families for one test at a time."""

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tinsmith import families
from tinsmith.engine import contention

CONFIG = '''
"""Settings of every kind that a family may have."""

from dataclasses import dataclass, field
from typing import Literal

from tinsmith.engine.config import RunConfig, SchedulerConfig, check


@dataclass
class LayerConfig:
    width: int = 8
    act: str = "gelu"


@dataclass
class ModelConfig:
    """The net."""

    dim: int = 128  # width of the layers
    heads: int = 4
    dilations: tuple[int, ...] = (1, 2, 4)
    size: tuple[int, int] = (4, 4)
    dropout: float | None = None
    pool: Literal["mean", "gated"] = "mean"
    layers: list[LayerConfig] = field(default_factory=list)

    def validate(self) -> None:
        check(self.heads >= 1, "model.heads", self.heads, "1 or more")
        check(self.dim % self.heads == 0, "model.dim", self.dim, f"a multiple of model.heads={self.heads}")


@dataclass
class DataConfig:
    path: str = ""
    columns: dict[str, str] = field(default_factory=dict)


@dataclass
class TeacherConfig:
    name: str = "minilm"
    normalise: bool = True


@dataclass
class LossConfig:
    cos: float = 1.0
    mse: float = 0.0
    ce: float = 1.0


@dataclass
class FakeConfig(RunConfig):
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    scheduler: SchedulerConfig = field(default_factory=lambda: SchedulerConfig(warmup=0.02))


CONFIG = FakeConfig
'''
GROUPS = {
    "conf/config.yaml": "defaults:\n  - teacher: minilm\n  - _self_\ntrainer:\n  log_every: 20\n",
    "conf/preset/fast.yaml": "# @package _global_\n# a minute\ntrainer:\n  epochs: 3\nmodel.dim: 64\n",
    "conf/preset/full.yaml": "# an hour\ntrainer: {epochs: 30, log_every: 100}\n",
    "conf/teacher/e5.yaml": "teacher: {name: e5, normalise: off}\n",
    "conf/teacher/minilm.yaml": "teacher: {name: minilm}\n",
}


@pytest.fixture(scope="session", autouse=True)
def any_machine() -> Iterator[None]:
    """Numbers as on a CPU without bf16 instructions, and threads as on a machine of one's own."""
    with pytest.MonkeyPatch.context() as patch:
        for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            patch.setattr(torch.cpu, probe, lambda: False)
        patch.setattr(contention, "_watching", True)  # by itself it does not begin
        yield


@pytest.fixture(scope="session")
def fake_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the package ``tinsmith_fake``."""
    root = tmp_path_factory.mktemp("packages")
    files = {"__init__.py": "", "config.py": CONFIG, **GROUPS}
    for name, text in files.items():
        path = root / "tinsmith_fake" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return root


@pytest.fixture
def fake(fake_package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a family that has settings and groups, and nothing to train."""
    monkeypatch.syspath_prepend(str(fake_package))
    monkeypatch.setitem(families.FAMILIES, "fake", "tinsmith_fake")
    yield "fake"
    for name in ("tinsmith_fake", "tinsmith_fake.config"):
        sys.modules.pop(name, None)
