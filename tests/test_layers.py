"""Imports go down only: only a rule that is tested keeps cycles out (docs: ARCHITECTURE.md)."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinsmith.families import FAMILIES

SOURCE = Path(__file__).parent.parent / "src" / "tinsmith"
FILES = sorted(SOURCE.rglob("*.py"))
# From the ground up. What is not named (cli, run, report, serve, compose, ...) is above all of them.
LAYERS = [
    {"_lazy", "_version", "errors", "durable", "launched"},
    {"sealed"},
    {"engine", "nn", "text"},
    {"retrieval"},
    {"families"},
]
NAMES = {"codec", "lattice", "graph", "seq2seq", "lm", "trm", *FAMILIES}
TORCH_FREE = {
    "_lazy",
    "engine",
    "engine.config",
    "families",
    "report",
}  # packages, and what they hold at once
TORCH_FREE |= {path.stem for path in SOURCE.glob("*.py")} - {"run", "__init__"}
TORCH_FREE |= {
    name.removeprefix("tinsmith.") + part for name in FAMILIES.values() for part in ("", ".config")
}


def unit(module: str) -> str:
    """``tinsmith.engine.optim`` -> ``engine``; a family is its own unit: ``families.codec``."""
    parts = module.split(".")[1:]
    return ".".join(parts[: 2 if parts[:1] == ["families"] else 1])


def layer(name: str) -> int:
    found = [level for level, names in enumerate(LAYERS) if name.split(".")[0] in names]
    return found[0] if found else len(LAYERS)


def module_of(path: Path) -> str:
    return ".".join(("tinsmith", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """All modules of tinsmith that a file imports, inside functions too, as absolute names."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("tinsmith."))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = importlib.util.resolve_name("." * node.level + base, package)
            if base == "tinsmith":
                yield from (f"tinsmith.{alias.name}" for alias in node.names)
            elif base.startswith("tinsmith."):
                yield base


def test_imports_go_down_only() -> None:
    wrong = []
    for path in FILES:
        here = unit(module_of(path))
        for target in map(unit, imports(path)):
            # `families` is the table alone, ground for each family; families do not know each other.
            same_level = layer(target) == layer(here) < len(LAYERS) and target not in (here, "families")
            if layer(target) > layer(here) or same_level:
                wrong.append(f"{path.relative_to(SOURCE)} imports {target}")
    assert not wrong


def test_the_engine_knows_no_family() -> None:
    wrong = []
    for path in (SOURCE / "engine").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            words = [getattr(node, field, None) for field in ("id", "attr", "name", "arg", "value")]
            if NAMES & set(words):
                wrong.append(f"{path.name}:{getattr(node, 'lineno', 0)}")
    assert not wrong


def test_no_file_is_a_catch_all() -> None:
    assert not [path for path in FILES if path.stem in ("utils", "util", "helpers", "base", "misc", "common")]


@pytest.mark.parametrize("module", sorted(TORCH_FREE))
def test_no_torch_at_module_level(module: str) -> None:
    code = f"import sys, tinsmith.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
