import pytest
import torch

from tinsmith.nn.convolution import GatedConvBlock, depthwise


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
    assert torch.equal(GatedConvBlock(8, 5, 2)(x, mask), x)


def test_padding_neither_gives_nor_takes() -> None:
    torch.manual_seed(0)
    block = GatedConvBlock(8, 5, 1)
    torch.nn.init.normal_(block.out.weight)
    x = torch.randn(1, 4, 8)
    padded = torch.cat([x, 1e3 * torch.randn(1, 3, 8)], 1)
    mask = torch.tensor([1.0, 1, 1, 1, 0, 0, 0])[None, :, None]
    torch.testing.assert_close(block(padded, mask)[:, :4], block(x, torch.ones(1, 4, 1)))


def test_a_token_reaches_as_far_as_the_kernel() -> None:
    torch.manual_seed(0)
    block = GatedConvBlock(4, 5, 2)
    torch.nn.init.normal_(block.out.weight)
    x, mask = torch.randn(1, 15, 4), torch.ones(1, 15, 1)
    other = x.clone()
    other[:, 7] += torch.randn(4)
    changed = (block(x, mask) != block(other, mask)).any(-1)[0].nonzero().flatten().tolist()
    assert changed == [3, 5, 7, 9, 11]
