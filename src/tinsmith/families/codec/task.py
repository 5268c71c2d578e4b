"""The codec's objective: the student's vectors towards the teacher's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.engine.contract import Context, Data, StepOutput, Task
from tinsmith.engine.losses import InfoNCELoss
from tinsmith.families.codec.config import CodecConfig, LossConfig
from tinsmith.families.codec.measure import score
from tinsmith.families.codec.model import CodecModel, Encoded, Encoder, encoder_of
from tinsmith.families.codec.start import start_weights


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
        out = self.model(batch["tokens"], batch["mask"])
        has_tiers = self.model.conv is not None
        loss, cos = encoding_loss(self.weights, self.info_nce, out, batch["z"], has_tiers)
        return StepOutput(loss, float(len(out.z)), {"cosine": cos.detach()})

    def evaluate(self, batches: Iterable[Any]) -> dict[str, float]:
        """Cosine to the teacher (each domain counts the same), its 10th percentile, R@1 and so on."""
        z, target, domain = [], [], []
        for batch in batches:
            z.append(unit(self.model(batch["tokens"], batch["mask"])).cpu())
            target.append(batch["z"].float().cpu())
            domain.append(batch["domain"].cpu())
        student, teacher, kind = torch.cat(z), torch.cat(target), torch.cat(domain)
        return score(student, teacher, kind, self.domains)


def encoding_loss(
    w: LossConfig, info_nce: InfoNCELoss, out: Encoded, target: Tensor, has_tiers: bool
) -> tuple[Tensor, Tensor]:
    """The weighted terms of an encoder's output against the teacher's vectors [B, Z], and the mean cosine.

    Args:
        has_tiers: whether the static tier is another vector than the whole encoder's.
    """
    z, target = out.z.float(), target.float()
    cos = F.cosine_similarity(z, target, dim=-1).mean()
    loss = w.cos * (1 - cos)
    if w.mse:
        loss = loss + w.mse * F.mse_loss(F.normalize(z, dim=-1), target, reduction="none").sum(-1).mean()
    if w.sem:
        loss = loss + w.sem * info_nce(z, target)
    if w.static and has_tiers:
        loss = loss + w.static * (1 - F.cosine_similarity(out.static.float(), target, dim=-1)).mean()
    return loss, cos


def unit(out: Encoded) -> Tensor:
    """An encoder's vectors at length one: [B, Z] float32."""
    return F.normalize(out.z.float(), dim=-1)


def build_task(cfg: CodecConfig, model: nn.Module, data: Data) -> Task:
    """The task of a run: the model starts at the teacher's vectors of single tokens, or at ``cfg.init``'s."""
    assert isinstance(model, Encoder | CodecModel)
    encoder_of(model).start_from(data.artifacts["table"], data.artifacts["log_weight"])
    if isinstance(model, CodecModel):
        from tinsmith.families.codec.text_task import build_text_task

        return build_text_task(cfg, model, data)
    if cfg.init:
        start_weights(cfg, model, data.spec)
    return CodecTask(model, cfg.loss, data.spec.domains)
