"""A run of each family that is small enough for a test: its settings, and the data they need in a folder."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from text.tiny_teachers import WORDS, save_model

from tinsmith.compose import compose
from tinsmith.engine.configured import build_trainer
from tinsmith.engine.contract import Data, Family, Task
from tinsmith.engine.seed import set_seed
from tinsmith.engine.trainer import Trainer
from tinsmith.families import FAMILIES, load_family
from tinsmith.families.trm.sudoku import generate, show

COMMON = ["device=cpu", "threads=1", "trainer.log_every=1", "logger.tensorboard=false"]


def sentences(count: int) -> list[str]:
    """Different sentences of the words that the tiny teachers know."""
    return [f"{WORDS[i % 20]} {WORDS[i // 20 % 20]} {WORDS[(i + i // 7) % 20]} tin" for i in range(count)]


def codec(folder: Path) -> list[str]:
    """A tiny teacher and a few sentences of two domains."""
    save_model(folder / "teacher", "bert")
    rows = [{"text": text, "domain": "ab"[i % 2]} for i, text in enumerate(sentences(96))]
    parts = {"path": rows[:64], "valid": rows[64:80], "test": rows[80:]}
    words = [f"teacher.name={folder}/teacher", f"data.cache={folder}/cache"]
    for key, part in parts.items():
        file = folder / f"{key}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in part), "utf-8")
        words.append(f"data.{key}={file}")
    return [*words, "model.dim=8", "model.dilations=[1,2]", "trainer.batch_size=8", "trainer.max_steps=12"]


def codec_first_loss(task: Any, batch: Any) -> float:
    """At the start the student is the weighted mean of the teacher's vectors of single tokens."""
    table, weight = task.model.table.weight, task.model.log_weight.weight.exp()
    cosines = []
    for row, keep, z in zip(batch["tokens"], batch["mask"], batch["z"], strict=True):
        share = weight[row[keep]] / weight[row[keep]].sum()
        cosines.append(torch.cosine_similarity((share * table[row[keep]]).sum(0), z, dim=0))
    w = task.weights
    return float((w.cos + w.static) * (1 - torch.stack(cosines).mean()))


def graph(folder: Path) -> list[str]:
    """Rings of tagged nodes, half of them with a chord, in a text file."""
    lines = ["80"]
    for i, ring in enumerate(rings(80)):
        around: list[list[int]] = [[] for _ in ring["atoms"]]
        for a, b in ring["edges"]:
            around[a].append(b)
            around[b].append(a)
        lines.append(f"{ring['num_nodes']} {i % 2}")
        for (tag,), others in zip(ring["atoms"], around, strict=True):
            lines.append(" ".join(map(str, (tag, len(others), *others))))
    (folder / "rings.txt").write_text("\n".join(lines) + "\n", "utf-8")
    words = ["dataset.name=tu", f"dataset.path={folder}/rings.txt", f"dataset.cache={folder}/cache"]
    sizes = [
        "model.dim=16",
        "model.num_layers=2",
        "model.num_heads=2",
        "model.pair_dim=8",
        "optimizer.lr=0.01",
    ]
    return [*words, *sizes, "trainer.batch_size=8", "trainer.max_steps=12"]


def graph_first_loss(task: Any, batch: Any) -> float:
    """At the start both classes are equally likely."""
    return math.log(2)


