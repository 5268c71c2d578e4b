"""``tinsmith chat``: a line in, text that grows out. For every predictor that can ``generate``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from tinsmith import console
from tinsmith.errors import ConfigError, TinsmithError

HELP = "a line is a prompt; /temperature=0.8 sets an argument of generation; /show, /help, /quit"


def chat(predictor: Any, name: str, lines: Iterator[str] | None = None) -> int:
    """Answer lines until they end; returns the number of answers.

    Args:
        predictor: has ``generate(text, stream=..., **options)``.
        name: of its family, for the message.
        lines: by default what is typed, or piped in.

    Raises:
        ConfigError: a predictor that generates nothing.
    """
    if not hasattr(predictor, "generate"):
        raise ConfigError(f"chat is for models that write text; {name} has none: use predict")
    options: dict[str, Any] = {}
    count = 0
    console.say(HELP)
    for line in _typed() if lines is None else lines:
        text = line.rstrip("\n")
        if text.strip() in ("/quit", "/exit"):
            break
        try:
            if text.startswith("/"):
                _command(text[1:].strip(), options, predictor)
            elif text.strip():
                predictor.generate(text, stream=_write, **options)
                _write("\n")
                count += 1
        except TinsmithError as error:  # a mistake ends the answer, not the conversation
            console.error(str(error))
    return count


def _typed() -> Iterator[str]:
    asks = sys.stdin.isatty()
    while True:
        if asks:
            _write("> ")
        line = sys.stdin.readline()
        if not line:
            return
        yield line


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _command(text: str, options: dict[str, Any], predictor: Any) -> None:
    """``temperature=0.8`` sets an argument, an empty value unsets it; ``show`` tells what is set."""
    name, equals, value = text.partition("=")
    name = name.strip()
    if equals:
        changed = {**options, name: _value(value.strip())}
        if not value.strip():
            changed.pop(name)
        predictor.generation.with_options(changed)  # refuses what does not exist or contradicts
        options.clear()
        options.update(changed)
    elif name == "show":
        _write(", ".join(f"{key}={value}" for key, value in options.items()) + "\n")
    else:
        _write(HELP + "\n")


def _value(text: str) -> Any:
    kinds: tuple[Callable[[str], Any], ...] = (int, float)
    for kind in kinds:
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)
