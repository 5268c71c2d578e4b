"""The verbs that train and use a model. Each checks what it was given before it imports torch."""

import argparse
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinsmith import console, launched
from tinsmith.errors import ConfigError, DataError, did_you_mean
from tinsmith.families import FAMILIES, check_family

if TYPE_CHECKING:
    from tinsmith.launch import Place


@dataclass(slots=True)
class Session:
    """What a verb shares with ``main``: the run folder that it writes, once there is one."""

    run_dir: Path | None = None


def train(args: argparse.Namespace, session: Session) -> int:
    """``tinsmith train FAMILY [group=choice] [key=value]``."""
    from tinsmith.compose import compose
    from tinsmith.runs import start_run

    family, overrides = _family(args)
    resolved = compose(family, [*overrides, *_device(args)], args.config)
    if (place := _several(args)) is not None:
        from tinsmith.launch import launch

        return launch(args.argv[1:], place)
    from tinsmith import run

    with tempfile.TemporaryDirectory() if args.dry_run else nullcontext(args.run_dir) as root:

        def make_folder() -> Path:
            folder = start_run(root, resolved, args.argv)
            session.run_dir = None if args.dry_run else folder
            return folder

        return run.train(family, resolved.cfg, make_folder, args.dry_run)


def resume(args: argparse.Namespace, session: Session) -> int:
    """``tinsmith resume RUN [key=value]``."""
    from tinsmith.compose import compose
    from tinsmith.runs import check_resumable, open_run, settings_file

    folder = _run_folder(args, "resume")
    overrides = [*args.words[1:], *_device(args)]
    started = open_run(folder)
    if started.status == "running" and not launched.rank():  # rank 0 says so of itself to the others
        raise ConfigError(f"{folder} is running (process {started.record.get('pid')}): stop it first.")
    if (folder / "config.yaml").is_file():  # a wrong setting is answered before torch is imported
        family = started.record.get("family", folder.parent.name)
        settings = settings_file(folder)
        check_resumable(compose(family, [], settings), compose(family, overrides, settings))
    if (place := _several(args)) is not None:
        from tinsmith.launch import launch

        return launch(args.argv[1:], place)
    from tinsmith import run

    session.run_dir = None if launched.rank() else folder
    return run.resume(folder, overrides)


def evaluate(args: argparse.Namespace, session: Session) -> int:
    """``tinsmith eval RUN [--split NAME] [--require BAR]``."""
    from tinsmith.overrides import parse_requirement

    require = [str(parse_requirement(text)) for text in args.require or ()]
    _refuse_extra(args.words[1:], "eval", ("split", "require"))
    folder = _run_folder(args, "eval")
    from tinsmith import run

    return run.evaluate(folder, args.split, require)


def predict(args: argparse.Namespace, session: Session) -> int:
    """``tinsmith predict RUN [FILE] [-o FILE]``; ``-`` is stdin or stdout."""
    _refuse_extra(args.words[2:], "predict", ("output",))
    folder = _run_folder(args, "predict")
    source = args.words[1] if len(args.words) > 1 else "-"
    if source != "-" and not Path(source).is_file():
        near = did_you_mean(source, [str(path) for path in Path(source).parent.glob("*")])
        raise DataError(f"input file {source} not found.{near} Use - for stdin.")
    if source == "-" and sys.stdin.isatty():
        console.warn("reading lines from the terminal; Ctrl-D ends them")
    from tinsmith import run

    return run.predict(folder, source, args.output)


def chat(args: argparse.Namespace, session: Session) -> int:
    """``tinsmith chat RUN``."""
    _refuse_extra(args.words[1:], "chat", ())
    folder = _run_folder(args, "chat")
    from tinsmith import run

    return run.chat(folder)


def report(args: argparse.Namespace, session: Session) -> int:
    """``tinsmith report RUN [RUN ...]``."""
    from tinsmith.runs import find_run

    _run_folder(args, "report")
    folders = [find_run(word, args.run_dir) for word in args.words]
    from tinsmith.report import write_report

    path = write_report(folders)
    console.result(f"wrote {path}", {"report": str(path)})
    return 0


def export(args: argparse.Namespace, session: Session) -> int:
    """``tinsmith export RUN format=NAME [quant=int8] [-o FOLDER]``."""
    from tinsmith import exporting

    return exporting.export(args, _run_folder(args, "export"))


def bench(args: argparse.Namespace, session: Session) -> int:
    """``tinsmith bench RUN``."""
    from tinsmith import benching

    _refuse_extra(args.words[1:], "bench", ())
    return benching.bench(args, _run_folder(args, "bench"))


def _family(args: argparse.Namespace) -> tuple[str, list[str]]:
    """The family among the words of a command line, and the other words: settings."""
    name = next((word for word in args.words if "=" not in word), None)
    if name is None:
        example = next(iter(FAMILIES))
        raise ConfigError(f"which family? All: {', '.join(FAMILIES)}. Example: tinsmith train {example}")
    if name not in FAMILIES and ("/" in name or name == "last"):
        raise ConfigError(f"'{name}' is not a family. To go on with a run: tinsmith resume {name}")
    words = list(args.words)
    words.remove(check_family(name))
    return name, words


def _several(args: argparse.Namespace) -> "Place | None":
    """Where this host stands, if several processes are to be started and this is not one of them."""
    if launched.is_launched() or args.nproc == args.hosts == 1:
        return None
    from tinsmith.launch import Place

    place = Place(args.nproc, args.hosts, args.host_rank, args.head)
    place.validate()
    return place


def _device(args: argparse.Namespace) -> list[str]:
    return [f"device={args.device}"] if args.device else []


def _run_folder(args: argparse.Namespace, verb: str) -> Path:
    """The run that the first word names."""
    from tinsmith.runs import find_run

    if not args.words:
        raise ConfigError(f"which run? tinsmith {verb} last, or one of: tinsmith runs ls")
    return find_run(args.words[0], args.run_dir)


def _refuse_extra(words: list[str], verb: str, flags: tuple[str, ...]) -> None:
    if words:
        key, _, value = words[0].partition("=")
        hint = f" Did you mean: --{key} {value}?" if key in flags else ""
        raise ConfigError(f"{verb} takes no '{words[0]}'.{hint}  See: tinsmith {verb} --help")
