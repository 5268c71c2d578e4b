import pytest
import torch
from torch import Tensor

from tinsmith.errors import ConfigError
from tinsmith.families.trm.cores import MLPMixer1D
from tinsmith.families.trm.model import TinyRecursiveModel
from tinsmith.families.trm.search import Effort, solve


@pytest.fixture
def model() -> TinyRecursiveModel:
    """Untrained but opinionated: samples halt at different steps."""
    torch.manual_seed(0)
    m = TinyRecursiveModel(
        dim=8,
        num_tokens=5,
        network=MLPMixer1D(dim=8, depth=1, seq_len=6),
        num_refinement_blocks=1,
        num_latent_refinements=1,
    )
    with torch.no_grad():
        m.to_pred.weight.normal_(std=2)
        m.to_halt_pred.weight.normal_(std=8)
        m.to_halt_pred.bias.zero_()
    return m.eval()


def plain(model: TinyRecursiveModel, row: Tensor, steps: int, threshold: float) -> tuple[Tensor, int, float]:
    """One sample by the model's own forward, step after step."""
    outputs, latents = model.get_initial()
    for step in range(1, steps + 1):  # noqa: B007 - it is returned
        with torch.no_grad():
            outputs, latents, pred, halt = model(row[None], outputs, latents)
        if halt.item() > threshold:
            break
    return pred[0].argmax(-1), step, halt.item()


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("threshold", [0.6, 1.0])
def test_the_queue_equals_one_by_one(model: TinyRecursiveModel, batch_size: int, threshold: float) -> None:
    seq = torch.randint(5, (20, 6), generator=torch.Generator().manual_seed(1))
    found = solve(model, seq, Effort(7, threshold, batch_size=batch_size))
    steps = 0
    for i, row in enumerate(seq):
        answer, exit_step, sure = plain(model, row, 7, threshold)
        assert torch.equal(found.predictions[i], answer)
        assert found.exit_steps[i] == exit_step
        assert found.halt_probs[i].item() == pytest.approx(sure, abs=1e-5)
        steps += exit_step
    assert found.steps == steps
    assert found.calls == 2 * steps
    assert (len(set(found.exit_steps.tolist())) > 1) == (threshold < 1)


@pytest.mark.parametrize("select", ["halt", "residual", "vote"])
def test_restarts_do_not_depend_on_company(model: TinyRecursiveModel, select: str) -> None:
    seq = torch.randint(5, (9, 6), generator=torch.Generator().manual_seed(2))
    effort = Effort(4, restarts=5, select=select, path_noise=0.1, batch_size=7)
    together = solve(model, seq, effort)
    for i in range(9):
        alone = solve(model, seq[i : i + 1], effort)
        assert torch.equal(alone.predictions[0], together.predictions[i])
        torch.testing.assert_close(alone.halt_probs[0], together.halt_probs[i])
    assert together.steps == 9 * 5 * 4
    once = solve(model, seq, Effort(4))
    if select == "halt":
        assert (together.halt_probs >= once.halt_probs - 1e-6).all()
        assert (together.halt_probs > once.halt_probs + 1e-3).any()


def test_a_vote_is_won_by_the_answer_said_most(model: TinyRecursiveModel) -> None:
    seq = torch.randint(5, (6, 6), generator=torch.Generator().manual_seed(3))
    effort = Effort(2, restarts=7, select="vote", noise=3.0)
    found = solve(model, seq, effort)
    starts = torch.stack([_answer(model, seq, effort, r) for r in range(7)])  # [7, 6, 6]
    for i in range(6):
        votes = [(starts[:, i] == answer).all(-1).sum().item() for answer in starts[:, i]]
        said = (starts[:, i] == found.predictions[i]).all(-1).sum().item()
        assert said == max(votes)


def _answer(model: TinyRecursiveModel, seq: Tensor, effort: Effort, number: int) -> Tensor:
    from tinsmith.families.trm.search import _Attempts

    start = _Attempts(model, seq, effort).starts[number]
    outputs, latents = (t.expand(len(seq), -1, -1) for t in start)
    for _ in range(effort.steps):
        with torch.no_grad():
            outputs, latents, pred, _ = model(seq, outputs, latents)
    return pred.argmax(-1)


def test_wrong_efforts_have_messages(model: TinyRecursiveModel) -> None:
    with pytest.raises(ConfigError, match="steps=0 is not allowed: 1 or more"):
        Effort(0)
    with pytest.raises(ConfigError, match="Did you mean: vote"):
        Effort(1, select="votes")
    model.max_recursion_depth = 10
    with pytest.raises(ConfigError, match="depth of 12"):
        solve(model, torch.zeros(1, 6, dtype=torch.long), Effort(6))
