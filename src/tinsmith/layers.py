"""Layers of settings, each laid over the one below: the check that every value passes, and its messages.

A message says what is wrong, where it stands, what was probably meant, and where to look. Imports no torch.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from tinsmith.errors import ConfigError, TinsmithError, did_you_mean
from tinsmith.overrides import nearest, parse_value
from tinsmith.settings import Setting, build, convert, settings_of, show
from tinsmith.yaml_file import Entry, read_yaml

COMMAND_LINE = "command line"


class Layers:
    """The values so far, and the check that each new one passes."""

    def __init__(self, family: str, kind: type, groups: Mapping[str, Mapping[str, Path]]) -> None:
        self.family, self.kind, self.groups = family, kind, groups
        self.settings = settings_of(kind)
        self.values = {key: setting.default for key, setting in self.settings.items()}
        self.origins = dict.fromkeys(self.settings, "default")
        self.choices: dict[str, str] = {}

    def read_file(self, path: Path) -> list[Entry]:
        return read_yaml(path, self.settings)

    def choose(self, entries: Iterable[Entry], origin: str = "") -> list[Entry]:
        """Note the choices of groups among ``entries``; return the others (from ``origin``)."""
        others = []
        for entry in entries:
            if entry.key == "defaults" and isinstance(entry.value, list):  # Hydra's list in config.yaml
                chosen = [item for item in entry.value if isinstance(item, dict)]
                pairs = [replace(entry, key=key, value=item[key]) for item in chosen for key in item]
                others += self.choose(pairs, origin)
            elif entry.key in self.groups and not isinstance(entry.value, dict):
                self.choices[entry.key] = self._check_choice(entry)
            else:
                others.append(replace(entry, origin=origin or entry.origin))
        return others

    def choose_typed(self, text: str) -> bool:
        """Whether an override of the command line chooses from a group; notes the choice."""
        key, equals, _ = text.partition("=")
        if key not in self.groups or not equals:
            return False
        value = parse_value(text, None)
        return not self.choose([Entry(key, value, COMMAND_LINE, f"from the {COMMAND_LINE}")])

    def group_entries(self) -> Iterator[Entry]:
        """What the chosen group files set."""
        for group, choice in self.choices.items():
            for entry in self.read_file(self.groups[group][choice]):
                yield replace(entry, origin=f"{group}={choice}")

    def read_override(self, text: str) -> Iterator[Entry]:
        """The entries of one override: several where a section gets a mapping."""
        key, equals, raw = text.partition("=")
        where = f"from the {COMMAND_LINE}"
        if key[:1] in ("+", "~"):
            self._refuse_sign(key, raw)
        if not equals:
            self._refuse_bare(text)
        self._check_known(key, where)
        value = parse_value(text, self._setting(key))
        for name, item in _flatten(key, value, self.settings):
            yield Entry(name, item, COMMAND_LINE, where)

    def take(self, entry: Entry) -> None:
        """Check an entry's key and type, and take its value."""
        empty = entry.value in ("", "null", "~") and entry.origin != COMMAND_LINE
        if empty and entry.key in self._sections():  # a file's "trainer:" with nothing below it
            return
        self._check_known(entry.key, entry.where)
        if f"{entry.key}.name" in self.settings and not isinstance(entry.value, dict):
            entry = replace(entry, key=f"{entry.key}.name")  # teacher=minilm means teacher.name=minilm
        key, setting = entry.key, self._setting(entry.key)
        if setting is None:
            self._refuse_section(entry)
        try:
            value = convert(entry.value, setting.kind)
        except ValueError as error:
            self._refuse_type(entry, setting, str(error))
        if key not in self.settings:
            key, _, name = key.rpartition(".")
            value = {**self.values[key], name: value}
        self.values[key], self.origins[key] = value, entry.origin

    def config(self) -> Any:
        """Build the dataclass and let it check what goes across settings."""
        try:
            cfg = build(self.kind, self.values)
            cfg.validate()
        except ValueError as error:
            where = "".join(self._places(str(error)))
            kind = type(error) if isinstance(error, TinsmithError) else ConfigError
            raise kind(f"{error}{where}") from None
        return cfg

    def _places(self, message: str) -> Iterator[str]:
        for key, origin in self.origins.items():
            if origin != "default" and re.search(rf"(?<![\w.]){re.escape(key)}(?!\.?\w)", message):
                yield f" ({key}: {origin})"

    def _setting(self, key: str) -> Setting | None:
        """The setting of a key; an item of a dict (``data.columns.text``) is one too."""
        outer = self.settings.get(key.rpartition(".")[0])
        if key not in self.settings and outer and get_origin(outer.kind) is dict:
            return Setting(key, get_args(outer.kind)[1], None, outer.owner)
        return self.settings.get(key)

    def _sections(self) -> set[str]:
        return {key.rpartition(".")[0] for key in self.settings} - {""}

    def _see(self) -> str:
        return f"See: tinsmith config show {self.family}"

    def _now(self, key: str) -> str:
        return f"now {show(self.values.get(key))}"

    def _check_known(self, key: str, where: str) -> None:
        if self._setting(key) or key in self.groups or key in self._sections():
            return
        near = nearest(key, [*self.settings, *self.groups])
        hint = ""
        if near and near in self.groups:
            hint = f" Did you mean: {near} ({' | '.join(self.groups[near])})?"
        elif near:
            hint = f" Did you mean: {near} ({self.settings[near].type_name}, {self._now(near)})?"
        raise ConfigError(
            f"unknown setting '{key}' ({where}).{hint}  See: tinsmith config show {self.family}"
        )

    def _check_choice(self, entry: Entry) -> str:
        every = self.groups[entry.key]
        if entry.value not in every:
            raise ConfigError(
                f"{entry.key}={entry.value}: no such {entry.key} for {self.family} ({entry.where})."
                f"{did_you_mean(str(entry.value), every)} All: {', '.join(every)}."
            )
        return str(entry.value)

    def _refuse_sign(self, key: str, raw: str) -> NoReturn:
        sign, name = key[0], key.lstrip("+~")
        near = name if name in self.settings else nearest(name, [*self.settings, *self.groups])
        if sign == "~":
            raise ConfigError(
                f"'{key}': '~' deletes a setting; every setting has a value, and tinsmith does not allow it. "
                f"Leave {near or 'it'} out to use its default."
            )
        hint = f" Did you mean {near}={raw}?" if near else f" {self._see()}"
        raise ConfigError(
            f"'{key}={raw}': '+' adds keys that no code reads; tinsmith does not allow it.{hint}"
        )

    def _refuse_bare(self, text: str) -> NoReturn:
        hints = [f"{group}={text}" for group, files in self.groups.items() if text in files]
        hints += ["-c " + text] if text.endswith((".yaml", ".yml")) else []
        near = nearest(text, self.settings)
        hints += [f"{near}={self.settings[near].example}"] if near else []
        hint = f" Did you mean: {hints[0]}?" if hints else ""
        raise ConfigError(f"'{text}' is not a setting: write key=value, without spaces.{hint}  {self._see()}")

    def _refuse_section(self, entry: Entry) -> NoReturn:
        names = [key for key in self.settings if key.startswith(entry.key + ".")]
        raise ConfigError(
            f"'{entry.key}' is a section, not a setting ({entry.where}). It has: {', '.join(names)}."
        )

    def _refuse_type(self, entry: Entry, setting: Setting, why: str) -> NoReturn:
        origin, name = self.origins.get(entry.key, "default"), setting.type_name
        source = f"the default of {setting.owner.__name__}" if origin == "default" else f"from {origin}"
        kind = f"one of {name}" if "|" in name else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
        hint = did_you_mean(str(entry.value), name.split("|")) if "|" in name else f" {why}".rstrip()
        place = "" if entry.origin == COMMAND_LINE else f"{entry.where}: "
        raise ConfigError(
            f"{place}{entry.key}={_quoted(entry.value)} is not {kind} "
            f"({self._now(entry.key)}, {source}).{hint} Example: {entry.key}={setting.example}"
        )


def _quoted(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else show(value)


def _flatten(key: str, value: Any, keys: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and key not in keys:
        for name, item in value.items():
            yield from _flatten(f"{key}.{name}", item, keys)
    else:
        yield key, value
