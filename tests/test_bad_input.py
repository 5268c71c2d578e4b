"""Bad data are named with file and line, end with exit code 3, and leave nothing behind."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tinsmith.cli import main

pytest.importorskip("transformers")

from text.tiny_teachers import save_model

SIZE = 16  # of the tiny teacher's vectors
GOOD = [{"text": f"the red tin number {i}"} for i in range(30)]


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def with_vectors(change: Callable[[list[float]], list[float]], at: int = 3) -> bytes:
    rows = [{**row, "teacher": [1.0] * SIZE} for row in GOOD]
    rows[at]["teacher"] = change(rows[at]["teacher"])  # type: ignore[arg-type, index]
    return lines(*rows)


CASES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "bad.jsonl: no records"),
    "only blank lines": (b"\n\n  \n", "bad.jsonl: no records"),
    "broken JSON": (lines(*GOOD[:6]) + b'{"text": "a"\n', "bad.jsonl:7"),
    "missing field": (
        lines(*GOOD[:4], {"sentence": "a"}),
        "bad.jsonl:5: no field 'text'; it has: 'sentence'",
    ),
    "empty text": (lines(*GOOD[:2], {"text": "  "}), "bad.jsonl:3: field 'text' is empty"),
    "not a text": (lines(*GOOD[:2], {"text": 5}), "bad.jsonl:3: field 'text' is a number"),
    "invalid UTF-8": (lines(*GOOD[:3]) + b'{"text": "caf\xe9"}\n', "bad.jsonl:4"),
    "a long line": (lines(*GOOD[:2], {"text": "a" * 2**24}), "bad.jsonl:3"),
    "NaN in a vector": (with_vectors(lambda v: [*v[1:], float("nan")]), "bad.jsonl:4"),
    "infinity in a vector": (with_vectors(lambda v: [float("inf"), *v[1:]]), "bad.jsonl:4"),
    "a vector of a wrong size": (
        with_vectors(lambda v: v[:7]),
        "bad.jsonl:4: field 'teacher' has 7 numbers, expected 16",
    ),
    "a vector that is missing": (
        lines({**GOOD[0], "teacher": [1.0] * SIZE}, *GOOD[1:]),
        "bad.jsonl:2: no field 'teacher'",
    ),
    "another teacher's vectors": (with_vectors(lambda v: v), "are not those of teacher.name="),
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("teacher"), "bert")


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


@pytest.mark.parametrize("case", CASES)
def test_bad_training_data(
    case: str,
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    content, message = CASES[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINSMITH_CACHE", str(tmp_path / "cache"))
    Path("bad.jsonl").write_bytes(content)
    words = [
        "train",
        "codec",
        "data.path=bad.jsonl",
        f"teacher.name={teacher}",
        "trainer.max_steps=2",
        "device=cpu",
    ]
    code = main(words)
    err = capfd.readouterr().err
    assert message in err
    assert code == 3
    assert "Traceback" not in err
    assert files(tmp_path) - {Path("cache")} <= given_only(case)


def given_only(case: str) -> set[Path]:
    """The file itself; the vectors of a teacher were whole and are kept, under their own digest, where only
    the comparison with the teacher failed."""
    kept = files(Path.cwd() / "cache") if case == "another teacher's vectors" else set()
    return {Path("bad.jsonl"), *(Path("cache") / path for path in kept)}


@pytest.mark.parametrize("split", ["valid", "test"])
def test_bad_held_out_data(
    split: str,
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINSMITH_CACHE", str(tmp_path / "cache"))
    Path("good.jsonl").write_bytes(lines(*GOOD))
    Path("bad.jsonl").write_bytes(lines({"text": "a"}, {"txt": "b"}))
    words = [f"data.{split}=bad.jsonl", *([] if split == "valid" else ["data.valid=good.jsonl"])]
    assert (
        main(["train", "codec", "data.path=good.jsonl", *words, f"teacher.name={teacher}", "device=cpu"]) == 3
    )
    assert "bad.jsonl:2: no field 'text'; it has: 'txt'" in capfd.readouterr().err
    assert files(tmp_path) == {Path("good.jsonl"), Path("bad.jsonl")}


def test_a_file_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sentences.jsonl").write_bytes(lines(*GOOD))
    assert main(["train", "codec", "data.path=sentence.jsonl", "device=cpu"]) == 3
    assert "Did you mean: sentences.jsonl?" in capfd.readouterr().err
    assert files(tmp_path) == {Path("sentences.jsonl")}


def test_bad_records_are_skipped_and_counted_where_asked(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINSMITH_CACHE", str(tmp_path / "cache"))
    Path("some.jsonl").write_bytes(lines(*GOOD[:9], {"txt": "b"}, *GOOD[9:]) + b"not json\n")
    words = [
        "data.path=some.jsonl",
        "data.on_bad_record=skip",
        f"teacher.name={teacher}",
        "data.valid_share=0.2",
    ]
    sizes = ["data.test_share=0.2", "trainer.max_steps=1", "model.dim=8", "device=cpu"]
    assert main(["train", "codec", *words, *sizes]) == 0
    assert "skipped 2 bad records; the first: some.jsonl:10" in capfd.readouterr().err
