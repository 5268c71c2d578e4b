"""The tiny recursive model: one small network, called again and again on question, answer and latent.

Jolicoeur-Martineau 2025, "Less is more: recursive reasoning with tiny networks" (arXiv:2510.04871). With the
question's embedding x, the answer y, the latent z and one network f, a refinement block is

    z <- f(x + y + z)   n times,   then   y <- f(y + z),

and a supervision step T blocks, of which the last alone is differentiated. y and z go on, detached, to the
next supervision step. Heads read the answer: logits of each position, and one of whether to halt.

Shapes: B batch, L positions (R registers in front), D width, V tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.errors import ConfigError
from tinsmith.families.trm.config import ModelConfig
from tinsmith.families.trm.cores import AttentionCore, GroupSums, MLPMixer1D, Neighbours, RelationCore

IGNORE = -100  # label of a position that does not count


@dataclass(frozen=True, slots=True)
class TRMSpec:
    """What the data say about the model. Saved with the weights.

    ``num_outputs`` are the first of the tokens, those that an answer can have. ``task`` is one of
    ``config.TASKS``, ``side`` that of the grid (0 for text), ``span`` and ``tokenizer``
    are of code, ``tasks`` the names of ARC's tasks.
    """

    task: str
    num_tokens: int
    num_outputs: int
    seq_len: int
    side: int = 0
    span: int = 0
    tokenizer: str = ""
    tasks: tuple[str, ...] = ()
    augmentations: int = 1


class Step(NamedTuple):
    """After a supervision step: ``outputs``, ``latents`` [B, L + R, D], ``logits`` [B, L, V], ``halt`` [B]
    (the logit of halting)."""

    outputs: Tensor
    latents: Tensor
    logits: Tensor
    halt: Tensor


class TinyRecursiveModel(nn.Module):
    """The model of the paper above.

    Args:
        dim: D. num_tokens: V.
        network: [B, L + R, D] -> [B, L + R, D].
        num_refinement_blocks: T. num_latent_refinements: n.
        halt_loss_weight: weight of the halting loss in ``forward``'s total.
        num_register_tokens: R, learned positions in front of the sequence.
        max_recursion_depth: calls of the network for one sample, at most: more are refused.
        halt_bias: of the halting head at the start. At zero the probability is one half, and every sample
            would halt at once; negative goes on.
        damping: share of the old answer that a refinement keeps (0 in the paper).
        num_outputs: tokens that an answer can have, the first ones; 0: all.
    """

    output_init_embed: Tensor
    latent_init_embed: Tensor

    def __init__(
        self,
        *,
        dim: int,
        num_tokens: int,
        network: nn.Module,
        num_refinement_blocks: int = 3,
        num_latent_refinements: int = 6,
        halt_loss_weight: float = 1.0,
        num_register_tokens: int = 0,
        max_recursion_depth: int = 16384,
        halt_bias: float = -5.0,
        damping: float = 0.0,
        num_outputs: int = 0,
    ) -> None:
        super().__init__()
        if num_refinement_blocks < 1 or num_latent_refinements < 1:
            raise ConfigError(
                f"num_refinement_blocks={num_refinement_blocks} and num_latent_refinements="
                f"{num_latent_refinements} must be 1 or more"
            )
        self.dim, self.num_tokens = dim, num_tokens
        self.num_refinement_blocks = num_refinement_blocks
        self.num_latent_refinements = num_latent_refinements
        self.halt_loss_weight, self.damping = halt_loss_weight, damping
        self.max_recursion_depth, self.num_register_tokens = max_recursion_depth, num_register_tokens
        self.input_embed = nn.Embedding(num_tokens, dim)
        self.network = network
        # No gradient could reach these where T > 1: fixed, as good as learned.
        self.register_buffer("output_init_embed", torch.randn(dim))
        self.register_buffer("latent_init_embed", torch.randn(dim))
        registers = nn.Parameter(torch.randn(num_register_tokens, dim)) if num_register_tokens else None
        self.registers = registers
        self.to_pred = nn.Linear(dim, num_outputs or num_tokens, bias=False)
        self.to_halt_pred = nn.Linear(dim, 1)
        nn.init.zeros_(self.to_pred.weight)
        nn.init.zeros_(self.to_halt_pred.weight)
        nn.init.constant_(self.to_halt_pred.bias, halt_bias)
        self.check_depth(1)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.output_init_embed.device

    def calls(self, steps: int, blocks: int | None = None, latents: int | None = None) -> int:
        """Calls of the network for one sample in ``steps`` supervision steps: the recursion depth."""
        blocks, latents = blocks or self.num_refinement_blocks, latents or self.num_latent_refinements
        return steps * blocks * (latents + 1)

    def check_depth(self, steps: int) -> None:
        """Refuse a depth beyond the guard.

        Raises:
            ConfigError: names both numbers.
        """
        if self.calls(steps) > self.max_recursion_depth:
            raise ConfigError(
                f"{steps} steps of {self.num_refinement_blocks} blocks of {self.num_latent_refinements} + 1 "
                f"calls make a recursion depth of {self.calls(steps)}; max_recursion_depth="
                f"{self.max_recursion_depth}. Take fewer steps, or raise max_recursion_depth."
            )

    def get_initial(self) -> tuple[Tensor, Tensor]:
        """The first answer and latent of every position: [D], [D]."""
        return self.output_init_embed, self.latent_init_embed

    def start(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        """The first answers and latents of a batch: [B, L + R, D] twice."""
        shape = (batch, length + self.num_register_tokens, self.dim)
        outputs, latents = self.get_initial()
        return outputs.expand(shape), latents.expand(shape)

    def embed_inputs_with_registers(self, seq: Tensor) -> Tensor:
        """Tokens [B, L] -> [B, L + R, D]."""
        x: Tensor = self.input_embed(seq)
        if self.registers is None:
            return x
        return torch.cat([self.registers.expand(len(seq), -1, -1).to(x.dtype), x], 1)

    def refine_latent_then_output_once(
        self, inputs: Tensor, outputs: Tensor, latents: Tensor, num_latents: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """One block: n times ``z <- f(x + y + z)``, then ``y <- f(y + z)``; all [B, L + R, D]."""
        question = inputs + outputs  # the same for all n
        for _ in range(num_latents or self.num_latent_refinements):
            latents = self.network(question + latents)
        new = self.network(outputs + latents)
        return (torch.lerp(new, outputs.to(new.dtype), self.damping) if self.damping else new), latents

    def deep_refinement(
        self,
        inputs: Tensor,
        outputs: Tensor,
        latents: Tensor,
        blocks: int | None = None,
        num_latents: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """T blocks, the last with gradient: y and z, [B, L + R, D] each."""
        inputs, outputs, latents = (_positions_first(t) for t in (inputs, outputs, latents))
        with torch.no_grad():
            for _ in range((blocks or self.num_refinement_blocks) - 1):
                outputs, latents = self.refine_latent_then_output_once(inputs, outputs, latents, num_latents)
        return self.refine_latent_then_output_once(inputs, outputs, latents, num_latents)

    def step(
        self,
        inputs: Tensor,
        outputs: Tensor,
        latents: Tensor,
        blocks: int | None = None,
        num_latents: int | None = None,
    ) -> Step:
        """One supervision step from embedded inputs; what it returns of y and z is still differentiable."""
        outputs, latents = self.deep_refinement(inputs, outputs, latents, blocks, num_latents)
        logits = self.to_pred(outputs[:, self.num_register_tokens :])
        return Step(outputs, latents, logits, self.to_halt_pred(outputs.mean(1))[:, 0])

    def forward(
        self, seq: Tensor, outputs: Tensor, latents: Tensor, labels: Tensor | None = None
    ) -> tuple[Any, ...]:
        """One supervision step.

        Args:
            seq: tokens [B, L].
            outputs, latents: [D] (from ``get_initial``) or [B, L + R, D] (from the step before).
            labels: [B, L]; ``IGNORE`` does not count.

        Returns:
            ``(outputs, latents, pred [B, L, V], halt_prob [B])``, y and z detached; with labels
            ``(total_loss, (loss, halt_loss), outputs, latents, pred, halt_prob)``, means over the samples.
        """
        shape = (len(seq), seq.shape[1] + self.num_register_tokens, self.dim)
        inputs = self.embed_inputs_with_registers(seq)
        after = self.step(inputs, outputs.expand(shape), latents.expand(shape))
        state = (after.outputs.detach(), after.latents.detach(), after.logits, after.halt.sigmoid())
        if labels is None:
            return state
        loss, halt_loss, _ = step_losses(after, labels)
        return loss.mean() + self.halt_loss_weight * halt_loss.mean(), (loss.mean(), halt_loss.mean()), *state

    @torch.no_grad()
    def predict(
        self, seq: Tensor, halt_prob_thres: float = 0.5, max_deep_refinement_steps: int = 12
    ) -> tuple[Tensor, Tensor]:
        """Answers, each at the step at which its probability of halting is first above the threshold.

        In eval mode, whatever the mode was. Samples that have halted are not computed on.

        Args:
            seq: tokens [B, L].
            halt_prob_thres: 1 or more: never halts early.
            max_deep_refinement_steps: supervision steps at most.

        Returns:
            Predictions [B, L], and the step from 1 on at which each left [B].

        Raises:
            ConfigError: deeper than ``max_recursion_depth``.
        """
        from tinsmith.families.trm.search import Effort, solve

        found = solve(self, seq, Effort(max_deep_refinement_steps, halt_prob_thres))
        return found.predictions, found.exit_steps


def _positions_first(x: Tensor) -> Tensor:
    """The same [B, L, D], in memory as [L, B, D]: so the bits do not depend on where it came from."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def step_losses(
    step: Step, labels: Tensor, stablemax: bool = False
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Losses of each sample.

    Args:
        labels: [B, L]; ``IGNORE`` does not count.
        stablemax: normalise by it in place of softmax.

    Returns:
        The mean loss of its cells [B]; that of halting [B] (binary cross-entropy to "all cells are right");
        which cells are right [B, L] and which count [B, L].
    """
    counts = labels != IGNORE
    logits = step.logits.float()
    target = labels.clamp(min=0)
    if stablemax:
        cells = stablemax_loss(logits, target)
    else:
        cells = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(target)
    loss = (cells * counts).sum(1) / counts.sum(1).clamp(min=1)
    right = (logits.argmax(-1) == labels) | ~counts
    halt = F.binary_cross_entropy_with_logits(step.halt.float(), right.all(1).float(), reduction="none")
    return loss, halt, (right, counts)


def stablemax_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with ``s(x) = x + 1`` for x >= 0, else ``1 / (1 - x)``, in place of exp.

    Prieto et al. 2025 (arXiv:2501.04697, eq. 5): it grows no faster than x, so that a fitted sample does not
    drive the logits up without end. In float32.

    Args:
        logits: [..., V]. target: [...] ids.

    Returns:
        [...]
    """
    x = logits.float()
    s = torch.where(x >= 0, x + 1, 1 / (1 - x.clamp(max=0)))
    chosen = s.gather(-1, target[..., None])[..., 0]
    return s.sum(-1).log() - chosen.log()


