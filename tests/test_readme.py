"""What the README and the families' pages tell a reader to type, runs: commands and Python."""

import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from tinsmith.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "src/tinsmith/families").glob("*/README.md"))]
SENTENCES = [
    "the red tin",
    "a smith mends old pots",
    "his house is good",
    "iron cups and pots",
    "her new house",
]
# A reader's run takes minutes; here each command is the same but for the size of its run and the teacher.
COMMON = [
    "trainer.max_steps=2",
    "trainer.max_minutes=0",
    "device=cpu",
]
SHARES = ["data.valid_share=0.2", "data.test_share=0.2"]
TRANSFORMER = ["model.dim=8", "model.num_heads=2", "model.num_layers=1", "data.vocab_size=300"]
TINY = {
    "codec": [*SHARES, "model.dim=8", "model.dilations=[1]", "teacher.name=teacher"],
    "graph": ["model.dim=8", "model.num_layers=1", "dataset.count=8"],
    "lattice": [
        *SHARES,
        *("model.size=[3,2,2]", "model.steps=3", "model.channels=2", "model.bottleneck=4"),
        *("data.max_samples=40", "dialogue_data.max_pairs=40", "teacher.name=teacher"),
    ],
    "lm": [*SHARES, *TRANSFORMER, "data.context=32", "data.stride=0"],
    "seq2seq": [*SHARES, *TRANSFORMER],
    "trm": ["data.train=40", "data.valid=8", "data.test=8"],
}
# What a command without data of its own reads.
PATHLESS = {"graph": [], "seq2seq": ["data.pairs=200"], "trm": []}
RINGS = [{"num_nodes": 8, "edges": [[i, (i + 1) % 8] for i in range(8)]}] * 2


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def commands(page: Path) -> list[str]:
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [line for line in lines if re.search(r"(^|\| )tinsmith ", line)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages speak of, and a cache of its own."""
    pytest.importorskip("transformers")
    from text.tiny_teachers import save_model

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINSMITH_CACHE", str(tmp_path / "cache"))
    save_model(tmp_path / "teacher", "bert")
    rows = [{"text": f"{text} {other}"} for text in SENTENCES for other in SENTENCES]
    (tmp_path / "sentences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for name in ("sentences.txt", "questions.txt"):
        (tmp_path / name).write_text("\n".join(SENTENCES), "utf-8")
    pairs = "".join(f"{text} {other},{other} {text}\n" for text in SENTENCES for other in SENTENCES)
    (tmp_path / "pairs.csv").write_text(f"question,answer\n{pairs}", "utf-8")
    (tmp_path / "puzzles.txt").write_text("1.3..4.2.1.34.2.\n", "utf-8")
    (tmp_path / "gaps.jsonl").write_text('{"code": "def f(x):\\n    return ___", "context": "f"}\n', "utf-8")
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).standard_normal((60, 32), np.float32))
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES) * 20, "utf-8")
    for name in ("train.de", "train.en"):
        (tmp_path / name).write_text("\n".join(f"{a} {b}" for a in SENTENCES for b in SENTENCES), "utf-8")
    (tmp_path / "graphs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in RINGS), "utf-8")
    (tmp_path / "my.yaml").write_text("trainer:\n  epochs: 2\n", "utf-8")
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_commands_run(page: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = commands(page)
    assert lines
    for line in lines:
        words = shlex.split(line.rpartition("| ")[2], comments=True)[1:]
        if words[0] == "train":
            given = any(word.startswith("data.path=") for word in words)
            data = [] if given else PATHLESS.get(words[1], ["data.path=sentences.jsonl"])
            words += [*TINY[words[1]], *COMMON, *data]
        if words[0] == "eval" and "--require" in words:
            words[words.index("--require") + 1] = "cosine>=-1"
        if "| tinsmith" in line:
            text = (here / "sentences.txt").read_bytes()
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
        assert main(words) == 0, line


def test_python_runs(here: Path) -> None:
    first, second = blocks(ROOT / "README.md", "python")
    exec(first, {})  # the README's own text
    assert main(["train", "codec", *TINY["codec"], *COMMON, "data.path=sentences.jsonl"]) == 0
    exec(second, {})


def test_tree_names_every_file() -> None:
    """Each module stands in the README's tree by its name, or inside a folder that is told of as a whole."""
    tree = (ROOT / "README.md").read_text("utf-8").partition("## The tree")[2]
    whole = ("text", "report", "families", "nn")
    for path in (ROOT / "src" / "tinsmith").rglob("*.py"):
        parts = path.relative_to(ROOT / "src" / "tinsmith").parts
        if parts[0] not in whole and not path.name.startswith("_"):
            assert path.name in tree, path
