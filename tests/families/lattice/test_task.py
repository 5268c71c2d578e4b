import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families.lattice.tiny_lattice import Z, lattice, spec, unit
from torch import Tensor

from tinsmith.engine.contract import Context, Data
from tinsmith.engine.data import Loader
from tinsmith.families.lattice.baselines import fit_pca
from tinsmith.families.lattice.config import LatticeConfig, LossConfig
from tinsmith.families.lattice.datasets import AutoencoderDataset, DialogueDataset, VectorPairs, joined
from tinsmith.families.lattice.task import LatticeTask, build_task

RAW = torch.tensor([[3.0, 0.0], [1.0, 1.0]])  # what the model says, before its length is made one
TRUE = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
ANSWERS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
HALF = 0.5**0.5


def loss(mode: list[int], answers: Tensor | None = ANSWERS, **weights: Any) -> float:
    model: Any = torch.nn.Module()
    model.raw = lambda x, mode: RAW
    task = LatticeTask(model, LossConfig(**{"infonce": 0.0, **weights}), "mixed", answers)
    out = task({"x": TRUE, "y": TRUE, "mode": torch.tensor(mode)}, Context())
    assert out.weight == 2
    return out.loss.item()


def test_each_term_by_hand() -> None:
    assert loss([0, 0]) == pytest.approx(1 - (1 + HALF) / 2)
    assert loss([1, 1], cosine=2.0) == pytest.approx(2 - (1 + HALF))
    assert loss([0, 0], kind="mse") == pytest.approx((4 + 1) / 2)
    assert loss([0, 0], kind="combined", mse=0.5) == pytest.approx(1 - (1 + HALF) / 2 + 5 / 4)


def test_infonce_is_of_dialogue_rows_and_spares_the_same_answer() -> None:
    rows = [-math.log(1 / (1 + 2 * 0 + math.exp(-10) + math.exp(-20)))]  # cosines 1 against 0 and -1
    sharp = math.exp(HALF * 10)
    rows.append(-math.log(sharp / (sharp + sharp + math.exp(-HALF * 10))))  # the second is as near as its own
    plain = loss([0, 0])
    assert loss([1, 1], infonce=1.0, temperature=0.1) == pytest.approx(plain + sum(rows) / 2, rel=1e-5)
    assert loss([0, 1], infonce=2.0, temperature=0.1) == pytest.approx(plain + rows[1], rel=1e-5)
    assert loss([0, 0], infonce=1.0) == plain
    alone = loss([1, 1], answers=ANSWERS[:1], infonce=1.0)  # no other answer than the true one
    assert alone == pytest.approx(plain)


def test_where_answers_are_many_some_are_drawn() -> None:
    model = lattice("dialogue")
    task = LatticeTask(model, LossConfig(negatives=5), "dialogue", unit(40, seed=3))
    batch = {"x": unit(4), "y": unit(4, seed=1), "mode": torch.ones(4, dtype=torch.long)}
    torch.manual_seed(1)
    first, second = task(batch, Context()).loss, task(batch, Context()).loss
    assert first != second
    torch.manual_seed(1)
    assert task(batch, Context()).loss == first


def test_the_temperature_is_learned() -> None:
    task = LatticeTask(lattice("dialogue"), LossConfig(temperature=0.1), "dialogue", unit(9, seed=3))
    batch = {"x": unit(4), "y": unit(4, seed=1), "mode": torch.ones(4, dtype=torch.long)}
    task(batch, Context()).loss.backward()
    assert task.log_scale is not None
    assert task.log_scale.exp().item() == pytest.approx(10)
    assert task.log_scale.grad is not None
    assert torch.isfinite(task.log_scale.grad)
    assert task.log_scale.grad != 0
    assert LatticeTask(lattice("autoencoder"), LossConfig(), "autoencoder").log_scale is None


@pytest.mark.parametrize("mode", ["autoencoder", "dialogue", "mixed"])
def test_evaluation_is_over_the_whole_set(mode: str) -> None:
    task = LatticeTask(lattice(mode), LossConfig(), mode, unit(20, seed=5))
    kinds = torch.tensor({"autoencoder": [0] * 9, "dialogue": [1] * 9, "mixed": [0] * 5 + [1] * 4}[mode])
    whole = {"x": unit(9), "y": unit(9, seed=1), "mode": kinds}
    parts = [{key: value[i : i + 2] for key, value in whole.items()} for i in range(0, 9, 2)]
    with torch.no_grad():
        values = task.evaluate([whole])
        assert task.evaluate(iter(parts)) == pytest.approx(values, abs=1e-6)
    name, direction = task.monitor
    assert name in values
    assert direction == "max"
    if mode == "mixed":
        both = values["autoencoder_cosine"], values["dialogue_accuracy_1_of_100"]
        assert values["score"] == pytest.approx(sum(both) / 2)


def data(mode: str) -> Data:
    x, y = unit(60), F.normalize(unit(60) @ torch.randn(Z, Z) + 0.1 * unit(60, seed=2), dim=-1)

    def rows(first: int, last: int) -> VectorPairs:
        parts = {
            "autoencoder": AutoencoderDataset(x[first:last]),
            "dialogue": DialogueDataset(x[first:last], y[first:last]),
        }
        return joined([part for name, part in parts.items() if mode in (name, "mixed")])

    return Data(
        Loader(rows(0, 40), 8),
        Loader(rows(40, 60), 8),
        None,
        spec(mode),
        {"answers": ([], y[: 40 * (mode != "autoencoder")])},
    )


def test_a_run_starts_at_pca_and_at_ridge_regression() -> None:
    torch.manual_seed(0)
    own = data("mixed")
    cfg = LatticeConfig(mode="mixed")
    task = build_task(cfg, lattice("mixed", trained=False), own)
    x = own.valid.dataset.x[:20]
    pca = fit_pca(own.train.dataset.x[:40], 6)(x)
    torch.testing.assert_close(task.model(x, torch.zeros(20)), pca, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        start = task.evaluate(own.valid)
    assert start["dialogue_cosine"] > 0.9  # the answers are a linear function of the questions
    assert start["autoencoder_cosine"] == pytest.approx(F.cosine_similarity(pca, x).mean().item(), abs=1e-5)


def test_where_no_pairs_are_there_is_no_contrast() -> None:
    task = build_task(LatticeConfig(), lattice("autoencoder"), data("autoencoder"))
    assert task.log_scale is None
    batch: Any = next(iter(data("autoencoder").train))
    assert torch.isfinite(task(batch, SimpleNamespace()).loss)
