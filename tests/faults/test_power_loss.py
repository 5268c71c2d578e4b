"""After a power loss at any instant of a save, whatever the disk then holds, the old or the new loads.

A kill cannot show a missing sync, since the page cache survives it: here the recorded calls are replayed onto
the weak disk of crash_states.py.
The full counts: pytest tests/faults/test_power_loss.py -m full
"""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import scenarios, shim
from faults.crash_states import HALF, NONE, ZEROS, Recording, Tree, lay_out
from faults.scenarios import Replace, Scenario, Write, write
from faults.shim import Op

from tinsmith.durable import replace_bytes, sync_folder, write_synced


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[shim.Call]:
    with shim.watched_process(tmp_path_factory.mktemp("shim")) as function:
        yield function


def replay(name: str, folder: str, cap: int) -> tuple[int, int, list[str]]:
    """Load from up to ``cap`` crash states, and save. Returns how many there are, how many were tried, and
    what is wrong.
    """
    home = Path(folder)
    scenario: Scenario = (globals().get(name) or getattr(scenarios, name))(home / "base")
    recording = Recording(home / "base", home / "case", scenarios.record(scenario, home))
    assert recording.saved_at is not None
    states = list(recording.states())
    chosen = states if len(states) <= cap else random.Random(0).sample(states, cap)
    problems = []
    for saved, tree in chosen:
        lay_out(tree, home / "crashed")
        scenario.ready()
        if problem := scenario.wrong(home / "crashed", saved) or scenarios.again(scenario, home / "crashed"):
            problems.append(f"{problem} from {describe(tree)}")
    return len(states), len(chosen), problems


def describe(tree: Tree) -> str:
    return ", ".join(f"{k}{'' if v is None else f' ({len(v)})'}" for k, v in sorted(tree.items()))


# ---- planted bugs: savers that must be caught --------------------------------------------------------


class NoFileSync(Replace):
    """A temporary file and a rename, as most trainers do it."""

    def act(self, root: Path) -> None:
        temporary = root / ".tmp"
        temporary.write_bytes(self.content(self.new))
        temporary.replace(root / "a.json")
        sync_folder(root)


class NoFolderSync(Replace):
    """Says ok while the rename is in memory only."""

    def act(self, root: Path) -> None:
        temporary = root / ".tmp"
        write_synced(temporary, self.content(self.new))
        temporary.replace(root / "a.json")


class ManifestFirst(Write):
    """One folder for every save, the manifest first: each file is replaced whole, the whole is not."""

    def prepare(self, root: Path) -> None:
        write(root, 1).rename(root / "step-one")

    def act(self, root: Path) -> None:
        made = write(root.parent / "elsewhere", self.new)
        for file in sorted(made.iterdir()):  # capitals first: MANIFEST.json
            replace_bytes(root / "step-one" / file.name, file.read_bytes())
        shutil.rmtree(made)


# ---- in pytest ----------------------------------------------------------------------------------------

FAST = {"Write": 30, "First": 20, "Save": 40, "Prune": 20, "Replace": 20}  # states that are tried


@pytest.mark.parametrize("name", FAST)
def test_a_power_loss_loses_nothing(call: shim.Call, tmp_path: Path, name: str) -> None:
    states, tried, problems = call(replay, name, str(tmp_path), FAST[name])
    assert tried == min(states, FAST[name]) > 5
    assert problems == []


@pytest.mark.full
@pytest.mark.parametrize("name", FAST)
def test_no_power_loss_loses_anything(call: shim.Call, tmp_path: Path, name: str) -> None:
    states, tried, problems = call(replay, name, str(tmp_path), 5000)
    print(f"{name}: {tried} of {states} states")
    assert problems == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("InPlace", "the file holds b''"),
        ("NoFileSync", r"the file holds b''"),
        ("NoFolderSync", "the file holds b'111'"),
        ("ManifestFirst", "nothing loads"),
    ],
)
def test_a_bad_saver_is_caught(call: shim.Call, tmp_path: Path, name: str, message: str) -> None:
    problems = call(replay, name, str(tmp_path), 50)[-1]
    assert any(message in problem for problem in problems)


# ---- the model of the disk ------------------------------------------------------------------------------


def op(call: str, path: str, other: str = "", data: bytes = b"") -> Op:
    return Op(call, path, other, 0, data)


def states(base: Path, ops: list[Op]) -> set[tuple[bool, str, bytes | None]]:
    """Whether it had said ok, and the names and contents of the one or two files."""
    found = Recording(base, Path("/r"), ops).states()
    return {(saved, " ".join(sorted(tree)), tree.get("b")) for saved, tree in found}  # type: ignore[misc]


def test_what_is_not_synced_may_be_missing_in_any_way(tmp_path: Path) -> None:
    ops = [op("create", "/r/a"), op("write", "/r/a", data=b"1234"), op("rename", "/r/a", "/r/b")]
    ops += [op("mark", "saved")]
    contents = {b"1234", b"12", b"\0\0\0\0", b""}
    expected = {(True, "b", content) for content in contents}  # also where only the rename got there
    expected |= {(done, name, None) for done in (False, True) for name in ("", "a")}
    assert states(tmp_path, ops) == expected


def test_what_is_synced_is_there(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"old")
    ops = [op("create", "/r/a"), op("write", "/r/a", data=b"1234"), op("fsync", "/r/a")]
    ops += [op("rename", "/r/a", "/r/b"), op("fsync", "/r"), op("mark", "saved"), op("unlink", "/r/b")]
    after = {(True, "b", b"1234"), (True, "", None)}
    assert states(tmp_path, ops) == after | {
        (False, "b", b"old"),
        (False, "a b", b"old"),
        (False, "b", b"1234"),
    }


def test_a_synced_file_in_an_unsynced_folder_may_be_gone(tmp_path: Path) -> None:
    ops = [op("mkdir", "/r/b"), op("create", "/r/b/c"), op("fsync", "/r/b/c"), op("fsync", "/r")]
    assert {tuple(sorted(tree)) for _, tree in Recording(tmp_path, Path("/r"), ops).states()} == {
        (),
        ("b",),
        ("b", "b/c"),
    }


@pytest.mark.parametrize(("fate", "left"), [(NONE, b"old!"), (HALF, b"ned!"), (ZEROS, b"\0\0\0\0")])
def test_fates_of_an_overwrite(tmp_path: Path, fate: str, left: bytes) -> None:
    (tmp_path / "b").write_bytes(b"old!")
    assert (False, "b", left) in states(tmp_path, [op("write", "/r/b", data=b"new.")])
