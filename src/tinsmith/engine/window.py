"""The means that are logged: over a window of steps, and over an epoch. Read only when needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinsmith.engine.contract import StepOutput

if TYPE_CHECKING:
    from tinsmith.engine.ranks import Ranks


class Means:
    """Weighted means of the loss and the metrics since the last log line, and since the epoch began.

    A batch costs a list append: its tensors are read (one synchronisation on a GPU) at a log line, at an
    epoch's end, or when a checkpoint is made. The sums are Python floats, so that they survive JSON exactly.
    Where several processes share the batches, reading is something that all of them do at the same step.
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        self._ranks = ranks
        self._pending: list[tuple[Tensor, Tensor | float, dict[str, Tensor]]] = []
        self._window: list[dict[str, float]] = []  # read rows, "weight" among their keys
        self._epoch: dict[str, list[float]] = {}  # name -> [sum of value * weight, sum of weight]

    def add(self, out: StepOutput) -> None:
        """Note a batch."""
        self._pending.append((out.loss.detach(), out.weight, out.metrics))

    def log(self) -> dict[str, float]:
        """The means since the last call; they also go into the epoch's."""
        self._read()
        sums: dict[str, list[float]] = {}
        for row in self._window:
            _accumulate(sums, row)
            _accumulate(self._epoch, row)
        self._window = []
        return _means(sums)

    def end_epoch(self) -> dict[str, float]:
        """The means of the epoch. Starts the next one."""
        self.log()
        means, self._epoch = _means(self._epoch), {}
        return means

    def _read(self) -> None:
        rows = []
        if self._pending:
            losses = torch.stack([loss.float() for loss, _, _ in self._pending]).tolist()
            for loss, (_, weight, metrics) in zip(losses, self._pending, strict=True):
                row = {name: float(value) for name, value in metrics.items()}
                rows.append({"loss": loss, **row, "weight": float(weight)})
        self._pending = []
        if self._ranks is not None:
            rows = [row for some in self._ranks.gather(rows) for row in some]
        self._window += rows

    def state_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        self._read()
        return {"window": list(self._window), "epoch": {k: list(v) for k, v in self._epoch.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self._pending = []
        self._window = [dict(row) for row in state["window"]]
        self._epoch = {name: list(pair) for name, pair in state["epoch"].items()}


def _accumulate(sums: dict[str, list[float]], row: dict[str, float]) -> None:
    weight = row["weight"]
    for name, value in row.items():
        if name != "weight":
            pair = sums.setdefault(name, [0.0, 0.0])
            pair[0] += value * weight
            pair[1] += weight


def _means(sums: dict[str, list[float]]) -> dict[str, float]:
    return {name: total / weight if weight else float("nan") for name, (total, weight) in sums.items()}
