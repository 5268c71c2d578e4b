"""``tinsmith export RUN format=NAME [quant=int8]``: a trained model in other programs' formats.

A family that can be exported has a module ``export`` with ``FORMATS`` and ``export``, and a module ``probe``
with ``texts``. The exported folder holds a report of how near the copy comes; beyond its tolerance the
command fails.
"""

import argparse
from pathlib import Path
from typing import Any

from tinsmith import console
from tinsmith.errors import CheckError, ConfigError, did_you_mean
from tinsmith.families import optional_module

_KEYS = ("format", "quant")
_QUANTS = ("none", "int8")
_TEXTS = 256  # that both encode for the report


def export(args: argparse.Namespace, folder: Path) -> int:
    """Export a run.

    Raises:
        ConfigError: an unknown key, format or quantisation, or a family that has no formats.
        CheckError: the copy is further from the original than its format allows; it is there all the same.
    """
    from tinsmith.compose import compose
    from tinsmith.runs import read_run_json, settings_file

    wanted = _settings(args.words[1:])
    family = read_run_json(folder)["family"]
    exporter = optional_module(family, "export", "export")
    form = wanted.get("format", "safetensors")
    if form not in exporter.FORMATS:
        known = ", ".join(exporter.FORMATS)
        raise ConfigError(f"format={form} is not known.{did_you_mean(form, exporter.FORMATS)} All: {known}.")
    quant = wanted.get("quant", "none")
    name = form if quant == "none" else f"{form}-{quant}"
    target = Path(args.output) if args.output != "-" else folder / "export" / name
    probe = optional_module(family, "probe", "export")
    texts = probe.texts(compose(family, [], settings_file(folder)).cfg, _TEXTS)
    report: dict[str, Any] = exporter.export(folder, target, form, quant == "int8", texts)
    shown = [{"measure": key, "value": value} for key, value in report.items() if key != "failed"]
    console.result(f"wrote {target}\n{console.table(shown)}", {"folder": str(target), **report})
    if report["failed"]:
        raise CheckError(f"the copy in {target} differs too much: {'; '.join(report['failed'])}.")
    return 0


def _settings(words: list[str]) -> dict[str, str]:
    """The ``key=value`` words of the command."""
    found: dict[str, str] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or key not in _KEYS:
            raise ConfigError(
                f"export takes no '{word}'.{did_you_mean(key, _KEYS)} It takes format=NAME and quant=int8."
            )
        found[key] = value
    quant = found.get("quant", "none")
    if quant not in _QUANTS:
        near = did_you_mean(quant, _QUANTS)
        raise ConfigError(f"quant={quant} is not known.{near} All: {', '.join(_QUANTS)}.")
    return found
