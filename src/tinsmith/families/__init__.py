"""The table of families. Names only: a family's code is imported when it is used."""

import importlib
import importlib.util
from types import ModuleType
from typing import TYPE_CHECKING

from tinsmith.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from tinsmith.engine.contract import Family

_NAMES = ("codec", "graph", "lattice", "lm", "seq2seq", "trm")
FAMILIES = {name: f"tinsmith.families.{name}" for name in _NAMES}


def check_family(name: str) -> str:
    """Return ``name`` if it is a family; raise ``ConfigError`` with the nearest name if not."""
    if name not in FAMILIES:
        raise ConfigError(
            f"no such family: '{name}'.{did_you_mean(name, FAMILIES)} All: {', '.join(FAMILIES)}."
        )
    return name


def config_type(name: str) -> type:
    """The family's config dataclass. Imports no torch."""
    config: type = importlib.import_module(FAMILIES[check_family(name)] + ".config").CONFIG
    return config


def load_family(name: str) -> "Family":
    """The family's recipe. Imports torch and what the family needs."""
    family: Family = importlib.import_module(FAMILIES[check_family(name)] + ".recipe").FAMILY
    return family


def optional_module(name: str, part: str, verb: str) -> ModuleType:
    """The module ``part`` of a family, which not every family has.

    Raises:
        ConfigError: this one has none: there is no ``verb`` for it.
    """
    module = f"{FAMILIES[name]}.{part}"
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"the family {name} has no {verb} yet")
    return importlib.import_module(module)
