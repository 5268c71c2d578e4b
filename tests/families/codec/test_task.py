from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from tinsmith.engine.contract import Context
from tinsmith.families.codec.config import LossConfig, ModelConfig
from tinsmith.families.codec.model import CodecSpec, Encoder
from tinsmith.families.codec.task import CodecTask


def fixed(z: torch.Tensor, conv: bool = True) -> torch.nn.Module:
    """A model that always answers the same."""
    module = torch.nn.Module()
    module.forward = lambda *_: SimpleNamespace(z=z, static=z.flip(1))  # type: ignore[method-assign]
    module.conv = object() if conv else None  # type: ignore[assignment]
    return module


def loss(batch: dict[str, torch.Tensor], **weights: float) -> float:
    terms = {"cos": 0.0, "static": 0.0, **weights}
    task = CodecTask(fixed(Z), LossConfig(**terms), ("a",))  # type: ignore[arg-type]
    return task(batch, Context()).loss.item()


Z = torch.tensor([[3.0, 0.0], [1.0, 1.0]])
TARGET = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
MASK = torch.tensor([[True, True], [True, False]])
BATCH = {"tokens": MASK.long(), "mask": MASK, "z": TARGET, "domain": torch.zeros(2)}
HALF = 0.5**0.5


def test_each_term_by_hand() -> None:
    assert loss(BATCH, cos=1) == pytest.approx(1 - (1 + HALF) / 2)
    assert loss(BATCH, cos=2) == pytest.approx(2 - (1 + HALF))
    assert loss(BATCH, mse=1) == pytest.approx((0 + (1 - HALF) ** 2 + HALF**2) / 2)
    assert loss(BATCH, static=1) == pytest.approx(1 - (0 + HALF) / 2)
    assert loss(BATCH, sem=1) == pytest.approx(info_nce(0.05), rel=1e-4)


def info_nce(temperature: float) -> float:
    logits = F.normalize(Z, dim=-1) @ TARGET.T / temperature
    own = torch.arange(2)  # to its own teacher vector among the batch's, and the other way round
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)).item() / 2


def test_evaluation_is_over_the_whole_set() -> None:
    torch.manual_seed(0)
    spec = CodecSpec(20, 4, 8, "t", "f", ("a", "b"))
    task = CodecTask(Encoder(ModelConfig(dim=8, dilations=[1]), spec), LossConfig(), ("a", "b"))
    tokens, mask = torch.randint(20, (9, 5)), torch.ones(9, 5, dtype=torch.bool)
    z = F.normalize(torch.randn(9, 4), dim=-1)
    domain = torch.tensor([0] * 7 + [1] * 2)
    whole = {"tokens": tokens, "mask": mask, "z": z, "domain": domain}
    parts = [{key: value[i : i + 2] for key, value in whole.items()} for i in range(0, 9, 2)]
    with torch.no_grad():
        assert task.evaluate(iter(parts)) == pytest.approx(task.evaluate([whole]), abs=1e-6)
        values = task.evaluate([whole])
    assert values["cosine"] == pytest.approx((values["cosine_a"] + values["cosine_b"]) / 2, abs=1e-6)
