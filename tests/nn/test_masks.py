import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tinsmith.nn.masks import (
    create_causal_mask,
    create_combined_mask,
    create_padding_mask,
    to_torch_transformer,
)

TOKENS = torch.tensor([[5, 6, 7, 0], [8, 0, 0, 0]])


def test_shapes_and_meaning() -> None:
    padding, causal = create_padding_mask(TOKENS), create_causal_mask(3)
    assert padding.shape == (2, 1, 1, 4)
    assert padding[0, 0, 0].tolist() == [True, True, True, False]
    assert causal.shape == (1, 1, 3, 3)
    assert causal[0, 0].tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert create_causal_mask(1)[0, 0].tolist() == [[True]]
    combined = create_combined_mask(TOKENS)
    assert combined.shape == (2, 1, 4, 4)
    for b in range(2):
        for i in range(4):
            for j in range(4):
                assert combined[b, 0, i, j] == (j <= i and TOKENS[b, j] != 0)
    assert create_padding_mask(TOKENS, pad_idx=8)[1, 0, 0].tolist() == [False, True, True, True]


def test_a_masked_key_changes_nothing_and_a_kept_one_does() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 1, 4, 8) for _ in range(3))
    mask = create_padding_mask(TOKENS)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    for place, same in ((3, True), (2, False)):
        k2, v2 = k.clone(), v.clone()
        k2[0, :, place] += 1
        v2[0, :, place] -= 1
        other = F.scaled_dot_product_attention(q, k2, v2, attn_mask=mask)
        assert torch.equal(out[0], other[0]) == same
        assert torch.equal(out[1], other[1])


def test_the_converter_gives_what_torchs_transformer_means() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, 4, 8)
    w, b = attention.in_proj_weight, attention.in_proj_bias
    q, k, v = (z.view(2, 4, 2, 4).transpose(1, 2) for z in (x @ w.T + b).chunk(3, -1))

    def ours(mask: torch.Tensor) -> torch.Tensor:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return attention.out_proj(out.transpose(1, 2).reshape(2, 4, 8))  # type: ignore[no-any-return]

    padding, causal, combined = (
        create_padding_mask(TOKENS),
        create_causal_mask(4),
        create_combined_mask(TOKENS),
    )
    theirs = attention(x, x, x, key_padding_mask=to_torch_transformer(padding), need_weights=False)[0]
    torch.testing.assert_close(ours(padding), theirs, rtol=1e-4, atol=1e-5)
    theirs = attention(x, x, x, attn_mask=to_torch_transformer(causal), need_weights=False)[0]
    torch.testing.assert_close(ours(causal), theirs, rtol=1e-4, atol=1e-5)
    theirs = attention(x, x, x, attn_mask=to_torch_transformer(combined, 2), need_weights=False)[0]
    torch.testing.assert_close(ours(combined), theirs, rtol=1e-4, atol=1e-5)


def test_other_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="a boolean mask"):
        to_torch_transformer(torch.zeros(2, 1, 4, 4))
