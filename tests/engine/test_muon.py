import copy

import pytest
import torch
from torch import Tensor, nn

from tinsmith.engine import muon
from tinsmith.engine.muon import Muon, orthogonalize


def matrices(*shape: int, smallest: float = 0.05, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random matrices [B, M, N] with singular values from ``smallest`` to one, and their ``U V^T``."""
    generator = torch.Generator().manual_seed(seed)
    u, _, vt = torch.linalg.svd(torch.randn(*shape, generator=generator), full_matrices=False)
    values = torch.linspace(1, smallest, u.shape[-1])
    return (u * values) @ vt, u @ vt


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 6, 6), (2, 16, 40), (1, 32, 33)])
@pytest.mark.parametrize(("steps", "within"), [(4, 0.21), (5, 0.01), (7, 1e-4)])
def test_orthogonalize_against_the_singular_value_decomposition(shape, steps, within):
    given, expected = matrices(*shape)
    found = orthogonalize(given, steps)
    assert torch.linalg.matrix_norm(found - expected, ord=2).max() <= within
    assert found.shape == given.shape


def test_orthogonalize_does_not_depend_on_the_scale_or_the_company():
    given, _ = matrices(3, 8, 12)
    scaled = given * torch.tensor([1e-9, 1.0, 1e9])[:, None, None]
    torch.testing.assert_close(orthogonalize(scaled), orthogonalize(given), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(orthogonalize(given[1:2])[0], orthogonalize(given)[1])


@pytest.mark.parametrize("steps", [1, 4, 5, 12])
@pytest.mark.parametrize("shape", [(32, 128), (128, 32), (32, 36)])
def test_orthogonalize_is_its_polynomial_of_the_singular_values(shape, steps):
    """From one down to nothing: the rounding of small ones must not grow, whichever way the products go."""
    generator = torch.Generator().manual_seed(0)
    u, _, vt = torch.linalg.svd(torch.randn(2, *shape, generator=generator), full_matrices=False)
    values = torch.cat([torch.logspace(0, -7, 28), torch.zeros(4)])
    expected = (values / values.double().pow(4).sum() ** 0.25).double()
    for i in range(steps):
        a, b, c = muon._QUINTICS[i] if i < len(muon._QUINTICS) else muon._LIMIT
        expected = a * expected + b * expected**3 + c * expected**5
    found = orthogonalize((u * values) @ vt, steps)
    torch.testing.assert_close(found, (u * expected.float()) @ vt, rtol=0, atol=2e-2 if steps > 5 else 3e-3)


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
@pytest.mark.parametrize("steps", [4, 6])
def test_what_has_no_digits_left_does_not_grow(shape, steps):
    matrix = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    sizes = [orthogonalize(matrix * 10.0**e, steps).abs().max().item() for e in range(0, -42, -1)]
    assert all(size < 1.3 for size in sizes)  # NaN is not less
    assert sizes[10] == pytest.approx(sizes[0], rel=1e-3)
    assert sizes[25:] == [0.0] * len(sizes[25:])


def test_a_layer_that_dies_stays_where_it_is():
    """Its momentum decays for ever, through the smallest numbers there are."""
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight], lr=1e-3)
    weight.grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    weight.grad = torch.zeros(8, 8)
    for _ in range(900):
        optimizer.step()
    settled = weight.detach().clone()
    for _ in range(1500):
        optimizer.step()
    assert torch.equal(weight, settled)


def test_nothing_stays_nothing():
    assert orthogonalize(torch.zeros(2, 4, 5)).abs().max() == 0
    assert orthogonalize(torch.zeros(2, 4, 12)).abs().max() == 0


@pytest.mark.parametrize("shape", [(60, 16, 24), (8, 64, 64), (4, 160, 40)])
def test_bf16_is_near_fp32(shape, monkeypatch):
    """Rounding carries some singular values above one: they must not run away."""
    given, expected = matrices(*shape, smallest=0.2)
    monkeypatch.setattr(muon, "computes_in_bf16", lambda device: True)
    found = orthogonalize(given, 5)
    assert found.dtype == torch.float32
    assert torch.linalg.matrix_norm(found - expected, ord=2).max() < 0.05


def by_hand(w: Tensor, grads: list[Tensor], lr: float, decay: float, mu: float, nesterov: bool) -> Tensor:
    """The reference twin: one matrix, the exact orthogonal factor."""
    m = torch.zeros_like(w)
    for g in grads:
        m = mu * m + (1 - mu) * g
        u, _, vt = torch.linalg.svd(g + mu * (m - g) if nesterov else m, full_matrices=False)
        w = w - lr * decay * w - lr * 0.2 * max(w.shape) ** 0.5 * u @ vt
    return w


@pytest.mark.parametrize("nesterov", [True, False])
def test_steps_equal_the_formula_for_each_shape(nesterov):
    torch.manual_seed(0)
    shapes = [(6, 10), (10, 6), (4, 4), (6, 10)]
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    grads = [[matrices(1, *shape, smallest=0.3, seed=s)[0][0] for s in range(3)] for shape in shapes]
    options = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.5, "nesterov": nesterov}
    expected = [by_hand(p.detach(), g, 0.02, 0.1, 0.5, nesterov) for p, g in zip(params, grads, strict=True)]
    optimizer = Muon(params, ns_steps=8, **options)
    for step in range(3):
        for p, g in zip(params, grads, strict=True):
            p.grad = g[step].clone()
        optimizer.step()
    for p, wanted in zip(params, expected, strict=True):
        torch.testing.assert_close(p.detach(), wanted, rtol=1e-3, atol=1e-4)


def test_a_matrix_without_a_gradient_stays():
    params = [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 3))]
    optimizer = Muon(params, lr=0.1, weight_decay=0.5)
    params[0].grad = torch.eye(2, 3)
    optimizer.step()
    assert torch.equal(params[1], torch.ones(2, 3))
    assert not torch.equal(params[0], torch.ones(2, 3))
    assert list(optimizer.state_dict()["state"]) == [0]


def test_the_state_resumes_to_the_bit():
    torch.manual_seed(0)
    models = [nn.Linear(5, 3, bias=False), nn.Linear(5, 3, bias=False)]
    first, second = (Muon(m.parameters(), lr=0.1) for m in models)

    def steps(model: nn.Module, optimizer: Muon, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(3):
            model.weight.grad = torch.randn(3, 5, generator=generator)
            optimizer.step()

    steps(models[0], first, 1)
    models[1].load_state_dict(models[0].state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for model, optimizer in zip(models, (first, second), strict=True):
        steps(model, optimizer, 2)
    assert torch.equal(models[0].weight, models[1].weight)
