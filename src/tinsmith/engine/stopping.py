"""When to stop: no progress, a target, convergence, or the clock."""

from __future__ import annotations

import math
import time
from typing import Any, Literal

from tinsmith.engine.config import check, check_choice


class EarlyStopping:
    """Called with a validation value it answers whether to stop; ``reason`` says why.

    Stops at the first of: ``patience`` values in a row that do not improve on the best by more than
    ``min_delta``; a value that reaches ``target``; the last ``patience`` values (two at least) within
    ``convergence_threshold`` of each other; ``max_minutes`` since construction. NaN never improves.

    Args:
        patience: values without improvement, at least 1; None: wait for ever.
        mode: "min" (a loss) or "max" (a score).
        min_delta: smallest change that counts as an improvement.
        target: stop once the value is this good.
        convergence_threshold: stop when max - min of the last values is below it.
        max_minutes: wall-clock budget, kept across a resume.
    """

    def __init__(
        self,
        patience: int | None = 10,
        mode: Literal["min", "max"] = "min",
        min_delta: float = 0.0,
        target: float | None = None,
        convergence_threshold: float | None = None,
        max_minutes: float | None = None,
    ) -> None:
        check_choice("mode", mode, ("min", "max"))
        check(patience is None or patience >= 1, "patience", patience, "1 or more, or None")
        check(min_delta >= 0, "min_delta", min_delta, "0 or more")
        self.patience = patience
        self.mode = mode
        self.min_delta = min_delta
        self.target = target
        self.convergence_threshold = convergence_threshold
        self.max_minutes = max_minutes
        self.best: float | None = None
        self.bad = 0
        self.improved = False
        self.reason = ""
        self._recent: list[float] = []
        self._elapsed = 0.0
        self._start = time.monotonic()

    def __call__(self, value: float) -> bool:
        """Take in one value; True: stop."""
        value = float(value)
        self.improved = self._improves(value)
        if self.improved:
            self.best, self.bad = value, 0
        else:
            self.bad += 1
        # The window keeps NaN, with which no comparison holds: a run of NaN has not converged.
        self._recent = [*self._recent, value][-max(2, self.patience or 2) :]
        self.reason = self._why(value)
        return bool(self.reason)

    @property
    def stopped(self) -> bool:
        """Whether the values so far end a run: one that is resumed has nothing left to do."""
        return bool(self._recent) and bool(self._why(self._recent[-1]))

    def _improves(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self.best is None:
            return True
        gain = self.best - value if self.mode == "min" else value - self.best
        return gain > self.min_delta

    def _why(self, value: float) -> str:
        if self.target is not None and (value <= self.target if self.mode == "min" else value >= self.target):
            return f"target {self.target:g} reached"
        if self.patience is not None and self.bad >= self.patience:
            return f"no improvement in {self.bad} values"
        if self._converged():
            return f"converged: {len(self._recent)} values within {self.convergence_threshold:g}"
        if self.max_minutes is not None and self.elapsed_seconds >= 60 * self.max_minutes:
            return f"{self.max_minutes:g} minutes are over"
        return ""

    def _converged(self) -> bool:
        if self.convergence_threshold is None or len(self._recent) < max(2, self.patience or 2):
            return False
        return all(abs(a - b) < self.convergence_threshold for a in self._recent for b in self._recent)

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since construction, those before a resume included."""
        return self._elapsed + time.monotonic() - self._start

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs, JSON-able but for NaN and infinity among the values."""
        return {
            "best": self.best,
            "bad": self.bad,
            "recent": list(self._recent),
            "elapsed": self.elapsed_seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; the clock goes on too."""
        self.best, self.bad, self._recent = state["best"], state["bad"], list(state["recent"])
        self._elapsed, self._start = state["elapsed"], time.monotonic()
