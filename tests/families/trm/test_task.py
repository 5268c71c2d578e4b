"""Deep supervision: who is in the batch, for how long, and what is carried."""

import math

import pytest
import torch
from torch import Tensor

from tinsmith.engine.contract import Context
from tinsmith.families.trm.config import DepthConfig, DepthStage, HaltConfig
from tinsmith.families.trm.cores import MLPMixer1D
from tinsmith.families.trm.model import IGNORE, TinyRecursiveModel
from tinsmith.families.trm.task import TRMTask, _admitted


def make(halt: HaltConfig, bias: float = -5.0, **options: object) -> TRMTask:
    torch.manual_seed(0)
    model = TinyRecursiveModel(
        dim=8,
        num_tokens=5,
        network=MLPMixer1D(dim=8, depth=1, seq_len=3),
        num_refinement_blocks=1,
        num_latent_refinements=2,
        halt_bias=bias,
    )
    return TRMTask(model, halt, **options)  # type: ignore[arg-type]


def batch(first: int, rows: int = 4) -> dict[str, Tensor]:
    """Rows that tell where they are from."""
    inputs = torch.full((rows, 3), first % 5)
    inputs[:, 1] = torch.arange(rows) % 5
    return {"inputs": inputs, "labels": inputs.clone(), "rank": torch.linspace(1 / rows, 1, rows)}


def test_places_are_kept_until_a_sample_halts_and_then_refilled() -> None:
    task = make(HaltConfig(max_steps=3, explore=0.0))
    carry, seen = None, []
    for step in range(7):
        out = task(batch(step), Context(step, 7, carry))
        carry = out.carry
        seen.append((carry["inputs"][0, 0].item(), carry["steps"].tolist(), carry["halted"].tolist()))
    assert [first for first, _, _ in seen] == [0, 0, 0, 3, 3, 3, 6 % 5]
    assert [steps[0] for _, steps, _ in seen] == [1, 2, 3, 1, 2, 3, 1]
    assert [halted[0] for _, _, halted in seen] == [False, False, True, False, False, True, False]


def test_rows_are_refilled_one_by_one() -> None:
    task = make(HaltConfig(max_steps=9, explore=0.0))
    carry = task(batch(0), Context()).carry
    carry["halted"] = torch.tensor([False, True, False, True])
    before = {key: value.clone() for key, value in carry.items()}
    after = task(batch(1), Context(1, 9, carry)).carry
    assert after["inputs"][:, 0].tolist() == [0, 1, 0, 1]
    assert after["steps"].tolist() == [2, 1, 2, 1]
    assert all(torch.equal(carry[key], before[key]) for key in before)  # the carry is not changed in place


def test_a_kept_row_goes_on_where_it_was_and_a_new_one_starts_anew() -> None:
    task = make(HaltConfig(max_steps=9, explore=0.0)).eval()
    carry = task(batch(0), Context()).carry
    carry["halted"] = torch.tensor([False, True, False, False])
    after = task(batch(1), Context(1, 9, carry)).carry
    model = task.model
    kept = model.step(
        model.embed_inputs_with_registers(batch(0)["inputs"]), carry["outputs"], carry["latents"]
    )
    fresh = task(batch(1), Context()).carry
    torch.testing.assert_close(after["outputs"][[0, 2, 3]], kept.outputs[[0, 2, 3]].detach())
    torch.testing.assert_close(after["latents"][1], fresh["latents"][1])


def test_the_loss_is_a_mean_over_the_samples() -> None:
    task = make(HaltConfig(max_steps=4, weight=0.5))
    out = task(batch(1), Context())
    assert float(out.weight) == 4
    expected = math.log(5) + 0.5 * math.log1p(math.exp(-5))
    assert out.loss.item() == pytest.approx(expected, rel=1e-5)
    assert out.metrics["supervision_step"].item() == 1
    assert out.metrics["recursion_depth"].item() == 3  # one block of two latents and an answer
    double = {key: torch.cat([value, value]) for key, value in batch(1).items()}
    assert task(double, Context()).loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_threshold_is_strict_and_exploration_holds_back() -> None:
    steps = torch.ones(2000, dtype=torch.long)
    logit = torch.zeros(2000)  # one half exactly
    assert not make(HaltConfig(max_steps=4, explore=0.0))._halted(logit, steps).any()
    assert make(HaltConfig(max_steps=4, explore=0.0))._halted(logit + 1e-3, steps).all()
    some = make(HaltConfig(max_steps=4, explore=0.5))
    went = some._halted(logit + 1, steps).float().mean().item()
    assert went == pytest.approx(0.5, abs=0.05)
    some.eval()
    assert some._halted(logit + 1, steps).all()
    assert make(HaltConfig(max_steps=1))._halted(logit - 9, steps).all()


