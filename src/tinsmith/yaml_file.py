"""YAML settings with the line of each, in and out. What a plain word means, the setting's type decides."""

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from tinsmith.errors import ConfigError, did_you_mean
from tinsmith.settings import Plain

_LARGEST = 1 << 20  # bytes; settings are a page, and reading YAML is slow
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")}
_TAGS |= {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value", "tag:yaml.org,2002:merge"}  # plain words


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of one layer. ``origin`` is for tables, ``where`` for messages."""

    key: str
    value: Any
    origin: str
    where: str


def read_yaml(path: Path, keys: Container[str]) -> list[Entry]:
    """The settings of a YAML file by dotted key, each with its ``file:line``; see ``parse_yaml``."""
    return parse_yaml(_read(path), str(path), keys)


def parse_yaml(text: str, path: str, keys: Container[str]) -> list[Entry]:
    """The settings of a YAML text by dotted key, each with its ``path:line``.

    Args:
        keys: known settings; a mapping that stands at one is its value and not a section.

    Raises:
        ConfigError: not YAML, not a mapping, a key that stands twice, a tag, or an alias.
    """
    try:
        root = yaml.compose(text, Loader=_Loader)
        if root is None:
            return []
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{path}:1: the file must hold 'key: value' lines, such as 'seed: 42'.")
        return list(_entries(root, "", path, keys))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        what = " ".join(filter(None, (error.problem, error.context)))
        raise ConfigError(f"{path}:{line}: this is not YAML: {what}.") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{path}:{line}: this is not YAML: the character {error.character:#06x}: {error.reason}."
        ) from None
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:  # '\\UFFFFFFFF' the last
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: this is not YAML: {' '.join(str(error).split())}.") from None


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """YAML without what settings do not need: aliases (nested ones grow without bound)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            problem = f"'*{event.anchor}' is not filled in here: write the value itself"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ConfigError(f"{path}: over {_LARGEST >> 20} MiB: this is no file of settings.")
        return _decoded(path, data)
    except FileNotFoundError:
        near = [file.name for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(f"config file {path} not found.{did_you_mean(path.name, near)}") from None
    except (IsADirectoryError, PermissionError, NotADirectoryError) as error:
        raise ConfigError(f"cannot read the config file {path}: {error}.") from None


def _decoded(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise ConfigError(f"{path}:{line}: cannot read the config file: {what}; save it as UTF-8.") from None


def _entries(node: yaml.MappingNode, prefix: str, path: str, keys: Container[str]) -> Iterator[Entry]:
    for name, line, value in _pairs(node, prefix, path):
        key = prefix + name
        if isinstance(value, yaml.MappingNode) and key not in keys:
            yield from _entries(value, key + ".", path, keys)
        else:
            yield Entry(key, _value(value, path), f"{path}:{line}", f"{path}:{line}")


def _pairs(node: yaml.MappingNode, prefix: str, path: str) -> Iterator[tuple[str, int, yaml.Node]]:
    """The keys of a mapping, each with its line and its value."""
    _refuse_tag(node, path)
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{path}:{line}: a key is a word, not a list or a mapping.")
        _refuse_tag(key, path)
        name = str(key.value)
        if name in seen:
            raise ConfigError(f"{path}:{line}: '{prefix}{name}' stands twice, here and in line {seen[name]}.")
        seen[name] = line
        yield name, line, value


def _value(node: yaml.Node, path: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {name: _value(item, path) for name, _, item in _pairs(node, "", path)}
    _refuse_tag(node, path)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, path) for item in node.value]
    if not str(node.value).isascii() and re.search("[\ud800-\udfff]", node.value):
        raise ConfigError(f"{path}:{node.start_mark.line + 1}: half a surrogate pair is no text.")
    return node.value if node.style else Plain(node.value)


def _refuse_tag(node: yaml.Node, path: str) -> None:
    """A tag such as ``!!python/object`` asks for what is never done here; not to say so would hide it."""
    if node.tag not in _TAGS:
        name = node.tag.replace("tag:yaml.org,2002:", "!!")
        raise ConfigError(
            f"{path}:{node.start_mark.line + 1}: '{name}' is not read here: write a plain value."
        )


def to_yaml(values: Mapping[str, Any], comments: Mapping[str, str] | None = None) -> str:
    """Write settings (dotted key -> plain value) as nested YAML.

    Args:
        comments: text for the end of a setting's line, or for the line above a section.
    """
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, leaf = key.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[leaf] = (value,)  # a tuple marks a leaf: a dict may be a setting's value
    return "\n".join(_lines(tree, "", comments or {})) + "\n"


def _lines(tree: dict[str, Any], prefix: str, comments: Mapping[str, str]) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for name, item in tree.items():
        comment = comments.get(prefix + name)
        if isinstance(item, tuple):
            yield f"{indent}{name}: {_flow(item[0])}" + (f"  # {comment}" if comment else "")
            continue
        if comment:
            yield f"\n{indent}# {comment}"
        yield f"{indent}{name}:"
        yield from _lines(item, prefix + name + ".", comments)


def _flow(value: Any) -> str:
    """One value on one line."""

    def dump(allow_unicode: bool) -> str:
        form = {"default_flow_style": True, "width": float("inf"), "allow_unicode": allow_unicode}
        return str(yaml.safe_dump([value], **form)).strip()[1:-1]

    text = dump(allow_unicode=True)
    return text if text.isprintable() else dump(allow_unicode=False)  # a raw U+0085 is read back as a space
