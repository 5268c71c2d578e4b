from collections.abc import Callable

import pytest
import torch

from tinsmith.nn.mixing import (
    CausalConv,
    CausalStateSpace,
    DepthwiseConv,
    GatedBlock,
    StateSpace,
    depthwise,
)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_depthwise_is_torchs_grouped_convolution(kernel: int, dilation: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(kernel, 3, dtype=torch.float64, requires_grad=True)
    ours = depthwise(x, weight, dilation)
    theirs = torch.nn.functional.conv1d(
        x.mT, weight.T[:, None], padding=kernel // 2 * dilation, dilation=dilation, groups=3
    ).mT
    torch.testing.assert_close(ours, theirs)
    seed = torch.randn_like(ours)
    for one, two in zip(
        torch.autograd.grad(ours, (x, weight), seed),
        torch.autograd.grad(theirs, (x, weight), seed),
        strict=True,
    ):
        torch.testing.assert_close(one, two)


def test_a_new_block_changes_nothing() -> None:
    x, mask = torch.randn(2, 5, 8), torch.ones(2, 5, 1)
    assert torch.equal(GatedBlock(8, DepthwiseConv(8, 5, 2))(x, mask), x)


@pytest.mark.parametrize("mix", [StateSpace, lambda dim: DepthwiseConv(dim, 5, 1)])
def test_padding_neither_gives_nor_takes(mix: Callable[[int], torch.nn.Module]) -> None:
    torch.manual_seed(0)
    block = GatedBlock(8, mix(8))
    torch.nn.init.normal_(block.out.weight)
    x = torch.randn(1, 4, 8)
    padded = torch.cat([x, 1e3 * torch.randn(1, 3, 8)], 1)
    mask = torch.tensor([1.0, 1, 1, 1, 0, 0, 0])[None, :, None]
    torch.testing.assert_close(block(padded, mask)[:, :4], block(x, torch.ones(1, 4, 1)))


def test_a_token_reaches_as_far_as_the_kernel() -> None:
    torch.manual_seed(0)
    block = GatedBlock(4, DepthwiseConv(4, 5, 2))
    torch.nn.init.normal_(block.out.weight)
    x, mask = torch.randn(1, 15, 4), torch.ones(1, 15, 1)
    other = x.clone()
    other[:, 7] += torch.randn(4)
    changed = (block(x, mask) != block(other, mask)).any(-1)[0].nonzero().flatten().tolist()
    assert changed == [3, 5, 7, 9, 11]


def test_a_state_space_is_its_recurrence_in_both_directions() -> None:
    torch.manual_seed(0)
    layer, x = StateSpace(3, num_states=4).double(), torch.randn(2, 6, 3, dtype=torch.float64)
    rate = layer.log_rate.exp()
    keep = torch.exp(-layer.log_step.exp()[..., None] * rate)  # [2, D, N]
    drive = (1 - keep) / rate
    expected = x * layer.skip
    for way, order in enumerate((range(6), reversed(range(6)))):
        state = torch.zeros(2, 3, 4, dtype=torch.float64)
        for t in order:
            state = keep[way] * state + drive[way] * x[:, t, :, None]
            expected[:, t] = expected[:, t] + (layer.out[way] * state).sum(-1)
    torch.testing.assert_close(layer(x), expected)


def test_stochastic_depth_keeps_the_mean_and_rests_in_evaluation() -> None:
    torch.manual_seed(0)
    block = GatedBlock(4, DepthwiseConv(4, 3, 1), drop=0.5)
    torch.nn.init.normal_(block.out.weight)
    x, mask = torch.randn(1, 3, 4).expand(4000, 3, 4), torch.ones(4000, 3, 1)
    trained = block(x, mask) - x
    skipped = (trained == 0).all(-1).all(-1)
    assert 0.45 < skipped.float().mean() < 0.55
    still = block.eval()(x, mask) - x
    torch.testing.assert_close(trained.mean(0), still[0], rtol=0.1, atol=0.05)


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (2, 1), (3, 2), (4, 3), (3, 8)])
def test_a_causal_convolution_is_torchs_padded_on_the_left(kernel: int, dilation: int) -> None:
    torch.manual_seed(0)
    layer = CausalConv(3, kernel, dilation).double()
    x = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    left = torch.nn.functional.pad(x.mT, ((kernel - 1) * dilation, 0))
    theirs = torch.nn.functional.conv1d(left, layer.taps.T[:, None], dilation=dilation, groups=3).mT
    ours = layer(x)
    torch.testing.assert_close(ours, theirs)
    seed = torch.randn_like(ours)
    for one, two in zip(
        torch.autograd.grad(ours, (x, layer.taps), seed),
        torch.autograd.grad(theirs, (x, layer.taps), seed),
        strict=True,
    ):
        torch.testing.assert_close(one, two)


CAUSAL = [lambda: CausalConv(3, 3, 2), lambda: CausalConv(3, 1, 4), lambda: CausalStateSpace(3, 4)]


@pytest.mark.parametrize("make", CAUSAL)
def test_a_changed_future_leaves_the_past_as_it_was(make: Callable[[], torch.nn.Module]) -> None:
    torch.manual_seed(0)
    layer, x = make(), torch.randn(2, 9, 3)
    other = x.clone()
    other[:, 5:] += 1
    assert torch.equal(layer(x)[:, :5], layer(other)[:, :5])
    assert not torch.equal(layer(x)[:, 5:], layer(other)[:, 5:])


@pytest.mark.parametrize("make", CAUSAL)
def test_position_by_position_is_the_whole(make: Callable[[], torch.nn.Module]) -> None:
    torch.manual_seed(0)
    layer, x = make().double(), torch.randn(2, 9, 3, dtype=torch.float64)
    state = layer.start(2)  # type: ignore[operator]
    steps = [layer.step(x[:, t], state, t) for t in range(9)]  # type: ignore[operator]
    torch.testing.assert_close(torch.stack(steps, 1), layer(x))


def test_a_causal_state_space_is_its_recurrence() -> None:
    torch.manual_seed(0)
    layer, x = CausalStateSpace(3, num_states=4).double(), torch.randn(2, 6, 3, dtype=torch.float64)
    a = layer.log_rate.exp()
    step = layer.log_step.exp()[:, None]
    weight = layer.out * (1 - torch.exp(-step * a)) / a
    s = torch.zeros(2, 3, 4, dtype=torch.float64)
    for t in range(6):
        s = torch.exp(-step * a) * s + x[:, t, :, None]
        torch.testing.assert_close(layer(x)[:, t], (weight * s).sum(-1) + layer.skip * x[:, t])
