"""The objectives by hand, metrics over whole sets, links and their counterparts."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families.graph.some_graphs import some
from families.tiny import COMMON
from torch import Tensor, nn

from tinsmith.compose import compose
from tinsmith.engine.configured import build_trainer
from tinsmith.engine.contract import Context
from tinsmith.engine.seed import set_seed
from tinsmith.families import load_family
from tinsmith.families.graph import measure
from tinsmith.families.graph.batches import Layout
from tinsmith.families.graph.config import LossConfig, PEConfig
from tinsmith.families.graph.data import LinkDataset
from tinsmith.families.graph.encode import encode
from tinsmith.families.graph.model import GraphSpec
from tinsmith.families.graph.task import GraphTask, with_unlinked

TINY = ["model.dim=16", "model.num_layers=2", "model.num_heads=2", "model.pair_dim=8", "trainer.batch_size=8"]


class Says(nn.Module):
    """A model that always says the same."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.given = outputs

    def forward(self, batch: Any) -> Tensor:
        return self.given


def task(kind: str, outputs: Tensor, loss: LossConfig | None = None, **spec: Any) -> GraphTask:
    width = outputs.shape[-1] if outputs.ndim > 1 else 1
    return GraphTask(Says(outputs), GraphSpec(kind, width, **spec), loss or LossConfig())  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "expected"), [("mae", 0.5), ("mse", 0.5), ("huber", 0.25)])
def test_regression_is_in_deviations_and_its_metric_in_units(name: str, expected: float) -> None:
    made = task(
        "regression", torch.tensor([[0.5], [2.0]]), LossConfig(name), target_mean=(10.0,), target_std=(2.0,)
    )
    y = torch.tensor([[11.0], [12.0]])  # 0.5 and 1.0 in deviations: errors of 0 and 1
    out = made({"y": y}, Context())
    assert out.loss.item() == pytest.approx(expected)
    assert out.metrics["mae"].item() == pytest.approx(1.0)
    assert out.weight == 2


def test_nodes_without_a_class_do_not_count() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.0, 0.0]])
    out = task("node_classification", logits)({"y": torch.tensor([0, -1, 1])}, Context())
    assert out.weight == 2
    assert out.loss.item() == pytest.approx((math.log(1 + math.exp(-2)) + math.log(2)) / 2)
    none = task("node_classification", logits)({"y": torch.tensor([-1, -1, -1])}, Context())
    assert (none.loss.item(), none.weight) == (0, 0)


def test_balance_weighs_by_the_inverse_of_the_counts() -> None:
    made = task("classification", torch.zeros(4, 2), LossConfig(balance=True), class_counts=(30, 10))
    assert made.class_weight is not None
    assert made.class_weight.tolist() == pytest.approx([40 / 60, 40 / 20])


def test_balanced_accuracy_is_the_mean_over_classes() -> None:
    logits = torch.eye(3)[torch.tensor([0, 0, 0, 1, 2])]
    y = torch.tensor([0, 0, 1, 1, -1])
    assert measure.balanced_accuracy(logits, y) == pytest.approx((1 + 0.5) / 2)


def test_regression_scores() -> None:
    spec = GraphSpec("regression", 2, target_std=(2.0, 4.0), monitor="nmae")
    y = torch.tensor([[0.0, 0.0], [2.0, 4.0]])
    found = measure.score(spec, y + torch.tensor([[1.0, -2.0], [1.0, 2.0]]), y)
    assert next(iter(found)) == "nmae"
    assert found["mae"] == pytest.approx(1.5)
    assert found["rmse"] == pytest.approx(math.sqrt(2.5))
    assert found["nmae"] == pytest.approx(0.5)
    assert found["r2"] == pytest.approx((1 - 2 / 2 + 1 - 8 / 8) / 2)


def test_ridge_finds_a_linear_map_both_ways_round() -> None:
    rng = np.random.default_rng(0)
    for rows, columns in ((200, 4), (8, 30)):
        x, true = rng.normal(size=(rows, columns)), rng.normal(size=(columns, 2))
        weights = measure.ridge(x, x @ true + 3, 1e-6)
        np.testing.assert_allclose(measure.apply_ridge(weights, x), x @ true + 3, atol=1e-3)


# ---- links ------------------------------------------------------------------------------------------


def links(train: bool) -> LinkDataset:
    graphs = some(9, count=6)
    graph = graphs.take([int(graphs.num_nodes.argmax())])
    pe = PEConfig()
    pairs = graph.ends.T[graph.ends[0] < graph.ends[1]].astype(np.int64)
    others = pairs[:, ::-1].copy()  # any pairs will do here
    layout = Layout(pe, (), False)
    return LinkDataset(graph, encode(graph, pe, False), layout, (pairs, others), train)


