"""What a lattice is given and is not what it should be: named, with the exit code, and no folder left.

Files of vectors and of pairs, and those of its model, are mutated in all ways of ``mutations.py``.
One variant of each kind; 25: ``pytest tests/faults/test_malformed_lattice.py -m full``.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults.mutations import MUTATIONS, outcome, unlogged, variants
from safetensors.torch import save_file

from tinsmith.cli import main
from tinsmith.families.lattice.config import ModelConfig
from tinsmith.families.lattice.data import GIVEN, LatticeSpec
from tinsmith.families.lattice.datasets import AutoencoderDataset
from tinsmith.families.lattice.model import Lattice
from tinsmith.families.lattice.pairs import load_pairs
from tinsmith.families.lattice.predict import ANSWERS, FILES, META, TEXTS, WEIGHTS, LatticePredictor
from tinsmith.families.lattice.vectors import load_vector_pairs, load_vectors
from tinsmith.sealed import seal
from tinsmith.text.teacher_config import TeacherConfig

__all__ = ["unlogged"]  # a fixture
pytestmark = pytest.mark.usefixtures("unlogged")

COUNTS = [pytest.param(1, id="fast"), pytest.param(25, id="full", marks=pytest.mark.full)]
Z = 6
PAIRS = [{"question": f"what is {word}?", "answer": f"it is {word}, said he"} for word in "abcdefgh"]


def vectors(count: int = 8, z: int = Z) -> torch.Tensor:
    return torch.randn(count, z, generator=torch.Generator().manual_seed(0))


def write(folder: Path) -> None:
    """A good file of each kind."""
    np.save(folder / "vectors.npy", vectors().numpy())
    np.save(folder / "pairs.npy", vectors(16).view(8, 2, Z).numpy())
    save_file({"vectors": vectors(), "other": vectors(2)}, folder / "vectors.safetensors")
    save_file({"question": vectors(), "answer": vectors()}, folder / "pairs.safetensors")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS), "utf-8")
    rows = [["question", "answer"], *([pair["question"], f'"{pair["answer"]}"'] for pair in PAIRS)]
    (folder / "pairs.csv").write_text("".join(",".join(row) + "\n" for row in rows), "utf-8")


READ: dict[str, Callable[[Path], Any]] = {
    "vectors.npy": lambda path: finite(load_vectors(path)),
    "vectors.safetensors": lambda path: finite(load_vectors(path)),
    "pairs.npy": lambda path: finite(*load_vector_pairs(path)),
    "pairs.safetensors": lambda path: finite(*load_vector_pairs(path)),
    "pairs.jsonl": lambda path: texts(load_pairs(path)),
    "pairs.csv": lambda path: texts(load_pairs(path)),
}


def finite(*found: torch.Tensor) -> None:
    for x in found:
        torch.testing.assert_close(x.norm(dim=-1), torch.ones(len(x)))


def texts(found: list[dict[str, Any]]) -> None:
    assert found
    assert all(pair[side].strip() for pair in found for side in ("question", "answer"))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", READ)
def test_mutated_data(tmp_path: Path, name: str, count: int) -> None:
    write(tmp_path)
    file = tmp_path / name
    good = file.read_bytes()
    READ[name](file)
    for kind, rng in variants(count, *MUTATIONS):
        file.write_bytes(MUTATIONS[kind](good, rng))
        outcome(f"{name}, {kind}", lambda: READ[name](file), 3, str(file))


def write_model(folder: Path) -> None:
    sizes = ModelConfig(size=(2, 2, 2), steps=1, channels=2, bottleneck=3)
    spec = LatticeSpec(Z, GIVEN, GIVEN, "mixed")
    meta = {"spec": vars_of(spec), "model": vars_of(sizes), "teacher": vars_of(TeacherConfig())}
    folder.mkdir()
    (folder / META).write_text(json.dumps(meta), "utf-8")
    save_file(Lattice(sizes, spec).state_dict(), folder / WEIGHTS)
    (folder / TEXTS).write_text(json.dumps([pair["answer"] for pair in PAIRS]), "utf-8")
    save_file({"vectors": AutoencoderDataset(vectors()).x}, folder / ANSWERS)
    seal(folder, FILES)


def vars_of(part: Any) -> dict[str, Any]:
    return {name: getattr(part, name) for name in part.__dataclass_fields__}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", FILES)
def test_mutated_model(tmp_path: Path, name: str, count: int) -> None:
    folder = tmp_path / "model"
    write_model(folder)
    good = (folder / name).read_bytes()

    def use() -> None:
        for answer in LatticePredictor.load(folder)([vectors(1)[0].tolist()]):
            json.dumps(answer, allow_nan=False)

    use()
    for kind, rng in variants(count, *MUTATIONS):
        (folder / name).write_bytes(MUTATIONS[kind](good, rng))
        seal(folder, FILES)  # what is behind the digests is tried here
        outcome(f"{name}, {kind}", use, 3, "lattice")


def broken(folder: Path) -> dict[str, tuple[list[str], int, str]]:
    """By what is wrong: the settings, the exit code, and what the message says."""
    for name, size in (("long", Z + 1), ("short", Z)):
        np.save(folder / f"{name}.npy", vectors(40, size).numpy())
    holed, zero = vectors(40).numpy(), vectors(40).numpy()
    holed[3, 2], zero[7] = np.nan, 0
    np.save(folder / "holed.npy", holed)
    np.save(folder / "zero.npy", zero)
    empty = [*PAIRS, {"question": "and then?", "answer": "  "}]
    (folder / "empty.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in empty), "utf-8")
    (folder / "columns.csv").write_text("q,answer\na,b\n", "utf-8")
    pairs, given = ["mode=dialogue"], ["data.source=file", "data.max_samples=0"]
    return {
        "another size": (
            [*given, f"data.path={folder}/short.npy", f"data.valid={folder}/long.npy"], 3, "have 7"
        ),
        "not a number": ([*given, f"data.path={folder}/holed.npy"], 3, "row 3 is not finite"),
        "all zeros": ([*given, f"data.path={folder}/zero.npy"], 3, "row 7 is all zeros"),
        "an empty answer": ([*pairs, f"dialogue_data.source_file={folder}/empty.jsonl"], 3, "empty.jsonl:9"),
        "no such column": (
            [*pairs, f"dialogue_data.source_file={folder}/columns.csv"], 3, "no field 'question'"
        ),
        "too large a cube": (["model.size=[40,8,8]"], 2, "model.size=[32,8,8]"),
        "too flat a cube": (["model.size=[1,8,8]"], 2, "model.size=[2,8,8]"),
        "too few steps": (["model.steps=5"], 2, "model.size=[6,8,8]"),
        "too many numbers": (
            [*given, f"data.path={folder}/short.npy", "model.bottleneck=6"], 2, "for example 2"
        ),
    }  # fmt: skip


WRONG = (
    "another size", "not a number", "all zeros", "an empty answer", "no such column", "too large a cube",
    "too flat a cube", "too few steps", "too many numbers",
)  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_run_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    words, code, message = broken(tmp_path)[wrong]
    runs = tmp_path / "runs"
    assert main(["train", "lattice", *words, "device=cpu", "--run-dir", str(runs), "--quiet"]) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not list(runs.glob("lattice/0*"))
