"""The lattice as one row of the table of families."""

from __future__ import annotations

from torch import nn

from tinsmith.engine.contract import Data, Family, Task
from tinsmith.families.lattice.config import LatticeConfig
from tinsmith.families.lattice.data import LatticeSpec, build_data
from tinsmith.families.lattice.measure import examples, table
from tinsmith.families.lattice.model import Lattice, build_model
from tinsmith.families.lattice.predict import LatticePredictor, save_model
from tinsmith.families.lattice.task import build_task


def _build_model(cfg: LatticeConfig, spec: LatticeSpec) -> nn.Module:
    return build_model(cfg.model, spec)


def _build_task(cfg: LatticeConfig, model: nn.Module, data: Data) -> Task:
    assert isinstance(model, Lattice)
    return build_task(cfg, model, data)


FAMILY = Family(
    name="lattice",
    config=LatticeConfig,
    build_data=build_data,
    build_model=_build_model,
    build_task=_build_task,
    save_model=save_model,
    predictor=LatticePredictor,
    table=table,
    examples=examples,
)
