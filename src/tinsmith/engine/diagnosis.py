"""What to say of a step that went wrong: which tensors, which samples, and data or machine?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tinsmith.engine.loop import Window

if TYPE_CHECKING:
    from tinsmith.engine.loop import Loop
    from tinsmith.engine.ranks import Ranks

_SHOWN = 16  # sample indices in a message


def not_finite(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of the tensors that hold a NaN or an infinity."""
    return [name for name, tensor in named if not _all_finite(tensor)]


def _all_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    values = tensor.detach().coalesce().values() if tensor.is_sparse else tensor.detach()
    # A sum is finite only if all terms are; overflow is told from it by looking again.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def diagnose(loop: Loop, window: Window, trouble: str) -> tuple[str, bool]:
    """Run the batches of a step once more and describe what is wrong with it, in one line.

    Leaves gradients, buffers and generators changed: the guard undoes that.

    Returns:
        The line, and whether the place of the trouble was found (another process may know more).
    """
    state, samples = loop.state, window.source.samples(window.epoch, window.cursor, window.count)
    weights = not_finite(loop.parts.task.named_parameters())
    inputs = list(_bad_inputs(window, samples, loop.ranks))
    places, again = _run_again(loop, window)
    line = " ".join(
        [
            f"{trouble} at step {state.step} (lr {loop.parts.lr():.3g}).",
            _first_bad(weights, inputs, places),
            _sample_list(samples, window),
            again,
            "The weights were not moved by it.",
            _advice(weights, inputs),
        ]
    )
    return line, bool(weights or inputs or places)


def _first_bad(weights: list[str], inputs: list[str], places: list[str]) -> str:
    bad = [f"the weights {name}" for name in weights] or [f"the input {name}" for name in inputs] or places
    return f"Not finite first: {', '.join(bad[:3])}." if bad else "Every tensor was finite."


def _sample_list(samples: list[int], window: Window) -> str:
    if not samples:
        return f"It was batch {window.cursor} of epoch {window.epoch}."
    more = f" and {len(samples) - _SHOWN} more" if len(samples) > _SHOWN else ""
    return f"Samples of the step: {', '.join(map(str, samples[:_SHOWN]))}{more}."


def _advice(weights: list[str], inputs: list[str]) -> str:
    if weights:
        return "Resume from a checkpoint with a smaller learning rate."
    if inputs:
        return "Mend these samples, or go on without them: on_nonfinite=skip."
    return "Try a tenth of the learning rate or a smaller grad_clip, or go on with on_nonfinite=skip."


def _bad_inputs(window: Window, samples: list[int], ranks: Ranks | None) -> Iterator[str]:
    """The tensors of the batches that are not finite, with the samples where rows are samples."""
    start = 0
    for batch, count in zip(window.batches, window.counts, strict=True):
        mine = torch.tensor(samples[start : start + count])
        if ranks is not None:
            mine = mine.tensor_split(ranks.size)[ranks.rank]
        for name, tensor in _tensors(batch, ""):
            if _all_finite(tensor):
                continue
            if samples and tensor.ndim and len(tensor) == len(mine):
                rows = (~tensor.isfinite()).flatten(1).any(1) if tensor.ndim > 1 else ~tensor.isfinite()
                which = [str(int(mine[row])) for row in rows.nonzero()[:3, 0].tolist()]
                yield f"{name} of {'sample' if len(which) == 1 else 'samples'} {', '.join(which)}"
            else:
                yield name
        start += count


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a batch with their names: ``x``, ``0``, ``target.0``."""
    if isinstance(value, Tensor):
        yield name or "batch", value
        return
    if isinstance(value, (list, tuple)):
        items: Iterable[tuple[Any, Any]] = enumerate(value)
    elif isinstance(value, dict):
        items = value.items()
    else:
        items = vars(value).get("_store", vars(value)).items() if hasattr(value, "__dict__") else ()
    for key, item in items:
        yield from _tensors(item, f"{name}.{key}" if name else str(key))


def _run_again(loop: Loop, window: Window) -> tuple[list[str], str]:
    """The modules and gradients that are not finite in a second run, first one first, and what that tells."""
    found: list[str] = []
    hooks = [
        module.register_forward_hook(_recorder(found, name))
        for name, module in loop.parts.task.named_modules()
    ]
    second = Window(window.source, window.epoch, window.cursor, window.batches, window.counts)
    try:
        _, trouble = loop.compute(second)
    finally:
        for hook in hooks:
            hook.remove()
    if not found and not_finite(("the loss", out.loss) for out in second.outs):
        found.append("the loss, though every module's output is finite")
    if not found:
        gradients = [(name, p.grad) for name, p in loop.parts.task.named_parameters() if p.grad is not None]
        found += [f"the gradient of {name}" for name in not_finite(gradients)]
    if not trouble and window.losses and window.losses == second.losses:
        return found, "Run once more it gave the same loss: it is the data or the model."
    if trouble:
        return found, "Run once more it came out the same: it is the data or the model, not the machine."
    return found, "Run once more with the same noise it came out differently: suspect the machine."


def _recorder(found: list[str], name: str) -> Any:
    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if not found and any(not _all_finite(tensor) for _, tensor in _tensors(output, "")):
            found.append(f"the output of {name or 'the task'} ({type(module).__name__})")

    return record
