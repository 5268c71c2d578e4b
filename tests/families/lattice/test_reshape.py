import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.errors import ConfigError, DataError
from tinsmith.families.lattice.reshape import EmbeddingReshaper


@pytest.mark.parametrize(
    ("size", "shape", "padding"),
    [
        (384, (6, 8, 8), 0),
        (768, (8, 8, 12), 0),
        (1024, (8, 8, 16), 0),
        (512, (8, 8, 8), 0),
        (1, (1, 1, 1), 0),
    ],
)
def test_exact_boxes_by_hand(size: int, shape: tuple[int, ...], padding: int) -> None:
    reshaper = EmbeddingReshaper(size, method="exact")
    assert (reshaper.shape, reshaper.padding) == (shape, padding)


def test_a_prime_is_padded_where_that_makes_a_better_box() -> None:
    assert EmbeddingReshaper(383, method="exact").shape == (1, 1, 383)
    box = EmbeddingReshaper(383)
    assert max(box.shape) <= 2 * min(box.shape)
    assert 0 < box.padding <= 383 // 16
    assert box.to_3d(torch.ones(383)).sum() == 383  # beyond them zeros


@given(st.integers(1, 2000), st.sampled_from(["adaptive", "exact"]))
def test_there_and_back_without_loss(size: int, method: str) -> None:
    reshaper = EmbeddingReshaper(size, method)
    x = torch.randn(2, size)
    boxes = reshaper.to_3d(x)
    assert boxes.shape == (2, *reshaper.shape)
    assert boxes[0].numel() == size + reshaper.padding
    assert reshaper.padding <= size // 16
    assert torch.equal(reshaper.to_1d(boxes), x)


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="size=0"):
        EmbeddingReshaper(0)
    with pytest.raises(ConfigError, match=r"method='adaptiv'.*Did you mean: adaptive"):
        EmbeddingReshaper(8, "adaptiv")
    with pytest.raises(DataError, match=r"expected \[\.\.\., 8\]"):
        EmbeddingReshaper(8).to_3d(torch.zeros(7))
    with pytest.raises(DataError, match=r"expected \[\.\.\., 2, 2, 2\]"):
        EmbeddingReshaper(8).to_1d(torch.zeros(2, 2, 3))
