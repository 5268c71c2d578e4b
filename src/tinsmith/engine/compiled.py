"""A task compiled by torch: a faster step for a minute of waiting, and the same bits after a resume."""

from __future__ import annotations

import logging
from typing import Any

import torch

from tinsmith.engine.contract import Context, StepOutput, Task
from tinsmith.errors import ConfigError

log = logging.getLogger(__name__)

_SHAPES = 4  # each takes half a minute


class Compiled:
    """``task(batch, context)``, compiled anew for each shape of batch, up to four.

    torch's own way, kernels for all shapes from the second one on, would make the bits of a resumed run
    depend on which shape it meets first.

    Raises:
        ConfigError: (when called) the step keeps changing, or there is no working compiler.
    """

    def __init__(self, task: Task) -> None:
        from torch._dynamo import config, exc

        # The limit is this task's own: another trainer in the process may have compiled the same code.
        limit: Any = {"recompile_limit": _SHAPES, "isolate_recompiles": True}
        self._call = torch.compile(task, dynamic=False, **limit)
        self._strict = config.patch(fail_on_recompile_limit_hit=True)  # or it goes on uncompiled, silently
        self._changing, self._failed = exc.FailOnRecompileLimitHit, exc.TorchDynamoException
        log.info("torch compiles the step: half a minute or more at first, and for each shape of batch")

    def __call__(self, batch: Any, context: Context) -> StepOutput:
        try:
            with self._strict:
                out: StepOutput = self._call(batch, context)
        except self._changing as error:
            raise ConfigError(
                f"trainer.compile: the step changes too often to be compiled: batches of over {_SHAPES} "
                "shapes, or an objective that goes by the step's number. Set trainer.compile=off."
            ) from error
        except self._failed as error:
            raise ConfigError(
                f"trainer.compile: torch could not compile the step ({_gist(error)}). On a CPU it needs a "
                "C++ compiler, such as g++. Set trainer.compile=off."
            ) from error
        return out


def _gist(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200]
