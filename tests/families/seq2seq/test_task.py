import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.engine.accumulate import GradientAccumulator
from tinsmith.engine.contract import Context
from tinsmith.families.seq2seq.task import Seq2SeqTask, smoothed_nll

V = 9


@pytest.mark.parametrize("e", [0.0, 0.1, 0.3])
def test_smoothing_is_torchs_in_value_and_gradient(e: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(12, V)
    targets = torch.randint(V, (12,))
    mine, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss, plain = smoothed_nll(mine, targets, e)
    expected = F.cross_entropy(theirs, targets, label_smoothing=e)
    loss.backward()  # type: ignore[no-untyped-call]
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert plain.item() == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-6)
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-7)


class Table(nn.Module):
    """Logits by the target's last token and the sum of the source."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rows = nn.Parameter(torch.randn(V, V))
        self.more = nn.Parameter(torch.randn(V))

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        return self.rows[tgt] + self.more * torch.sin(src.sum(1).float())[:, None, None]


def batch(rows: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tgt = torch.randint(3, V, (rows, 7), generator=generator)
    tgt[:, 0] = 1
    for row, length in enumerate(torch.randint(2, 8, (rows,), generator=generator).tolist()):
        tgt[row, length - 1] = 2
        tgt[row, length:] = 0
    return torch.randint(3, V, (rows, 4), generator=generator), tgt


def test_padding_does_not_count() -> None:
    src, tgt = batch()
    task = Seq2SeqTask(Table(), label_smoothing=0.1)
    out = task((src, tgt), Context())
    logits = task.model(src, tgt[:, :-1])
    expected = F.cross_entropy(
        logits.flatten(0, 1), tgt[:, 1:].flatten(), ignore_index=0, label_smoothing=0.1
    )
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert float(out.weight) == int((tgt[:, 1:] != 0).sum())
    wider = F.pad(tgt, (0, 5))
    assert task({"src": src, "tgt": wider}, Context()).loss.item() == pytest.approx(out.loss.item(), rel=1e-6)


def test_nothing_but_padding_is_a_loss_of_zero() -> None:
    src, tgt = batch()
    task = Seq2SeqTask(Table())
    out = task((src, torch.zeros_like(tgt)), Context())
    assert out.loss.item() == 0
    assert float(out.weight) == 0
    out.loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or not p.grad.any() for p in task.parameters())


@torch.no_grad()
def test_perplexity_is_over_all_tokens_and_not_smoothed() -> None:
    src, tgt = batch()
    task = Seq2SeqTask(Table(), label_smoothing=0.3)
    values = [task.evaluate([(src[i : i + n], tgt[i : i + n]) for i in range(0, 12, n)]) for n in (1, 7, 12)]
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert values[0] == pytest.approx(values[2], rel=1e-6)
    nll = F.cross_entropy(task.model(src, tgt[:, :-1]).flatten(0, 1), tgt[:, 1:].flatten(), ignore_index=0)
    assert values[0]["loss"] == pytest.approx(nll.item(), rel=1e-5)
    assert values[0]["perplexity"] == pytest.approx(math.exp(nll.item()), rel=1e-5)


def test_a_window_of_small_batches_is_one_large_one() -> None:
    src, tgt = batch()
    one, four = Seq2SeqTask(Table()), Seq2SeqTask(Table())
    one((src, tgt), Context()).loss.backward()  # type: ignore[no-untyped-call]
    accumulator = GradientAccumulator(4)
    for where in (slice(0, 1), slice(1, 6), slice(6, 8), slice(8, 12)):
        out = four((src[where], tgt[where]), Context())
        accumulator.backward(out.loss, out.weight)
    accumulator.finish(four.parameters())
    for a, b in zip(four.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)
