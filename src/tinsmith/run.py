"""The assembly: config -> data -> spec -> model -> task -> Trainer, and what a run leaves in its folder."""

from __future__ import annotations

import copy
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tinsmith import console, launched, results, runs
from tinsmith.compose import compose
from tinsmith.console import to_json
from tinsmith.durable import replace_bytes
from tinsmith.engine import checkpoint, contention, snapshot
from tinsmith.engine.config import CurriculumStage, RunConfig
from tinsmith.engine.configured import build_trainer
from tinsmith.engine.contract import Data, Family, Task
from tinsmith.engine.curriculum import Built, CurriculumScheduler
from tinsmith.engine.device import get_device, log_model_info
from tinsmith.engine.loggers import JsonlLogger, TensorBoardLogger
from tinsmith.engine.resources import ResourceMonitor
from tinsmith.engine.seed import set_seed
from tinsmith.engine.trainer import Trainer
from tinsmith.errors import ConfigError, DivergedError
from tinsmith.families import load_family

if TYPE_CHECKING:
    from tinsmith.engine.ranks import Ranks

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Assembled:
    """A run, ready to train. In a curriculum: its stage under way; ``cfg`` has what that changes."""

    family: Family
    whole_cfg: Any
    cfg: Any
    folder: Path
    data: Data
    task: Task
    trainer: Trainer


def train(family: str, cfg: Any, make_folder: Callable[[], Path], dry_run: bool = False) -> int:
    """Train a new run; returns the exit code.

    ``make_folder`` is called once data and model are there: a mistake in them leaves nothing behind.
    """
    with _joined(cfg) as ranks, _log_file(make_folder) as open_folder:
        run = _assemble(family, cfg, open_folder, ranks=ranks)
        return _dry_run(run) if dry_run else _train(run)


def resume(run_dir: Path, overrides: list[str]) -> int:
    """Go on with a run in its folder, from its newest whole checkpoint."""
    record = runs.read_run_json(run_dir)
    family = record["family"]
    resolved = compose(family, overrides, runs.settings_file(run_dir))
    with _joined(resolved.cfg) as ranks, _log_file(lambda: run_dir) as open_folder:
        writes = ranks is None or ranks.first
        if writes:
            runs.write_run_json(run_dir, status="running", **runs.process_record())
        stages = resolved.cfg.curriculum
        stage = CurriculumScheduler(stages).stage_of_newest(run_dir / "checkpoints") if stages else 0
        run = _assemble(family, resolved.cfg, open_folder, stage, ranks)
        if not snapshot.load_newest(run.trainer, run_dir / "checkpoints"):
            console.say("no checkpoint yet: starting from the first step, in the same folder")
        if writes:
            runs.write_settings(run_dir, resolved)
        return _train(run)


def evaluate(run_dir: Path, split: str, require: list[str]) -> int:
    """Score a run's model and its baselines on a split; ``eval/<split>.json`` keeps the table."""
    family, cfg = _of_run(run_dir)
    start = time.monotonic()
    _set_up(cfg)
    predictor = load_family(family).predictor.load(run_dir, get_device(cfg.device))
    data = load_family(family).build_data(cfg)
    rows = results.write_table(load_family(family), predictor, data, run_dir, split, start)
    console.result(console.table(rows), {"split": split, "rows": rows})
    return results.check_required(rows[0], require)


def predict(run_dir: Path, source: str, target: str) -> int:
    """Answer each line of ``source`` (a text, or a JSON object) with a line of JSON."""
    family, cfg = _of_run(run_dir)
    _set_up(cfg)
    predictor = load_family(family).predictor.load(run_dir, get_device(cfg.device))
    from tinsmith.lines import answer_lines

    answer_lines(predictor, source, target)
    return 0


def chat(run_dir: Path) -> int:
    """Answer what is typed, text as it grows."""
    family, cfg = _of_run(run_dir)
    _set_up(cfg)
    predictor = load_family(family).predictor.load(run_dir, get_device(cfg.device))
    from tinsmith import chat as terminal

    terminal.chat(predictor, family)
    return 0


def _of_run(run_dir: Path) -> tuple[str, Any]:
    family = runs.read_run_json(run_dir)["family"]
    return family, compose(family, [], runs.settings_file(run_dir)).cfg


# ---- assembling -------------------------------------------------------------------------------------


