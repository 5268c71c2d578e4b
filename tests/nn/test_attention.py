import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.nn.attention import KVCache, Rotary, SelfAttention, attend, normed_rotary, rms_norm, rotate
from tinsmith.nn.blocks import MLP, Block, BlockConfig, Head, init_weights, squared_relu
from tinsmith.nn.masks import create_causal_mask, create_combined_mask


def test_the_norm_is_torchs_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(rms_norm(x), F.rms_norm(x, (8,)), rtol=1e-6, atol=1e-6)
    assert torch.autograd.gradcheck(rms_norm, (x,))
    trained = rms_norm(x)
    with torch.no_grad():
        assert torch.equal(rms_norm(x), trained)
    assert torch.isfinite(rms_norm(torch.zeros(2, 4))).all()


def test_rotation_by_hand() -> None:
    """A pair (x, y) at position p turns by p times its rate."""
    rotary = Rotary(4, 10)
    x = torch.randn(1, 3, 2, 1, 4, dtype=torch.float64)
    out = rotate(x, rotary.at(torch.tensor([0, 1, 7])))
    for t, p in enumerate((0, 1, 7)):
        for pair, rate in enumerate((1.0, 10_000**-0.5)):
            a, b = x[0, t, 1, 0, 2 * pair], x[0, t, 1, 0, 2 * pair + 1]
            c, s = math.cos(p * rate), math.sin(p * rate)
            expected = torch.stack([a * c - b * s, a * s + b * c])
            torch.testing.assert_close(
                out[0, t, 1, 0, 2 * pair : 2 * pair + 2], expected, rtol=1e-5, atol=1e-6
            )
    torch.testing.assert_close(
        rotate(out, rotary.at(torch.tensor([0, 1, 7])), back=True), x, rtol=1e-6, atol=1e-6
    )


