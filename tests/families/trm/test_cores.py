"""The networks against their equations written another way."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.families.trm.cores import (
    AttentionCore,
    GroupSums,
    MLPMixer1D,
    Neighbours,
    RelationCore,
    rotate,
)


def as_convolutions(mixer: MLPMixer1D, x: Tensor) -> Tensor:
    """The mixer as it is usually written: the token mix by convolutions of kernel one over [B, L, D]."""
    for layer in mixer.layers:
        tokens, channels = layer["tokens"], layer["channels"]
        h = F.layer_norm(x, x.shape[-1:], tokens.norm.weight)
        h = F.conv1d(h, tokens.up.weight[..., None], tokens.up.bias)
        x = x + F.conv1d(F.gelu(h), tokens.down.weight[..., None], tokens.down.bias)
        h = F.layer_norm(x, x.shape[-1:], channels.norm.weight)
        h = F.gelu(h @ channels.up.weight.T + channels.up.bias)
        x = x + h @ channels.down.weight.T + channels.down.bias
    return F.layer_norm(x, x.shape[-1:], mixer.norm.weight)


def test_mixer_equals_convolutions_with_their_gradients() -> None:
    torch.manual_seed(0)
    mixer = MLPMixer1D(dim=6, depth=2, seq_len=5).double()
    x = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 5, 6, dtype=torch.float64)
    one = torch.autograd.grad((mixer(x) * weight).sum(), [x, *mixer.parameters()])
    two = torch.autograd.grad((as_convolutions(mixer, x) * weight).sum(), [x, *mixer.parameters()])
    torch.testing.assert_close(mixer(x), as_convolutions(mixer, x))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)


def test_mixer_has_the_widths_of_its_factors() -> None:
    mixer = MLPMixer1D(dim=8, depth=1, seq_len=5, expansion_factor=4, expansion_factor_token=0.5)
    assert mixer.layers[0]["tokens"].up.weight.shape == (32, 5)
    assert mixer.layers[0]["channels"].up.weight.shape == (4, 8)
    other = MLPMixer1D(dim=8, depth=1, seq_len=5, token_hidden=7, channel_hidden=9)
    assert other.layers[0]["tokens"].up.weight.shape == (7, 5)
    assert other.layers[0]["channels"].up.weight.shape == (9, 8)
    with pytest.raises(ValueError, match="built for 5 positions, these are 6"):
        mixer(torch.zeros(1, 6, 8))


def cores() -> list[nn.Module]:
    return [
        MLPMixer1D(dim=8, depth=1, seq_len=16),
        AttentionCore(dim=8, depth=1, seq_len=16, heads=2),
        RelationCore(dim=8, depth=1, relations=GroupSums(4)),
        RelationCore(dim=8, depth=1, relations=Neighbours(4)),
    ]


@pytest.mark.parametrize("kind", range(4))
def test_memory_layout_changes_nothing(kind: int) -> None:
    torch.manual_seed(0)
    core = cores()[kind]
    x = torch.randn(3, 16, 8)
    moved = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(core(x), core(moved))
    alone = torch.cat([core(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, core(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", [0, 3])
def test_attention_equals_the_sum_written_out(kernel: int) -> None:
    torch.manual_seed(0)
    core = AttentionCore(dim=8, depth=1, seq_len=5, heads=2, hidden=6, kernel=kernel).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    attention, gated = core.layers[0]["attention"], core.layers[0]["gated"]
    h = x + core.positions
    normed = F.layer_norm(h, (8,), attention.norm.weight)
    if kernel:
        taps, wide = attention.near.taps, F.pad(normed, (0, 0, 1, 1))
        normed = taps[0] * wide[:, :5] + taps[1] * wide[:, 1:6] + taps[2] * wide[:, 2:]
    q, k, v = (normed @ part.T for part in attention.inp.weight.chunk(3))
    out = torch.zeros_like(h)
    for head in range(2):
        at = slice(4 * head, 4 * head + 4)
        for b in range(2):
            for i in range(5):
                scores = torch.stack([turned(q[b, i, at], i) @ turned(k[b, j, at], j) / 2 for j in range(5)])
                out[b, i, at] = scores.softmax(0) @ v[b, :, at]
    h = h + out @ attention.out.weight.T
    u, w = (F.layer_norm(h, (8,), gated.norm.weight) @ gated.inp.weight.T).chunk(2, -1)
    h = h + (u * w * w.sigmoid()) @ gated.out.weight.T
    torch.testing.assert_close(core(x), F.layer_norm(h, (8,), core.norm.weight), atol=1e-6, rtol=1e-5)


def turned(x: Tensor, place: int) -> Tensor:
    """Rotary position of one head of four numbers: pairs (0, 2) and (1, 3) as complex numbers."""
    pairs = torch.complex(x[:2], x[2:])
    angle = place * torch.tensor([1.0, 0.01], dtype=torch.float64)
    pairs = pairs * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([pairs.real, pairs.imag])


def test_rotation_keeps_lengths_and_sees_distances_alone() -> None:
    torch.manual_seed(0)
    angle = torch.outer(torch.arange(9.0), torch.tensor([1.0, 0.3]))
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    q, k = rotate(torch.randn(4).expand(9, 4), cos, sin), rotate(torch.randn(4).expand(9, 4), cos, sin)
    torch.testing.assert_close(q.norm(dim=1), q.norm(dim=1)[:1].expand(9))
    torch.testing.assert_close(q[5] @ k[2], q[7] @ k[4])


def test_group_sums_by_hand() -> None:
    h = torch.arange(16.0).view(16, 1, 1)
    sums = GroupSums(4)(h)[:, 0]
    board = h.view(4, 4)
    row, col = board.sum(1), board.sum(0)
    boxes = board.view(2, 2, 2, 2).sum((1, 3))
    for cell in range(16):
        r, c = divmod(cell, 4)
        expected = torch.stack([row[r], col[c], boxes[r // 2, c // 2]]) - cell
        torch.testing.assert_close(sums[cell], expected / 2)


def test_neighbours_by_hand() -> None:
    h = torch.arange(1.0, 10).view(9, 1, 1)
    near = Neighbours(3)(h)[:, 0]
    assert near[4].tolist() == [2, 8, 4, 6]
    assert near[0].tolist() == [0, 4, 0, 2]
    assert near[8].tolist() == [6, 0, 8, 0]


def test_relation_core_commutes_with_the_symmetries_of_the_board() -> None:
    torch.manual_seed(0)
    core = RelationCore(dim=8, depth=2, relations=GroupSums(4))
    x = torch.randn(2, 16, 8)
    rows = torch.tensor([1, 0, 3, 2])  # inside their bands
    order = (rows[:, None] * 4 + torch.tensor([2, 3, 0, 1])).flatten()  # and the stacks change places
    torch.testing.assert_close(core(x[:, order]), core(x)[:, order])
    wrong = torch.tensor([0, 2, 1, 3]).repeat_interleave(4) * 4 + torch.arange(4).repeat(4)
    assert not torch.allclose(core(x[:, wrong]), core(x)[:, wrong], atol=1e-3)
