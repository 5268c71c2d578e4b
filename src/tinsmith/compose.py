"""From a command line to a family's config: defaults < group files < ``-c`` file < command line.

The dataclasses of the family's ``config.py`` are the schema. ``conf/<group>/<choice>.yaml`` holds
differences, keys relative to the root; ``conf/config.yaml`` may choose groups by default. Every layer
passes the same check, and every value remembers where it came from. Imports no torch.

Hydra's parser reads the overrides, so that sweeps will speak the same grammar. Hydra's ``compose`` is not
used: it cannot put a file between the groups and the command line, nor say where a value came from.
"""

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from tinsmith.families import FAMILIES, check_family, config_type
from tinsmith.layers import Layers
from tinsmith.settings import settings_of
from tinsmith.yaml_file import to_yaml


@dataclass(frozen=True, slots=True)
class Resolved:
    """A family's config and where each of its values came from.

    ``values`` and ``origins`` go by dotted key; an origin is ``default``, ``preset=fast``, ``my.yaml:3`` or
    ``command line``. ``choices``: group -> the chosen file of it.
    """

    family: str
    cfg: Any
    values: dict[str, Any]
    origins: dict[str, str]
    choices: dict[str, str] = field(default_factory=dict)

    def to_yaml(self, comments: bool = False) -> str:
        """All values, in a form that ``-c`` accepts; with ``comments`` also their types and meanings."""
        chosen = "".join(f" {group}={choice}" for group, choice in self.choices.items())
        notes = _comments(type(self.cfg)) if comments else None
        return f"# tinsmith {self.family}{chosen}\n" + to_yaml(plain_values(self.values), notes)


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that YAML and JSON can hold: a dataclass in a list becomes a dict."""
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _comments(config: type) -> dict[str, str]:
    notes = {
        name: section.__doc__.partition("\n")[0]
        for name, section in get_type_hints(config).items()
        if is_dataclass(section) and section.__doc__ and "(" not in section.__doc__.partition(" ")[0]
    }
    for key, setting in settings_of(config).items():
        notes[key] = f"{setting.type_name}: {setting.help}" if setting.help else setting.type_name
    return notes


def groups_of(family: str) -> dict[str, dict[str, Path]]:
    """The group files of a family: group -> choice -> file."""
    conf = _conf(family)
    folders = sorted(path for path in conf.iterdir() if path.is_dir()) if conf.is_dir() else []
    groups = {folder.name: {file.stem: file for file in sorted(folder.glob("*.yaml"))} for folder in folders}
    return {group: files for group, files in groups.items() if files}


def _conf(family: str) -> Path:
    spec = importlib.util.find_spec(FAMILIES[check_family(family)])
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "conf"


def compose(family: str, overrides: Iterable[str] = (), config_file: Path | None = None) -> Resolved:
    """Put the layers together, check and validate them.

    Args:
        overrides: ``group=choice`` and ``dotted.key=value`` in Hydra's grammar.
        config_file: YAML with nested or dotted keys; a group may be chosen in it as ``preset: fast``.

    Raises:
        ConfigError: an unknown key, a wrong type, an unknown choice, a value that is not allowed. The
            message has the place and the nearest right name.
    """
    layers = Layers(family, config_type(family), groups_of(family))
    primary = _conf(family) / "config.yaml"
    first = layers.choose(layers.read_file(primary) if primary.is_file() else [], origin="config.yaml")
    from_file = layers.choose(layers.read_file(config_file) if config_file is not None else [])
    typed = [text for text in overrides if not layers.choose_typed(text)]
    for entry in (*first, *layers.group_entries(), *from_file):
        layers.take(entry)
    for text in typed:
        for entry in layers.read_override(text):
            layers.take(entry)
    return Resolved(family, layers.config(), layers.values, layers.origins, layers.choices)
