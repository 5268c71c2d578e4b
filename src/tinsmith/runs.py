"""Run folders: ``runs/<family>/<NNNN>[-name]/`` with a ``run.json``. Imports no torch.

A new run is always a new folder, and a number is never given twice, not even after ``runs rm``: each
number is claimed by creating ``.ids/<NNNN>`` exclusively, which is atomic among processes.
"""

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import xxhash

from tinsmith._version import __version__
from tinsmith.compose import Resolved
from tinsmith.console import to_json
from tinsmith.durable import make_folder, replace_bytes, sync_folder
from tinsmith.errors import ConfigError, DataError, did_you_mean
from tinsmith.text.digests import value_digest

_FOLDER = re.compile(r"(\d{4,})(?:-(.+))?")
_SEAL = b"# xxh3-128 of all that follows this line: "
# What the code builds on; the rest of a record is for people.
_KINDS = {"family": (str,), "status": (str,), "pid": (int,), "best": (dict, type(None))}
_RESUMABLE = ("trainer.", "logger.", "resources.", "threads", "device")  # what a resume may change


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder and what its ``run.json`` says."""

    path: Path
    record: dict[str, Any]

    @property
    def number(self) -> int:
        match = _FOLDER.fullmatch(self.path.name)
        return int(match[1]) if match else 0

    @property
    def name(self) -> str:
        match = _FOLDER.fullmatch(self.path.name)
        return (match[2] or "") if match else ""

    @property
    def id(self) -> str:
        return f"{self.path.parent.name}/{self.path.name.partition('-')[0]}"

    @property
    def status(self) -> str:
        """The recorded status, or ``killed`` if it says running and that process is gone."""
        status = str(self.record.get("status", "unknown"))
        return "killed" if status == "running" and not _is_alive(self.record) else status


def new_run(root: str | Path, family: str, name: str = "") -> Path:
    """Create the folder of a new run and point the family's ``last`` link at it."""
    parent = Path(root) / family
    ids = parent / ".ids"
    make_folder(ids)
    used = [int(file.name) for file in ids.iterdir() if file.name.isdigit()]
    number = max([*used, *(run.number for run in _scan(parent))], default=0) + 1
    while True:
        with contextlib.suppress(FileExistsError):
            (ids / f"{number:04d}").open("x").close()
            break
        number += 1
    folder = parent / (f"{number:04d}-{name}" if name else f"{number:04d}")
    folder.mkdir()
    sync_folder(parent)
    _link_last(parent)
    return folder


def _link_last(parent: Path) -> None:
    """Renew the link for people's eyes; nothing here reads it, so a file system without links is fine."""
    runs, link = _scan(parent), parent / f".last.{os.getpid()}"
    with contextlib.suppress(OSError):
        if runs:
            link.symlink_to(runs[-1].path.name)
            link.replace(parent / "last")
        else:
            (parent / "last").unlink()


def start_run(root: str | Path, resolved: Resolved, argv: list[str]) -> Path:
    """Create the folder of a new run, with its record and its settings."""
    cfg = resolved.cfg
    folder = new_run(root, resolved.family, cfg.name)
    write_run_json(folder, **first_record(folder, argv, cfg.seed, cfg.device))
    write_settings(folder, resolved)
    return folder


def write_settings(folder: Path, resolved: Resolved) -> None:
    """Write ``config.yaml``; its first line is a digest of the others, for ``settings_file``."""
    text = resolved.to_yaml().encode()
    replace_bytes(folder / "config.yaml", _SEAL + xxhash.xxh3_128_hexdigest(text).encode() + b"\n" + text)