@contextmanager
def _joined(cfg: RunConfig) -> Iterator[Ranks | None]:
    """The processes of the run, if the launcher started several; all but the first keep quiet."""
    if not launched.is_launched():
        yield None
        return
    from tinsmith.engine.ranks import Ranks

    ranks = Ranks(cfg.device)
    if not ranks.first:
        console.configure(quiet=True)
        logging.getLogger("tinsmith").setLevel(logging.ERROR)
    try:
        yield ranks
    except (KeyboardInterrupt, DivergedError):
        ranks.leave()  # all of them end so; after another error the others are to notice
        raise
    ranks.leave()


def _set_up(cfg: RunConfig, ranks: Ranks | None = None) -> None:
    if ranks is not None:
        torch.set_num_threads(max(1, cfg.threads // ranks.local_size) if cfg.threads else ranks.threads)
    elif cfg.threads:
        torch.set_num_threads(cfg.threads)
    contention.watch()
    set_seed(cfg.seed, cfg.trainer.deterministic)


def _assemble(
    name: str, cfg: Any, open_folder: Callable[[], Path], stage: int = 0, ranks: Ranks | None = None
) -> Assembled:
    _set_up(cfg, ranks)
    family = load_family(name)
    whole_cfg = cfg
    if cfg.curriculum:
        cfg = stage_config(family, cfg, cfg.curriculum[stage])
    data = family.build_data(cfg)
    set_seed(cfg.seed, cfg.trainer.deterministic)  # whatever building the data drew
    task = family.build_task(cfg, family.build_model(cfg, data.spec), data)
    if ranks is None:
        folder = open_folder()
    else:  # the others know its name and leave it alone
        folder = Path(ranks.share(str(open_folder()) if ranks.first else None))
    trainer = build_trainer(cfg, task, folder / "checkpoints", ranks, progress=not console.is_quiet())
    if ranks is None or ranks.first:
        trainer.monitor = ResourceMonitor(**asdict(cfg.resources), path=folder / "resources.jsonl")
    return Assembled(family, whole_cfg, cfg, folder, data, task, trainer)


def stage_config(family: Family, cfg: Any, stage: CurriculumStage) -> Any:
    """The settings of a curriculum's stage.

    Raises:
        ConfigError: the family has no such thing as the stage changes, or its value is not allowed.
    """
    cfg = copy.deepcopy(cfg)
    keys = {**family.curriculum, "batch": "trainer.batch_size", "epochs": "trainer.epochs"}
    for item in fields(stage):
        value = getattr(stage, item.name)
        if value is None:
            continue
        if item.name not in keys:
            raise ConfigError(
                f"curriculum: a stage of {family.name} has no {item.name}. It has: {', '.join(keys)}."
            )
        section, _, name = keys[item.name].rpartition(".")
        setattr(getattr(cfg, section), name, value)
    cfg.validate()
    return cfg


# ---- training ---------------------------------------------------------------------------------------


def _train(run: Assembled) -> int:
    ranks = run.trainer.ranks
    if ranks is not None and not ranks.first:
        _fit(run, [])
        return 0
    _introduce(run)
    console.say(f"run folder: {run.folder}")
    loggers = _loggers(run)
    try:
        _fit(run, loggers)
    finally:
        for logger in loggers:
            logger.close()
        _note_progress(run)
    return _finish(run)


def _fit(run: Assembled, loggers: list[Any]) -> None:
    name, mode = run.task.monitor
    options: dict[str, Any] = {"metric_for_best": name, "minimize_metric": mode == "min"}
    options |= {"early_stopping": run.cfg.trainer.early_stopping or None}
    for logger in loggers:
        run.trainer.add_log_hook(logger)
    if not run.cfg.curriculum:
        run.trainer.fit(run.data.train, run.data.valid, run.cfg.trainer.epochs, **options)
        return

    def build(stage: CurriculumStage) -> Built:
        """Make ``run`` the next stage."""
        number = run.trainer.state.stage + 1
        following = _assemble(run.family.name, run.whole_cfg, lambda: run.folder, number, run.trainer.ranks)
        run.cfg, run.data = following.cfg, following.data
        run.task, run.trainer = following.task, following.trainer
        for logger in loggers:
            run.trainer.add_log_hook(logger)
        return run.trainer, run.data.train, run.data.valid

    first = (run.trainer.state.stage, (run.trainer, run.data.train, run.data.valid))
    CurriculumScheduler(run.cfg.curriculum).train(build, first=first, **options)


def _introduce(run: Assembled) -> None:
    info = log_model_info(run.task.model)
    sizes = {
        split: len(getattr(run.data, split).dataset)
        for split in ("train", "valid", "test")
        if getattr(run.data, split) is not None
    }
    precision = str(run.trainer.parts.precision or torch.float32).removeprefix("torch.")
    console.say(
        f"{run.family.name}: {info['parameters']:,} parameters, "
        + ", ".join(f"{count:,} {split}" for split, count in sizes.items())
        + f"; {run.trainer.device}, {precision}, {torch.get_num_threads()} threads"
        + (f" in each of {ranks.size} processes" if (ranks := run.trainer.ranks) is not None else "")
    )
    runs.write_run_json(run.folder, parameters=info["parameters"], sizes=sizes, precision=precision)


def _loggers(run: Assembled) -> list[Any]:
    step = run.trainer.state.step
    found: list[Any] = [JsonlLogger(run.folder / "metrics.jsonl", step)]
    chosen = run.cfg.logger
    if chosen.tensorboard:
        found.append(TensorBoardLogger(run.folder / "tb", step + 1 if step else None))
    from tinsmith.engine import trackers

    for name in ("wandb", "trackio", "mlflow"):
        if getattr(chosen, name):
            found.append(getattr(trackers, f"{name}_hook")(run.folder, asdict(run.cfg)))
    return found


def _note_progress(run: Assembled) -> None:
    state = run.trainer.state
    best = {"name": run.task.monitor[0], "value": state.best_metric, "step": state.best_step}
    runs.write_run_json(
        run.folder,
        seconds=round(state.seconds, 3),
        steps=state.step,
        total_steps=state.max_steps,
        best=best if state.best_metric is not None else None,
    )


def _finish(run: Assembled) -> int:
    """Save the best weights as the model, score it beside its baselines, and say what to do next."""
    folder = run.folder
    _load_best(run)
    run.family.save_model(run.cfg, run.task, run.data, folder / "model")
    predictor = run.family.predictor.load(folder, run.trainer.device)
    split = "test" if run.data.test is not None else "valid"
    rows = results.write_table(run.family, predictor, run.data, folder, split, time.monotonic())
    shown = run.family.examples(predictor, run.data)
    replace_bytes(folder / "examples.json", to_json(shown).encode())
    runs.write_run_json(folder, status="done", ended=runs.now())
    state = run.trainer.state
    console.say(f"\n{split} split, {state.step:,} steps in {state.seconds:.0f} s:")
    console.result(console.table(rows), {"run": str(folder), "split": split, "rows": rows})
    results.show_examples(shown)
    results.show_next(folder, run.cfg)
    return 0


def _load_best(run: Assembled) -> None:
    """Put the best weights into the task: the averaged ones where there is an average."""
    best = checkpoint.best_checkpoint(run.folder / "checkpoints")
    if best is None:
        return
    parts, _ = checkpoint.read_checkpoint(best)
    snapshot.load_weights(run.task, snapshot.averaged_weights(parts))


def _dry_run(run: Assembled) -> int:
    """Two steps and one validation, and how large all of it is."""
    trainer = run.trainer
    trainer.saver, trainer.max_minutes, trainer.max_steps, trainer.eval_every = None, 0.0, 2, 0
    if trainer.ranks is None or trainer.ranks.first:
        _introduce(run)
    trainer.fit(run.data.train, run.data.valid, 1)
    if trainer.ranks is not None and not trainer.ranks.first:
        return 0
    memory = _peak_memory_mb()
    console.result(
        f"dry run: 2 steps and a validation ran ({memory:.0f} MB at most). Nothing was kept.",
        {"steps": 2, "metrics": trainer.metrics, "peak_memory_mb": memory},
    )
    return 0


def _peak_memory_mb() -> float:
    try:
        import resource
    except ImportError:  # not on Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def _log_file(make_folder: Callable[[], Path]) -> Iterator[Callable[[], Path]]:
    """Keep the library's log until the yielded function makes the folder; then write its ``log.txt``."""
    kept = MemoryHandler(sys.maxsize, flushLevel=sys.maxsize)
    logger = logging.getLogger("tinsmith")
    logger.addHandler(kept)

    def open_folder() -> Path:
        folder = make_folder()
        file = logging.FileHandler(folder / "log.txt", encoding="utf-8", errors="backslashreplace")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        kept.setTarget(file)
        kept.capacity = 1  # from now on each record is written at once
        kept.flush()
        return folder

    try:
        yield open_folder
    finally:
        logger.removeHandler(kept)
        target = kept.target
        kept.close()
        if target is not None:
            target.close()
