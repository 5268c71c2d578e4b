import pytest
import torch
from torch import Tensor, nn

from tinsmith.engine.accumulate import GradientAccumulator


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x), y)


def grads(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("sizes", [[12, 2, 7, 4], [3, 9], [5], [0, 4, 2]])
@pytest.mark.parametrize("as_tensor", [True, False])
def test_a_ragged_window_equals_one_big_batch(sizes, as_tensor):
    torch.manual_seed(1)
    x, y = torch.randn(sum(sizes), 5).double(), torch.randint(3, (sum(sizes),))
    whole = net()
    loss(whole, x, y).backward()
    model, accumulator = net(), GradientAccumulator(4)  # most windows here are a last, short one
    for part, target in zip(x.split(sizes), y.split(sizes), strict=True):
        weight = torch.tensor(len(target), dtype=torch.float64) if as_tensor else len(target)
        value = loss(model, part, target) if len(target) else model(x).sum() * 0
        accumulator.backward(value, weight)
    assert accumulator.ready == (len(sizes) == 4)
    accumulator.finish(model.parameters())
    torch.testing.assert_close(grads(model), grads(whole), rtol=1e-12, atol=1e-14)


def test_the_next_window_starts_anew():
    model, accumulator = net(), GradientAccumulator(2)
    x, y = torch.randn(6, 5).double(), torch.randint(3, (6,))
    for part in ((0, 2), (2, 6)):
        accumulator.backward(loss(model, x[slice(*part)], y[slice(*part)]), part[1] - part[0])
    accumulator.finish(model.parameters())
    first = grads(model)
    model.zero_grad()
    assert (accumulator.pending, accumulator.ready) == (0, False)
    for part in ((2, 6), (0, 2)):
        accumulator.backward(loss(model, x[slice(*part)], y[slice(*part)]), part[1] - part[0])
    accumulator.finish(model.parameters())
    torch.testing.assert_close(grads(model), first, rtol=1e-12, atol=1e-14)


def test_one_step_adds_nothing():
    x, y = torch.randn(6, 5).double(), torch.randint(3, (6,))
    plain, model = net(), net()
    loss(plain, x, y).backward()
    accumulator = GradientAccumulator(1)

    class NoWeight:
        """Whoever computes with the weight fails."""

    accumulator.backward(loss(model, x, y), NoWeight())  # type: ignore[arg-type]
    assert accumulator.ready
    accumulator.finish(model.parameters())
    assert torch.equal(grads(model), grads(plain))


def test_sparse_gradients_are_scaled_too():
    def table(sparse: bool) -> nn.Embedding:
        torch.manual_seed(0)
        return nn.Embedding(6, 2, sparse=sparse).double()

    found = []
    for sparse in (True, False):
        model, accumulator = table(sparse), GradientAccumulator(2)
        for ids in ([1, 1, 2], [2]):
            accumulator.backward((model(torch.tensor(ids)) ** 2).sum(-1).mean(), len(ids))
        accumulator.finish(model.parameters())
        found.append(model.weight.grad.to_dense() if sparse else model.weight.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)


def test_at_least_one_step():
    with pytest.raises(ValueError, match="1 or more"):
        GradientAccumulator(0)
