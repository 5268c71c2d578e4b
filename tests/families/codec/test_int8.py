import pytest
import torch
import torch.nn.functional as F
from families.codec.test_model import KINDS, batch, encoder

from tinsmith.families.codec.int8 import Int8Encoder, dequantized, quantize_rows, quantized
from tinsmith.families.codec.model import FoldedEncoder


def test_a_row_is_off_by_half_a_step_at_most() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 7) * torch.tensor([1e-4, 1.0, 1e4, 0.0, 3.0])[:, None]
    q, scale = quantize_rows(weight)
    assert q.dtype == torch.int8
    assert ((q * scale - weight).abs() <= scale / 2 + 1e-30).all()
    assert (q.abs().amax(1)[[0, 1, 2, 4]] == 127).all()


def test_only_large_matrices_become_bytes() -> None:
    weights = {"table": torch.randn(64, 32), "bias": torch.randn(2000), "column": torch.randn(5000, 1)}
    small = quantized(weights)
    assert set(small) == {"table", "table.scale", "bias", "column"}
    back = dequantized(small)
    assert set(back) == set(weights)
    assert torch.equal(back["bias"], weights["bias"])
    assert F.cosine_similarity(back["table"], weights["table"]).min() > 0.999


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_vectors_stay_where_they_were(options: dict[str, object]) -> None:
    folded, (tokens, mask) = FoldedEncoder(encoder(**options).eval()), batch()
    small = Int8Encoder(folded)
    with torch.no_grad():
        assert F.cosine_similarity(small(tokens, mask), folded(tokens, mask)).min() > 0.999
        one, two = small.static_only()(tokens, mask), folded.static_only()(tokens, mask)
    assert F.cosine_similarity(one, two).min() > 0.999
    other = torch.where(mask, tokens, (tokens + 7) % 30)
    assert torch.equal(small(tokens, mask), small(other, mask))
