"""The settings of a config dataclass as a flat table: dotted key, type, default, documentation.

``settings_of`` takes a nested dataclass apart, ``build`` puts one together, ``convert`` reads a value as
its type wants it. Imports no torch.
"""

import inspect
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_NULLS = ("null", "~", "none", "")
_BOOLS = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
_EXAMPLES = {int: "8", float: "0.1", bool: "true", str: "text", list: "[1,2]", tuple: "[1,2]", dict: "{a: 1}"}


class Plain(str):
    """Text that stood without quotes: whether ``off`` is a word or a truth value, the type decides."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """One leaf: ``trainer.epochs``, int, 10, of TrainerConfig."""

    key: str
    kind: Any
    default: Any
    owner: type

    @property
    def type_name(self) -> str:
        """The type as a user reads it: ``int``, ``list[int]``, ``float or null``."""
        return _type_name(self.kind)

    @property
    def is_text(self) -> bool:
        """Whether any text is a value of it."""
        return "str" in self.type_name.split(" or ")

    @property
    def example(self) -> str:
        """A value that this setting takes, as it is written on the command line."""
        if self.default not in (None, "", [], (), {}):
            return show(self.default)
        args = get_args(self.kind) if get_origin(self.kind) in (Union, types.UnionType) else (self.kind,)
        return _EXAMPLES.get(get_origin(args[0]) or args[0], "text")

    @property
    def help(self) -> str:
        """The comment behind the field in the source of its dataclass, or an empty string."""
        return next(filter(None, (_comment(cls, self.key) for cls in self.owner.__mro__[:-1])), "")


def settings_of(config: type) -> dict[str, Setting]:
    """All leaves of a nested config dataclass by dotted key, in the order of its fields."""
    return _leaves(config(), "")


def _leaves(section: Any, prefix: str) -> dict[str, Setting]:
    """The leaves of an instance: its values are the defaults, also those that a root gives a section."""
    found: dict[str, Setting] = {}
    hints = get_type_hints(type(section))
    for item in fields(section):
        key, kind, value = prefix + item.name, hints[item.name], getattr(section, item.name)
        if isinstance(kind, type) and is_dataclass(kind):
            found |= _leaves(value, key + ".")
            continue
        owner = next(cls for cls in type(section).__mro__ if item.name in inspect.get_annotations(cls))
        found[key] = Setting(key, kind, value, owner)
    return found


def _comment(owner: type, key: str) -> str:
    """The comment behind a field in the source of the class, empty if it has none there."""
    name = key.rpartition(".")[2]
    try:
        lines = inspect.getsource(owner).splitlines()
    except (OSError, TypeError):
        return ""
    line = next((line for line in lines if re.match(rf"\s+{name}\s*:.*  # ", line)), "")
    return line.rpartition("  # ")[2].strip()


def build(config: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """The dataclass that has ``values`` (dotted key -> converted value) as its leaves."""
    hints = get_type_hints(config)
    parts = {}
    for item in fields(config):
        key, kind = prefix + item.name, hints[item.name]
        nested = isinstance(kind, type) and is_dataclass(kind)
        parts[item.name] = build(kind, values, key + ".") if nested else values[key]
    return config(**parts)


def convert(value: Any, kind: Any) -> Any:
    """Read ``value`` (text, number, list, dict) as ``kind``.

    Raises:
        ValueError: it is not one. The message may be empty; the caller knows the key.
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _convert_union(value, args)
    if origin is Literal:
        return _convert_literal(value, args)
    if (origin or kind) in (list, tuple):
        return _convert_list(value, origin or kind, args)
    if (origin or kind) is dict:
        if not isinstance(value, Mapping):
            raise ValueError
        return {str(key): convert(item, args[1] if args else Any) for key, item in value.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        return _convert_dataclass(value, kind)
    return _convert_scalar(value, kind)


def _convert_scalar(value: Any, kind: Any) -> Any:
    if kind is types.NoneType:
        if value is not None and not (isinstance(value, Plain) and value.lower() in _NULLS):
            raise ValueError
        return None
    if kind is Any:
        return str(value) if isinstance(value, Plain) else value
    if value is None or isinstance(value, (list, tuple, Mapping)):
        raise ValueError
    text = str(value).strip()
    if kind is bool:
        if text.lower() not in _BOOLS:
            raise ValueError
        return _BOOLS[text.lower()]
    if kind is int:
        return _convert_int(text)
    if kind is float:
        return _convert_float(text)
    if kind is str:
        return _convert_str(value)
    raise TypeError(f"settings of type {kind} cannot be written as text")


def _convert_int(text: str) -> int:
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    number = _convert_float(text)  # 1e4 is a whole number, 1.5 is not
    if not number.is_integer():
        raise ValueError
    return int(number)


def _convert_float(text: str) -> float:
    try:
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))  # as YAML writes them
    except ValueError:
        raise ValueError from None


def _convert_str(value: Any) -> str:
    if isinstance(value, Plain) and value.lower() in ("null", "~"):
        raise ValueError
    if "${" in str(value):
        raise ValueError("'${...}' is not filled in here: write the value itself.")
    return str(value)


def _convert_union(value: Any, kinds: tuple[Any, ...]) -> Any:
    for kind in sorted(kinds, key=lambda kind: (kind is not types.NoneType, kind is str)):
        try:
            return convert(value, kind)
        except ValueError:
            continue
    raise ValueError


def _convert_literal(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if str(choice) == str(value):
            return choice
    raise ValueError


def _convert_list(value: Any, kind: Any, args: tuple[Any, ...]) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ValueError("A list stands in brackets.")
    if kind is tuple and args and args[-1] is not ...:
        if len(value) != len(args):
            raise ValueError(f"It takes {len(args)} values, here are {len(value)}.")
        return tuple(convert(item, arg) for item, arg in zip(value, args, strict=True))
    return kind(convert(item, args[0] if args else Any) for item in value)


def _convert_dataclass(value: Any, kind: type) -> Any:
    hints = get_type_hints(kind)
    if not isinstance(value, Mapping):
        raise ValueError
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise ValueError(f"It has no field '{unknown[0]}' (has: {', '.join(hints)}).")
    return kind(**{name: convert(item, hints[name]) for name, item in value.items()})


def show(value: Any) -> str:
    """A value as it is written on the command line: ``null``, ``true``, ``[1,2]``, ``'a b'``."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(show(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    text = str(value)
    bare = not isinstance(value, str) or re.fullmatch(r"[\w./:@+*%-]+", text)
    return text if bare else repr(text)


def _type_name(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "|".join(str(arg) for arg in args)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(arg) for arg in args)
    if origin in (list, tuple, dict):
        name = "dict" if origin is dict else "list"
        return f"{name}[{', '.join(_type_name(arg) for arg in args if arg is not ...)}]"
    return "null" if kind is types.NoneType else str(getattr(kind, "__name__", kind))
