"""The command line: ``tinsmith VERB [FAMILY] [group=choice] [dotted.key=value] [--flag]``.

Each verb imports what it needs when it runs: help and a wrong setting are answered without torch. Exit
codes: 0 ok, 1 bug, 2 usage or config, 3 data, 4 diverged, 5 check failed, 6 missing extra, 7 resources,
130 interrupted.
"""

import argparse
import contextlib
import difflib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tinsmith import console, verbs
from tinsmith._version import __version__
from tinsmith.errors import ConfigError, did_you_mean
from tinsmith.families import FAMILIES
from tinsmith.verbs import Session

WELCOME = f"""\
tinsmith {__version__}: train small models on one machine, never lose a run, use what you trained.

  tinsmith train codec preset=demo  train on the embedded data, offline, in minutes
  tinsmith eval last                its numbers, beside those of the baselines
  tinsmith config show codec        every setting and where its value comes from

verbs     train  resume  eval  predict  chat  export  bench  report  runs  config  doctor
families  {"  ".join(FAMILIES)}
settings  group=choice and dotted.key=value, such as trainer.epochs=5
help      tinsmith VERB --help
"""


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb: its function, its line of help, what follows it, its flags and an example."""

    run: Callable[[argparse.Namespace, Session], int]
    help: str
    words: str
    flags: tuple[str, ...]
    example: str


FLAGS: dict[str, dict[str, Any]] = {
    "--config": {"metavar": "FILE", "type": Path, "help": "YAML settings, laid over the presets"},
    "--run-dir": {
        "metavar": "DIR",
        "default": "runs",
        "help": "where runs live, as DIR/FAMILY/NNNN",
    },
    "--device": {"metavar": "NAME", "help": "auto, cpu, cuda, cuda:1 or mps: the same as device=NAME"},
    "--dry-run": {"action": "store_true", "help": "two steps and a validation, then stop; leaves nothing"},
    "--nproc": {"metavar": "N", "type": int, "default": 1, "help": "processes that share every batch"},
    "--hosts": {"metavar": "N", "type": int, "default": 1, "help": "hosts, each with --nproc processes"},
    "--host-rank": {"metavar": "I", "type": int, "default": 0, "help": "the number of this host, from 0"},
    "--head": {"metavar": "NAME:PORT", "default": "", "help": "the first host, and any free port of it"},
    "--split": {"default": "test", "help": "the part of the data: test (default) or valid"},
    "--require": {
        "metavar": "BAR",
        "action": "append",
        "help": '"cosine>=0.9": exit 5 if missed; repeatable',
    },
    "--output": {"metavar": "FILE", "default": "-", "help": "where the answers go (default: stdout)"},
    "--yes": {"action": "store_true", "help": "do not ask"},
    "--quiet": {"action": "store_true", "help": "results, warnings and errors only"},
    "--json": {"action": "store_true", "help": "machine lines on stdout, all else on stderr"},
    "--debug": {"action": "store_true", "help": "tracebacks and the library's whole log"},
}
PROCESSES = ("--nproc", "--hosts", "--host-rank", "--head")
SHORT = {"--config": "-c", "--output": "-o", "--quiet": "-q"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; return its exit code. Never raises."""
    words = list(sys.argv[1:] if argv is None else argv)
    session = Session()
    try:
        with _sigterm_like_ctrl_c():
            code = _dispatch(words, session)
        sys.stdout.flush()  # a reader that has gone is noticed here, and not when the interpreter ends
        return code
    except SystemExit as done:  # argparse after --help
        return int(done.code or 0)
    except BaseException as error:
        from tinsmith.failures import handle

        return handle(error, session.run_dir, "--debug" in words)


@contextlib.contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """SIGTERM before and after a training, which has its own handler, ends as Ctrl-C does: exit code 130."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt("ended by SIGTERM.")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _dispatch(words: list[str], session: Session) -> int:
    if not words:
        console.say(WELCOME.rstrip())
        return 0
    if words[0] in ("--help", "-h", "help") and len(words) == 1:
        console.say(_help())
        return 0
    if words[0] == "--version":
        console.say(f"tinsmith {__version__}")
        return 0
    if words[0] == "help":
        words = [words[1], "--help"]
    at = next((i for i, word in enumerate(words) if not word.startswith("-")), 0)
    name = words.pop(at)
    verb = VERBS.get(name) or _refuse_verb(name)
    args = _parse(name, verb, words)
    args.argv = ["tinsmith", name, *words]
    console.configure(quiet=args.quiet, json_lines=args.json, debug=args.debug)
    return verb.run(args, session)


def _refuse_verb(name: str) -> NoReturn:
    if name in FAMILIES:
        raise ConfigError(f"'{name}' is a family; the verb comes first: tinsmith train {name}")
    raise ConfigError(f"no such verb: '{name}'.{did_you_mean(name, VERBS)} All: {', '.join(VERBS)}.")


def _help() -> str:
    verbs = "\n".join(f"  {name:<9}{verb.words:<38}{verb.help}" for name, verb in VERBS.items())
    codes = __doc__.partition("Exit\ncodes: ")[2].rstrip() if __doc__ else ""
    return f"{WELCOME}\n{verbs}\n\nexit codes: {' '.join(codes.split())}"


class _Parser(argparse.ArgumentParser):
    """argparse whose mistakes are ours to explain."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. See: {self.prog} --help")


