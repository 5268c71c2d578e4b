"""The lean step is torch's own, to the bit, and leaves to torch what only torch does."""

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tinsmith.engine import lean
from tinsmith.engine.lean import LeanAdam, without_compiler
from tinsmith.engine.optim import CombinedOptimizer, get_optimizer, stepper


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3).double())


def fill(module: nn.Module, seed: int, leave_out: str = "") -> None:
    """Gradients, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        p.grad = None if name == leave_out else grad


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(x.equal(y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def state_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [tensor for state in optimizer.state_dict()["state"].values() for tensor in state.values()]


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Notes every lean step: the number of groups of tensors it moved."""
    steps: list[int] = []
    learn = LeanAdam._learn

    def noted(self: LeanAdam) -> None:
        learn(self)
        steps.append(len(self._lists))

    monkeypatch.setattr(LeanAdam, "_learn", noted)
    return steps


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_weights_and_state_are_torchs_to_the_bit(kind: str, kernels: list[int]) -> None:
    ours, theirs = net(), net()
    mine = get_optimizer(ours, kind, lr=1e-2, weight_decay=0.1)
    other = get_optimizer(theirs, kind, lr=1e-2, weight_decay=0.1)
    step = stepper(mine)
    for i in range(6):
        fill(ours, i, leave_out="0.bias" if i == 3 else "")  # then torch's own step is taken
        fill(theirs, i, leave_out="0.bias" if i == 3 else "")
        for optimizer in (mine, other):
            optimizer.param_groups[0]["lr"] = 1e-2 / (i + 1)  # as a schedule does
        step()
        other.step()
        assert same(ours, theirs), i
    assert kernels == [2]
    assert all(x.equal(y) for x, y in zip(state_of(mine), state_of(other), strict=True))


def test_a_loaded_state_is_the_one_that_is_moved(kernels: list[int]) -> None:
    ours, theirs = net(), net()
    mine, other = get_optimizer(ours, lr=1e-2), get_optimizer(theirs, lr=1e-2)
    step = stepper(mine)
    for i in range(2):
        fill(ours, i)
        step()
    saved, weights = copy.deepcopy(mine.state_dict()), copy.deepcopy(ours.state_dict())
    fill(ours, 7)
    step()
    mine.load_state_dict(copy.deepcopy(saved))
    ours.load_state_dict(weights)
    other.load_state_dict(saved)
    theirs.load_state_dict(weights)
    for i in range(2, 4):
        fill(ours, i)
        fill(theirs, i)
        step()
        other.step()
    assert same(ours, theirs)
    assert len(kernels) == 2  # before and after the load


def test_a_combined_optimizer_moves_all_its_parts() -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(6, 4, sparse=True), nn.Linear(4, 3), nn.Linear(3, 2))

    ours, theirs = model(), model()
    mine, other = (get_optimizer(each, "muon", lr=1e-2) for each in (ours, theirs))
    assert isinstance(mine, CombinedOptimizer)
    step = stepper(mine)
    for i in range(4):
        for each in (ours, theirs):
            each.zero_grad()
            each(torch.tensor([i, 1])).square().sum().backward()
        step()
        other.step()
    assert same(ours, theirs)


def test_hooks_and_schedulers_of_torch_see_every_step(kernels: list[int]) -> None:
    module = net()
    optimizer = get_optimizer(module, lr=1e-2)
    step = stepper(optimizer)
    seen: list[Any] = []
    handle = optimizer.register_step_post_hook(lambda *_: seen.append(1))
    fill(module, 0)
    step()
    handle.remove()
    assert (seen, kernels) == ([1], [])
    step()
    assert (seen, kernels) == ([1], [2])
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    assert lean.is_watched(optimizer)


@pytest.mark.parametrize("option", ["amsgrad", "maximize"])
def test_what_the_lean_step_does_not_do_is_left_to_torch(option: str) -> None:
    ours, theirs = net(), net()
    mine, other = (
        torch.optim.AdamW(each.parameters(), lr=1e-2, fused=True, **{option: True}) for each in (ours, theirs)
    )
    for i in range(3):
        fill(ours, i)
        fill(theirs, i)
        stepper(mine)()
        other.step()
    assert same(ours, theirs)


def test_training_does_not_load_torchs_compiler() -> None:
    """It costs more than a second of every start."""
    program = """
import sys, tempfile, torch
from tinsmith import Trainer
x = torch.randn(64, 3)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x[:, :1]), batch_size=8, shuffle=True)
with tempfile.TemporaryDirectory() as folder:
    Trainer(torch.nn.Linear(3, 1), checkpoint_dir=folder, device="cpu", progress=False).fit(loader, epochs=2)
print([name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_switch_is_put_back() -> None:
    plain = torch.optim.Optimizer.add_param_group.__wrapped__
    before = hasattr(plain, lean._MARK)
    with without_compiler():
        pass
    assert hasattr(plain, lean._MARK) == before
