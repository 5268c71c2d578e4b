"""A trainer's whole state as a checkpoint, and back."""

from __future__ import annotations

import json
import logging
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tinsmith.engine import checkpoint
from tinsmith.engine.checkpoint import Parts
from tinsmith.engine.data import derive_seed, to_device
from tinsmith.engine.lean import without_compiler
from tinsmith.engine.seed import get_rng_state, set_rng_state, set_seed
from tinsmith.engine.state import (
    State,
    compare_environment,
    environment,
    flatten,
    from_jsonable,
    to_jsonable,
    unflatten,
)
from tinsmith.errors import DataError

if TYPE_CHECKING:
    from tinsmith.engine.trainer import Trainer

log = logging.getLogger(__name__)


def capture(
    trainer: Trainer,
    best_here: float | None = None,
    clone: bool = False,
    buffers: dict[str, Tensor] | None = None,
) -> tuple[Parts, dict[str, Any]]:
    """Everything that an exact resume needs: tensors by file, and what JSON holds.

    Args:
        best_here: the watched metric, if these are the best weights so far.
        clone: copy the tensors, so that training may go on before they are written.
        buffers: what the copies are written over, where they fit.
    """
    parts, loop = trainer.parts, trainer.loop
    with without_compiler():
        optimizer, optimizer_tree = flatten(trainer.optimizer.state_dict())
    rng = get_rng_state()
    others = [] if trainer.ranks is None else trainer.ranks.gather_tree(rng)[1:]
    extra, extra_tree = flatten(
        {
            "rng": rng,
            "rng_of_ranks": others,  # from 1 on
            "carry": loop.carry,
            "scheduler": None if trainer.scheduler is None else _plain(trainer.scheduler.state_dict()),
            "scaler": None if parts.scaler is None else parts.scaler.state_dict(),
        }
    )
    tensors: Parts = {"model": trainer.task.state_dict(), "optimizer": optimizer, "extra": extra}
    guarded, guard_tree = flatten(trainer.guard.state_dict())
    if guarded:
        tensors["guard"] = guarded
    ema = None
    if parts.ema is not None:
        averaged = parts.ema.state_dict()
        tensors["ema"], ema = averaged["shadow"], averaged["updates"]
    if clone:
        tensors = copy_tensors(tensors, buffers)
    state = {
        **trainer.state.to_json(),
        "metrics": to_jsonable(trainer.metrics),
        "best_here": best_here,
        "saved_at": time.time(),
        "optimizer": optimizer_tree,
        "extra": extra_tree,
        "ema_updates": ema,
        "guard": guard_tree,
        "means": to_jsonable(loop.means.state_dict()),
        "epoch_means": to_jsonable(trainer.epoch_means),
        "last_record": to_jsonable(trainer.reporter.last),
        "early_stopping": None
        if trainer.early_stopping is None
        else to_jsonable(trainer.early_stopping.state_dict()),
        "environment": environment(),
    }
    return tensors, state


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """A torch scheduler's state without what is not data (the anneal functions of some)."""
    return {key: value for key, value in state.items() if not callable(value) and not key.startswith("_get")}


def restore(trainer: Trainer, tensors: Parts, state: dict[str, Any]) -> None:
    """Put ``capture``'s result back into a trainer of the same model.

    Raises:
        DataError: the weights do not fit the model.
    """
    parts, loop = trainer.parts, trainer.loop
    load_weights(trainer.task, tensors["model"])
    with without_compiler():
        trainer.optimizer.load_state_dict(unflatten(tensors["optimizer"], state["optimizer"]))
    extra = unflatten(tensors.get("extra", {}), state["extra"])
    if trainer.scheduler is not None and extra["scheduler"] is not None:
        trainer.scheduler.load_state_dict(extra["scheduler"])
    if parts.scaler is not None and extra["scaler"] is not None:
        parts.scaler.load_state_dict(extra["scaler"])
    if parts.ema is not None and "ema" in tensors:
        parts.ema.load_state_dict({"shadow": tensors["ema"], "updates": state["ema_updates"]})
    if trainer.early_stopping is not None and state["early_stopping"] is not None:
        trainer.early_stopping.load_state_dict(from_jsonable(state["early_stopping"]))
    if "guard" in state:
        trainer.guard.load_state_dict(unflatten(tensors.get("guard", {}), state["guard"]))
    loop.carry = to_device(extra["carry"], trainer.device)
    loop.means.load_state_dict(from_jsonable(state["means"]))
    trainer.metrics = from_jsonable(state["metrics"])
    # Without validation these are what is watched: best, early stopping and the plateau schedule go by them.
    trainer.epoch_means = from_jsonable(state.get("epoch_means", {}))
    trainer.reporter.last = from_jsonable(state.get("last_record", {}))
    trainer.state.take_over(State.from_json(state))
    generators = [extra["rng"], *extra.get("rng_of_ranks", [])]
    rank = 0 if trainer.ranks is None else trainer.ranks.rank
    if rank < len(generators):
        set_rng_state(generators[rank])
    else:
        seed_rank(trainer.seed, rank)


def seed_rank(seed: int, rank: int) -> None:
    """Give a process noise of its own; rank 0 keeps that of a process alone."""
    if rank:
        set_seed(derive_seed(seed, rank), deterministic=False)