def test_no_gradient_reaches_the_step_before() -> None:
    task = make(HaltConfig(max_steps=4))
    carry = task(batch(0), Context()).carry
    assert not any(value.requires_grad for value in carry.values() if value.is_floating_point())


def test_a_carry_of_another_size_is_dropped() -> None:
    task = make(HaltConfig(max_steps=4, explore=0.0))
    carry = task(batch(0), Context()).carry
    assert task(batch(1, rows=3), Context(1, 9, carry)).carry["steps"].tolist() == [1, 1, 1]


def test_the_curriculum_follows_the_run() -> None:
    stages = [DepthStage(0.25, 1, 1), DepthStage(0.5, 1, 2), DepthStage(1.0, 2, 3)]
    task = make(HaltConfig(), depth=DepthConfig(stages))
    at = [task.stage(Context(step, 100)).latents for step in (0, 24, 25, 49, 50, 99, 100)]
    assert at == [1, 1, 2, 2, 3, 3, 3]
    # Of unknown length: the stages take turns, in their shares.
    turns = [task.stage(Context(step)).latents for step in range(1000)]
    assert [turns.count(n) / 1000 for n in (1, 2, 3)] == pytest.approx([0.25, 0.25, 0.5], abs=0.01)
    calls = []
    task.model.network.register_forward_hook(lambda *_: calls.append(1))
    task(batch(0), Context(60, 100))
    assert len(calls) == 2 * 4


def test_a_share_of_the_samples_takes_the_places_of_the_others() -> None:
    rows = batch(0, rows=5)
    rows["rank"] = torch.tensor([0.9, 0.2, 0.5, 0.1, 0.7])
    admitted = _admitted(rows, 0.25)
    assert sorted(set(admitted["inputs"][:, 1].tolist())) == [1, 3]
    assert len(admitted["inputs"]) == 5
    assert _admitted(rows, 1.0) is rows
    assert len(set(_admitted(rows, 0.01)["inputs"][:, 1].tolist())) == 1  # nobody qualifies: one stands in


def test_evaluation_by_hand() -> None:
    """Halting is the first step above the threshold; the rest is measured at the last step."""
    task = make(HaltConfig(max_steps=3), bias=0.0)
    with torch.no_grad():
        task.model.to_pred.weight.normal_(std=3)
        task.model.to_halt_pred.weight.normal_(std=6)
    task.eval()
    rows = {key: torch.cat([value] * 6) for key, value in batch(2, rows=5).items()}
    rows["inputs"] = torch.randint(5, (30, 3), generator=torch.Generator().manual_seed(0))
    rows["labels"] = torch.randint(2, (30, 3), generator=torch.Generator().manual_seed(1))
    rows["labels"][:, 0] = IGNORE
    with torch.no_grad():
        outputs, latents = task.model.get_initial()
        history = []
        for _ in range(3):
            outputs, latents, pred, halt = task.model(rows["inputs"], outputs, latents)
            history.append((pred.argmax(-1), halt))
        task.depth.threshold = threshold = history[0][1].median().item()
        values = task.evaluate([rows])
    right = [(answer[:, 1:] == rows["labels"][:, 1:]) for answer, _ in history]
    leaves = [next(s for s in range(3) if s == 2 or history[s][1][i] > threshold) for i in range(30)]
    assert len(set(leaves)) > 1
    assert values["exact"] == pytest.approx(right[2].all(1).float().mean().item())
    assert values["cell_accuracy"] == pytest.approx(right[2].float().mean().item())
    assert values["halt_step"] == pytest.approx(sum(leaves) / 30 + 1)
    assert values["exact_halted"] == pytest.approx(
        sum(right[s][i].all().item() for i, s in enumerate(leaves)) / 30
    )


def test_noise_is_drawn_in_training_alone() -> None:
    task = make(HaltConfig(max_steps=4), init_noise=1.0)
    a, b = (task(batch(0), Context()).carry["outputs"] for _ in range(2))
    assert not torch.equal(a, b)
    assert not torch.equal(a[0], a[1])
    task.eval()
    a, b = (task(batch(0), Context()).carry["outputs"] for _ in range(2))
    assert torch.equal(a, b)
