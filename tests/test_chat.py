from collections.abc import Callable
from typing import Any

import pytest

from tinsmith.chat import chat
from tinsmith.errors import ConfigError, DataError
from tinsmith.text.generation_config import GenerationConfig


class Echo:
    """Says what it is told, in capitals."""

    generation = GenerationConfig()

    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []

    def generate(self, text: str, stream: Callable[[str], None], **options: Any) -> str:
        if text == "bad":
            raise DataError("input 0: bad")
        self.options.append(options)
        for letter in text.upper():
            stream(letter)
        return text.upper()


def test_lines_are_answered_as_they_grow(capsys: pytest.CaptureFixture[str]) -> None:
    echo = Echo()
    lines = ["one\n", "\n", "/do_sample=true\n", "/temperature=0.5\n", "two\n", "/show\n", "bad\n"]
    lines += ["/temperatur=1\n", "/temperature=\n", "three\n", "/quit\n", "four\n"]
    assert chat(echo, "echo", iter(lines)) == 3
    assert echo.options == [{}, {"do_sample": True, "temperature": 0.5}, {"do_sample": True}]
    out, err = capsys.readouterr()
    assert "ONE\n" in out
    assert "FOUR" not in out
    assert "do_sample=True, temperature=0.5" in out
    assert "input 0: bad" in err
    assert "Did you mean: temperature" in err


def test_a_model_that_writes_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="chat is for models that write text; codec has none"):
        chat(object(), "codec", iter(()))
