"""Errors that a user can cause, each with the exit code of the command line.

The message says what, where, did you mean, and what next, in one or a few lines. The command line
prints it without a traceback; a caller of the library catches it as the built-in kind it also is.
"""

import difflib
from collections.abc import Iterable


class TinsmithError(Exception):
    """The root of all errors that are not bugs of tinsmith. ``exit_code`` is the process's status."""

    exit_code = 1


class ConfigError(TinsmithError, ValueError):
    """A wrong command, option, setting or value."""

    exit_code = 2


class DataError(TinsmithError, ValueError):
    """Data that is missing, malformed or does not belong to this run. Names the file and the line."""

    exit_code = 3


class DivergedError(TinsmithError, ArithmeticError):
    """The loss or a gradient stopped being finite."""

    exit_code = 4


class CheckError(TinsmithError, AssertionError):
    """A bar that the user set (``--require``) or a parity check was missed."""

    exit_code = 5


class MissingExtraError(TinsmithError, ImportError):
    """An optional dependency is not installed. The message has the pip line."""

    exit_code = 6


class ResourceError(TinsmithError, OSError):
    """Memory, disk or another resource ran out."""

    exit_code = 7


class LostRankError(ResourceError):
    """Another process of the run is gone. That one's own message, if it left one, says more."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """``" Did you mean: X?"`` for the closest of ``choices``, or an empty string."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" Did you mean: {close[0]}?" if close else ""


def check(ok: bool, key: str, value: object, allowed: str) -> None:
    """Raise ``ConfigError`` "``key``=``value`` is not allowed: ``allowed``" unless ``ok``.

    Write the condition so that NaN fails it: ``check(lr > 0, ...)``, not ``check(not lr <= 0, ...)``.
    """
    if not ok:
        shown = f"'{value}'" if isinstance(value, str) else value
        raise ConfigError(f"{key}={shown} is not allowed: {allowed}.")


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    """Raise ``ConfigError`` with the nearest and all choices unless ``value`` is one of them."""
    names = list(choices)
    if value not in names:
        raise ConfigError(
            f"{key}='{value}': no such choice.{did_you_mean(value, names)} All: {', '.join(names)}."
        )


def missing_extra(what: str, extra: str) -> MissingExtraError:
    """The error for a feature ``what`` whose optional dependencies ``extra`` are not installed."""
    return MissingExtraError(f"{what} needs the extra '{extra}'. Run: pip install 'tinsmith[{extra}]'")
