"""Who is gone: a process that died, a host that fell silent; and who has only left."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tinsmith.engine import pulse
from tinsmith.engine.pulse import Pulse

TOKEN = "0123456789abcdef" * 2


@pytest.fixture
def three() -> Iterator[tuple[dict[int, socket.socket], dict[int, socket.socket]]]:
    """The sockets of rank 0 to ranks 1 and 2, and theirs to rank 0."""
    server = pulse.listen("127.0.0.1")
    address = server.getsockname()
    others = {rank: pulse.connect(address, TOKEN, rank) for rank in (2, 1)}
    mine = pulse.accept(server, TOKEN, 3)
    yield mine, others
    for each in (*mine.values(), *others.values()):
        each.close()


def soon(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


Sockets = tuple[dict[int, socket.socket], dict[int, socket.socket]]


def test_a_socket_that_closes_is_a_rank_that_is_gone_and_the_others_hear_of_it(three: Sockets) -> None:
    mine, others = three
    lost: list[tuple[str, int]] = []
    first = Pulse(0, mine, lambda rank: lost.append(("first", rank)))
    third = Pulse(2, {0: others[2]}, lambda rank: lost.append(("third", rank)))
    others[1].close()  # as the system does with those of a process that is killed
    assert soon(lambda: len(lost) == 2)
    assert sorted(lost) == [("first", 1), ("third", 1)]
    first.close()
    third.close()


def test_silence_is_noticed_and_signs_of_life_are_not_silence(three: Sockets) -> None:
    mine, others = three
    lost: list[int] = []
    first = Pulse(0, mine, lost.append, silence=2.5)
    second = Pulse(1, {0: others[1]}, lambda rank: None, silence=60)  # rank 2 says nothing
    begin = time.monotonic()
    assert soon(lambda: bool(lost), 10)
    assert lost == [2]
    assert 2 < time.monotonic() - begin < 6
    first.close()
    second.close()


def test_leaving_is_not_dying(three: Sockets) -> None:
    mine, others = three
    lost: list[int] = []
    first = Pulse(0, mine, lost.append)
    second, third = (Pulse(rank, {0: others[rank]}, lost.append) for rank in (1, 2))
    second.close()
    time.sleep(0.6)
    assert not lost
    third.close()
    first.close()
    assert not lost


def test_whoever_does_not_know_the_token_is_sent_away() -> None:
    server = pulse.listen("127.0.0.1")
    address = server.getsockname()
    accepted: list[dict[int, socket.socket]] = []
    waiting = threading.Thread(target=lambda: accepted.append(pulse.accept(server, TOKEN, 2)))
    waiting.start()
    stranger = pulse.connect(address, "f" * 32, 1)
    assert stranger.recv(1) == b""
    friend = pulse.connect(address, TOKEN, 1)
    waiting.join(timeout=5)
    assert list(accepted[0]) == [1]
    for each in (stranger, friend, accepted[0][1]):
        each.close()


def test_waiting_for_those_who_do_not_come_has_an_end() -> None:
    server = pulse.listen("127.0.0.1")
    with pytest.raises(TimeoutError):
        pulse.accept(server, TOKEN, 2, patience=0.05)