def _parse(name: str, verb: Verb, words: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog=f"tinsmith {name}",
        usage=f"tinsmith {name} {verb.words} [--flag]",
        description=verb.help + ".",
        epilog=f"example: {verb.example}",
        allow_abbrev=False,
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    flags = (*verb.flags, "--quiet", "--json", "--debug")
    for flag in flags:
        parser.add_argument(*filter(None, (SHORT.get(flag), flag)), **FLAGS[flag])
    args, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        _refuse_flag(name, unknown[0], flags)
    return args


def _refuse_flag(name: str, flag: str, flags: tuple[str, ...]) -> NoReturn:
    """A mistyped flag, or a setting that was written like one."""
    from tinsmith.engine.config import RunConfig
    from tinsmith.overrides import nearest
    from tinsmith.settings import settings_of

    word, _, value = flag.partition("=")
    near = difflib.get_close_matches(word, flags, n=1, cutoff=0.7)
    setting = nearest(word.strip("-").replace("-", "_"), settings_of(RunConfig))
    hint = f" Did you mean: {near[0]}?" if near else ""
    if not near and setting:
        hint = f" Settings are written without dashes: {setting}={value or 'VALUE'}"
    raise ConfigError(f"{name} has no flag '{word}'.{hint}  See: tinsmith {name} --help")


def _browse(name: str) -> Callable[[argparse.Namespace, Session], int]:
    """A verb of ``browse.py``, imported when it runs."""

    def verb(args: argparse.Namespace, session: Session) -> int:
        from tinsmith import browse

        code: int = getattr(browse, name)(args)
        return code

    return verb


VERBS = {
    "train": Verb(
        verbs.train,
        "train a family; a new run is a new folder",
        "FAMILY [group=choice] [key=value]",
        ("--config", "--run-dir", "--device", "--dry-run", *PROCESSES),
        "tinsmith train codec trainer.max_minutes=3 optimizer.lr=3e-3",
    ),
    "resume": Verb(
        verbs.resume,
        "go on with a run where its last checkpoint stands, in the same folder",
        "RUN [key=value]",
        ("--run-dir", "--device", *PROCESSES),
        "tinsmith resume last trainer.epochs=20",
    ),
    "eval": Verb(
        verbs.evaluate,
        "measure a trained model beside its baselines",
        "RUN",
        ("--run-dir", "--split", "--require"),
        'tinsmith eval codec/0007 --split test --require "cosine>=0.9"',
    ),
    "predict": Verb(
        verbs.predict,
        "answer each line of a file or of stdin",
        "RUN [FILE]",
        ("--run-dir", "--output"),
        "tinsmith predict last sentences.txt -o answers.jsonl",
    ),
    "chat": Verb(
        verbs.chat,
        "type to a model that writes text, and watch the answer grow",
        "RUN",
        ("--run-dir",),
        "tinsmith chat last",
    ),
    "export": Verb(
        verbs.export,
        "write a trained model in another program's format, and check it",
        "RUN [format=NAME] [quant=int8]",
        ("--run-dir", "--output"),
        "tinsmith export last format=st",
    ),
    "bench": Verb(
        verbs.bench,
        "samples a second, milliseconds of one, and memory of a trained model",
        "RUN",
        ("--run-dir",),
        "tinsmith bench codec/0007",
    ),
    "report": Verb(
        verbs.report,
        "write one HTML page of a run, or of several side by side",
        "RUN [RUN ...]",
        ("--run-dir",),
        "tinsmith report codec/0006 codec/0007",
    ),
    "runs": Verb(
        _browse("runs"),
        "list, show, compare or remove runs",
        "ls | show RUN | diff RUN RUN | rm RUN",
        ("--run-dir", "--yes"),
        "tinsmith runs diff codec/0006 last",
    ),
    "config": Verb(
        _browse("config"),
        "show, list or write down the settings of a family",
        "show | list | init FILE  FAMILY ...",
        ("--config",),
        "tinsmith config init my.yaml codec trainer.epochs=5",
    ),
    "doctor": Verb(_browse("doctor"), "what this machine offers, what is missing", "", (), "tinsmith doctor"),
}
