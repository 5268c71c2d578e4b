"""A finished run of a tiny codec, for the tests that damage its files."""

from pathlib import Path

from families.tiny import COMMON, codec

from tinsmith.cli import main

OPTIONS = ["trainer.save_seconds=0", "trainer.keep_checkpoints=3", "trainer.ema=0.9", "trainer.eval_every=4"]


def finished_run(folder: Path, *more: str) -> Path:
    """Train it below ``folder``; returns the run's own. The teacher's vectors are in ``folder / "cache"``."""
    words = [*codec(folder), *COMMON, *OPTIONS, *more]
    assert main(["train", "codec", *words, "--run-dir", str(folder / "runs"), "--quiet"]) == 0
    return folder / "runs" / "codec" / "0001"