def averaged_weights(parts: Parts) -> dict[str, Tensor]:
    """The weights of a checkpoint, averaged where there is an average; a tied one under each of its names."""
    model = parts["model"]
    averaged = {id(model[name]): tensor for name, tensor in parts.get("ema", {}).items()}
    return {name: averaged.get(id(tensor), tensor) for name, tensor in model.items()}


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load named weights into a module.

    Raises:
        DataError: names or shapes differ. The message names the first few of them.
    """
    mine = module.state_dict()
    wrong = [f"{name} is missing" for name in mine if name not in weights]
    wrong += [f"{name} is not in the model" for name in weights if name not in mine]
    wrong += [
        f"{name} is {list(weights[name].shape)}, the model's {list(mine[name].shape)}"
        for name in mine
        if name in weights and weights[name].shape != mine[name].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DataError(f"these weights are of another model: {'; '.join(wrong[:3])}{more}.")
    module.load_state_dict(weights)


def save(trainer: Trainer, path: Path) -> None:
    """A checkpoint folder at ``path``, or with ``.pt`` one file of the plain dict for exchange."""
    trainer.guard.check_weights(trainer.loop)
    best = trainer.state.best_metric if trainer.state.best_step == trainer.state.step else None
    tensors, state = capture(trainer, best)
    if trainer.ranks is not None and not trainer.ranks.first:
        return
    if path.suffix == ".pt":
        _save_exchange(trainer, path, tensors, state)
    else:
        checkpoint.write_checkpoint(path, tensors, state)


def _save_exchange(trainer: Trainer, path: Path, tensors: Parts, state: dict[str, Any]) -> None:
    from tinsmith.durable import publish

    plain = {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": None if trainer.scheduler is None else _plain(trainer.scheduler.state_dict()),
        **{key: state[key] for key in ("epoch", "global_step", "best_metric", "best_epoch", "metrics")},
        "tensors": tensors,
        "state": state,
    }
    with publish(path) as temporary:
        torch.save(plain, temporary)


def load(trainer: Trainer, path: Path, strict: bool = False) -> None:
    """Restore from a checkpoint folder, a folder of checkpoints, or a ``.pt`` file.

    Raises:
        DataError: nothing there, damaged, or of another model.
    """
    if path.suffix == ".pt":
        tensors, state = _load_exchange(path)
    elif (path / checkpoint.MANIFEST).exists():
        tensors, state = checkpoint.read_checkpoint(path)
        newest = checkpoint.find_checkpoints(path.parent)[0].path
        if (
            newest.resolve() != path.resolve()
        ):  # a branch of its own, or the later ones would count as its newest
            state["run_id"] = secrets.token_hex(4)
    elif not load_newest(trainer, path, strict):
        raise DataError(f"no checkpoint at {path}. A checkpoint is a folder with {checkpoint.MANIFEST}.")
    else:
        return
    compare_environment(state["environment"], strict)
    restore(trainer, tensors, state)


def _load_exchange(path: Path) -> tuple[Parts, dict[str, Any]]:
    try:
        plain = torch.load(path, map_location="cpu", weights_only=True)
        return plain["tensors"], plain["state"]
    except FileNotFoundError as error:
        raise DataError(f"no checkpoint at {path}.") from error
    except Exception as error:
        size, why = path.stat().st_size, str(error).partition("\n")[0]
        raise DataError(
            f"{path} ({size} bytes) is not a checkpoint that this trainer saved, or it is damaged: {why}"
        ) from error


def load_newest(trainer: Trainer, root: Path, strict: bool = False) -> bool:
    """Restore from the newest whole checkpoint under ``root``; False if there is none."""
    newest = _read_newest(trainer, root)
    if newest is None:
        return False
    path, tensors, state = newest
    compare_environment(state["environment"], strict)
    restore(trainer, tensors, state)
    log.info("resumed from %s (step %d)", path, trainer.state.step)
    return True


def _read_newest(trainer: Trainer, root: Path) -> tuple[Path, Parts, dict[str, Any]] | None:
    """The newest whole checkpoint; of several processes rank 0 reads, since the others may be elsewhere."""
    ranks = trainer.ranks
    newest = checkpoint.read_newest(root) if ranks is None or ranks.first else None
    if ranks is None:
        return newest
    told = ranks.share(None if newest is None else [str(newest[0]), json.dumps(newest[2])])
    if told is None:
        return None
    tensors = ranks.share_parts(None if newest is None else newest[1])
    return Path(told[0]), tensors, json.loads(told[1])


def copy_tensors(parts: Parts, buffers: dict[str, Tensor] | None = None) -> Parts:
    """Copies on the CPU; tied tensors stay tied. ``buffers`` are written over where they fit, and kept."""
    buffers = {} if buffers is None else buffers
    known: dict[tuple[Any, ...], Tensor] = {}
    copies: Parts = {}
    for stem, part in parts.items():
        for name, tensor in part.items():
            tensor = tensor.detach()
            key = checkpoint.memory_of(tensor)
            if key not in known or not tensor.numel():
                known[key] = _copied(tensor, buffers, f"{stem}/{name}")
            copies.setdefault(stem, {})[name] = known[key]
        copies.setdefault(stem, {})
    return copies


def _copied(tensor: Tensor, buffers: dict[str, Tensor], name: str) -> Tensor:
    buffer = buffers.get(name)
    if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
        buffer = buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
    buffer.copy_(tensor)
    return buffer
