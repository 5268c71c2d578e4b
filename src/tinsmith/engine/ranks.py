"""Processes that train together: how they find each other, what passes between them, who is gone.

Each has the whole model and a part of every batch; rank 0 decides and writes. What passes is JSON and
tensors, never a pickle.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import secrets
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tinsmith.engine import pulse
from tinsmith.engine.checkpoint import Parts
from tinsmith.engine.device import get_device
from tinsmith.engine.state import flatten, from_jsonable, to_jsonable, unflatten
from tinsmith.errors import ConfigError, LostRankError, ResourceError, missing_extra
from tinsmith.launched import NPROC, leave_error

log = logging.getLogger(__name__)

_PATIENCE = 3.0  # seconds that a process waits to hear which partner it was that is gone
_NEVER = timedelta(days=7)  # a collective's own timeout: who is gone is the pulse's to say


class Ranks:
    """The processes of a run, joined.

    Attributes:
        rank, size: this process's number, and how many there are.
        device: where this process's model goes.
        threads: this process's share of the CPU threads that torch would take.
        wishes: this process's, by name: asked for in each step's exchange.
        agreed: what any of them wished for in the last step.
    """

    def __init__(self, device: str | torch.device = "auto") -> None:
        """Join the processes that torch's launcher started.

        Raises:
            MissingExtraError: Accelerate is not installed.
            ConfigError: there are not so many processes as were asked for.
            ResourceError: they do not find each other.
        """
        try:
            from accelerate import PartialState
        except ImportError:
            raise missing_extra("training in several processes", "distributed") from None
        asked = get_device(device)
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self.threads = max(1, torch.get_num_threads() // self.local_size)
        os.environ.setdefault("OMP_NUM_THREADS", str(self.threads))  # or Accelerate guesses, and says so
        try:
            state = PartialState(cpu=asked.type == "cpu", timeout=_NEVER)
        except (RuntimeError, ValueError, OSError) as error:
            raise ResourceError(f"the processes do not find each other: {error}") from None
        self.rank, self.size = state.process_index, state.num_processes
        expected = int(os.environ.get(NPROC, self.size))
        if self.size != expected:
            raise ConfigError(f"{expected} processes were asked for, {self.size} found each other")
        self.device = state.device
        self.wishes: dict[str, Callable[[], bool]] = {}
        self.agreed: dict[str, bool] = {}
        # JSON and tensors on the CPU pass here, whatever the gradients use.
        self._group = dist.new_group(backend="gloo", timeout=_NEVER)
        self._hosts = self.gather(f"rank {self.rank} (process {os.getpid()} on {platform.node()})")
        self._gone = ""
        self._pulse = self._start_pulse()

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which decides and writes."""
        return bool(self.rank == 0)

    def leave(self) -> None:
        """Leave in good order. Nobody waits for anybody."""
        self._pulse.close()
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()

    # ---- the step -----------------------------------------------------------------------------------

    def sum(self, tensor: Tensor) -> None:
        """Add up a tensor over all processes, in place."""
        self._watched(lambda: dist.all_reduce(tensor))

    def stack(self, tensor: Tensor) -> list[Tensor]:
        """Every process's tensor, all of one shape, by rank."""
        every = [torch.empty_like(tensor) for _ in range(self.size)]
        self._watched(lambda: dist.all_gather(every, tensor))
        return every

    # ---- JSON and tensors ---------------------------------------------------------------------------

    def gather(self, value: Any) -> list[Any]:
        """What each process has of a value that JSON can hold, by rank."""
        texts = self._gather_bytes(json.dumps(to_jsonable(value)).encode())
        return [from_jsonable(json.loads(text)) for text in texts]

    def gather_tree(self, tree: Any) -> list[Any]:
        """What each process has of nested dicts and lists of tensors and plain values, by rank."""
        from safetensors.torch import load, save

        tensors, skeleton = flatten(tree)
        skeletons = self.gather(skeleton)
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        loaded = [load(data) for data in self._gather_bytes(save(contiguous))]
        return [unflatten(*pair) for pair in zip(loaded, skeletons, strict=True)]

    def share(self, value: Any = None) -> Any:
        """Rank 0's value, of a kind that JSON can hold."""
        text = json.dumps(to_jsonable(value)).encode() if self.first else b""
        length = torch.tensor([len(text)])
        self._from_first(length)
        data = torch.empty(int(length), dtype=torch.uint8)
        if self.first:
            data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        self._from_first(data)
        return from_jsonable(json.loads(data.numpy().tobytes()))

    def share_parts(self, parts: Parts | None) -> Parts:
        """Rank 0's named tensors."""
        plan = {
            stem: {name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in part.items()}
            for stem, part in (parts or {}).items()
        }
        shared: Parts = {}
        for stem, part in self.share(plan).items():
            shared[stem] = {}
            for name, (dtype, shape) in part.items():
                tensor = torch.empty(shape, dtype=getattr(torch, dtype))
                if parts is not None:
                    tensor = parts[stem][name].detach().cpu().contiguous()
                self._from_first(tensor)
                shared[stem][name] = tensor
        return shared

    @torch.no_grad()
    def share_weights(self, module: nn.Module) -> None:
        """Make a module's weights and buffers those of rank 0."""
        for name, tensor in self.share_parts({"": module.state_dict()} if self.first else None)[""].items():
            if not self.first:
                module.state_dict()[name].copy_(tensor)

    def _from_first(self, tensor: Tensor) -> None:
        if tensor.numel():
            view = tensor.view(torch.uint8) if tensor.ndim else tensor.reshape(1).view(torch.uint8)
            self._watched(lambda: dist.broadcast(view, 0, group=self._group))

    def _gather_bytes(self, data: bytes) -> list[bytes]:
        mine = torch.tensor([len(data)])
        lengths = [torch.zeros_like(mine) for _ in range(self.size)]
        self._watched(lambda: dist.all_gather(lengths, mine, group=self._group))
        longest = max(1, *(int(length) for length in lengths))
        padded = torch.zeros(longest, dtype=torch.uint8)
        if data:
            padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        everyone = [torch.empty_like(padded) for _ in range(self.size)]
        self._watched(lambda: dist.all_gather(everyone, padded, group=self._group))
        return [text[: int(length)].numpy().tobytes() for text, length in zip(everyone, lengths, strict=True)]

    # ---- who is gone --------------------------------------------------------------------------------

    def _watched(self, collective: Callable[[], Any]) -> None:
        """Run a collective; where it fails, say which process is gone."""
        try:
            collective()
        except RuntimeError as error:
            time.sleep(_PATIENCE)  # until the launcher has seen who was first, and the pulse has told
            reason = self._gone or f"another process is gone ({str(error).partition(chr(10))[0]:.200})"
            raise LostRankError(_farewell(reason)) from None

    def _start_pulse(self) -> pulse.Pulse:
        local = self.local_size == self.size
        host = "127.0.0.1" if local else os.environ["MASTER_ADDR"]
        if self.first:
            server, token = pulse.listen(host), secrets.token_hex(16)
            port, token = self.share([server.getsockname()[1], token])
            peers = pulse.accept(server, token, self.size)
        else:
            port, token = self.share()
            peers = {0: pulse.connect((host, port), token, self.rank)}
        return pulse.Pulse(self.rank, peers, self._note_lost)

    def _note_lost(self, rank: int) -> None:
        """In the pulse's thread: the main one may hang in a collective that never ends."""
        self._gone = f"{self._hosts[rank]} is gone"
        time.sleep(2 * _PATIENCE)  # it may find out by itself, and end in better order
        message = _farewell(self._gone)
        if not leave_error(message, LostRankError.exit_code, lost=True):
            sys.stderr.write(f"error: {message}\n")
            sys.stderr.flush()
        os._exit(LostRankError.exit_code)


def _farewell(reason: str) -> str:
    return f"{reason}. The run is whole up to its last checkpoint: go on with tinsmith resume."
