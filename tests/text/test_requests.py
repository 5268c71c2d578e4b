import re
from typing import Any

import pytest

from tinsmith.errors import DataError
from tinsmith.text.requests import by_length, by_options, read_request


def test_a_text_and_an_object_with_options() -> None:
    given = {"text": "a", "seed": 3}
    assert read_request("a", 0) == ("a", {})
    assert read_request(given, 0) == ("a", {"seed": 3})
    assert given == {"text": "a", "seed": 3}  # the caller's own stays as it is


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (5, "input 7: a text, or an object with 'text', is needed, not 5"),
        ({"txt": "a"}, "input 7: a text, or an object with 'text', is needed, not {'txt': 'a'}"),
        ("a\ud800", "input 7: half a surrogate pair at character 2"),
    ],
)
def test_what_is_no_request_is_named_by_its_number(item: Any, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read_request(item, 7)


def test_requests_with_the_same_options_go_together() -> None:
    options: list[dict[str, Any]] = [{"a": 1, "b": 2}, {}, {"b": 2, "a": 1}, {"a": 2}]
    assert by_options([("x", own) for own in options]) == [[0, 2], [1], [3]]


def test_batches_are_of_nearly_equal_length() -> None:
    ids = [[0] * size for size in (5, 1, 4, 2, 3)]
    assert list(by_length(ids, 2)) == [[1, 3], [4, 2], [0]]
    assert list(by_length([], 2)) == []