def settings_file(folder: Path) -> Path:
    """The ``config.yaml`` of a run, as the run wrote it. One without a digest is taken as it is.

    Raises:
        ConfigError: it was changed since, by hand or by a damaged disk: it may describe another run.
    """
    path = folder / "config.yaml"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}. The run's settings are there.") from None
    first, _, rest = data.partition(b"\n")
    if first.startswith(_SEAL) and first != _SEAL + xxhash.xxh3_128_hexdigest(rest).encode():
        raise ConfigError(
            f"{path} was changed since the run wrote it: its digest differs. Undo the change; what a resume "
            f"may change goes on the command line: tinsmith resume {folder} trainer.epochs=20. To go on with "
            "the file as it is now, take its first line out."
        )
    if all(line.startswith(b"#") or not line.strip() for line in data.splitlines()):
        raise ConfigError(f"{path} holds no settings: it was cut.")
    return path


def first_record(folder: Path, argv: list[str], seed: int, device: str) -> dict[str, Any]:
    """The fields of ``run.json`` that are known when a run starts."""
    run = Run(folder, {})
    versions = {"python": platform.python_version(), "tinsmith": __version__}
    with contextlib.suppress(metadata.PackageNotFoundError):
        versions["torch"] = metadata.version("torch")
    return {
        "id": run.id,
        "family": folder.parent.name,
        "name": run.name,
        "argv": argv,
        "status": "running",
        **process_record(),
        "git": _git(),
        "versions": versions,
        "seed": seed,
        "device": device,
        "started": now(),
    }


def check_resumable(before: Resolved, after: Resolved) -> None:
    """Raise ``ConfigError`` if the settings ``after`` make another run of the one ``before``."""
    changed = [key for key, value in after.values.items() if before.values.get(key) != value]
    for key in changed:
        if not key.startswith(_RESUMABLE):
            raise ConfigError(
                f"a resume cannot change {key} (from {before.values.get(key)} to {after.values[key]}): "
                "it would be another run. Allowed: trainer.*, logger.*, threads, device. "
                f"A new run: tinsmith train {before.family} {key}={after.values[key]}"
            )


def process_record() -> dict[str, Any]:
    """The fields by which a live run is told from a killed one; written at the start and at a resume."""
    return {"pid": os.getpid(), "pid_started": _process_start(os.getpid()), "host": platform.node()}


