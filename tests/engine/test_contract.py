from collections.abc import Iterable
from typing import Any

import pytest
import torch

from tinsmith.engine.contract import Context, StepOutput, Task


class Weighted(Task):
    """Its loss is the mean of the batch, over as many items as the batch has."""

    def forward(self, batch: torch.Tensor, ctx: Context) -> StepOutput:
        return StepOutput(batch.mean(), float(len(batch)), {"square": batch.square().mean()})


def test_evaluation_weighs_the_batches_by_their_items() -> None:
    values = torch.arange(10.0)
    parts: Iterable[Any] = values.split([1, 6, 3])
    means = Weighted().evaluate(parts)
    assert means == pytest.approx({"loss": 4.5, "square": values.square().mean().item()})


def test_an_empty_set_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="the loader is empty"):
        Weighted().evaluate([])