def build_core(cfg: ModelConfig, spec: TRMSpec) -> nn.Module:
    """The network that the settings name, for sequences of the spec."""
    length = spec.seq_len + cfg.registers
    common: Any = {"dim": cfg.dim, "depth": cfg.depth, "dropout": cfg.dropout}
    if cfg.core == "attention":
        return AttentionCore(
            **common, seq_len=length, heads=cfg.heads, hidden=cfg.channel_hidden, kernel=cfg.kernel
        )
    if cfg.core == "relation":
        relations = GroupSums(spec.side) if spec.task == "sudoku" else Neighbours(spec.side)
        return RelationCore(**common, relations=relations, hidden=cfg.channel_hidden)
    token, channel = cfg.token_hidden or 2 * length, cfg.channel_hidden or 2 * cfg.dim
    return MLPMixer1D(**common, seq_len=length, token_hidden=token, channel_hidden=channel)


def build_model(
    cfg: ModelConfig, spec: TRMSpec, halt_bias: float = -5.0, halt_weight: float = 0.5
) -> TinyRecursiveModel:
    """The model of the settings."""
    return TinyRecursiveModel(
        dim=cfg.dim,
        num_tokens=spec.num_tokens,
        network=build_core(cfg, spec),
        num_refinement_blocks=cfg.blocks,
        num_latent_refinements=cfg.latents,
        halt_loss_weight=halt_weight,
        num_register_tokens=cfg.registers,
        max_recursion_depth=cfg.max_recursion_depth,
        halt_bias=halt_bias,
        damping=cfg.damping,
        num_outputs=spec.num_outputs,
    )
