import pytest
import torch

from tinsmith.text.topk import largest


@pytest.mark.parametrize("count", [20, 640, 1300])
def test_the_largest_are_those_of_sorting(count: int) -> None:
    scores = torch.randn(30, count, generator=torch.Generator().manual_seed(count))
    if count > 74:
        scores[0, 64:74] = torch.arange(10) + 9.0  # all in one block
    values, places = largest(scores, 10)
    expected = scores.sort(dim=1, descending=True)
    assert torch.equal(values, expected.values[:, :10])
    assert torch.equal(scores.gather(1, places), values)
    assert all(len(set(row)) == 10 for row in places.tolist())
