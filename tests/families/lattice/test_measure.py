"""Metrics against slow twins and by hand; baselines on data whose answer is known; the table's rows."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.engine.contract import Data
from tinsmith.engine.data import Loader
from tinsmith.errors import DataError
from tinsmith.families.lattice import baselines, measure, metrics
from tinsmith.families.lattice.data import LatticeSpec
from tinsmith.families.lattice.datasets import AutoencoderDataset, DialogueDataset, VectorPairs, joined


def unit(n: int, z: int = 8, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(n, z, generator=torch.Generator().manual_seed(seed)), dim=-1)


# ---- metrics ------------------------------------------------------------------------------------------


def test_cosines_by_hand() -> None:
    predicted = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    true = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert metrics.cosine_metrics(predicted, true) == pytest.approx({"cosine": 0.5, "cosine_p10": 0.1})
    out = metrics.dialogue_metrics(predicted, true, torch.zeros(2))
    assert out["cosine"] == pytest.approx(0.5)
    assert out["cosine_shuffled"] == pytest.approx(0.5)  # the first against the second's truth, and back
    assert out["gap"] == pytest.approx(0)
    assert out["cosine_centred"] == pytest.approx(0.5)
    assert out["relevance"] == pytest.approx(0.5)  # the best of all, and the worst


def test_ranks_are_those_of_a_slow_count() -> None:
    predicted, true = unit(30, seed=1), unit(30, seed=2)
    scores = predicted @ true.T
    beaten = [sum(float(scores[i, j]) < float(scores[i, i]) for j in range(30)) / 29 for i in range(30)]
    ranks = [1 + sum(float(scores[i, j]) > float(scores[i, i]) for j in range(30)) for i in range(30)]
    out = metrics.dialogue_metrics(predicted, true, true.mean(0))
    assert out["relevance"] == pytest.approx(np.mean(beaten))
    assert out["accuracy_1_of_100"] == pytest.approx(np.mean([rank == 1 for rank in ranks]))
    assert out["mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    shuffled = [float(scores[i, j]) for i in range(30) for j in range(30) if i != j]
    assert out["cosine_shuffled"] == pytest.approx(np.mean(shuffled), abs=1e-6)


def test_the_truth_itself_and_its_opposite() -> None:
    true = unit(250)
    best = metrics.dialogue_metrics(true, true, true.mean(0))
    assert (best["accuracy_1_of_100"], best["mrr"], best["relevance"]) == (1.0, 1.0, 1.0)
    assert best["cosine"] == pytest.approx(1)
    worst = metrics.dialogue_metrics(-true, true, true.mean(0))
    assert (worst["accuracy_1_of_100"], worst["relevance"]) == (0.0, 0.0)
    assert worst["mrr"] == pytest.approx(0.01)  # the last of a hundred, for every row


def test_without_information_ranks_are_those_of_chance() -> None:
    true = unit(4000, z=16)
    constant = F.normalize(true.mean(0), dim=0).expand_as(true)
    out = metrics.dialogue_metrics(constant, true, true.mean(0))
    assert out["relevance"] == pytest.approx(0.5, abs=1e-4)  # every rank occurs once
    assert out["accuracy_1_of_100"] == pytest.approx(0.01, abs=0.002)
    assert out["gap"] == pytest.approx(0, abs=1e-3)


def test_equal_scores_are_shared() -> None:
    same = torch.ones(5, 2) / 2**0.5
    better, ties = metrics.ranks_of_blocks(same, same, seed=0, size=2)
    assert better.tolist() == [0] * 5
    assert ties.tolist() == [1] * 5  # one rival each, also in the last block
    out = metrics.dialogue_metrics(same, same, same.mean(0))
    assert out["accuracy_1_of_100"] == pytest.approx(1 / 5)
    assert out["relevance"] == 0.5


def test_every_row_has_as_many_rivals() -> None:
    true = unit(130, z=4)
    better, ties = metrics.ranks_of_blocks(-true, true, seed=3)
    assert (better + ties).tolist() == [99] * 130


def test_the_draw_of_the_rivals_follows_the_seed() -> None:
    predicted, true = unit(300, seed=1), unit(300, seed=2)
    one, again, other = (metrics.ranks_of_blocks(predicted, true, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_batches_of_any_size_give_the_same() -> None:
    predicted, true = 3 * unit(50, seed=1), unit(50, seed=2)
    values = []
    for size in (1, 7, 50):
        together = metrics.EmbeddingMetrics(seed=5)
        for i in range(0, 50, size):
            together.update(predicted[i : i + size], true[i : i + size])
        values.append(together.compute())
    assert values[0] == pytest.approx(values[2], abs=1e-6)
    assert values[1] == pytest.approx(values[2], abs=1e-6)
    assert together.relevance_score() == values[2]["relevance"]
    together.reset()
    with pytest.raises(DataError, match="call update"):
        together.compute()


def test_similarity_of_what_people_have() -> None:
    assert float(metrics.calculate_embedding_similarity([3.0, 0.0], [1.0, 1.0])) == pytest.approx(0.5**0.5)
    rows = metrics.calculate_embedding_similarity(np.eye(2), torch.eye(2).flip(0))
    assert rows.tolist() == [0, 0]
    centred = metrics.calculate_embedding_similarity([[2.0, 1.0]], [[1.0, 2.0]], centre=torch.ones(2))
    assert centred.tolist() == [0]
    with pytest.raises(DataError, match=r"\[2, 2\] and \[2, 3\]"):
        metrics.calculate_embedding_similarity(np.eye(2), np.ones((2, 3)))
    with pytest.raises(DataError, match="row 1 of the second vectors is not finite"):
        metrics.calculate_embedding_similarity(np.eye(2), [[1.0, 0.0], [float("nan"), 1.0]])


def test_mixed_rows_are_measured_by_what_they_are_for() -> None:
    both = {"autoencoder": (unit(9, seed=1), unit(9, seed=2)), "dialogue": (unit(9, seed=3), unit(9, seed=4))}
    out = metrics.score(both, mixed=True)
    cosine, accuracy = out["autoencoder_cosine"], out["dialogue_accuracy_1_of_100"]
    assert out["score"] == pytest.approx((cosine + accuracy) / 2)
    alone = metrics.score({"autoencoder": both["autoencoder"]})
    assert alone == metrics.cosine_metrics(*both["autoencoder"])


# ---- baselines ----------------------------------------------------------------------------------------


def test_pca_rebuilds_what_lies_in_a_plane() -> None:
    torch.manual_seed(0)
    flat = torch.randn(100, 3) @ torch.randn(3, 8) + torch.randn(8)
    x = F.normalize(flat, dim=-1)  # a plane through the origin of one dimension more
    lowest = {k: float((baselines.fit_pca(x, k)(x) * x).sum(-1).min()) for k in (1, 4, 8, 99)}
    assert [lowest[k] for k in (4, 8, 99)] == pytest.approx([1, 1, 1], abs=1e-4)
    assert lowest[1] < 0.99


def test_ridge_finds_a_linear_map_and_takes_the_alpha_that_is_judged_best() -> None:
    x, true = unit(400, z=6), torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    y = F.normalize(x @ true + 0.3, dim=-1)
    model = baselines.fit_ridge(x, y, lambda model: float((model(x) * y).sum()), alphas=(1e-6, 1e3))
    assert float((model(x) * y).sum(-1).mean()) > 0.9
    worst = baselines.fit_ridge(x, y, lambda model: -float((model(x) * y).sum()), alphas=(1e-6, 1e3))
    constant = baselines.fit_constant(y)  # alpha so large that x hardly counts
    likeness = [float((ridge(x) * constant(x)).sum(-1).mean()) for ridge in (worst, model)]
    assert likeness[0] > 0.9 > likeness[1]


def test_the_mlp_learns_and_leaves_the_generators_alone() -> None:
    x, turn = unit(512), torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2)))[0]
    y = x @ turn

    def judge(model: baselines.Model) -> float:
        return float((model(x) * y).sum(-1).mean())

    torch.manual_seed(1)
    state = torch.get_rng_state()
    with torch.no_grad():
        model, again = (baselines.fit_mlp(x, y, judge, seed=3, epochs=100) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert judge(model) > 0.9 > judge(baselines.identity)
    assert torch.equal(model(x), again(x))
    narrow = baselines.fit_mlp(x, x, judge, bottleneck=2, epochs=5)
    assert narrow(x).norm(dim=-1).tolist() == pytest.approx([1] * 512, abs=1e-5)


def test_the_mlp_is_the_one_that_was_judged_best() -> None:
    x, y = unit(64, seed=1), unit(64, seed=2)
    seen: list[Tensor] = []

    def judge(model: baselines.Model) -> float:
        seen.append(model(x))
        return -abs(len(seen) - 3)  # the third epoch is the best

    model = baselines.fit_mlp(x, y, judge, epochs=6)
    assert len(seen) == 6
    assert torch.equal(model(x), seen[2])
    assert not torch.equal(seen[5], seen[2])


# ---- table and examples -------------------------------------------------------------------------------


class Half:
    """Keeps half of the numbers of a vector, whatever it is asked."""

    bottleneck = 4

    def __init__(self, spec: LatticeSpec) -> None:
        self.spec = spec

    def map(self, x: Any, mode: str = "autoencoder") -> Any:
        assert x.dtype == np.float32
        out = x.copy()
        out[:, 4:] = 0
        return out / np.linalg.norm(out, axis=1, keepdims=True)


def data(mode: str) -> Data:
    spec = LatticeSpec(8, "given", "given", mode)

    def split(n: int, seed: int) -> VectorPairs:
        texts = [(f"question {i}", f"answer {i}") for i in range(n)]
        parts: dict[str, VectorPairs] = {
            "autoencoder": AutoencoderDataset(unit(n, seed=seed), [q for q, _ in texts]),
            "dialogue": DialogueDataset(unit(n, seed=seed), unit(n, seed=seed + 1), texts),
        }
        return joined(list(parts.values())) if mode == "mixed" else parts[mode]

    train = split(40, 0)
    known = (train.mode == 1).nonzero()[:, 0]
    texts = [(train.texts or [])[i][1] for i in known.tolist()]
    loaders = Loader(train, 8, shuffle=True), Loader(split(20, 7), 8)
    return Data(*loaders, None, spec, {"teacher": None, "answers": (texts, train.y[known])})


def test_the_table_of_an_autoencoder() -> None:
    found = data("autoencoder")
    rows = measure.table(Half(found.spec), found, "valid")  # type: ignore[arg-type]
    assert [row["name"] for row in rows] == ["lattice", "pca", "mlp", "constant", "identity"]
    assert [row["numbers"] for row in rows] == [4, 4, 4, 0, 8]
    by_name = {row["name"]: row["cosine"] for row in rows}
    assert by_name["identity"] == pytest.approx(1)
    x = found.valid.dataset.x
    expected = (x[:, :4].norm(dim=1)).mean()
    assert by_name["lattice"] == pytest.approx(float(expected), abs=1e-5)


def test_the_table_of_dialogues() -> None:
    found = data("dialogue")
    rows = measure.table(Half(found.spec), found, "valid")  # type: ignore[arg-type]
    assert [row["name"] for row in rows] == ["lattice", "ridge", "mlp", "identity", "constant"]
    assert all(set(row) >= {"cosine", "gap", "accuracy_1_of_100", "mrr", "relevance"} for row in rows)
    valid = found.valid.dataset
    mean = found.train.dataset.y.mean(0)
    expected = metrics.dialogue_metrics(valid.x, valid.y, mean, found.train.seed)
    assert rows[3] == pytest.approx({"name": "identity", **expected})


def test_the_table_of_both_has_each_under_its_name() -> None:
    found = data("mixed")
    rows = measure.table(Half(found.spec), found, "valid")  # type: ignore[arg-type]
    names = [row["name"] for row in rows]
    assert names == ["lattice", "pca", "mlp", "constant", "identity", "ridge"]
    assert {"score", "autoencoder_cosine", "dialogue_relevance"} <= set(rows[0])
    assert "dialogue_cosine" not in rows[1]  # pca
    assert "autoencoder_cosine" not in rows[5]  # ridge


def test_another_teachers_vectors_and_a_missing_split_are_refused() -> None:
    found = data("dialogue")
    with pytest.raises(DataError, match="no test split"):
        measure.table(Half(found.spec), found, "test")  # type: ignore[arg-type]
    other = LatticeSpec(8, "e5", "0123456789abcdef", "dialogue")
    with pytest.raises(DataError, match=r"another teacher \(e5, 0123456789ab, 8 numbers\)"):
        measure.table(Half(other), found, "valid")  # type: ignore[arg-type]


@pytest.mark.parametrize(("mode", "tables"), [("autoencoder", 1), ("dialogue", 4), ("mixed", 5)])
def test_examples(mode: str, tables: int) -> None:
    found = data(mode)
    shown = measure.examples(Half(found.spec), found)  # type: ignore[arg-type]
    assert len(shown) == tables
    assert all(len(row) == len(table["columns"]) for table in shown for row in table["rows"])
    if mode != "autoencoder":
        assert shown[0]["title"].startswith("question ")
        assert [row[2] for row in shown[0]["rows"]] == ["nearest known answer"] * 3 + ["true answer"]
    else:
        assert shown[0]["title"] == "rebuilt from 4 numbers"


def test_examples_of_vectors_without_texts() -> None:
    x = AutoencoderDataset(unit(6))
    held = DialogueDataset(unit(3, seed=1), unit(3, seed=2))
    spec = LatticeSpec(8, "given", "given", "dialogue")
    found = SimpleNamespace(
        train=Loader(x), valid=Loader(held), artifacts={"answers": ([], unit(5, seed=3))}, spec=spec
    )
    shown = measure.examples(Half(spec), found)  # type: ignore[arg-type]
    assert shown[0]["title"].startswith("row ")
    assert shown[0]["rows"][0][1].startswith("answer ")
