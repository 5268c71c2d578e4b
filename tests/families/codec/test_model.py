from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tinsmith.families.codec.config import ModelConfig
from tinsmith.families.codec.model import CodecSpec, Encoder, FoldedEncoder

SPEC = CodecSpec(vocab_size=30, z_dim=6, max_len=9, teacher="t", teacher_fingerprint="f")


def encoder(trained: bool = True, **options: Any) -> Encoder:
    torch.manual_seed(0)
    model = Encoder(ModelConfig(dim=8, dilations=[1, 2], **options), SPEC)
    if trained:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([5, 1, 3])
    mask = torch.arange(5)[None] < lengths[:, None]
    return torch.randint(30, (3, 5), generator=torch.Generator().manual_seed(1)), mask


KINDS: list[dict[str, Any]] = [
    {},
    {"conv": False},
    {"pooling": "gated"},
    {"block": "ssm"},
    {"drop_path": 0.5},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_starts_as_the_weighted_mean_of_the_given_table(options: dict[str, Any]) -> None:
    model, (tokens, mask) = encoder(trained=False, **options), batch()
    table, log_weight = torch.randn(30, 6), torch.randn(30)
    model.start_from(table, log_weight)
    out = model(tokens, mask)
    for i, (row, keep) in enumerate(zip(tokens, mask, strict=True)):
        w = log_weight[row[keep]].exp()
        expected = (w[:, None] * table[row[keep]]).sum(0) / w.sum()
        torch.testing.assert_close(out.z[i], expected)
        torch.testing.assert_close(out.static[i], expected)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_the_folded_encoder_gives_what_the_trained_one_does(options: dict[str, Any]) -> None:
    model, (tokens, mask) = encoder(**options).eval(), batch()
    out = model(tokens, mask)
    folded = FoldedEncoder(model)
    torch.testing.assert_close(folded(tokens, mask), F.normalize(out.z, dim=-1))
    torch.testing.assert_close(folded.static_only()(tokens, mask), F.normalize(out.static, dim=-1))


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_what_lies_under_padding_changes_nothing(options: dict[str, Any]) -> None:
    model, (tokens, mask) = encoder(**options).eval(), batch()
    other = torch.where(mask, tokens, (tokens + 7) % 30)
    torch.testing.assert_close(model(tokens, mask).z, model(other, mask).z)
    torch.testing.assert_close(FoldedEncoder(model)(tokens, mask), FoldedEncoder(model)(other, mask))


def test_only_the_rows_in_use_get_a_gradient() -> None:
    model, (tokens, mask) = encoder(), batch()
    model(tokens, mask).z.sum().backward()
    gradient = model.table.weight.grad
    assert gradient is not None
    assert gradient.is_sparse
    assert set(gradient.coalesce().indices()[0].tolist()) == set(tokens.unique().tolist())


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_every_weight_gets_a_gradient(options: dict[str, Any]) -> None:
    model = encoder(**options).eval()
    model(*batch()).z.square().sum().backward()
    without = [
        name
        for name, weight in model.named_parameters()
        if weight.grad is None or not weight.grad.to_dense().any()
    ]
    assert without == []
