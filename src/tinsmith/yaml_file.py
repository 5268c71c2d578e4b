"""YAML settings with the line of each, in and out. What a plain word means, the setting's type decides."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from tinsmith.errors import ConfigError, did_you_mean
from tinsmith.settings import Plain


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
        ConfigError: not YAML, not a mapping, or a key that stands twice.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
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
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: this is not YAML: {' '.join(str(error).split())}.") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = [file.name for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(f"config file {path} not found.{did_you_mean(path.name, near)}") from None
    except (IsADirectoryError, PermissionError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config file {path}: {error}.") from None


def _entries(node: yaml.MappingNode, prefix: str, path: str, keys: Container[str]) -> Iterator[Entry]:
    seen: dict[str, int] = {}
    for key_node, value in node.value:
        key, line = prefix + str(key_node.value), key_node.start_mark.line + 1
        if key in seen:
            raise ConfigError(f"{path}:{line}: '{key}' stands twice, here and in line {seen[key]}.")
        seen[key] = line
        if isinstance(value, yaml.MappingNode) and key not in keys:
            yield from _entries(value, key + ".", path, keys)
        else:
            yield Entry(key, _value(value), f"{path}:{line}", f"{path}:{line}")


def _value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _value(item) for key, item in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_value(item) for item in node.value]
    return node.value if node.style else Plain(node.value)


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
