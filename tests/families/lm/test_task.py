import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tinsmith.engine.accumulate import GradientAccumulator
from tinsmith.engine.contract import Context
from tinsmith.families.lm import measure
from tinsmith.families.lm.model import IGNORED
from tinsmith.families.lm.task import LanguageModelTask, split_batch

V = 7


class Table(nn.Module):
    """Logits by the token alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rows = nn.Parameter(torch.randn(V, V, dtype=torch.float64))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.rows[tokens]


def batch(rows: int = 9, length: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(V, (rows, length + 1), generator=generator)
    targets = ids[:, 1:].clone()
    targets[torch.rand(targets.shape, generator=generator) < 0.3] = IGNORED
    return {"tokens": ids[:, :-1], "targets": targets}


def part(whole: dict[str, torch.Tensor], where: slice) -> dict[str, torch.Tensor]:
    return {name: value[where] for name, value in whole.items()}


def test_the_loss_is_the_mean_over_what_counts() -> None:
    task, b = LanguageModelTask(Table()), batch()
    out = task(b, Context())
    expected = F.cross_entropy(
        task.model(b["tokens"]).flatten(0, 1), b["targets"].flatten(), ignore_index=IGNORED
    )
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert int(out.weight) == int((b["targets"] != IGNORED).sum())


def test_nothing_that_counts_is_a_loss_of_zero() -> None:
    task, b = LanguageModelTask(Table()), batch()
    out = task({**b, "targets": torch.full_like(b["targets"], IGNORED)}, Context())
    assert out.loss.item() == 0
    assert int(out.weight) == 0
    out.loss.backward()  # type: ignore[no-untyped-call]
    assert task.model.rows.grad is not None  # type: ignore[union-attr]
    assert not task.model.rows.grad.any()  # type: ignore[union-attr, operator]


@torch.no_grad()
def test_perplexity_and_bits_are_over_all_tokens() -> None:
    sizes = (0, 0, 0, 1, 1, 2, 3)
    task, whole = LanguageModelTask(Table(), sizes), batch()
    values = [
        task.evaluate([part(whole, slice(i, i + size)) for i in range(0, 9, size)]) for size in (1, 4, 9)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert values[0] == pytest.approx(values[2], rel=1e-6)
    kept = whole["targets"] != IGNORED
    logp = task.model(whole["tokens"])[kept].log_softmax(-1)
    nats = -float(logp.gather(1, whole["targets"][kept][:, None]).sum())
    size = sum(sizes[i] for i in whole["targets"][kept].tolist())
    assert values[0]["perplexity"] == pytest.approx(math.exp(nats / int(kept.sum())), rel=1e-5)
    assert values[0]["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    hits = (logp.argmax(-1) == whole["targets"][kept]).double().mean().item()
    assert values[0]["accuracy"] == pytest.approx(hits)


def test_a_window_of_small_batches_is_one_large_one() -> None:
    whole = batch(12)
    one, four = LanguageModelTask(Table()), LanguageModelTask(Table())
    one(whole, Context()).loss.backward()
    accumulator = GradientAccumulator(4)
    for where in (slice(0, 1), slice(1, 6), slice(6, 8), slice(8, 12)):
        out = four(part(whole, where), Context())
        accumulator.backward(out.loss, out.weight)
    accumulator.finish(four.parameters())
    torch.testing.assert_close(four.model.rows.grad, one.model.rows.grad, rtol=1e-5, atol=1e-7)


def test_batches_of_all_kinds() -> None:
    ids = torch.arange(12).view(2, 6)
    for given in (
        ids,
        (ids,),
        (ids[:, :-1], ids[:, 1:]),
        {"input_ids": ids},
        {"input_ids": ids, "labels": ids},
    ):
        inputs, targets = split_batch(given)
        assert torch.equal(inputs["tokens"], ids[:, :-1])
        assert torch.equal(targets, ids[:, 1:])


def test_baselines_by_definition() -> None:
    rng = np.random.default_rng(0)
    train = [np.concatenate([[1], rng.integers(4, V, n)]).astype(np.int32) for n in (9, 5, 12)]
    held = [np.concatenate([[1], rng.integers(4, V, n)]).astype(np.int32) for n in (6, 3)]
    pairs = [(int(a), int(b)) for ids in train for a, b in pairwise(ids)]
    unigram = {t: (sum(b == t for _, b in pairs) + 1) / (len(pairs) + V) for t in range(V)}
    assert sum(unigram.values()) == pytest.approx(1)

    def bigram(s: int, t: int) -> float:
        followed = [b for a, b in pairs if a == s]
        kinds = max(1, len(set(followed)))
        return (followed.count(t) + kinds * unigram[t]) / (len(followed) + kinds)

    assert sum(bigram(5, t) for t in range(V)) == pytest.approx(1)
    targets = [(int(a), int(b)) for ids in held for a, b in pairwise(ids)]
    assert measure.unigram_nats(train, held, V) == pytest.approx(
        -sum(math.log(unigram[b]) for _, b in targets)
    )
    assert measure.bigram_nats(train, held, V) == pytest.approx(
        -sum(math.log(bigram(a, b)) for a, b in targets)
    )
    assert measure.uniform_nats(held, V) == pytest.approx(9 * math.log(V))