def test_links_that_are_asked_for_are_not_in_the_graph() -> None:
    data = links(train=True)
    batch = data.batch(torch.tensor([1, 0]))
    present = {tuple(pair) for pair in batch["edges"].T.tolist()}
    for i, j in data.links[0][[1, 0]].tolist():
        assert (i, j) not in present
        assert (j, i) not in present
    assert len(present) == data.graphs.ends.shape[1] - 4
    assert batch["y"].tolist() == [1, 1]


def test_in_validation_the_graph_is_whole_and_both_kinds_are_asked_for() -> None:
    data = links(train=False)
    batch = data.batch(torch.tensor([1, 0]))
    assert batch["edges"].shape[1] == data.graphs.ends.shape[1]
    assert batch["pairs"].T.tolist() == [*data.links[0][[1, 0]].tolist(), *data.links[1][[1, 0]].tolist()]
    assert batch["y"].tolist() == [1, 1, 0, 0]


def test_counterparts_are_no_links_and_follow_the_generator() -> None:
    data = links(train=True)
    batch = data.batch(torch.arange(len(data)))
    known = {tuple(pair) for pair in data.graphs.ends.T.tolist()}
    torch.manual_seed(0)
    one = with_unlinked(batch)
    drawn = one["pairs"][:, len(data) :].T.tolist()
    assert len(drawn) == len(data)
    assert not known & {tuple(pair) for pair in drawn}
    assert all(i != j for i, j in drawn)
    assert one["y"].sum() == len(data)
    torch.manual_seed(0)
    assert torch.equal(with_unlinked(batch)["pairs"], one["pairs"])
    assert not torch.equal(with_unlinked(batch)["pairs"], one["pairs"])


# ---- runs of every kind -----------------------------------------------------------------------------

RUNS = {
    "gps on counting": ["dataset=counting", "dataset.count=24", "model=gps", "model.attn_dropout=0.2"],
    "gine with random signs": [
        "dataset=counting",
        "dataset.count=24",
        "model=gine",
        "pe=lap",
        "pe.lap.signs=flip",
    ],
    "nodes": ["dataset=pattern", "dataset.count=20", "model=gps", "trainer.batch_size=2"],
    "communities": ["dataset=cluster", "dataset.count=20", "model=gcn", "trainer.batch_size=2", "pe=rwse"],
    "pair values": ["dataset=csl", "model.pair_values=true", "model.dropout=0.1", "pe=all"],
}


def built(words: list[str], folder: Path) -> tuple[Any, Any, Any]:
    torch.set_num_threads(1)
    cfg = compose("graph", [*TINY, *words, *COMMON, f"dataset.cache={folder}"]).cfg
    family = load_family("graph")
    data = family.build_data(cfg)
    set_seed(cfg.seed)
    made = family.build_task(cfg, family.build_model(cfg, data.spec), data)
    return cfg, data, made


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS)
def test_a_resume_is_exact_whatever_is_trained(words: list[str], tmp_path: Path) -> None:
    def train(stop: int, load: bool = False) -> dict[str, Tensor]:
        cfg, data, made = built(words, tmp_path / "cache")
        cfg.trainer.max_steps, cfg.trainer.eval_every = 6, 2
        trainer = build_trainer(cfg, made, tmp_path / str(stop))
        trainer.reporter.show = False
        if load:
            torch.manual_seed(99)
            trainer.load_checkpoint(tmp_path / str(stop))
        else:
            trainer.add_log_hook(lambda metrics, step, prefix: trainer.stop() if step == stop else None)
        trainer.fit(data.train, data.valid)
        return {key: value.clone() for key, value in made.state_dict().items()}

    whole = train(6)
    train(3)
    resumed = train(3, load=True)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS)
def test_a_run_starts_where_theory_puts_it_and_its_table_has_baselines(
    words: list[str], tmp_path: Path
) -> None:
    cfg, data, made = built(words, tmp_path / "cache")
    made.eval()
    with torch.inference_mode():
        found = made.evaluate(data.train)
    if data.spec.task == "regression":
        y = torch.from_numpy(data.artifacts["sets"].splits["train"].y).double()
        mean_error = ((y - y.mean(0)).abs() / y.std(0, unbiased=False)).mean()
        assert found["loss"] == pytest.approx(float(mean_error), rel=1e-4)
    elif not cfg.loss.balance:
        assert found["loss"] == pytest.approx(math.log(data.spec.num_outputs), rel=1e-4)
    family = load_family("graph")
    family.save_model(cfg, made, data, tmp_path / "model")
    rows = family.table(family.predictor.load(tmp_path), data, "test")
    assert {"counts", "constant"} < {row["name"] for row in rows}
    with torch.inference_mode():
        assert rows[0][made.monitor[0]] == pytest.approx(made.evaluate(data.test)[made.monitor[0]], abs=1e-5)
    assert isinstance(family.examples(family.predictor.load(tmp_path), data), list)