def now() -> str:
    """The time of day with its offset, ISO 8601: what ``started`` and ``ended`` hold."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def write_run_json(folder: Path, **fields: Any) -> None:
    """Put ``fields`` into ``run.json``: whole or not at all, also when the power fails."""
    path = folder / "run.json"
    record = json.loads(to_json((read_run_json(folder) if path.exists() else {}) | fields))
    text = json.dumps({**record, "digest": value_digest(record)}, indent=2)
    replace_bytes(path, (text + "\n").encode())


def read_run_json(folder: Path) -> dict[str, Any]:
    """What ``run.json`` holds; it has its own digest. One without is taken as it is.

    Raises:
        DataError: it is missing, damaged or changed.
    """
    path = folder / "run.json"
    family = folder.absolute().parent.name
    mend = f'Mend it, or make it {{"family": "{family}"}}: the run itself is in checkpoints/.'
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        digest = record.pop("digest", None) if isinstance(record, dict) else None
        changed = digest is not None and digest != value_digest(record)
    except FileNotFoundError:
        raise DataError(f"{folder} is not a run folder: it has no run.json.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}: {error}. {mend}") from None
    if not isinstance(record, dict):
        raise DataError(f"{path} is damaged: it does not hold an object. {mend}")
    if changed:
        raise DataError(f"{path} is damaged or was changed: its digest differs. {mend}")
    wrong = [name for name, kinds in _KINDS.items() if not isinstance(record.get(name, kinds[0]()), kinds)]
    if wrong:
        raise DataError(f"{path} is damaged: '{wrong[0]}' is {record[wrong[0]]!r:.40}. {mend}")
    return {"family": family, **record}


def list_runs(root: str | Path = "runs") -> list[Run]:
    """All runs below ``root``, oldest first. One whose ``run.json`` is unreadable has an empty record."""
    folders = sorted(path for path in Path(root).glob("*") if path.is_dir())
    return sorted((run for folder in folders for run in _records(folder)), key=_age)


def _records(parent: Path) -> list[Run]:
    return [open_run(run.path) for run in _scan(parent)]


def open_run(folder: Path) -> Run:
    """The run of a folder, with an empty record if its ``run.json`` is unreadable."""
    try:
        return Run(folder, read_run_json(folder))
    except DataError:
        return Run(folder, {})


def _age(run: Run) -> tuple[float, int]:
    try:
        return datetime.fromisoformat(str(run.record.get("started"))).timestamp(), run.number
    except (ValueError, OverflowError):
        return run.path.stat().st_mtime, run.number


def _scan(parent: Path) -> list[Run]:
    folders = [path for path in parent.glob("*") if _FOLDER.fullmatch(path.name)]
    return sorted(
        (Run(path, {}) for path in folders if path.is_dir() and not path.is_symlink()),
        key=lambda run: run.number,
    )


def find_run(spec: str, root: str | Path = "runs") -> Path:
    """The folder that ``spec`` means: ``last``, ``codec/last``, ``codec/0007``, ``7``, a name, or a path.

    ``last`` is found by scanning: the link of that name is never read.

    Raises:
        ConfigError: there is no such run, or several.
    """
    path = Path(spec)
    if path.name != "last" and (path / "run.json").is_file():
        return path
    runs = list_runs(root)
    family, _, word = spec.rstrip("/").rpartition("/")
    if family:  # a family below the root, or the path of its folder
        runs = [run for run in runs if run.path.parent == Path(root) / family] or _records(Path(family))
    found = runs[-1:] if word == "last" else [run for run in runs if _is_called(run, word)]
    if len(found) == 1:
        return found[0].path
    if found:
        every = ", ".join(run.id for run in found)
        raise ConfigError(f"'{spec}' means several runs: {every}. Give one of these.")
    raise _no_run(spec, root)


def _is_called(run: Run, word: str) -> bool:
    return word in (run.path.name, run.name) or (word.isdigit() and int(word) == run.number)


def _no_run(spec: str, root: str | Path) -> ConfigError:
    known = list_runs(root)
    if not known:
        return ConfigError(
            f"no run '{spec}' in {root}/. There are none yet. Start one: tinsmith train FAMILY"
        )
    near = did_you_mean(spec, [name for run in known for name in (run.id, run.name) if name])
    newest = ", ".join(run.id for run in known[:-4:-1])
    return ConfigError(f"no run '{spec}' in {root}/.{near} Newest: {newest}. All: tinsmith runs ls")


def remove_run(folder: Path, root: str | Path) -> None:
    """Delete a run's folder; its number is not given again.

    Raises:
        ConfigError: it lies outside of ``root``, is not a run folder, or is running.
    """
    parent = folder.parent
    inside = parent.parent.resolve() == Path(root).resolve() and _FOLDER.fullmatch(folder.name)
    if not inside or folder.is_symlink() or parent.is_symlink():
        raise ConfigError(f"{folder} is not a run folder of {root}/: nothing was removed.")
    run = open_run(folder)
    if run.status == "running":
        raise ConfigError(f"{run.id} is running (process {run.record.get('pid')}): stop it first.")
    doomed = parent / f".removed-{folder.name}"
    folder.rename(doomed)  # from here on the run is gone, even if the process dies half-way
    shutil.rmtree(doomed)
    _link_last(parent)


def _git() -> dict[str, Any] | None:
    """Commit and dirty flag of the current folder, None outside of a repository."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "--no-optional-locks", "status", "--porcelain=v2", "--branch"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "")
    return {"commit": commit, "dirty": any(not line.startswith("#") for line in lines)}


def _process_start(pid: int) -> str | None:
    """When the process started, in clock ticks since boot: tells a process from a later one of its number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _is_alive(record: dict[str, Any]) -> bool:
    pid = record.get("pid")
    if not isinstance(pid, int) or not 0 < pid < 1 << 31 or record.get("host") not in (None, platform.node()):
        return True  # another machine's process: nothing can be said against it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    started = record.get("pid_started")
    return started is None or _process_start(pid) == started
