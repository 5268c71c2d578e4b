"""Thinking longer than in training: more steps, more attempts, and stopping where nothing is left to do.

Deeper than trained (chenglou/sudoku-solver), restarts from noisy starts picked by the halting head (PTRM,
arXiv:2605.19943) or by the smallest residual (EqR). Attempts wait in a queue: one that halts gives its place
to the next, so that the batch stays full. The noise of attempt r is the same for every sample, so that an
answer does not depend on what else was asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tinsmith.engine.config import check, check_choice
from tinsmith.engine.data import derive_seed
from tinsmith.families.trm.config import SELECTS
from tinsmith.families.trm.model import TinyRecursiveModel


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is spent on an answer.

    Args:
        steps: supervision steps, at most.
        threshold: a sample halts when its probability is above; 1 or more: never before ``steps``.
        restarts: attempts; the first one starts as in training, the others with noise.
        noise: standard deviation of that noise. path_noise: of noise on each later step of the others.
        select: which attempt counts: ``halt`` (the most sure), ``residual`` (the one whose answer moved least
            in its last step), ``vote`` (what most attempts say, then the most sure).
        batch_size: attempts at once; changes the result by rounding only.
        seed: of the noise.
    """

    steps: int
    threshold: float = 1.0
    restarts: int = 1
    noise: float = 1.0
    path_noise: float = 0.0
    select: str = "halt"
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "batch_size"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        check_choice("select", self.select, SELECTS)


@dataclass(slots=True)
class Solved:
    """``predictions`` [N, L]; ``exit_steps`` [N] of the attempt that counts, from 1; ``halt_probs`` [N] its
    probability; ``steps`` the supervision steps of all attempts together, ``calls`` those of the network."""

    predictions: Tensor
    exit_steps: Tensor
    halt_probs: Tensor
    steps: int
    calls: int


@torch.no_grad()
def solve(model: TinyRecursiveModel, seq: Tensor, effort: Effort) -> Solved:
    """Answer ``seq`` [N, L], in eval mode, whatever the mode was.

    Raises:
        ConfigError: deeper than the model's guard allows.
    """
    model.check_depth(effort.steps)
    with _eval_mode(model):
        attempts = _Attempts(model, seq, effort)
        while attempts.busy():
            attempts.advance()
    return attempts.selected()


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class _Attempts:
    """The queue. Attempt j is number ``j // N`` of sample ``j % N``."""

    def __init__(self, model: TinyRecursiveModel, seq: Tensor, effort: Effort) -> None:
        self.model, self.seq, self.effort = model, seq.to(model.device), effort
        self.total = len(seq) * effort.restarts
        device = model.device
        self.predictions = torch.zeros(self.total, seq.shape[1], dtype=torch.long, device=device)
        self.exits = torch.zeros(self.total, dtype=torch.long, device=device)
        self.sure, self.residual = (torch.zeros(self.total, device=device) for _ in range(2))
        self.starts = [self._start(r) for r in range(effort.restarts)]
        self.paths: dict[tuple[int, int], Tensor] = {}
        self.next, self.steps = 0, 0
        self.job = torch.zeros(0, dtype=torch.long, device=device)
        self.age = self.job
        self.x, self.y, self.z = (torch.zeros(0, *self.starts[0].shape[1:], device=device) for _ in range(3))
        self._refill()

    def busy(self) -> bool:
        """Whether there is work left."""
        return len(self.job) > 0

    def _start(self, number: int) -> Tensor:
        """The first answer and latent of an attempt: [2, L + R, D]."""
        y, z = (t[0] for t in self.model.start(1, self.seq.shape[1]))
        start = torch.stack([y, z])
        if number == 0:
            return start
        return start + self.effort.noise * self._noise(start.shape, number, 0)

    def _noise(self, shape: torch.Size, number: int, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(self.effort.seed, number, step))
        return torch.randn(shape, generator=generator).to(self.model.device)

    def _refill(self) -> None:
        """Put waiting attempts into the free places."""
        free = min(self.effort.batch_size - len(self.job), self.total - self.next)
        if free <= 0:
            return
        new = torch.arange(self.next, self.next + free, device=self.model.device)
        self.next += free
        starts = torch.stack(self.starts)[new // len(self.seq)]  # [free, 2, L + R, D]
        x = self.model.embed_inputs_with_registers(self.seq[new % len(self.seq)])
        self.job, self.age = torch.cat([self.job, new]), torch.cat([self.age, torch.zeros_like(new)])
        self.x, self.y = torch.cat([self.x.to(x.dtype), x]), torch.cat([self.y, starts[:, 0]])
        self.z = torch.cat([self.z, starts[:, 1]])

    def advance(self) -> None:
        """One supervision step of all that are under way; those that are done leave."""
        after = self.model.step(self.x, self.y, self.z)
        self.steps += len(self.job)
        self.age = self.age + 1
        sure = after.halt.float().sigmoid()
        done = (sure > self.effort.threshold) | (self.age >= self.effort.steps)
        if bool(done.any()):
            job = self.job[done]
            self.predictions[job] = after.logits[done].argmax(-1)
            self.exits[job], self.sure[job] = self.age[done], sure[done]
            self.residual[job] = (after.outputs[done] - self.y[done]).float().square().mean((1, 2))
        stay = ~done
        self.job, self.age, self.x = self.job[stay], self.age[stay], self.x[stay]
        self.y, self.z = after.outputs[stay].float(), after.latents[stay].float()
        if self.effort.path_noise and self.effort.restarts > 1:
            self._disturb()
        self._refill()

    def _disturb(self) -> None:
        for i, (job, age) in enumerate(zip(self.job.tolist(), self.age.tolist(), strict=True)):
            number = job // len(self.seq)
            if number:
                key = (number, age)
                if key not in self.paths:
                    self.paths[key] = self.effort.path_noise * self._noise(self.starts[0].shape, *key)
                self.y[i] += self.paths[key][0]
                self.z[i] += self.paths[key][1]

    def selected(self) -> Solved:
        """The attempts that count."""
        n, restarts = len(self.seq), self.effort.restarts
        sure, residual = self.sure.view(restarts, n), self.residual.view(restarts, n)
        answers = self.predictions.view(restarts, n, -1)
        if self.effort.select == "residual":
            best = residual.argmin(0)
        elif self.effort.select == "vote":
            votes = torch.stack([(answers == answer).all(-1).sum(0) for answer in answers])
            best = (votes + sure).argmax(0)  # sure is below 1: it decides between equal votes
        else:
            best = sure.argmax(0)
        each = torch.arange(n, device=best.device)
        return Solved(
            answers[best, each],
            self.exits.view(restarts, n)[best, each],
            sure[best, each],
            self.steps,
            self.model.calls(self.steps),
        )
