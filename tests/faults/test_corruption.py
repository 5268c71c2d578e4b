"""A damaged file of a finished run is named and never used: bit flips, cuts and zeroed blocks of 4 KiB.

Over all files that something later trusts: checkpoints, ``model/``, the teacher's vectors, the table of
tokens, ``config.yaml``, ``run.json``. Damage may go unseen only where what is read is equal all the same.
The full count, 1,000: ``pytest tests/faults/test_corruption.py -m full``.
"""

import json
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from torch import Tensor

from tinsmith.compose import compose
from tinsmith.engine.checkpoint import find_checkpoints, read_checkpoint, read_newest
from tinsmith.errors import DataError, TinsmithError
from tinsmith.families.codec.predict import Codec
from tinsmith.runs import read_run_json, settings_file
from tinsmith.text.store import cached_token_table, open_store

pytest.importorskip("transformers")

from faults.tiny_run import finished_run

TEXTS = ["the tin smith", "mends old pots"]
MANIFESTS = ("MANIFEST.json", "manifest.json")


@dataclass(frozen=True)
class Target:
    """``files`` of a run, and ``load``, what somebody makes of them."""

    files: list[Path]
    load: Callable[[], Any]


def _flip(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _zero(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(0, len(data), 4096)
    return data[:at] + bytes(len(data[at : at + 4096])) + data[at + 4096 :]


DAMAGE = (_flip, _flip, _cut, _zero)


def plain(value: Any) -> Any:
    """A value that ``==`` compares bit for bit."""
    if isinstance(value, Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else repr(value)


@contextmanager
def warnings_of_tinsmith() -> Iterator[list[str]]:
    """What is logged, whatever the command line did to the loggers."""
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("tinsmith").addHandler(handler)
    try:
        yield told
    finally:
        logging.getLogger("tinsmith").removeHandler(handler)


@contextmanager
def damaged(file: Path, rng: random.Random) -> Iterator[str]:
    whole = file.read_bytes()
    how = rng.choice(DAMAGE)
    file.write_bytes(how(whole, rng))
    try:
        yield f"{file} ({how.__name__})"
    finally:
        file.write_bytes(whole)


def survey(target: Target, count: int, seed: int = 1) -> int:
    """Damage the target's files ``count`` times; returns how often that was found out, and fails if it was
    neither found out nor without effect."""
    rng, expected, found = random.Random(seed), plain(target.load()), 0
    for _ in range(count):
        file = rng.choice(target.files)
        with damaged(file, rng) as what, warnings_of_tinsmith() as told:
            try:
                assert plain(target.load()) == expected, f"silently wrong: {what}"
            except TinsmithError as error:
                told, found = [str(error)], found + 1
                assert error.exit_code in (2, 3)  # noqa: PT017
            # A manifest cannot say whether it is the damaged one; the folder that both lie in it can name.
            name = str(file.parent if file.name in MANIFESTS else file)
            assert not told or any(name in line for line in told), f"not named: {what}: {told}"
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("corruption"))


def newest(run: Path) -> Path:
    return find_checkpoints(run / "checkpoints")[0].path


def files_of(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file() and path.stat().st_size)


def checkpoint(run: Path) -> Target:
    folder = newest(run)
    return Target(files_of(folder), lambda: read_checkpoint(folder))


def model(run: Path) -> Target:
    def load() -> Any:
        codec = Codec.load(run)
        return (
            codec.encode(TEXTS),
            codec.encode(TEXTS, tier="static"),
            codec.tokenizer.fingerprint,
            codec.spec,
        )

    return Target(files_of(run / "model"), load)


def store(run: Path) -> Target:
    folder = next((run.parents[2] / "cache" / "vectors").iterdir())

    def load() -> Any:
        opened = open_store(folder)
        return np.asarray(opened.vectors), opened.fingerprint, opened._index

    return Target(files_of(folder), load)


def settings(run: Path) -> Target:
    return Target([run / "config.yaml"], lambda: compose("codec", [], settings_file(run)).values)


def record(run: Path) -> Target:
    names = list(read_run_json(run))  # a flip in the name "digest" leaves a field that nobody reads
    return Target([run / "run.json"], lambda: [read_run_json(run).get(name) for name in names])


TARGETS = {build.__name__: build for build in (checkpoint, model, store, settings, record)}
SHARES = {"checkpoint": 250, "model": 250, "store": 150, "settings": 100, "record": 100}  # and 150 below


@pytest.mark.parametrize("name", TARGETS)
def test_damage_is_found(run: Path, name: str) -> None:
    assert survey(TARGETS[name](run), 20) > 10


@pytest.mark.full
@pytest.mark.parametrize("name", TARGETS)
def test_damage_is_found_in_full(run: Path, name: str) -> None:
    assert survey(TARGETS[name](run), SHARES[name], seed=2) > 0.8 * SHARES[name]


@pytest.mark.parametrize("count", [15, pytest.param(100, marks=pytest.mark.full)])
def test_the_checkpoint_before_is_used(run: Path, count: int) -> None:
    root, rng = run / "checkpoints", random.Random(count)
    last = newest(run)
    before = next(item.path for item in find_checkpoints(root) if item.path != last)
    expected = {path: plain(read_checkpoint(path)) for path in (last, before)}
    used = []
    for _ in range(count):
        with damaged(rng.choice(files_of(last)), rng) as what, warnings_of_tinsmith() as told:
            found = read_newest(root)
        assert found is not None, what
        assert plain(found[1:]) == expected[found[0]], f"silently wrong: {what}"
        assert found[0] == last or any(str(last) in line for line in told), f"not named: {what}: {told}"
        used.append(found[0])
    assert used.count(before) > 0.8 * count


@pytest.mark.parametrize("field", ["run_id", "global_step", "saved_at", "best_here"])
def test_a_damaged_state_does_not_hide_the_checkpoint_before(run: Path, tmp_path: Path, field: str) -> None:
    root = copytree(run / "checkpoints", tmp_path / "checkpoints", symlinks=True)
    last = find_checkpoints(root)[0].path
    state = json.loads((last / "state.json").read_bytes())
    wrong = {"run_id": "ffffffff", "global_step": 9999, "saved_at": 9e9, "best_here": 9.0}
    (last / "state.json").write_text(json.dumps(state | {field: wrong[field]}))
    found = read_newest(root)
    assert found is not None
    assert found[0] != last


def test_nothing_whole_is_an_error_and_not_a_new_start(run: Path, tmp_path: Path) -> None:
    root = copytree(run / "checkpoints", tmp_path / "checkpoints", symlinks=True)
    for folder in (item.path for item in find_checkpoints(root)):
        (folder / "state.json").write_text("{")
    with pytest.raises(DataError, match="every checkpoint in"):
        read_newest(root)


class OtherTeacher:
    """Gives a table that is not the one in the cache."""

    fingerprint = "f" * 32

    def __init__(self, value: float) -> None:
        self.value = value

    def token_table(self, progress: object = None) -> Any:
        return np.full((40, 16), self.value, np.float32)


@pytest.mark.parametrize("count", [15, pytest.param(50, marks=pytest.mark.full)])
def test_a_damaged_table_of_tokens_is_computed_again(tmp_path: Path, count: int) -> None:
    rng = random.Random(count)
    cached_token_table(tmp_path, OtherTeacher(1.0))
    (file,) = files_of(tmp_path)
    for _ in range(count):
        with damaged(file, rng) as what, warnings_of_tinsmith() as told:
            assert (cached_token_table(tmp_path, OtherTeacher(2.0)) == 2).all(), f"silently wrong: {what}"
            assert any(str(file) in line for line in told)
            next(path for path in files_of(tmp_path) if path != file).unlink()
    assert (cached_token_table(tmp_path, OtherTeacher(2.0)) == 1).all()


def test_the_tester_finds_a_reader_without_digests(run: Path) -> None:
    folder = newest(run)

    def careless() -> Any:
        try:
            return [safetensors.torch.load(path.read_bytes()) for path in files_of(folder, "*.safetensors")]
        except safetensors.SafetensorError as error:  # a cut file it does see
            raise DataError(f"{folder}: {error}") from None

    with pytest.raises(AssertionError, match="silently wrong"):
        survey(Target(files_of(folder, "*.safetensors"), careless), 40)