def test_products_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    rotary, q, k = Rotary(8, 4), torch.randn(8), torch.randn(8)

    def product(i: int, j: int) -> Tensor:
        x = torch.stack([q, k])[None, None, :, None]
        turned = [rotate(x, rotary.at(torch.tensor([p])))[0, 0, n, 0] for n, p in enumerate((i, j))]
        return turned[0] @ turned[1]

    torch.testing.assert_close(product(5, 2), product(103, 100), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(product(5, 2), product(5, 3))


def test_norm_and_rotation_together_are_one_after_the_other() -> None:
    torch.manual_seed(0)
    rotary = Rotary(6, 5)
    x = torch.randn(2, 5, 3, 2, 6, dtype=torch.float64)[
        :, :, :2
    ].requires_grad_()  # a part of a product, as in use
    turns = rotary.table.double()
    torch.testing.assert_close(normed_rotary(x, turns), rotate(rms_norm(x), turns))
    assert torch.autograd.gradcheck(lambda x: normed_rotary(x, turns), (x,))
    with torch.no_grad():
        torch.testing.assert_close(normed_rotary(x, turns), rotate(rms_norm(x), turns))
    rows = rotary.at(torch.tensor([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])).double()
    torch.testing.assert_close(normed_rotary(x, rows)[0], normed_rotary(x, turns)[0])
    torch.testing.assert_close(normed_rotary(x, rows)[1], normed_rotary(x, turns.flip(0))[1])


def test_squared_relu() -> None:
    x = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    assert squared_relu(x).tolist() == [0.0, 0.25, 9.0]
    assert torch.autograd.gradcheck(squared_relu, (x,))
    with torch.no_grad():
        assert squared_relu(x).tolist() == [0.0, 0.25, 9.0]


def attention(modern: bool = True) -> SelfAttention:
    torch.manual_seed(1)
    return SelfAttention(8, 2, modern)


@pytest.mark.parametrize("modern", [True, False])
def test_plain_attention_by_definition(modern: bool) -> None:
    """softmax(q k / sqrt(E)) v, head by head."""
    layer, x = attention(modern), torch.randn(2, 5, 8)
    turns = Rotary(4, 5).table
    out = layer(x, turns, causal=True)
    qkv = layer.qkv(x).view(2, 5, 3, 2, 4)
    qk = rotate(F.rms_norm(qkv[:, :, :2], (4,)), turns) if modern else qkv[:, :, :2]
    heads = []
    for h in range(2):
        q, k, v = qk[:, :, 0, h], qk[:, :, 1, h], qkv[:, :, 2, h]
        weight = (q @ k.mT / 2).masked_fill(~create_causal_mask(5)[0, 0], float("-inf")).softmax(-1)
        heads.append(weight @ v)
    torch.testing.assert_close(out, layer.out(torch.cat(heads, -1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["free", "causal", "padding", "rows"])
def test_short_attention_is_torchs_in_value_and_gradient(kind: str) -> None:
    torch.manual_seed(0)
    queries, keys = 5, 5 if kind == "causal" else 7
    q, k, v = (torch.randn(2, n, 3, 4, dtype=torch.float64).transpose(1, 2) for n in (queries, keys, keys))
    mask = None
    if kind in ("padding", "rows"):
        mask = torch.rand(2, 1, 1 if kind == "padding" else queries, keys) > 0.4
        mask[..., 0] = True
    parts = [x.detach().requires_grad_() for x in (q, k, v)]
    trained = attend(*parts, mask, kind == "causal")
    expected = F.scaled_dot_product_attention(*parts, attn_mask=mask, is_causal=kind == "causal")
    node, nodes = trained.grad_fn, []
    while node is not None:
        nodes.append(node.name())
        node = node.next_functions[0][0] if node.next_functions else None
    assert "_ShortAttentionBackward" in nodes
    torch.testing.assert_close(trained, expected.transpose(1, 2).flatten(2))
    weights = torch.randn_like(trained)
    found = torch.autograd.grad((trained * weights).sum(), parts)
    hoped = torch.autograd.grad((expected.transpose(1, 2).flatten(2) * weights).sum(), parts)
    for a, b in zip(found, hoped, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(attend(*parts, mask, kind == "causal"), trained.detach())


def test_no_gradient_from_a_later_input_to_an_earlier_output() -> None:
    layer, turns = attention(), Rotary(4, 6).table
    for t in range(6):
        x = torch.randn(1, 6, 8, requires_grad=True)
        layer(x, turns, causal=True)[0, t].sum().backward()
        assert x.grad is not None
        assert not x.grad[0, t + 1 :].any()
        assert x.grad[0, : t + 1].abs().sum(-1).gt(0).all()


def test_a_row_of_padding_alone_is_finite_and_harms_nobody() -> None:
    torch.manual_seed(0)
    tokens = torch.tensor([[3, 4, 5, 0], [0, 0, 0, 0]])
    q, k, v = (torch.randn(2, 2, 4, 4, requires_grad=True) for _ in range(3))
    out = attend(q, k, v, create_combined_mask(tokens), False)
    assert torch.isfinite(out).all()
    out.sum().backward()
    assert all(torch.isfinite(z.grad).all() for z in (q, k, v) if z.grad is not None)
    alone = attend(q[:1], k[:1], v[:1], create_combined_mask(tokens[:1]), False)
    torch.testing.assert_close(out[:1], alone)


def test_causality_and_padding_together_are_each_row_unpadded() -> None:
    torch.manual_seed(0)
    tokens = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]])
    q, k, v = (torch.randn(2, 2, 4, 4) for _ in range(3))
    out = attend(q, k, v, create_combined_mask(tokens), False)
    short = attend(q[1:, :, :2], k[1:, :, :2], v[1:, :, :2], None, True)
    torch.testing.assert_close(out[1:, :2], short)


def test_chunks_through_the_cache_are_the_whole() -> None:
    layer, x, rotary = attention(), torch.randn(2, 9, 8), Rotary(4, 9)
    whole = layer(x, rotary.table, causal=True)
    cache, parts = KVCache(1), []
    for start, stop in ((0, 1), (1, 4), (4, 5), (5, 9)):
        positions = torch.arange(start, stop).expand(2, -1)
        cache.extend(positions)
        mask, causal = cache.visible(100)
        parts.append(layer(x[:, start:stop], rotary.at(positions), mask, causal, (cache, 0)))
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-5)