def rings(count: int) -> list[dict[str, Any]]:
    """Graphs of different sizes and tags; every second one has a chord."""
    made = []
    for i in range(count):
        n = 6 + i % 7
        edges = [[a, (a + 1) % n] for a in range(n)] + [[0, 2 + i % 3]] * (i % 2)
        made.append({"num_nodes": n, "edges": edges, "atoms": [[(a * (i + 3) // 4) % 3] for a in range(n)]})
    return made


def lattice(folder: Path) -> list[str]:
    """Vectors of both modes, from a tiny teacher: the sentences of the codec, and pairs made of them."""
    words = codec(folder)[:-4]
    rows = [{"question": text, "answer": " ".join(reversed(text.split()))} for text in sentences(136)[96:]]
    pairs = folder / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    words += ["mode=mixed", f"dialogue_data.source_file={pairs}", "data.valid_share=0.2"]
    sizes = ["model.size=[3,2,2]", "model.steps=3", "model.channels=4", "model.bottleneck=2"]
    return [*words, *sizes, "trainer.batch_size=10", "trainer.max_steps=12"]


def lattice_first_loss(task: Any, batch: Any) -> float:
    """At the start the cube adds nothing to the linear paths, and InfoNCE is that of their vectors."""
    model, (x, y, mode) = task.model, (batch[key] for key in ("x", "y", "mode"))
    terms = []
    for v, true, kind in zip(x, y, mode.tolist(), strict=True):
        z = model.answer.linear(v) if kind else model.decoder.linear(model.encoder.linear(v))
        term = 1 - torch.cosine_similarity(z, true, dim=0)
        if kind:
            rivals = [a for a in task._answers if torch.dot(a, true) <= 0.999]
            cosines = torch.stack([torch.cosine_similarity(z, a, dim=0) for a in (true, *rivals)])
            term = term - task.weights.infonce * (cosines / task.weights.temperature).log_softmax(0)[0]
        terms.append(term)
    return float(torch.stack(terms).mean())


def lm(folder: Path) -> list[str]:
    """Characters of a few sentences."""
    (folder / "text.txt").write_text("\n".join(sentences(96))[:1400], "utf-8")
    sizes = ["model.dim=32", "model.num_heads=2", "model.num_layers=2", "data.context=16", "data.level=char"]
    rest = [
        "data.valid_share=0.2",
        "trainer.batch_size=8",
        "trainer.max_steps=12",
        "optimizer.lr=0.01",
        "optimizer.muon_lr=0.02",
    ]
    return [f"data.path={folder}/text.txt", *sizes, *rest]


def seq2seq(folder: Path) -> list[str]:
    """Sentences and their words in reverse."""
    rows = [(text, " ".join(reversed(text.split()))) for text in sentences(96)]
    parts = {"path": rows[:64], "valid": rows[64:80], "test": rows[80:]}
    words = [
        "data.vocab_size=300",
        "trainer.batch_size=8",
        "trainer.max_steps=12",
        "optimizer.lr=0.01",
        "optimizer.muon_lr=0.02",
    ]
    words += ["model.dim=32", "model.num_heads=2", "model.num_layers=1"]
    for key, part in parts.items():
        file = folder / f"{key}.tsv"
        file.write_text("source\ttarget\n" + "".join(f"{a}\t{b}\n" for a, b in part), "utf-8")
        words.append(f"data.{key}={file}")
    return words


def log_vocabulary(task: Any, batch: Any) -> float:
    """At the start every token is as likely as any other."""
    return math.log(task.model.spec.vocab_size)


def trm(folder: Path) -> list[str]:
    """A few sudokus of side 4, eight clues each."""
    data = ["data.clues=8", "data.train=64", "data.valid=16", "data.test=16"]
    model = ["model.dim=32", "model.depth=1", "halt.max_steps=4", "optimizer.lr=1e-2"]
    return [*data, *model, "trainer.batch_size=8", "trainer.max_steps=12"]


def trm_first_loss(task: Any, batch: Any) -> float:
    """At the start all six tokens are as likely, and the halting head says no (rightly) at its bias."""
    return math.log(6) + 0.5 * math.log1p(math.exp(-5))


@dataclass(frozen=True)
class Tiny:
    """``settings(folder)`` makes the data; ``first_loss(task, batch)`` is the loss that theory expects of
    the untrained model; ``inputs`` are what the predictor is asked; ``overfits`` names a metric and what it
    must reach on eight samples."""

    settings: Callable[[Path], list[str]]
    first_loss: Callable[[Any, Any], float]
    inputs: list[Any]
    overfits: tuple[str, float]


TINY = {
    "codec": Tiny(codec, codec_first_loss, sentences(5), ("cosine", 0.97)),
    "graph": Tiny(graph, graph_first_loss, rings(5), ("accuracy", 1.0)),
    "lattice": Tiny(lattice, lattice_first_loss, sentences(5), ("score", 0.9)),
    "lm": Tiny(lm, log_vocabulary, ["the red", "a", "iron", "tin", "his house"], ("accuracy", 0.85)),
    "seq2seq": Tiny(seq2seq, log_vocabulary, sentences(5), ("accuracy", 0.95)),
    "trm": Tiny(
        trm, trm_first_loss, [show(b) for b in generate(5, 4, 8, seed=9).boards], ("cell_accuracy", 0.97)
    ),
}


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(name)


@dataclass
class Built:
    """What a family makes of a tiny run."""

    family: Family
    cfg: Any
    data: Data
    task: Task

    def trainer(self, checkpoint_dir: Path, **settings: Any) -> Trainer:
        """A trainer of its own; ``settings`` override ``cfg.trainer``."""
        for name, value in settings.items():
            setattr(self.cfg.trainer, name, value)
        trainer = build_trainer(self.cfg, self.task, checkpoint_dir)
        trainer.reporter.show = False
        return trainer


def trained(name: str, folder: Path, steps: int) -> Path:
    """The ``model/`` folder of a family's tiny run after so many steps."""
    built = build(name, folder)
    built.trainer(folder / "checkpoints", max_steps=steps).fit(built.data.train)
    built.family.save_model(built.cfg, built.task, built.data, folder / "model")
    return folder / "model"


def build(name: str, folder: Path, *words: str) -> Built:
    """Build a family's tiny run whose data are in ``folder`` (made there if they are not)."""
    known = folder / "settings.json"
    if not known.exists():
        known.write_text(json.dumps(TINY[name].settings(folder)), "utf-8")
    cfg = compose(name, [*json.loads(known.read_text("utf-8")), *COMMON, *words]).cfg
    family = load_family(name)
    torch.set_num_threads(1)
    data = family.build_data(cfg)
    set_seed(cfg.seed)
    return Built(family, cfg, data, family.build_task(cfg, family.build_model(cfg, data.spec), data))
