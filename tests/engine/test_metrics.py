from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor

from tinsmith.engine.metrics import get_metrics
from tinsmith.errors import ConfigError, DataError


def measure(task: str, outputs: Tensor, targets: Tensor, sizes: list[int] | None = None, **options) -> dict:
    metrics = get_metrics(task, **options)
    parts = [len(outputs)] if sizes is None else sizes
    for x, y in zip(outputs.split(parts), targets.split(parts), strict=True):
        metrics.update(x, y)
    return metrics.compute()


def cut(total: int, cuts: list[int]) -> list[int]:
    marks = sorted({0, total, *(c % total for c in cuts)})
    return [b - a for a, b in pairwise(marks)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 10_000), max_size=6), st.integers(0, 100))
def test_the_value_does_not_depend_on_the_batches(cuts, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = 40
    # Scores partly inside 0..1: torchmetrics would squash some batches and not others.
    narrow, wide = torch.rand(rows, generator=generator), torch.randn(rows, 4, generator=generator) * 5
    narrow[rows // 2 :] *= 10
    binary, classes = (torch.randint(high, (rows,), generator=generator) for high in (2, 4))
    cases = [
        ("regression", wide, wide.roll(1, 0)),
        ("classification", narrow, binary),
        ("classification", wide, classes),
        ("classification", wide, wide.roll(1, 0) > 0),
        ("edge_prediction", narrow, binary),
    ]
    for task, outputs, targets in cases:
        whole = measure(task, outputs, targets)
        assert measure(task, outputs, targets, cut(rows, cuts)) == pytest.approx(
            whole, rel=1e-12, nan_ok=True
        )


def test_regression_by_hand():
    found = measure("regression", tensor([[1.0], [2.0], [6.0]]), tensor([1.0, 4.0, 2.0]), [1, 2])
    assert found == pytest.approx({"mse": 20 / 3, "mae": 2.0, "rmse": (20 / 3) ** 0.5})


def test_regression_sums_in_double():
    found = measure("regression", torch.full((3000,), 0.1), torch.zeros(3000), [1] * 3000)
    assert found["mae"] == pytest.approx(float(tensor(0.1)), rel=1e-12)


def test_binary_by_hand():
    # by score: 1, 0, 1 | 0, 1 below zero: tp 2, fp 1, fn 1; pairs in order: 2 + 1 + 0 ... of 6
    outputs, targets = tensor([3.0, 2.0, 1.0, -1.0, -2.0]), tensor([1, 0, 1, 0, 1])
    expected = {
        "accuracy": 3 / 5,
        "f1": 2 * 2 / (2 * 2 + 1 + 1),
        "roc_auc": (2 + 1 + 0) / 6,
        "ap": (1 + 2 / 3 + 3 / 5) / 3,
    }
    assert measure("classification", outputs, targets) == pytest.approx(expected)
    assert measure("classification", outputs[:, None], targets.float(), num_classes=1) == pytest.approx(
        expected
    )
    two = torch.stack([-outputs / 2, outputs / 2], 1)
    assert measure("classification", two, targets, num_classes=2) == pytest.approx(expected)


def test_multi_class_by_hand():
    outputs = tensor([[4.0, 0, 0], [0, 4, 0], [0, 4, 0], [4, 0, 0]])
    targets = tensor([0, 1, 0, 0])
    found = measure("classification", outputs, targets, num_classes=3)
    # Class 2 occurs nowhere. f1: class 0 4/5, class 1 2/3. Two of class 0's three rows score above the rest,
    # the third ties, which is half a pair; class 1 likewise ties with one row of three.
    assert found["accuracy"] == 0.75
    assert found["f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert found["roc_auc"] == pytest.approx((2.5 / 3 + 2.5 / 3) / 2)
    assert found["ap"] == pytest.approx(((2 / 3 * 1 + 1 / 3 * 3 / 4) + 1 / 2) / 2)


def test_multi_label_and_sequences():
    labels = measure("classification", tensor([[1.0, -1], [-1, -1]]), tensor([[1.0, 0], [0, 1]]))
    assert labels["accuracy"] == 0.75
    outputs, targets = torch.randn(3, 4, 5), torch.randint(5, (3, 4))
    targets[0, 1:] = -100
    kept = targets >= 0
    assert measure("classification", outputs, targets) == measure(
        "classification", outputs[kept], targets[kept]
    )


def test_multi_class_equals_torchmetrics():
    from torchmetrics.functional import classification as tm

    torch.manual_seed(0)
    outputs, targets = torch.randn(60, 4), torch.randint(4, (60,))
    found = measure("classification", outputs, targets)
    shares = outputs.double().softmax(-1)
    assert found["accuracy"] == pytest.approx((outputs.argmax(-1) == targets).double().mean().item())
    assert found["f1"] == pytest.approx(tm.multiclass_f1_score(shares, targets, 4, average="macro").item())
    assert found["roc_auc"] == pytest.approx(tm.multiclass_auroc(shares, targets, 4).item())
    assert found["ap"] == pytest.approx(tm.multiclass_average_precision(shares, targets, 4).item())


def test_large_logits_keep_their_order():
    found = measure("classification", tensor([30.0, 25.0, 20.0]), tensor([1, 1, 0]))
    assert found["roc_auc"] == 1.0  # in single precision all three are 1.0 and tie


def test_undefined_values_are_nan_without_a_warning():
    one_kind = measure("classification", tensor([1.0, 2.0]), tensor([1, 1]))
    assert (one_kind["accuracy"], one_kind["f1"], one_kind["ap"]) == (1.0, 1.0, 1.0)
    assert one_kind["roc_auc"] != one_kind["roc_auc"]
    edges = measure("edge_prediction", tensor([1.0, 2.0]), tensor([0, 0]))
    assert edges["precision@k"] == 0.0
    assert all(edges[name] != edges[name] for name in ("roc_auc", "ap", "mrr"))
    for task in ("regression", "classification", "edge_prediction"):
        assert all(value != value for value in get_metrics(task).compute().values())


def test_edges_by_hand():
    outputs, targets = tensor([5.0, 4.0, 3.0, 2.0, 1.0]), tensor([1, 0, 1, 0, 1])
    found = measure("edge_prediction", outputs, targets, k=2)
    assert found["precision@k"] == 0.5
    assert found["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert found["roc_auc"] == pytest.approx((2 + 1 + 0) / 6)
    assert found["ap"] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    tie = measure("edge_prediction", tensor([1.0, 1.0]), tensor([1, 0]))
    assert tie["mrr"] == pytest.approx(1 / 1.5)
    assert tie["precision@k"] == 0.5  # k = 10 of two


def test_reset():
    metrics = get_metrics("regression")
    metrics.update(tensor([5.0]), tensor([0.0]))
    metrics.reset()
    metrics.update(tensor([1.0]), tensor([0.0]))
    assert metrics.compute()["mae"] == 1.0


def test_mistakes_are_explained(monkeypatch):
    with pytest.raises(ConfigError, match="Did you mean: classification"):
        get_metrics("clasification")
    with pytest.raises(DataError, match="3 logits, but num_classes is 4"):
        measure("classification", torch.zeros(2, 3), torch.zeros(2), num_classes=4)
    with pytest.raises(DataError, match=r"\[2, 3\] and targets \[3\]"):
        get_metrics("classification").update(torch.zeros(2, 3), torch.zeros(3))
