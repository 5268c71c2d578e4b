"""An encoder-decoder's objective: smoothed cross-entropy of the target's next token, padding left out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.engine.contract import Context, Data, StepOutput, Task
from tinsmith.families.seq2seq.config import Seq2SeqConfig
from tinsmith.families.seq2seq.model import Transformer


def smoothed_nll(logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Smoothed and plain negative log-probability, means over the rows.

    ``-sum_v q(v) log p(v)`` with ``q = (1 - e) one_hot + e / V`` (Szegedy et al. 2016, arXiv:1512.00567): the
    target gets its share of e too, as in ``F.cross_entropy(label_smoothing=e)``. No rows give 0.

    Args:
        logits: [N, V]. targets: [N]. smoothing: e.
    """
    logp = logits.float().log_softmax(-1)
    count = max(1, len(targets))
    plain = -logp.gather(1, targets[:, None]).sum() / count
    if not smoothing:
        return plain, plain
    return (1 - smoothing) * plain - smoothing / logits.shape[-1] * logp.sum() / count, plain


class Seq2SeqTask(Task):
    """Teacher forcing: from BOS and the target's tokens, its tokens and EOS.

    A batch is a dict of ``src`` [B, S] and ``tgt`` [B, T + 1] (BOS, tokens, EOS, padding), or a pair of them.

    Args:
        model: (src, tgt [B, T]) -> logits [B, T, V]. label_smoothing: e. pad_idx: the id of padding.
    """

    monitor = ("loss", "min")

    def __init__(self, model: nn.Module, label_smoothing: float = 0.1, pad_idx: int = 0) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing, self.pad_idx = label_smoothing, pad_idx

    def forward(self, batch: Any, ctx: Context) -> StepOutput:
        """The smoothed loss and, as a metric, the plain one; the weight is the number of target tokens."""
        logits, targets = self._logits(batch)
        loss, plain = smoothed_nll(logits, targets, self.label_smoothing)
        return StepOutput(loss, float(len(targets)), {"nll": plain.detach()})

    def _logits(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The logits [N, V] of all N targets that are not padding, and the targets [N]."""
        src, tgt = (batch["src"], batch["tgt"]) if isinstance(batch, dict) else batch
        targets = tgt[:, 1:]
        keep = targets != self.pad_idx
        inputs = tgt[:, :-1]
        if isinstance(self.model, Transformer):
            return self.model(src, inputs, keep), targets[keep]
        return self.model(src, inputs)[keep], targets[keep]

    def evaluate(self, batches: Iterable[Any]) -> dict[str, float]:
        """Over all tokens and without smoothing: ``loss`` in nats, ``perplexity``, ``accuracy``."""
        total, hits, count = 0.0, 0, 0
        for batch in batches:
            logits, targets = self._logits(batch)
            total += float(F.cross_entropy(logits.float(), targets, reduction="none").double().sum())
            hits += int((logits.argmax(-1) == targets).sum())
            count += len(targets)
        if not count:
            raise ValueError("the loader for evaluation has no target that is not padding")
        loss = total / count
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "accuracy": hits / count}


def build_task(cfg: Seq2SeqConfig, model: Transformer, data: Data) -> Seq2SeqTask:
    """The task of a run."""
    return Seq2SeqTask(model, cfg.loss.label_smoothing, data.spec.pad_id)
