import math

import pytest
import torch
from torch import Tensor, nn

from tinsmith.errors import ConfigError
from tinsmith.families.trm.cores import MLPMixer1D
from tinsmith.families.trm.model import IGNORE, Step, TinyRecursiveModel, stablemax_loss, step_losses


class Counted(nn.Module):
    """``tanh`` of a linear map, which notes what it is called with and whether gradients flow."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.seen: list[tuple[Tensor, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((x.detach().clone(), torch.is_grad_enabled()))
        return torch.tanh(self.linear(x))


def model(blocks: int = 3, latents: int = 2, **options: object) -> TinyRecursiveModel:
    torch.manual_seed(0)
    return TinyRecursiveModel(
        dim=4,
        num_tokens=5,
        network=Counted(4),
        num_refinement_blocks=blocks,
        num_latent_refinements=latents,
        **options,  # type: ignore[arg-type]
    )


def test_the_equations_call_by_call() -> None:
    m = model()
    seq = torch.tensor([[1, 2, 3]])
    x = m.input_embed(seq)
    y, z = (t.expand(1, 3, 4) for t in m.get_initial())
    m(seq, *m.get_initial())
    calls = list(m.network.seen)
    assert len(calls) == m.calls(1) == 9
    f = m.network.linear
    at = 0
    for block in range(3):
        for _ in range(2):
            torch.testing.assert_close(calls[at][0], (x + y + z).detach())
            z, at = torch.tanh(f(x + y + z)), at + 1
        torch.testing.assert_close(calls[at][0], (y + z).detach())
        y, at = torch.tanh(f(y + z)), at + 1
        assert all(grad == (block == 2) for _, grad in calls[3 * block : 3 * block + 3])


def test_gradient_is_that_of_the_last_block_alone() -> None:
    m = model(blocks=2)
    with torch.no_grad():
        m.to_pred.weight.normal_()
    seq, labels = torch.tensor([[1, 2, 3]]), torch.tensor([[1, 0, 2]])
    total, *_ = m(seq, *m.get_initial(), labels)
    total.backward()
    got = m.network.linear.weight.grad.clone()
    x = m.input_embed(seq)
    y, z = (t.expand(1, 3, 4) for t in m.get_initial())
    f = lambda t: torch.tanh(m.network.linear(t))  # noqa: E731
    with torch.no_grad():
        for _ in range(2):
            z = f(x + y + z)
        y = f(y + z)
    for _ in range(2):
        z = f(x + y + z)
    y = f(y + z)
    loss = nn.functional.cross_entropy((y @ m.to_pred.weight.T)[0], labels[0])
    halt = nn.functional.softplus((y.mean(1) @ m.to_halt_pred.weight.T + m.to_halt_pred.bias)[0, 0])
    m.zero_grad()
    (loss + halt).backward()
    torch.testing.assert_close(got, m.network.linear.weight.grad)


def test_state_is_detached_and_of_the_shapes_promised() -> None:
    m = model(num_register_tokens=2)
    seq = torch.tensor([[1, 2, 3], [4, 0, 1]])
    outputs, latents, pred, halt = m(seq, *m.get_initial())
    assert outputs.shape == latents.shape == (2, 5, 4)
    assert pred.shape == (2, 3, 5)
    assert halt.shape == (2,)
    assert not outputs.requires_grad
    assert not latents.requires_grad
    again = m(seq, outputs, latents)
    assert not torch.equal(again[0], outputs)
    losses = m(seq, outputs, latents, seq)
    assert len(losses) == 6
    torch.testing.assert_close(losses[0], losses[1][0] + losses[1][1])


def test_damping_keeps_a_share_of_the_answer() -> None:
    plain, damped = model(blocks=1), model(blocks=1, damping=0.25)
    damped.load_state_dict(plain.state_dict())
    x, y, z = (torch.randn(1, 3, 4) for _ in range(3))
    one, two = plain.refine_latent_then_output_once(x, y, z), damped.refine_latent_then_output_once(x, y, z)
    torch.testing.assert_close(two[0], 0.25 * y + 0.75 * one[0])
    torch.testing.assert_close(two[1], one[1])


def test_nobody_halts_at_the_start() -> None:
    """With a bias of zero p is one half, which is not above a half either: the comparison is strict."""
    for bias in (-5.0, 0.0):
        m = model(halt_bias=bias)
        _, exits = m.predict(torch.tensor([[1, 2, 3]]), 0.5, 4)
        assert exits.tolist() == [4]
    _, exits = model(halt_bias=0.1).predict(torch.tensor([[1, 2, 3]]), 0.5, 4)
    assert exits.tolist() == [1]


def test_the_guard_on_depth() -> None:
    m = model(max_recursion_depth=27)
    m.predict(torch.tensor([[1, 2, 3]]), max_deep_refinement_steps=3)
    with pytest.raises(
        ConfigError, match=r"4 steps of 3 blocks of 2 \+ 1 calls.*depth of 36.*max_recursion_depth=27"
    ):
        m.predict(torch.tensor([[1, 2, 3]]), max_deep_refinement_steps=4)
    with pytest.raises(ConfigError, match="depth of 9"):
        model(max_recursion_depth=8)
    with pytest.raises(ConfigError, match="must be 1 or more"):
        model(blocks=0)


def test_predict_is_in_eval_mode_and_leaves_the_mode() -> None:
    torch.manual_seed(0)
    network = MLPMixer1D(dim=4, depth=1, seq_len=3, dropout=0.5)
    m = TinyRecursiveModel(dim=4, num_tokens=5, network=network)
    with torch.no_grad():
        m.to_pred.weight.normal_()
    m.train()
    network.layers[0].eval()
    seq = torch.randint(5, (6, 3))
    one, two = m.predict(seq)[0], m.predict(seq)[0]
    assert torch.equal(one, two)
    assert m.training
    assert network.dropout.training
    assert not network.layers[0].training
    assert one.shape == (6, 3)


def step_of(logits: Tensor, halt: Tensor) -> Step:
    empty = torch.zeros(0)
    return Step(empty, empty, logits, halt)


def test_losses_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, 0.0]], [[2.0, 0.0], [0.0, 1.0]]])
    labels = torch.tensor([[1, IGNORE], [0, 1]])
    loss, halt, (right, counts) = step_losses(step_of(logits, torch.tensor([0.0, 2.0])), labels)
    assert loss[0].item() == pytest.approx(-math.log(0.75))
    cells = (math.log1p(math.exp(-2)), math.log1p(math.exp(-1)))
    assert loss[1].item() == pytest.approx(sum(cells) / 2)
    assert right.all()
    assert counts.tolist() == [[True, False], [True, True]]
    assert halt.tolist() == pytest.approx([math.log(2), math.log1p(math.exp(-2))])
    _, halt, _ = step_losses(step_of(logits.flip(-1), torch.tensor([0.0, 2.0])), labels)
    assert halt[1].item() == pytest.approx(math.log1p(math.exp(2)))  # wrong: it should go on


def test_a_row_without_cells_has_no_loss_and_no_nan() -> None:
    loss, _, _ = step_losses(step_of(torch.randn(1, 2, 3), torch.zeros(1)), torch.full((1, 2), IGNORE))
    assert loss.item() == 0


def test_stablemax_by_hand() -> None:
    logits = torch.tensor([3.0, 0.0, -1.0], dtype=torch.float64)
    s = [4.0, 1.0, 0.5]
    for target in range(3):
        assert stablemax_loss(logits, torch.tensor(target)).item() == pytest.approx(
            -math.log(s[target] / sum(s))
        )
    far = torch.tensor([1e6, -1e6], requires_grad=True)
    stablemax_loss(far, torch.tensor(1)).backward()
    assert far.grad.isfinite().all()
    assert stablemax_loss(torch.zeros(7), torch.tensor(3)).item() == pytest.approx(math.log(7))
