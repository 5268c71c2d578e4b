"""The codec's objective: the student's vectors towards the teacher's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.engine.contract import Context, Data, StepOutput, Task
from tinsmith.engine.losses import InfoNCELoss
from tinsmith.families.codec.config import CodecConfig, LossConfig
from tinsmith.families.codec.measure import score
from tinsmith.families.codec.model import Encoder


class CodecTask(Task):
    """Weighted sum of the terms of ``LossConfig`` over a batch of sentences.

    A batch is a dict of ``tokens`` [B, L], ``mask`` [B, L], ``z`` [B, Z] (the teacher's, length one),
    ``domain`` [B].
    """

    monitor = ("cosine", "max")

    def __init__(self, model: Encoder, loss: LossConfig, domains: tuple[str, ...]) -> None:
        super().__init__()
        self.model: Encoder = model
        self.weights, self.domains = loss, domains
        self.info_nce = InfoNCELoss(loss.temperature)

    def forward(self, batch: dict[str, Tensor], ctx: Context) -> StepOutput:
        """The loss; its weight is the number of sentences."""
        w, out = self.weights, self.model(batch["tokens"], batch["mask"])
        z, target = out.z.float(), batch["z"].float()
        cos = F.cosine_similarity(z, target, dim=-1).mean()
        loss = w.cos * (1 - cos)
        if w.mse:
            loss = loss + w.mse * F.mse_loss(F.normalize(z, dim=-1), target, reduction="none").sum(-1).mean()
        if w.sem:
            loss = loss + w.sem * self.info_nce(z, target)
        if w.static and self.model.conv is not None:
            loss = loss + w.static * (1 - F.cosine_similarity(out.static.float(), target, dim=-1)).mean()
        return StepOutput(loss, float(len(z)), {"cosine": cos.detach()})

    def evaluate(self, batches: Iterable[Any]) -> dict[str, float]:
        """Cosine to the teacher (each domain counts the same), its 10th percentile, R@1 and so on."""
        z, target, domain = [], [], []
        for batch in batches:
            z.append(F.normalize(self.model(batch["tokens"], batch["mask"]).z.float(), dim=-1).cpu())
            target.append(batch["z"].float().cpu())
            domain.append(batch["domain"].cpu())
        student, teacher, kind = torch.cat(z), torch.cat(target), torch.cat(domain)
        return score(student, teacher, kind, self.domains)


def build_task(cfg: CodecConfig, model: Encoder, data: Data) -> CodecTask:
    """The task of a run: the model starts at the teacher's own vectors of single tokens."""
    model.start_from(data.artifacts["table"], data.artifacts["log_weight"])
    return CodecTask(model, cfg.loss, data.spec.domains)
