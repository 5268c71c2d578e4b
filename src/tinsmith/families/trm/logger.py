"""A log of its own: a JSON line a batch."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tinsmith.engine.loggers import JsonlLogger


class TRMTrainingLogger:
    """A log hook for ``trainer.add_log_hook``: ``step, epoch, loss, recursion_depth, tokens_per_sec`` and an
    ISO ``timestamp`` for each record (each batch with ``log_every=1``), and whatever else was measured.

    Args:
        path: the JSONL file.
        seq_len: tokens of a sample.
        resume_step: see ``JsonlLogger``.
    """

    def __init__(self, path: str | Path, seq_len: int, resume_step: int | None = None) -> None:
        self._log, self.seq_len = JsonlLogger(path, resume_step), seq_len

    def __call__(self, metrics: dict[str, Any], step: int, prefix: str) -> None:
        row = dict(metrics)
        if "samples_per_sec" in row:
            row["tokens_per_sec"] = row["samples_per_sec"] * self.seq_len
        row["timestamp"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._log(row, step, prefix)

    def sync(self) -> None:
        """Force the rows to the disk."""
        self._log.sync()

    def close(self) -> None:
        """Close the file."""
        self._log.close()
