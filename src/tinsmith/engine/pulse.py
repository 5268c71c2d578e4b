"""Whether the other processes of a run are alive: a byte a second from each, over a socket of their own.

A collective waits for its partners for as long as it takes, and has to: one process may evaluate for minutes
while the others wait. So who is gone is told apart from who is busy here. A process that dies closes its
socket, which is noticed at once; a host that is cut off falls silent. Rank 0 listens to all, and tells them.
"""

from __future__ import annotations

import contextlib
import hmac
import selectors
import socket
import threading
import time
from collections.abc import Callable

SILENCE = 15.0  # seconds after which a rank that says nothing is gone
_BEAT = 1.0
_ALIVE, _LEFT, _LOST = b".", b"q", b"x"  # the last is followed by the rank, four digits
_HELLO = 32 + 4  # a token, and the rank in four digits


def listen(host: str) -> socket.socket:
    """The socket that rank 0 hears the others on, at any free port of ``host``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, 0), family=family, backlog=128)


def connect(address: tuple[str, int], token: str, rank: int, patience: float = 30.0) -> socket.socket:
    """The socket of a rank to rank 0, which knows it by ``token`` (32 characters)."""
    made = socket.create_connection(address, timeout=patience)
    made.sendall(f"{token}{rank:04d}".encode())
    return made


def accept(server: socket.socket, token: str, size: int, patience: float = 30.0) -> dict[int, socket.socket]:
    """The sockets of ranks 1 to ``size - 1``; whoever does not know the token is sent away.

    Raises:
        TimeoutError: not all of them came.
    """
    peers: dict[int, socket.socket] = {}
    end = time.monotonic() + patience
    with server:
        while len(peers) < size - 1:
            server.settimeout(max(0.01, end - time.monotonic()))
            peer, _ = server.accept()
            peer.settimeout(5.0)
            try:
                hello = peer.recv(_HELLO, socket.MSG_WAITALL)
            except OSError:
                hello = b""
            rank = hello[32:]
            if len(hello) == _HELLO and hmac.compare_digest(hello[:32], token.encode()) and rank.isdigit():
                peers[int(rank)] = peer
            else:
                peer.close()
    return peers


class Pulse:
    """Watches the other ranks from a thread, and says once which one is gone.

    Args:
        rank: this process's.
        peers: rank -> connected socket: rank 0 has all the others, the others have rank 0.
        lost: called in the thread with the rank that is gone.
        silence: seconds without a sign of life that are too many.
    """

    def __init__(
        self,
        rank: int,
        peers: dict[int, socket.socket],
        lost: Callable[[int], None],
        silence: float = SILENCE,
    ) -> None:
        self.rank, self.peers, self.silence = rank, dict(peers), silence
        self._lost = lost
        self._closing = threading.Event()
        for peer in self.peers.values():
            peer.setblocking(False)
        self._thread = threading.Thread(target=self._watch, name="tinsmith-pulse", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave in good order: the others do not miss this rank."""
        self._closing.set()
        self._thread.join(timeout=2 * _BEAT)
        for peer in self.peers.values():
            self._say(peer, _LEFT)
            peer.close()

    def _watch(self) -> None:
        heard = dict.fromkeys(self.peers, time.monotonic())
        spoken = 0.0
        with selectors.DefaultSelector() as selector:
            for rank, peer in self.peers.items():
                selector.register(peer, selectors.EVENT_READ, rank)
            while heard and not self._closing.is_set():
                now = time.monotonic()
                if now - spoken >= _BEAT:
                    spoken = now
                    for rank in heard:
                        self._say(self.peers[rank], _ALIVE)
                for key, _ in selector.select(timeout=_BEAT / 4):
                    left, lost = self._hear(key.data)
                    heard[key.data] = time.monotonic()
                    if lost is not None:
                        self._tell(lost)
                        return
                    if left:
                        selector.unregister(key.fileobj)
                        del heard[key.data]
                silent = [rank for rank, when in heard.items() if time.monotonic() - when > self.silence]
                if silent:
                    self._tell(silent[0])
                    return

    def _hear(self, rank: int) -> tuple[bool, int | None]:
        """Whether a rank left, and which rank, if any, is gone."""
        try:
            said = self.peers[rank].recv(4096)
        except BlockingIOError:
            return False, None
        except OSError:
            said = b""
        if _LOST in said and len(said) >= (at := said.index(_LOST)) + 5:
            return False, int(said[at + 1 : at + 5])
        if _LEFT in said:
            return True, None
        return False, None if said else rank

    def _tell(self, lost: int) -> None:
        for rank, peer in self.peers.items():
            if rank != lost:
                self._say(peer, _LOST + f"{lost:04d}".encode())
        self._lost(lost)

    @staticmethod
    def _say(peer: socket.socket, what: bytes) -> None:
        with contextlib.suppress(OSError):  # its buffer is full, or it is gone: hearing tells
            peer.send(what)
