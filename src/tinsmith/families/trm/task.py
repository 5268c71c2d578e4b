"""Deep supervision: samples stay in the batch over several steps, with their answer and latent as a carry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tinsmith.engine.contract import Context, Data, StepOutput, Task
from tinsmith.families.trm.config import DepthConfig, DepthStage, HaltConfig, TRMConfig
from tinsmith.families.trm.model import IGNORE, TinyRecursiveModel, step_losses

_GOLDEN = 0.6180339887498949  # its multiples, modulo one, spread evenly however many there are


class TRMTask(Task):
    """One supervision step a batch.

    A batch is a dict of ``inputs``, ``labels`` [B, L] (``IGNORE`` where a cell does not count) and ``rank``
    [B] (a sample's place in the curriculum, above 0 to 1). The B places of the carry hold samples under way:
    ``inputs``, ``labels``, ``outputs``, ``latents`` [B, L + R, D], ``steps`` [B] and ``halted`` [B]. Whoever
    has halted leaves its place to the sample in the same row of the next batch; the other rows of that batch
    are dropped. (The order of samples is random, so that nobody is preferred; and the data's whole state
    stays one cursor.)

    Args:
        model: what is trained.
        halt: when a sample leaves.
        depth: the curriculum, by default the model's own depth throughout, and the steps and the threshold
            of ``evaluate``.
        init_noise, path_noise: standard deviations of the noise on the first and on later states.
        stablemax: in place of softmax.
    """

    monitor = ("exact", "max")

    def __init__(
        self,
        model: TinyRecursiveModel,
        halt: HaltConfig,
        depth: DepthConfig | None = None,
        init_noise: float = 0.0,
        path_noise: float = 0.0,
        stablemax: bool = False,
    ) -> None:
        super().__init__()
        self.model: TinyRecursiveModel = model
        self.halt, self.depth = halt, depth or DepthConfig()
        self.test_steps = self.depth.test_steps or halt.max_steps
        self.init_noise, self.path_noise, self.stablemax = init_noise, path_noise, stablemax
        model.check_depth(max(self.test_steps, halt.max_steps))

    def stage(self, ctx: Context) -> DepthStage:
        """The curriculum's stage at a step.

        Where the number of steps is not known (they are being timed, to plan a budget of minutes) stages take
        turns by their share, so that the mean cost is that of the whole run.
        """
        stages = self.depth.stages
        if not stages:
            return DepthStage(1.0, self.model.num_refinement_blocks, self.model.num_latent_refinements)
        at = ctx.step / ctx.max_steps if ctx.max_steps else (ctx.step * _GOLDEN) % 1.0
        return next((stage for stage in stages if at < stage.until), stages[-1])

    def forward(self, batch: dict[str, Tensor], ctx: Context) -> StepOutput:
        """The loss of the step; its weight is the number of samples."""
        stage = self.stage(ctx)
        state = self._enter(_admitted(batch, stage.data), ctx.carry)
        embedded = self.model.embed_inputs_with_registers(state["inputs"])
        after = self.model.step(embedded, state["outputs"], state["latents"], stage.blocks, stage.latents)
        cells, halting, (right, counts) = step_losses(after, state["labels"], self.stablemax)
        steps = state["steps"] + 1
        exact, count = right.all(1), counts.sum(1).clamp(min=1)
        depth = self.model.calls(1, stage.blocks, stage.latents)
        metrics = {
            "cell_loss": cells.detach().mean(),
            "halt_loss": halting.detach().mean(),
            "cell_accuracy": ((right & counts).sum(1) / count).mean(),
            "exact": exact.float().mean(),
            "supervision_step": steps.float().mean(),
            "recursion_depth": depth * steps.float().mean(),
        }
        carry = {
            "inputs": state["inputs"],
            "labels": state["labels"],
            "outputs": after.outputs.detach().float().contiguous(),
            "latents": after.latents.detach().float().contiguous(),
            "steps": steps,
            "halted": self._halted(after.halt.detach(), steps),
        }
        loss = cells.mean() + self.halt.weight * halting.mean()
        return StepOutput(loss, float(len(steps)), metrics, carry)

    def _enter(self, batch: dict[str, Tensor], carry: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """The samples of this step: those under way, and new ones in the places of those that have halted."""
        inputs, labels = batch["inputs"], batch["labels"]
        outputs, latents = self.model.start(*inputs.shape)
        if self.training and self.init_noise:
            outputs = outputs + self.init_noise * torch.randn_like(outputs)
            latents = latents + self.init_noise * torch.randn_like(latents)
        fresh = {
            "inputs": inputs,
            "labels": labels,
            "outputs": outputs,
            "latents": latents,
            "steps": torch.zeros(len(inputs), dtype=torch.long, device=inputs.device),
        }
        if carry is None or carry["outputs"].shape != outputs.shape:  # none yet, or one of another width
            return fresh
        if self.training and self.path_noise:
            carry = {**carry, **{k: carry[k] + self.path_noise * torch.randn_like(carry[k]) for k in _STATES}}
        halted = carry["halted"]
        return {
            name: torch.where(halted.view(-1, *[1] * (new.ndim - 1)), new, carry[name])
            for name, new in fresh.items()
        }

    def _halted(self, logit: Tensor, steps: Tensor) -> Tensor:
        """Who leaves: after the last step, or above the threshold unless it has to explore."""
        longest = self.halt.max_steps
        sure = logit.float().sigmoid() > self.halt.threshold
        if self.training and self.halt.explore and longest > 1:
            stays = torch.rand(len(steps), device=steps.device) < self.halt.explore
            least = torch.randint(2, longest + 1, steps.shape, device=steps.device)
            sure &= ~stays | (steps >= least)
        return sure | (steps >= longest)

    def evaluate(self, batches: Iterable[Any]) -> dict[str, float]:
        """Over all samples, at ``test_steps`` steps: ``loss``, ``cell_accuracy``, ``exact`` (all cells are
        right); ``exact_halted`` if each halts when it is sure, and ``halt_step``, the mean of when."""
        sums: dict[str, Tensor] = {}
        total = 0
        for batch in batches:
            total += len(batch["inputs"])
            for name, value in self._measure(batch["inputs"], batch["labels"]).items():
                sums[name] = sums.get(name, 0.0) + value.double().sum()
        if not total:
            raise ValueError("evaluate got no batches: the loader is empty")
        return {name: float(value / total) for name, value in sums.items()}

    def _measure(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The metrics of each sample [B]."""
        embedded = self.model.embed_inputs_with_registers(inputs)
        outputs, latents = self.model.start(*inputs.shape)
        went = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
        exact_halted = halt_step = torch.zeros(len(inputs), device=inputs.device)
        for step in range(1, self.test_steps + 1):
            after = self.model.step(embedded, outputs, latents)
            outputs, latents = after.outputs, after.latents
            right = (after.logits.argmax(-1) == labels) | (labels == IGNORE)
            goes = (after.halt.float().sigmoid() > self.depth.threshold) | (step == self.test_steps)
            leaves = (goes & ~went).float()
            exact_halted = exact_halted + leaves * right.all(1)
            halt_step = halt_step + leaves * step
            went = went | goes
        cells, _, (right, counts) = step_losses(after, labels, self.stablemax)
        return {
            "loss": cells,
            "cell_accuracy": (right & counts).sum(1) / counts.sum(1).clamp(min=1),
            "exact": right.all(1).float(),
            "exact_halted": exact_halted,
            "halt_step": halt_step,
        }


_STATES = ("outputs", "latents")


def _admitted(batch: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The batch with the samples that are not in the stage's share replaced by those that are, in turn."""
    if share >= 1:
        return batch
    order = torch.argsort(batch["rank"] > share, stable=True)  # those in the share first
    count = (batch["rank"] <= share).sum().clamp(min=1)
    rows = order[torch.arange(len(order), device=order.device) % count]
    return {name: value[rows] for name, value in batch.items()}


def build_task(cfg: TRMConfig, model: TinyRecursiveModel, data: Data) -> TRMTask:
    """The task of a run."""
    return TRMTask(
        model,
        cfg.halt,
        cfg.depth,
        cfg.model.init_noise,
        cfg.model.path_noise,
        cfg.loss.name == "stablemax",
    )
