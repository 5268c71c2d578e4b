"""Digests that key and guard what is cached: xxh3-128 of files and of streams of texts."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import xxhash

_CHUNK = 1 << 22


def file_digest(path: Path) -> str:
    """xxh3-128 of a file's bytes, in hexadecimal."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return str(digest.hexdigest())


def value_digest(value: Any) -> str:
    """xxh3-128 of a JSON-able value, whatever the order of its keys, in hexadecimal."""
    return str(xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode()))


class TextDigest:
    """The digest of a sequence of texts, taken on the way; ``count`` says how many they were."""

    def __init__(self) -> None:
        self._digest = xxhash.xxh3_128()
        self.count = 0

    def watch(self, texts: Iterable[str]) -> Iterator[str]:
        """Pass the texts on and take their digest."""
        for text in texts:
            self.update(text)
            yield text

    def update(self, text: str, more: bytes = b"") -> None:
        """Take in a text, and what belongs to it."""
        data = text.encode()
        # the length first: ("ab", "c") and ("a", "bc") are other texts
        self._digest.update(len(data).to_bytes(8, "little") + data + more)
        self.count += 1

    def hexdigest(self) -> str:
        """The digest so far, in hexadecimal."""
        return str(self._digest.hexdigest())
