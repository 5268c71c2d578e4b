"""What every engine trains: a model that keeps the time, the batches, and how long."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]

LR, WEIGHT_DECAY, CLIP, EMA_DECAY = 1e-3, 0.01, 1.0, 0.999
CLASSES = 10


@dataclass(frozen=True)
class Size:
    """A model of ``blocks`` residual blocks (0: one hidden layer), and the steps it is timed over."""

    inputs: int
    width: int
    blocks: int
    rows: int  # in a batch
    batches: int  # in an epoch
    warm: int  # steps before the clock starts
    steps: int  # steps on the clock


SIZES = {
    "small": Size(inputs=16, width=32, blocks=0, rows=32, batches=500, warm=200, steps=1500),
    "medium": Size(inputs=64, width=128, blocks=1, rows=32, batches=200, warm=50, steps=600),
    "large": Size(inputs=64, width=256, blocks=4, rows=64, batches=50, warm=20, steps=250),
}


class Timed(nn.Module):
    """A model that notes the time of its third training forward, and of the first and last timed ones.

    The third: by then an engine that rehearses a batch has done a whole step too, with its optimiser.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(size.inputs, size.width),
            nn.GELU() if size.blocks else nn.ReLU(),
            *[Residual(size.width) for _ in range(size.blocks)],
            nn.Linear(size.width, CLASSES),
        )
        self.calls = 0
        self.marks = {2: 0.0, size.warm: 0.0, size.warm + size.steps: 0.0}

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            if self.calls in self.marks:
                self.marks[self.calls] = time.monotonic()
            self.calls += 1
        return cast(Tensor, self.net(x))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.inner(x))


@dataclass
class Case:
    """One run: built anew in the process that measures it, the same in each."""

    size: Size
    model: Timed = field(init=False)
    batches: list[Batch] = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        size = self.size
        self.batches = [
            (torch.randn(size.rows, size.inputs), torch.randint(CLASSES, (size.rows,)))
            for _ in range(size.batches)
        ]
        self.model = Timed(size)

    @property
    def total(self) -> int:
        """Steps of the run: a few more than the clock needs."""
        return self.size.warm + self.size.steps + 5

    @property
    def epochs(self) -> int:
        return math.ceil(self.total / self.size.batches)

    def loader(self) -> torch.utils.data.DataLoader[Batch]:
        return torch.utils.data.DataLoader(self.batches, batch_size=None, shuffle=True)  # type: ignore[arg-type]

    def optimizer(self, module: nn.Module | None = None) -> torch.optim.AdamW:
        params = (module or self.model).parameters()
        return torch.optim.AdamW(params, lr=LR, weight_decay=WEIGHT_DECAY, fused=True)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, self.cosine)

    def cosine(self, step: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * min(1, step / self.total)))
