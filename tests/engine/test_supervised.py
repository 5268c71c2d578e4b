from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tinsmith import CrossEntropyLoss
from tinsmith.engine.contract import Context
from tinsmith.engine.supervised import SupervisedTask, split_batch

X, Y = torch.ones(2, 3), torch.zeros(2, 1)


@pytest.mark.parametrize("name", ["labels", "label", "target", "targets", "y"])
def test_a_dict_gives_its_target_and_the_rest(name: str) -> None:
    inputs, target = split_batch({"x": X, name: Y})
    assert inputs is X
    assert target is Y
    inputs, _ = split_batch({"x": X, "mask": Y, name: Y})
    assert set(inputs) == {"x", "mask"}


def test_tuples_and_graphs() -> None:
    assert split_batch((X, Y)) == ((X,), Y)
    assert split_batch([X, X, Y])[0] == (X, X)
    assert split_batch(namedtuple("Pair", "x y")(X, Y))[1] is Y
    graph = SimpleNamespace(edge_index=X, y=Y)
    assert split_batch(graph) == (graph, Y)
    assert split_batch(X, needs_target=False) == (X, None)
    assert split_batch((X,), needs_target=False) == ((X,), None)


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ({"x": X, "z": Y}, "its keys are x, z"),
        ((X,), "tuple of length 1"),
        (5, "int"),
        ([], "list of length 0"),
    ],
)
def test_what_is_no_batch_is_said(batch: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        split_batch(batch)


class Logits(nn.Module):
    """Answers as models of transformers do."""

    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(logits=x)


def test_ignored_targets_do_not_weigh() -> None:
    task = SupervisedTask(Logits(), CrossEntropyLoss(ignore_index=-1), task_type="classification")
    logits, target = torch.randn(4, 3), torch.tensor([0, -1, 2, -1])
    out = task((logits, target), Context())
    assert float(out.weight) == 2
    assert out.loss.item() == pytest.approx(
        nn.functional.cross_entropy(logits[[0, 2]], target[[0, 2]]).item()
    )


@pytest.mark.parametrize("task_type", ["regression", "classification"])
def test_evaluation_does_not_depend_on_the_batches(task_type: str) -> None:
    torch.manual_seed(0)
    outputs = torch.randn(23, 3)
    target = torch.randn(23, 3) if task_type == "regression" else torch.randint(3, (23,))
    task = SupervisedTask(Logits(), task_type=task_type)
    values = [task.evaluate(zip(outputs.split(size), target.split(size), strict=True)) for size in (1, 4, 23)]
    assert values[0] == pytest.approx(values[2], abs=1e-5)
    assert values[1] == pytest.approx(values[2], abs=1e-5)
    assert "loss" in values[0]


def test_predictions_must_be_tensors() -> None:
    with pytest.raises(TypeError, match="returns a tensor, not tuple"):
        SupervisedTask(Pairs()).predict(X)


class Pairs(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_an_empty_loader_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="empty"):
        SupervisedTask(Logits()).evaluate([])