def test_a_reordered_cache_goes_on_for_its_new_rows() -> None:
    layer, x, rotary = attention(), torch.randn(3, 6, 8), Rotary(4, 6)
    rows = torch.tensor([2, 0, 0])
    cache = KVCache(1)
    cache.extend(torch.arange(5).expand(3, -1))
    layer(x[:, :5], rotary.table[:5], *cache.visible(100), (cache, 0))
    cache.reorder(rows)
    cache.extend(torch.full((3, 1), 5))
    out = layer(x[rows][:, 5:], rotary.table[5:6], *cache.visible(100), (cache, 0))
    torch.testing.assert_close(out, layer(x[rows], rotary.table, causal=True)[:, 5:], rtol=1e-5, atol=1e-5)


def test_what_is_visible_by_hand() -> None:
    cache = KVCache(0, padded=True)
    cache.extend(torch.tensor([[-1, 0, 1], [0, 1, 2]]))
    mask, causal = cache.visible(2)
    assert mask is not None
    assert not causal
    assert mask[1, 0].tolist() == [[True, False, False], [True, True, False], [False, True, True]]
    assert mask[0, 0, 1:].tolist() == [[False, True, False], [False, True, True]]
    assert mask[0, 0, 0].all()  # padding looks anywhere, so that it is finite


@pytest.mark.parametrize("kind", ["relu2", "swiglu", "gelu"])
@pytest.mark.parametrize("modern", [True, False])
def test_blocks_start_as_they_should(kind: str, modern: bool) -> None:
    torch.manual_seed(0)
    cfg = BlockConfig(dim=8, num_heads=2, mlp_dim=16, mlp=kind, modern=modern, depth=3)
    block = Block(cfg)
    init_weights(block, cfg)
    x = torch.randn(2, 4, 8)
    out = block(x, Rotary(4, 4).table, causal=True)
    assert torch.equal(out, x) == modern
    assert (block.mlp.inp.bias is None) == modern


def test_perceptrons_by_definition() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8)
    layers = {kind: MLP(BlockConfig(8, 2, 12, kind)) for kind in ("relu2", "swiglu", "gelu")}
    h = {kind: layer.inp(x) for kind, layer in layers.items()}
    u, v = h["swiglu"][..., :12], h["swiglu"][..., 12:]
    inner = {"relu2": h["relu2"].relu() ** 2, "swiglu": u * u.sigmoid() * v, "gelu": F.gelu(h["gelu"])}
    for kind, layer in layers.items():
        torch.testing.assert_close(layer(x), layer.out(inner[kind]))


@pytest.mark.parametrize("modern", [True, False])
def test_a_perceptron_in_training_has_the_value_and_the_gradients_of_the_definition(modern: bool) -> None:
    torch.manual_seed(0)
    layer = MLP(BlockConfig(8, 2, 12, "relu2", modern)).double()
    x = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, 8, dtype=torch.float64)
    inputs = [x, layer.inp.weight, layer.out.weight]
    trained, defined = layer(x), layer.out(layer.inp(x).relu() ** 2)
    torch.testing.assert_close(trained, defined)
    found = torch.autograd.grad((trained * weights).sum(), inputs)
    hoped = torch.autograd.grad((defined * weights).sum(), inputs)
    for a, b in zip(found, hoped, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), trained)


@pytest.mark.parametrize("kind", ["relu2", "gelu"])
def test_a_block_trains_in_mixed_precision(kind: str) -> None:
    torch.manual_seed(0)
    block, rotary = Block(BlockConfig(16, 2, 32, kind)), Rotary(8, 4)
    x = torch.randn(2, 4, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        block(x, rotary.first(4, x.device), causal=True).float().square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_the_head_is_a_product_with_its_table() -> None:
    head, h = Head(7, 4), torch.randn(3, 4)
    torch.testing.assert_close(head(h), h @ head.weight.T)
