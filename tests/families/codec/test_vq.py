import pytest
import torch
import torch.nn.functional as F

from tinsmith.errors import ConfigError
from tinsmith.families.codec.vq import CODES, Codes


def vectors(count: int, size: int = 8) -> torch.Tensor:
    return F.normalize(torch.randn(count, size, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_each_part_becomes_the_nearest_code() -> None:
    torch.manual_seed(0)
    codes, z = Codes(8, 2), vectors(5)
    out, distance = codes(z)
    expected, squared = [], 0.0
    for row in z:
        parts = []
        for group in range(2):
            part = row[4 * group : 4 * group + 4]
            gap = (codes.codes[group] - part).square().sum(-1)
            parts.append(codes.codes[group][gap.argmin()])
            squared += gap.min().item()
        expected.append(F.normalize(torch.cat(parts), dim=0))
    torch.testing.assert_close(out, torch.stack(expected))
    assert distance.item() == pytest.approx(squared / 5, rel=1e-4)


def test_bytes_hold_it_all() -> None:
    codes, z = Codes(8, 4), vectors(6)
    numbers = codes.encode(z)
    assert (numbers.shape, numbers.dtype) == ((6, 4), torch.uint8)
    torch.testing.assert_close(codes.decode(numbers), codes(z)[0])


def test_the_gradient_passes_and_the_codes_follow() -> None:
    codes, z = Codes(8, 2), vectors(5).requires_grad_()
    out, distance = codes(z)
    (grad,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), z, retain_graph=True)
    assert grad.abs().min() > 0
    distance.backward()
    assert codes.codes.grad is not None
    assert z.grad is None
    used = codes.codes.grad.abs().sum(-1) > 0
    assert 0 < used.sum() <= 10


def test_starts_near_the_vectors() -> None:
    torch.manual_seed(0)
    codes, z = Codes(8, 4), vectors(2000)
    before = codes(z)[1].item()
    codes.start_from(z)
    assert codes(z)[1].item() < 0.5 * before
    assert F.cosine_similarity(codes(z)[0], z).mean() > 0.98
    codes.start_from(z[:3])  # fewer vectors than codes
    assert torch.isfinite(codes.codes).all()
    assert codes.codes.shape[1] == CODES


def test_groups_must_divide() -> None:
    with pytest.raises(
        ConfigError, match=r"decoder\.codes=3 is not allowed: a divisor of the vector's size 8"
    ):
        Codes(8, 3)
