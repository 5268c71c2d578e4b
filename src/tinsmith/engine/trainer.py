"""The Trainer: one loop for everything, around which a run is planned, watched, evaluated and saved."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tinsmith.engine import budget, contention, snapshot
from tinsmith.engine.config import COMPILING
from tinsmith.engine.contract import Mode, Task
from tinsmith.engine.data import Batches, to_device
from tinsmith.engine.device import autocast, get_device, resolve_precision
from tinsmith.engine.ema import EMA
from tinsmith.engine.guard import Guard
from tinsmith.engine.interrupt import stop_on_signals
from tinsmith.engine.loop import Loop, Parts
from tinsmith.engine.optim import get_optimizer
from tinsmith.engine.replay import as_batches
from tinsmith.engine.reporting import Hook, Reporter
from tinsmith.engine.resources import ResourceMonitor
from tinsmith.engine.saver import Saver
from tinsmith.engine.schedules import Schedule
from tinsmith.engine.seed import deterministic_algorithms, preserve_rng
from tinsmith.engine.state import History, State
from tinsmith.engine.stopping import EarlyStopping
from tinsmith.engine.supervised import SupervisedTask
from tinsmith.engine.window import Means
from tinsmith.errors import ConfigError, DivergedError, ResourceError, check_choice

if TYPE_CHECKING:
    from tinsmith.engine.ranks import Ranks

log = logging.getLogger(__name__)


class Trainer:
    """Trains a module or a ``Task``, so that a killed run resumes bit for bit.

    Args:
        model: a ``Task``, or any module; a module is trained on ``loss_fn`` (by default the one of
            ``task_type``) over batches as ``SupervisedTask`` describes them.
        optimizer: by default AdamW at 1e-3. Pass it built over the model's parameters.
        scheduler: from ``get_scheduler`` (set at every step), or torch's (stepped after each epoch).
        loss_fn, metrics, task_type: of a plain module; see ``get_loss_fn`` and ``get_metrics``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
        grad_clip: largest norm of the gradient; None or 0 for no clipping.
        mixed_precision: False, ``"bf16"``, ``"fp16"``, or ``"auto"``: where the device gains by it.
        compile: ``"off"``; ``"on"``: have torch compile the step (half a minute or more, and again for each
            shape of batch, at most four); ``"auto"``: where ``max_minutes`` is long enough to pay for it,
            and it is measured to be faster.
        accumulate: batches whose gradients make one step; the result is that of one big batch.
        ema: decay of a weight average used for evaluation and export, or None.
        log_every: steps between two log lines. Nothing waits for the device in between.
        checkpoint_dir: where checkpoints go; None saves nothing by itself.
        seed: of the sample order. (``set_seed`` is what makes the weights the same.)
        max_steps, max_minutes: budgets that take the place of ``fit``'s epochs. Minutes are turned into a
            number of steps by timing the first ones; an eighth of the way and half way it is corrected by
            what they took, and saved, so that the run is a function of the step from there on.
        eval_every: steps between two validations; 0 for one after each epoch.
        save_seconds: seconds between two checkpoints. Best weights are saved with the next one.
        keep_checkpoints: how many are kept, at least two, and the best beside them.
        on_nonfinite, on_spike, spike_factor: what to do about a loss or a gradient that is not finite, and
            about a loss that leaps; see ``Guard``.
        deterministic: torch's deterministic algorithms while training.
        monitor: watches the machine, and is closed at the end of ``fit``.
        progress: show a live line on a terminal, one line per log interval elsewhere.
        ranks: the processes that train together, each with its part of every batch; all of them call the
            same methods in the same order.

    Raises:
        ConfigError: a setting that is not allowed.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        metrics: Any = None,
        device: str | torch.device = "auto",
        task_type: str = "regression",
        grad_clip: float | None = 1.0,
        mixed_precision: bool | str = False,
        accumulate: int = 1,
        ema: float | None = None,
        log_every: int = 50,
        checkpoint_dir: str | Path | None = "checkpoints/",
        *,
        seed: int = 0,
        compile: str = "off",
        max_steps: int = 0,
        max_minutes: float = 0.0,
        eval_every: int = 0,
        save_seconds: float = 30.0,
        keep_checkpoints: int = 2,
        on_nonfinite: str = "stop",
        on_spike: str = "ignore",
        spike_factor: float = 10.0,
        deterministic: bool = True,
        monitor: ResourceMonitor | None = None,
        progress: bool = True,
        ranks: Ranks | None = None,
    ) -> None:
        if accumulate < 1 or log_every < 1:
            raise ConfigError(f"accumulate={accumulate} and log_every={log_every} must be 1 or more")
        self.ranks = ranks
        self.device = get_device(device if ranks is None else ranks.device)
        self.task: Task = (
            model if isinstance(model, Task) else SupervisedTask(model, loss_fn, metrics, task_type)
        )
        self.task.to(self.device)
        self.model = self.task.model
        self.optimizer = optimizer or get_optimizer(self.task, "adamw", lr=1e-3)
        self.scheduler = scheduler
        precision = resolve_precision(mixed_precision, self.device, self.task)
        fp16_on_gpu = precision is torch.float16 and self.device.type == "cuda"
        self.parts = Parts(
            self.task,
            self.optimizer,
            scheduler if isinstance(scheduler, Schedule) else None,
            self.device,
            precision,
            torch.amp.GradScaler("cuda") if fp16_on_gpu else None,
            EMA(self.task, ema) if ema else None,
            grad_clip or None,
            accumulate,
        )
        self.seed, self.deterministic = seed, deterministic
        check_choice("compile", compile, COMPILING)
        self.compile = compile
        self.max_steps, self.max_minutes, self.eval_every = max_steps, max_minutes, eval_every
        self.reporter = Reporter(log_every, progress and (ranks is None or ranks.first))
        self.monitor = monitor
        self.state = State()
        self.guard = Guard(on_nonfinite, on_spike, spike_factor)
        if self.parts.scaler is not None and on_spike == "rollback":
            raise ConfigError("on_spike=rollback is not for fp16 on a GPU: its scale leaps. Use bf16.")
        self.loop = Loop(self.parts, self.state, Means(ranks), self.guard, ranks)
        self.early_stopping: EarlyStopping | None = None
        self.metrics: dict[str, float] = {}
        self.saver = Saver(Path(checkpoint_dir), save_seconds, keep_checkpoints) if checkpoint_dir else None
        self.stop_requested = False
        self.pace = budget.Pace()
        self._signals: list[str] = []  # caught while fitting
        self.epoch_means: dict[str, float] = {}
        if ranks is not None:
            ranks.share_weights(self.task)
            snapshot.seed_rank(seed, ranks.rank)
            ranks.wishes = {
                "stop": lambda: self.stop_requested,
                "interrupt": lambda: bool(self._signals),
                "save": self._is_save_due,
            }

    # ---- what a user calls --------------------------------------------------------------------------

    def fit(
        self,
        train_loader: Any,
        val_loader: Any = None,
        epochs: int = 1,
        metric_for_best: str | None = None,
        minimize_metric: bool = True,
        early_stopping: int | EarlyStopping | None = None,
        resume: bool = False,
    ) -> History:
        """Train until the budget is used up, and return the history.

        Args:
            train_loader: a ``Loader``, a ``DataLoader`` or a list of batches.
            val_loader: likewise; without one the training loss decides what is best.
            epochs: passes over the training set, unless ``max_steps`` or ``max_minutes`` is set.
            metric_for_best: a name among the validation metrics (``loss``, ``accuracy``, ...).
            minimize_metric: whether less is better.
            early_stopping: evaluations without progress, or an ``EarlyStopping``.
            resume: go on from the newest whole checkpoint in ``checkpoint_dir`` if there is one.

        Returns:
            Lists, one entry per evaluation: ``epoch, step, seconds, lr, train_loss, val_loss, val_<metric>``.

        Raises:
            KeyboardInterrupt: at Ctrl-C or SIGTERM, after the step under way and a checkpoint.
            DivergedError: the loss or a gradient is not finite, and ``on_nonfinite`` says to stop. The state
                before that step is saved: ``on_nonfinite="skip"`` can go on from there.
            ResourceError: the longest batch does not fit into memory, or the disk is full.
        """
        batches = as_batches(train_loader, self.seed)
        val_batches = as_batches(val_loader, self.seed) if val_loader is not None else None
        monitor, mode = self._monitor(metric_for_best, minimize_metric, val_batches)
        if isinstance(early_stopping, EarlyStopping):
            self.early_stopping = early_stopping
        elif early_stopping and self.early_stopping is None:
            self.early_stopping = EarlyStopping(early_stopping, mode=mode)
        if resume and self.saver is not None and self.state.step == 0:
            snapshot.load_newest(self, self.saver.root)
        start = time.monotonic() - self.state.seconds
        with self._session(), stop_on_signals(self.stop) as self._signals:
            limit = budget.plan(self, batches, val_batches, epochs)
            if self.early_stopping is None or not self.early_stopping.stopped:
                try:
                    self._run(batches, val_batches, limit, monitor, mode, start)
                except DivergedError:
                    self._save_before_the_end()
                    raise
        if self._signals or (self.ranks is not None and self.ranks.agreed.get("interrupt")):
            name = self._signals[0] if self._signals else "a signal to another process"
            saved = f" A checkpoint is in {self.saver.root}." if self.saver is not None else ""
            raise KeyboardInterrupt(f"{name} at step {self.state.step}.{saved}")
        return self.state.history

    def train_epoch(self, loader: Any) -> dict[str, float]:
        """Train on the rest of the epoch under way; the means of its loss and metrics."""
        batches = as_batches(loader, self.seed)
        budget.choose_call(self)
        budget.bind(self, batches, 0)
        with deterministic_algorithms(self.deterministic):
            for _ in self.loop.steps(batches, self.state.epoch + 1):
                self.reporter.step(self.loop)
        return self.loop.means.end_epoch()

    def eval_epoch(self, loader: Any) -> dict[str, float]:
        """The task's metrics over a loader, with the averaged weights if there are any.

        Leaves no trace in training: generators, modes and weights are as before.
        """
        batches = as_batches(loader, self.seed)
        with self._evaluating():
            return self.task.evaluate(self._moved(batches))

    def predict(self, loader: Any) -> Tensor:
        """The model's outputs over a loader, one after another: [N, ...] on the CPU."""
        with self._evaluating():
            call = self.task.predict if isinstance(self.task, SupervisedTask) else self.model
            return torch.cat([call(batch).cpu() for batch in self._moved(as_batches(loader, self.seed))])

    def save_checkpoint(self, path: str | Path) -> None:
        """Save everything that an exact resume needs: a folder, or with ``.pt`` one file for exchange."""
        snapshot.save(self, Path(path))

    def load_checkpoint(self, path: str | Path, strict: bool = False) -> None:
        """Go on from a checkpoint: its folder, a folder of them (the newest whole one), or a ``.pt`` file.

        Args:
            strict: refuse an environment (threads, instruction set, torch) in which the resumed run would
                not be bit for bit; else it only warns.

        Raises:
            DataError: damaged, or of another model. The message names the file and what differs.
        """
        snapshot.load(self, Path(path), strict)

    def add_log_hook(self, fn: Hook) -> None:
        """Call ``fn(metrics, step, prefix)`` at every log line (``"train"``) and evaluation (``"val"``).

        A hook that raises is reported once and dropped; it never stops the training.
        """
        self.reporter.add_hook(fn)

    def stop(self) -> None:
        """End ``fit`` after the step under way, with a checkpoint. For signal handlers and hooks."""
        self.stop_requested = True

    def plot_training_history(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure of the losses and metrics over the epochs; also written to ``path``."""
        from tinsmith.engine.history import plot_training_history

        return plot_training_history(self.state.history, path)

    def plot_learning_rate(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure of the learning rate; also written to ``path``."""
        from tinsmith.engine.history import plot_learning_rate

        return plot_learning_rate(self.state.history, path)

    # ---- running ------------------------------------------------------------------------------------

    def _monitor(self, name: str | None, minimize: bool, val_batches: Batches | None) -> tuple[str, Mode]:
        if val_batches is None:
            return "loss", "min"  # all that is measured then
        if name is None:
            return self.task.monitor
        return name, "min" if minimize else "max"

    def _run(
        self,
        batches: Batches,
        val_batches: Batches | None,
        limit: int | None,
        monitor: str,
        mode: Mode,
        start: float,
    ) -> None:
        state, loop = self.state, self.loop
        saved = state.step if state.finished else -1  # a finished run has its last step on disk
        state.finished = False
        before = time.monotonic()
        for step in loop.steps(batches, limit):
            now = time.monotonic()
            state.seconds = now - start
            self.pace.step(now - before)
            if self.monitor is not None:
                self.monitor.step(now - before, step)
            self.reporter.step(loop)
            at_end = bool(state.max_steps) and step >= state.max_steps
            due = step % self.eval_every == 0 if self.eval_every else loop.epoch_done
            if loop.epoch_done:
                self.epoch_means = loop.means.end_epoch()
            if (due or at_end) and self._evaluate(val_batches, monitor, mode):
                break
            if loop.epoch_done and self.scheduler is not None and self.parts.schedule is None:
                self._step_torch_scheduler()
            if self._should_stop():
                break
            if step == state.revise_at and not at_end:
                budget.revise(self, batches, val_batches)
            elif self.saver is not None and not at_end:
                self.saver.maybe_save(self)
            before = time.monotonic()
        state.seconds = time.monotonic() - start
        state.finished = not self._should_stop()
        if self.saver is not None and state.step != saved:
            self.saver.save(self)

    def _should_stop(self) -> bool:
        """Whether to end after this step; several processes have agreed on that in it."""
        return self.stop_requested if self.ranks is None else self.ranks.agreed.get("stop", False)

    def _is_save_due(self) -> bool:
        return self.saver is not None and self.ranks is not None and self.ranks.first and self.saver.due()

    def evaluate_once(self, batches: Batches) -> dict[str, float]:
        """``eval_epoch``, timed; of several processes rank 0 does it for all."""
        start = time.monotonic()
        measures = self.ranks is None or self.ranks.first
        metrics: dict[str, float] = self.eval_epoch(batches) if measures else {}
        if self.ranks is not None:
            metrics = self.ranks.share(metrics)
        self.pace.eval_seconds = time.monotonic() - start
        return metrics

    def _save_before_the_end(self) -> None:
        """Keep the boundary before the step that ends the run, if its weights are worth keeping."""
        if self.saver is not None:
            with contextlib.suppress(DivergedError):
                self.saver.save(self)

    def _evaluate(self, val_batches: Batches | None, monitor: str, mode: Mode) -> bool:
        """Evaluate, note the history and the best; True if training should stop early."""
        state = self.state
        row: dict[str, Any] = {
            "epoch": state.epoch,
            "step": state.step,
            "seconds": state.seconds,
            "lr": self.parts.lr(),
        }
        row["train_loss"] = self.epoch_means.get("loss", self.reporter.last.get("loss"))
        if val_batches is not None:
            self.metrics = self.evaluate_once(val_batches)
            row |= {f"val_{name}": value for name, value in self.metrics.items()}
            self.reporter.evaluation(self.loop, self.metrics)
        else:
            self.metrics = {"loss": float(row["train_loss"])} if row["train_loss"] is not None else {}
        state.note_history(row)
        value = self._watched(monitor)
        if value is None:
            return False
        if state.note_best(value, mode) and self.saver is not None:
            self.saver.remember_best(self)
        if self.parts.schedule is not None:
            self.parts.schedule.observe(value)
        if self.early_stopping is None:
            return False
        stops = self.early_stopping(value)
        if not (stops if self.ranks is None else self.ranks.share(stops)):  # it may go by the clock
            return False
        log.info("stopped early at step %d: %s", state.step, self.early_stopping.reason)
        return True

    def _watched(self, monitor: str) -> float | None:
        if not self.metrics:
            return None
        if monitor not in self.metrics:
            raise ConfigError(
                f"metric_for_best='{monitor}' is not measured. Measured: {', '.join(self.metrics)}."
            )
        return self.metrics[monitor]

    def _step_torch_scheduler(self) -> None:
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            value = self.metrics.get("loss", self.epoch_means.get("loss"))
            self.scheduler.step(value)  # type: ignore[arg-type]
        else:
            self.scheduler.step()

    # ---- surroundings -------------------------------------------------------------------------------

    @contextmanager
    def _session(self) -> Iterator[None]:
        """Deterministic algorithms; whatever happens the progress line is taken away."""
        self.stop_requested = False
        self.task.train()
        contention.watch()
        try:
            with deterministic_algorithms(self.deterministic):
                yield
        finally:
            self.reporter.close()
            if self.monitor is not None:
                self.monitor.close()
            if self.saver is not None:
                # raised already, or less than what is being raised
                with contextlib.suppress(ResourceError, DivergedError):
                    self.saver.wait(self)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        modes = [(module, module.training) for module in self.task.modules()]
        averaged = self.parts.ema.swap() if self.parts.ema is not None else _nothing()
        with preserve_rng(), torch.inference_mode(), averaged:
            self.task.eval()
            try:
                with autocast(self.device, self.parts.precision):
                    yield
            finally:
                for module, training in modes:
                    module.training = training

    def _moved(self, batches: Batches) -> Iterator[Any]:
        for _, batch in batches.epoch(0):
            yield to_device(batch, self.device)


@contextmanager
def _nothing() -> Iterator[None]:
    yield
