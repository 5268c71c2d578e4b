"""The lattice's objective: predicted vectors to the true ones, and true answers before others.

Shapes: B rows of a batch, N rows of a set, Z embedding size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.engine.contract import Context, Data, Mode, StepOutput, Task
from tinsmith.families.lattice.baselines import Model, fit_ridge
from tinsmith.families.lattice.config import LatticeConfig, LossConfig
from tinsmith.families.lattice.measure import rows_of
from tinsmith.families.lattice.metrics import DIALOGUE, MODES, WATCHED, accuracy, ranks_of_blocks, score
from tinsmith.families.lattice.model import Lattice

_SAME = 0.999  # cosine from which on two answers say the same: neither is wrong in place of the other
_SHARPEST = 100.0  # most that cosines are multiplied by, as in CLIP


class LatticeTask(Task):
    """``1 - cosine``, squared error or both, and InfoNCE for dialogue rows.

    A batch is a dict of ``x``, ``y`` [B, Z] (unit vectors) and ``mode`` [B]. InfoNCE
    (https://arxiv.org/abs/1807.03748) sets the true answer against others of the training set, whose vectors
    are fixed and cost a row of a matrix product each: so a row's loss does not depend on its batch.

    Args:
        model: the lattice.
        loss: weights of the terms.
        mode: autoencoder, dialogue or mixed.
        answers: those of the training set [N, Z].
        seed: of the draw of rivals in ``evaluate``.
    """

    def __init__(
        self, model: Lattice, loss: LossConfig, mode: str, answers: Tensor | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.model: Lattice = model
        self.weights, self.mode, self.seed = loss, mode, seed
        self.monitor: tuple[str, Mode] = (WATCHED.get(mode, "score"), "max")
        # Not a buffer: it is the data set's memory, not a part of the model that is saved and averaged.
        self._answers = answers
        contrast = mode != "autoencoder" and loss.infonce > 0
        self.log_scale = nn.Parameter(torch.tensor(-math.log(loss.temperature))) if contrast else None

    def forward(self, batch: dict[str, Tensor], ctx: Context) -> StepOutput:
        """The loss; its weight is the number of rows."""
        w, y = self.weights, batch["y"].float()
        z = self.model.raw(batch["x"], batch["mode"]).float()
        cosine = F.cosine_similarity(z, y, dim=-1).mean()
        loss = z.new_zeros(())
        if w.kind != "mse":
            loss = loss + w.cosine * (1 - cosine)
        if w.kind != "cosine":
            loss = loss + w.mse * (z - y).square().sum(-1).mean()
        asked = batch["mode"] == DIALOGUE
        if self.log_scale is not None and asked.any():
            loss = loss + w.infonce * self._contrast(z[asked], y[asked]).sum() / len(z)
        return StepOutput(loss, float(len(z)), {"cosine": cosine.detach()})

    def _contrast(self, z: Tensor, y: Tensor) -> Tensor:
        """InfoNCE of each row: predicted [B, Z], true [B, Z] -> [B]."""
        assert self.log_scale is not None
        z, others = F.normalize(z, dim=-1), self._others(y)
        scale = self.log_scale.exp().clamp(max=_SHARPEST)
        own, rivals = (z * y).sum(-1, keepdim=True), z @ others.T
        rivals = (scale * rivals).masked_fill(y @ others.T > _SAME, -math.inf)
        logits = torch.cat([scale * own, rivals], 1)
        return F.cross_entropy(logits, logits.new_zeros(len(z), dtype=torch.long), reduction="none")

    def _others(self, like: Tensor) -> Tensor:
        """Answers of the training set, drawn anew at each call: all of them where they are few."""
        assert self._answers is not None
        if self._answers.device != like.device:
            self._answers = self._answers.to(like.device)
        count, wanted = len(self._answers), self.weights.negatives
        if count <= wanted:
            return self._answers
        return self._answers[torch.randint(count, (wanted,)).to(like.device)]

    def evaluate(self, batches: Iterable[Any]) -> dict[str, float]:
        """Cosines of autoencoder rows; cosines and ranks of dialogue rows (``metrics``)."""
        kept: dict[str, list[Tensor]] = {"z": [], "y": [], "mode": []}
        for batch in batches:
            kept["z"].append(self.model(batch["x"], batch["mode"]).float().cpu())
            kept["y"].append(batch["y"].float().cpu())
            kept["mode"].append(batch["mode"].cpu())
        z, y, mode = (torch.cat(parts) for parts in kept.values())
        rows = {name: mode == number for number, name in enumerate(MODES)}
        shares = {name: (z[own], y[own]) for name, own in rows.items() if own.any()}
        mean = None if self._answers is None else self._answers.mean(0).cpu()
        return score(shares, mean, self.seed, mixed=self.mode == "mixed")


def build_task(cfg: LatticeConfig, model: Lattice, data: Data) -> LatticeTask:
    """The task of a run: the model's linear paths start at the best linear model of the training rows."""
    if model.encoder is not None and model.decoder is not None:
        basis, mean = principal_components(rows_of(data.train.dataset, "autoencoder")[0], model.bottleneck)
        model.encoder.start_from(basis, -mean @ basis)
        model.decoder.start_from(basis.T, mean)
    if model.answer is not None:
        x, y = rows_of(data.train.dataset, "dialogue")
        judge = partial(_judged, *rows_of(data.valid.dataset, "dialogue"), cfg.seed)
        linear = fit_ridge(x, y, judge)
        model.answer.start_from(linear.weight, linear.bias)
    answers = data.artifacts["answers"][1]
    return LatticeTask(model, cfg.loss, cfg.mode, answers if len(answers) else None, cfg.seed)


def principal_components(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first principal components [Z, count] of ``x`` [N, Z], as columns, and its mean [Z]."""
    mean = x.double().mean(0)
    centred = x.double() - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # eigenvalues ascend
    return vectors[:, -count:].flip(1).float(), mean.float()


def _judged(x: Tensor, y: Tensor, seed: int, model: Model) -> float:
    return accuracy(*ranks_of_blocks(model(x), y, seed))
