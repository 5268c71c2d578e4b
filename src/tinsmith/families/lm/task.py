"""A language model's objective: the cross-entropy of the next token."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.engine.contract import Context, Data, StepOutput, Task
from tinsmith.families.lm.config import LMConfig
from tinsmith.families.lm.model import IGNORED, LanguageModel


class LanguageModelTask(Task):
    """The mean negative log-probability of the targets that count, in nats.

    A batch is a dict of ``tokens`` and ``targets`` [B, T] (-100 does not count), and for packed rows
    ``segments`` and ``positions`` [B, T]. As the front takes them also a pair of the two, or ids [B, T + 1].

    Args:
        model: (tokens [B, T], ...) -> logits [B, T, V].
        byte_lengths: bytes of each id, for bits per byte; empty: not known.
    """

    monitor = ("loss", "min")

    def __init__(self, model: nn.Module, byte_lengths: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.model = model
        self.bytes_of = torch.tensor(byte_lengths, dtype=torch.long)  # no buffer: a constant of the CPU

    def forward(self, batch: Any, ctx: Context) -> StepOutput:
        """The loss; its weight is the number of targets that count."""
        inputs, targets = split_batch(batch)
        logits = (
            self.model(**inputs) if isinstance(self.model, LanguageModel) else self.model(inputs["tokens"])
        )
        total = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
        count = (targets != IGNORED).sum()
        return StepOutput(total / count.clamp(min=1), count)

    def evaluate(self, batches: Iterable[Any]) -> dict[str, float]:
        """Over all tokens: ``loss`` in nats, ``perplexity``, ``bits_per_byte``, ``accuracy``."""
        total, hits, count, size = 0.0, 0, 0, 0
        for batch in batches:
            inputs, targets = split_batch(batch)
            model = self.model
            logits = model(**inputs) if isinstance(model, LanguageModel) else model(inputs["tokens"])
            kept = targets != IGNORED
            logits, targets = logits[kept].float(), targets[kept]
            nll = F.cross_entropy(logits, targets, reduction="none")
            total += float(nll.double().sum())
            hits += int((logits.argmax(-1) == targets).sum())
            count += len(targets)
            size += int(self.bytes_of[targets.cpu()].sum()) if len(self.bytes_of) else 0
        if not count:
            raise ValueError("the loader for evaluation has no target that counts")
        return summary(total, count, size, hits)


def summary(nats: float, count: int, size: int, hits: int | None = None) -> dict[str, float]:
    """The metrics of a set from its sums.

    Args:
        nats: negative log-probability of all targets. count: their number. size: their bytes; 0: not known.
        hits: targets that were the likeliest token.
    """
    loss = nats / count
    bits = {"bits_per_byte": nats / math.log(2) / size} if size else {}
    accuracy = {} if hits is None else {"accuracy": hits / count}
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), **bits, **accuracy}


def split_batch(batch: Any) -> tuple[dict[str, Tensor], Tensor]:
    """Keyword arguments of the model, and the targets [B, T]."""
    if isinstance(batch, dict):
        if "input_ids" in batch:  # as Hugging Face's collators give them: not shifted
            ids: Tensor = batch["input_ids"]
            labels: Tensor = batch.get("labels", ids)
            return {"tokens": ids[:, :-1]}, labels[:, 1:]
        inputs = {name: batch[name] for name in ("tokens", "segments", "positions") if name in batch}
        return inputs, batch["targets"]
    if isinstance(batch, Tensor):
        return {"tokens": batch[:, :-1]}, batch[:, 1:]
    if len(batch) == 1:  # a TensorDataset of ids alone
        return {"tokens": batch[0][:, :-1]}, batch[0][:, 1:]
    tokens, targets = batch
    return {"tokens": tokens}, targets


def build_task(cfg: LMConfig, model: LanguageModel, data: Data) -> LanguageModelTask:
    """The task of a run."""
    return LanguageModelTask(model, data.spec.byte_lengths)
