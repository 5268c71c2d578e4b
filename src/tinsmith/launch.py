"""Several processes for one run: torch's elastic launcher, started with the same command line in each.

On one host they meet on the loopback. On several, the same command is given on each host with its number and
the address of the first; what they exchange is neither encrypted nor authenticated beyond torch's own, so
it belongs on a network of their own.
"""

import contextlib
import logging
import os
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tinsmith import console
from tinsmith.errors import ConfigError, ResourceError
from tinsmith.launched import NPROC

_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"  # batch systems send the last one before the end
_SECONDS_TO_SAVE = 60


@dataclass(frozen=True, slots=True)
class Place:
    """Where this host stands: its processes, the number of hosts, its own among them, the first's address."""

    nproc: int
    hosts: int = 1
    host: int = 0
    head: str = ""

    def validate(self) -> None:
        """Raise ``ConfigError`` unless the flags go together."""
        if self.nproc < 1 or self.hosts < 1:
            raise ConfigError(f"--nproc {self.nproc} and --hosts {self.hosts} must be 1 or more")
        if not 0 <= self.host < self.hosts:
            raise ConfigError(
                f"--host-rank {self.host} of --hosts {self.hosts} is not allowed: they count from 0"
            )
        name, _, port = self.head.rpartition(":")
        if self.hosts > 1 and not (name and port.isdigit()):
            raise ConfigError(
                "--hosts needs --head NAME:PORT, the address of the first host, on each of them"
            )

    @property
    def size(self) -> int:
        """The processes on all hosts."""
        return self.nproc * self.hosts


def launch(words: list[str], place: Place) -> int:
    """Run ``tinsmith WORDS`` in each process and wait for all of them; returns the exit code.

    The first process that fails ends the others, and its message and exit code are those of all.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # its banners: we say it
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    meeting: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    meeting |= {"local_addr": "127.0.0.1", "run_id": uuid.uuid4().hex}
    if place.hosts > 1:
        meeting = {"rdzv_backend": "static", "rdzv_endpoint": place.head, "run_id": "tinsmith"}
        meeting |= {"rdzv_configs": {"rank": place.host, "timeout": 900}}
    with _environment(place), tempfile.TemporaryDirectory(prefix="tinsmith-") as scratch:
        config = LaunchConfig(
            min_nodes=place.hosts,
            max_nodes=place.hosts,
            nproc_per_node=place.nproc,
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=scratch),
            signals_to_handle=_SIGNALS,
            shutdown_timeout=_SECONDS_TO_SAVE,
            **meeting,
        )
        try:
            elastic_launch(config, sys.executable)("-m", "tinsmith", *words)
        except ChildFailedError as error:
            return _explain(error.failures, place)
        except SignalException:  # passed on to the processes: rank 0 says where it stopped
            return 130
        except (RuntimeError, OSError) as error:
            raise ResourceError(f"the hosts do not find each other at {place.head}: {error}") from None
    return 0


def _explain(failures: dict[int, Any], place: Place) -> int:
    """Say why the processes ended: what the first one left that did not merely miss another."""
    told = {rank: _told(failure) for rank, failure in failures.items()}
    in_order = sorted(failures, key=lambda rank: (told[rank].get("lost", False), failures[rank].timestamp))
    rank = in_order[0]
    failure = failures[rank]
    if "code" in told[rank]:
        code = int(told[rank]["code"])
        console.error(told[rank]["text"], "stopped:" if code in (4, 130) else "error:")
        return code
    if failure.exitcode == 130:  # it told the user itself
        return 130
    name = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
    why = " The system may have run out of memory." if name == "SIGKILL" else ""
    console.error(
        f"rank {rank} (process {failure.pid}) was ended by {name}.{why} The run is whole up to its last "
        f"checkpoint. Go on: {console.program()} resume last --nproc {place.nproc}"
    )
    return 7


def _told(failure: Any) -> dict[str, Any]:
    """What a process left for us: its message as ``text``, its exit code, and more."""
    message = failure.error_file_data.get("message")
    return {"text": message["message"], **message["extraInfo"]} if isinstance(message, dict) else {}


@contextlib.contextmanager
def _environment(place: Place) -> Iterator[None]:
    """What the processes inherit."""
    before = dict(os.environ)
    os.environ[NPROC] = str(place.size)
    if interface := _interface(place.head or "127.0.0.1:1"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _interface(head: str) -> str | None:
    """The network interface by which this host reaches the first one: gloo would go by the host's name."""
    import psutil  # type: ignore[import-untyped]

    name, _, port = head.rpartition(":")
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((name, int(port)))  # a datagram socket: nothing is sent
        mine = probe.getsockname()[0]
        for interface, addresses in psutil.net_if_addrs().items():
            if any(address.address == mine for address in addresses):
                return str(interface)
    return None
