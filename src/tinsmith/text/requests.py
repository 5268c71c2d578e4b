"""What predictors that read texts are asked: a text, or an object with ``text`` and perhaps options."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tinsmith.errors import DataError


def read_request(item: Any, number: int) -> tuple[str, dict[str, Any]]:
    """The text of an input and its options.

    Raises:
        DataError: neither a text nor an object with one; names the input by its ``number``.
    """
    options = dict(item) if isinstance(item, Mapping) else {"text": item}
    text = options.pop("text", None)
    if not isinstance(text, str):
        raise DataError(f"input {number}: a text, or an object with 'text', is needed, not {item!r:.80}")
    check_unicode(text, number)
    return text, options


def check_unicode(text: str, number: int) -> None:
    """Raise ``DataError`` for half a surrogate pair in the text of input ``number``."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"input {number}: half a surrogate pair at character {error.start + 1}") from None


def by_options(requests: Sequence[tuple[str, dict[str, Any]]]) -> list[list[int]]:
    """The numbers of the requests, those with the same options together."""
    groups: dict[str, list[int]] = {}
    for i, (_, options) in enumerate(requests):
        groups.setdefault(json.dumps(options, sort_keys=True), []).append(i)
    return list(groups.values())


def by_length(ids: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """The numbers of the rows ``ids`` in batches of nearly equal length, the shortest first."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
