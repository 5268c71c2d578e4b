"""The objectives: a regression's errors, classes of graphs or nodes, links between nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.engine.contract import Context, Data, StepOutput, Task
from tinsmith.engine.losses import get_loss_fn
from tinsmith.families.graph.config import GraphConfig, LossConfig
from tinsmith.families.graph.measure import score
from tinsmith.families.graph.model import GraphModel, GraphSpec

_TRIES = 8  # rounds in which pairs that turn out to be links are drawn anew


class GraphTask(Task):
    """The loss of a batch, a mean over graphs, known nodes or pairs; its metrics over a whole set.

    Targets of a regression are centred and scaled by the training set's figures while training; metrics are
    in their own units.

    Args:
        model: gives outputs of a batch. spec: what the data are. loss: which objective.
    """

    target_mean: Tensor
    target_std: Tensor
    class_weight: Tensor | None

    def __init__(self, model: GraphModel, spec: GraphSpec, loss: LossConfig) -> None:
        super().__init__()
        self.model: GraphModel = model
        self.spec, self.cfg = spec, loss
        self.monitor = (spec.monitor, "max" if spec.mode == "max" else "min")
        self.register_buffer("target_mean", torch.tensor(spec.target_mean or (0.0,)))
        self.register_buffer("target_std", torch.tensor(spec.target_std or (1.0,)))
        self.register_buffer("class_weight", _class_weight(spec) if loss.balance else None)
        self.errors = get_loss_fn("regression", loss.regression)

    def forward(self, batch: dict[str, Tensor], ctx: Context) -> StepOutput:
        """The loss; its weight is the number of graphs, of nodes that have a class, or of pairs."""
        if self.training and "links" in batch:
            batch = with_unlinked(batch)
        return self._judge(self.model(batch).float(), batch["y"])

    def _judge(self, outputs: Tensor, y: Tensor) -> StepOutput:
        """The loss of what the model gave."""
        if self.spec.task == "regression":
            target = (y.float() - self.target_mean) / self.target_std
            error = ((outputs.detach() - target) * self.target_std).abs().mean()
            return StepOutput(self.errors(outputs, target), float(len(target)), {"mae": error})
        if self.spec.task == "edge_prediction":
            loss = F.binary_cross_entropy_with_logits(outputs, y)
            right = ((outputs.detach() > 0) == (y > 0)).float().mean()
            return StepOutput(loss, float(len(y)), {"accuracy": right})
        if self.spec.task == "node_classification":
            outputs, y = outputs[y >= 0], y[y >= 0]
        if not len(y):  # a batch of nodes without a class says nothing
            return StepOutput(outputs.sum() * 0.0, 0.0)
        # torch's mean divides by the weights of the batch's classes: means of batches would not add up.
        loss = F.cross_entropy(
            outputs, y, self.class_weight, label_smoothing=self.cfg.label_smoothing, reduction="sum"
        )
        right = (outputs.detach().argmax(-1) == y).float().mean()
        return StepOutput(loss / len(y), float(len(y)), {"accuracy": right})

    def evaluate(self, batches: Iterable[Any]) -> dict[str, float]:
        """The loss and the metrics over all graphs, nodes or pairs."""
        total, weight = 0.0, 0.0
        outputs, targets = [], []
        for batch in batches:
            given = self.model(batch).float()
            out = self._judge(given, batch["y"])
            total, weight = total + float(out.loss) * float(out.weight), weight + float(out.weight)
            outputs.append(self.in_units(given).cpu())
            targets.append(batch["y"].cpu())
        if not outputs or not weight:
            raise ValueError("evaluate got no batches with targets: the loader is empty")
        return {"loss": total / weight, **score(self.spec, torch.cat(outputs), torch.cat(targets))}

    def in_units(self, outputs: Tensor) -> Tensor:
        """Predictions of a regression in the targets' own units, else logits as they are."""
        return outputs * self.target_std + self.target_mean if self.spec.task == "regression" else outputs


def _class_weight(spec: GraphSpec) -> Tensor | None:
    """Inverse frequencies, their mean over the training targets one."""
    if not spec.class_counts:
        return None
    counts = torch.tensor(spec.class_counts, dtype=torch.float32)
    return counts.sum() / (len(counts) * counts.clamp(min=1))


def with_unlinked(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch with as many pairs of nodes without a link, drawn from torch's generator.

    A pair that turns out to be a training link, or one node twice, is drawn again; what still is one after
    eight rounds is left as it is (in a graph of 1% links that is one pair in 10^16). Links of the held-out
    splits are
    not known here: a few in ten thousand of the pairs may be some, as in any training of this kind.
    """
    pairs, known = batch["pairs"], batch["links"]
    count = batch["mask"].shape[1]
    drawn = torch.randint(count, pairs.shape).to(pairs.device)
    for _ in range(_TRIES):
        key = drawn[0] * count + drawn[1]
        at = torch.searchsorted(known, key).clamp(max=len(known) - 1)
        bad = (known[at] == key) | (drawn[0] == drawn[1])
        fresh = torch.randint(count, pairs.shape).to(pairs.device)
        drawn = torch.where(bad, fresh, drawn)
    return {
        **batch,
        "pairs": torch.cat([pairs, drawn], 1),
        "y": torch.cat([batch["y"], torch.zeros_like(batch["y"])]),
    }


def build_task(cfg: GraphConfig, model: GraphModel, data: Data) -> GraphTask:
    """The task of a run; the model takes over the figures of the training set's encodings."""
    model.start_from(data.artifacts["figures"])
    return GraphTask(model, data.spec, cfg.loss)
