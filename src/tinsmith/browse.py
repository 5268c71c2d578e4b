"""The verbs that look and do not train: ``runs``, ``config``, ``doctor``. None imports torch but doctor."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinsmith import console
from tinsmith.compose import Resolved, compose, groups_of, plain_values
from tinsmith.errors import ConfigError, did_you_mean
from tinsmith.families import FAMILIES, check_family
from tinsmith.run_view import config_of, default_config, differences, metrics_of, next_commands, row
from tinsmith.runs import Run, find_run, list_runs, open_run, remove_run
from tinsmith.settings import settings_of, show

Action = Callable[[argparse.Namespace, list[str]], int]


def runs(args: argparse.Namespace) -> int:
    """``tinsmith runs ls | show RUN | diff RUN RUN | rm RUN``."""
    return _act("runs", {"ls": _ls, "show": _show, "diff": _diff, "rm": _rm}, args.words or ["ls"], args)


def config(args: argparse.Namespace) -> int:
    """``tinsmith config show FAMILY | list FAMILY [GROUP] | init FILE FAMILY``."""
    return _act(
        "config", {"show": _config_show, "list": _config_list, "init": _config_init}, args.words, args
    )


def doctor(args: argparse.Namespace) -> int:
    """``tinsmith doctor``: exit code 5 if something keeps tinsmith from working."""
    from tinsmith.doctor import describe, examine

    found = examine()
    console.result(describe(found), found)
    return 5 if found["problems"] else 0


def _act(verb: str, actions: dict[str, Action], words: list[str], args: argparse.Namespace) -> int:
    if not words or words[0] not in actions:
        what = f"'{words[0]}' is not one of" if words else "one of these must follow:"
        near = did_you_mean(words[0], actions) if words else ""
        raise ConfigError(f"tinsmith {verb}: {what} {', '.join(actions)}.{near}  See: tinsmith {verb} --help")
    return actions[words[0]](args, words[1:])


def _found(args: argparse.Namespace, words: list[str], count: int, verb: str) -> list[Run]:
    if len(words) != count:
        example = " ".join(["last", "codec/0001"][:count])
        raise ConfigError(f"runs {verb} takes {count} run{'s' * (count > 1)}: tinsmith runs {verb} {example}")
    return [open_run(find_run(word, args.run_dir)) for word in words]


def _ls(args: argparse.Namespace, words: list[str]) -> int:
    found = [run for run in list_runs(args.run_dir) if not words or run.path.parent.name in words]
    rows = [row(run) for run in found]
    empty = f"no runs in {args.run_dir}/ yet. Start one: tinsmith train {next(iter(FAMILIES))}"
    console.result(console.table(rows) if rows else empty, rows)
    return 0


def _show(args: argparse.Namespace, words: list[str]) -> int:
    run = _found(args, words, 1, "show")[0]
    config, defaults = config_of(run.path), default_config(run.path.parent.name)
    known = {key: value for key, value in defaults.items() if key in config}  # not what came after the run
    changed = differences(config, known, ("value", "default"))
    metrics, commands = metrics_of(run), next_commands(run)
    parts = [f"{run.path}\n{console.table([row(run)])}"]
    if changed:
        parts.append("settings that differ from the defaults\n" + console.table(changed))
    if metrics:
        parts.append(console.table({"metric": name, "value": value} for name, value in metrics.items()))
    parts.append("next\n" + "\n".join(f"  {command}" for command in commands))
    data = {"path": str(run.path), "run": run.record, "status": run.status, "changed": changed}
    console.result("\n\n".join(parts), data | {"metrics": metrics, "next": commands})
    return 0


def _diff(args: argparse.Namespace, words: list[str]) -> int:
    a, b = _found(args, words, 2, "diff")
    settings = differences(config_of(a.path), config_of(b.path), (a.id, b.id))
    metrics = differences(metrics_of(a), metrics_of(b), (a.id, b.id))
    text = [console.table(settings) if settings else "the settings are equal"]
    text.append(console.table(metrics) if metrics else "the metrics are equal")
    console.result("\n\n".join(text), {"settings": settings, "metrics": metrics})
    return 0


def _rm(args: argparse.Namespace, words: list[str]) -> int:
    run = _found(args, words, 1, "rm")[0]
    if not args.yes and not _agrees(f"remove {run.path} ({run.status})? [y/N] "):
        console.say("nothing was removed")
        return 0
    remove_run(run.path, args.run_dir)
    console.result(f"removed {run.path}", {"removed": str(run.path)})
    return 0


def _agrees(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("runs rm asks before it removes, and nobody can answer here. Add --yes.")
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _config_show(args: argparse.Namespace, words: list[str]) -> int:
    resolved = _composed(args, words, "show")
    values = plain_values(resolved.values)
    rows = [
        {"setting": key, "value": show(value), "from": resolved.origins[key]} for key, value in values.items()
    ]
    chosen = "".join(f" {group}={choice}" for group, choice in resolved.choices.items())
    console.result(f"{resolved.family}{chosen}\n\n{console.table(rows)}", _described(resolved, values))
    return 0


def _described(resolved: Resolved, values: dict[str, Any]) -> dict[str, Any]:
    table = settings_of(type(resolved.cfg))
    settings = [
        {
            "key": key,
            "value": value,
            "from": resolved.origins[key],
            "type": table[key].type_name,
            "help": table[key].help,
        }
        for key, value in values.items()
    ]
    return {"family": resolved.family, "choices": resolved.choices, "settings": settings}


def _composed(args: argparse.Namespace, words: list[str], action: str) -> Resolved:
    family = next((word for word in words if "=" not in word), None)
    if family is None:
        raise ConfigError(f"which family? tinsmith config {action} {next(iter(FAMILIES))}")
    rest = list(words)
    rest.remove(check_family(family))
    return compose(family, rest, args.config)


def _config_list(args: argparse.Namespace, words: list[str]) -> int:
    families = [check_family(words[0])] if words else list(FAMILIES)
    rows = [
        {"family": family, "choice": f"{group}={choice}", "about": _about(path)}
        for family in families
        for group, files in groups_of(family).items()
        for choice, path in files.items()
        if len(words) < 2 or group == words[1]
    ]
    if len(words) > 1 and not rows:
        groups = groups_of(words[0])
        near = did_you_mean(words[1], groups)
        raise ConfigError(f"{words[0]} has no group '{words[1]}'.{near} All: {', '.join(groups) or 'none'}.")
    console.result(console.table(rows) if rows else "no groups", rows)
    return 0


def _about(path: Path) -> str:
    """The first comment of a group file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = (line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line)
    return next(comments, "")


def _config_init(args: argparse.Namespace, words: list[str]) -> int:
    files = [word for word in words if word.endswith((".yaml", ".yml")) and "=" not in word]
    if len(files) != 1:
        raise ConfigError(f"which file? tinsmith config init my.yaml {next(iter(FAMILIES))}")
    path = Path(files[0])
    words.remove(files[0])
    resolved = _composed(args, words, f"init {path}")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(resolved.to_yaml(comments=True))
    except FileExistsError:
        raise ConfigError(f"{path} is there already; nothing is overwritten. Choose another name.") from None
    except FileNotFoundError:
        raise ConfigError(f"cannot write {path}: there is no folder {path.parent}.") from None
    say = f"wrote {path}. Use it: tinsmith train {resolved.family} -c {path}"
    console.result(say, {"file": str(path), "family": resolved.family})
    return 0
