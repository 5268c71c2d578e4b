"""What can happen to the bytes of any file: kinds of mutation, and a watchdog for who reads the result."""

import gzip
import logging
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tinsmith.errors import TinsmithError

Mutation = Callable[[bytes, random.Random], bytes]
SECONDS = 10.0  # what no case may take


def _span(data: bytes, rng: random.Random) -> tuple[bytes, bytes, bytes]:
    """The data in three parts; the middle one is of 1 to 64 bytes where there are as many."""
    start = rng.randrange(max(1, len(data)))
    stop = start + rng.randint(1, 64)
    return data[:start], data[start:stop], data[stop:]


def _insert(piece: bytes) -> Mutation:
    def insert(data: bytes, rng: random.Random) -> bytes:
        at = rng.randrange(len(data) + 1)
        return data[:at] + piece + data[at:]

    return insert


def _replace(old: bytes, new: bytes) -> Mutation:
    """Put ``new`` for one ``old``, if there is any."""

    def replace(data: bytes, rng: random.Random) -> bytes:
        parts = data.split(old)
        at = rng.randrange(1, len(parts)) if len(parts) > 1 else 0
        return old.join(parts[:at]) + new + old.join(parts[at:]) if at else data

    return replace


def _middle(change: Callable[[bytes, random.Random], bytes]) -> Mutation:
    def mutate(data: bytes, rng: random.Random) -> bytes:
        before, middle, after = _span(data, rng)
        return before + change(middle, rng) + after

    return mutate


def _whole(content: bytes) -> Mutation:
    return lambda _, __: content


def _flip_bit(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _shuffle_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    rng.shuffle(lines)
    return b"".join(lines)


MUTATIONS: dict[str, Mutation] = {
    "a flipped bit": _flip_bit,
    "the end cut off": lambda data, rng: data[: rng.randrange(len(data))],
    "the start cut off": lambda data, rng: data[rng.randrange(1, len(data) + 1) :],
    "a piece cut out": _middle(lambda _, __: b""),
    "a piece doubled": _middle(lambda piece, _: piece * 2),
    "a piece reversed": _middle(lambda piece, _: piece[::-1]),
    "a piece random": _middle(lambda piece, rng: rng.randbytes(len(piece))),
    "a piece zeroed": _middle(lambda piece, _: bytes(len(piece))),
    "a piece of 0xff": _middle(lambda piece, _: b"\xff" * len(piece)),
    "a piece in upper case": _middle(lambda piece, _: piece.upper()),
    "the file twice": lambda data, _: data * 2,
    "all backwards": lambda data, _: data[::-1],
    "lines shuffled": _shuffle_lines,
    "random bytes behind": lambda data, rng: data + rng.randbytes(30),
    "random bytes before": lambda data, rng: rng.randbytes(30) + data,
    "random bytes only": lambda data, rng: rng.randbytes(len(data)),
    "empty": _whole(b""),
    "white space": _whole(b" \n\t\r\n  \n"),
    "zeros only": lambda data, _: bytes(len(data)),
    "UTF-16": lambda data, _: data.decode("latin-1").encode("utf-16"),
    "zipped unawares": lambda data, _: gzip.compress(data, mtime=0),
    "a web page": _whole(b"<!DOCTYPE html>\n<html><body>404: Not Found</body></html>\n"),
    "a pointer of git lfs": _whole(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n"),
    "a picture": _whole(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x01\x00"),
    "a pickle": _whole(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x04text\x94\x8c\x01a\x94s."),
    "brackets": _whole(b"[" * 50_000),
    "braces": _whole(b'{"a":' * 50_000),
    "a NUL": _insert(b"\0"),
    "half a character": _insert(b"\xc3"),
    "half a surrogate": _insert(b"\\ud800"),
    "a byte order mark inside": _insert(b"\xef\xbb\xbf"),
    "a control character": _insert(b"\x07"),
    "a new line": _insert(b"\n"),
    "a carriage return": _insert(b"\r"),
    "a tab": _insert(b"\t"),
    "a quote": _insert(b'"'),
    "a comma": _insert(b","),
    "a bracket": _insert(b"["),
    "a colon": _insert(b": "),
    "5,000 digits": _insert(b"9" * 5000),
    "a line of 200,000": _insert(b"x" * 200_000),
    "a quote less": _replace(b'"', b""),
    "a comma less": _replace(b",", b""),
    "a colon less": _replace(b":", b""),
    "a line end less": _replace(b"\n", b""),
    "NaN for a digit": _replace(b"1", b"NaN"),
    "null for a digit": _replace(b"1", b"null"),
    "minus for a digit": _replace(b"1", b"-"),
}


@contextmanager
def watchdog(what: str, seconds: float = SECONDS) -> Iterator[None]:
    """Fail where the block takes longer."""

    def bark(*_: Any) -> None:
        pytest.fail(f"hangs: {what}")

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(what: str, call: Callable[[], Any], exit_code: int, name: str) -> Any:
    """What ``call`` returns, or the one exception that a broken file ``name`` may be answered with."""
    try:
        with watchdog(what):
            return call()
    except TinsmithError as error:
        assert error.exit_code == exit_code, f"{what}: exit code {error.exit_code}: {error}"  # noqa: PT017
        assert name in str(error), f"{what}: the file is not named: {error}"  # noqa: PT017
        assert "\n" not in str(error).strip(), f"{what}: {error}"  # noqa: PT017
        return error
    except Exception as error:  # what a user would see a traceback of
        pytest.fail(f"{what}: {type(error).__name__}: {error}")


def variants(count: int, *kinds: Any) -> Iterator[tuple[Any, random.Random]]:
    """Each kind ``count`` times, each time with a generator of its own."""
    for kind in kinds:
        for number in range(count):
            yield kind, random.Random(f"{kind} {number}")


@pytest.fixture
def unlogged() -> Iterator[None]:
    """Keep messages that quote half surrogate pairs out of reports, which pytest-xdist sends as UTF-8."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
