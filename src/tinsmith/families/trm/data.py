"""The data of each task: samples, splits, and the facts that the model needs."""

from __future__ import annotations

import gzip
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.engine.contract import Data
from tinsmith.engine.data import Loader
from tinsmith.errors import ConfigError, DataError
from tinsmith.families import FAMILIES, load_family
from tinsmith.families.trm import arc, code, maze, sudoku
from tinsmith.families.trm.config import RetrievalConfig, TRMConfig
from tinsmith.families.trm.dataset import GridDataset, Masking, Samples, Symmetry, split_by_class
from tinsmith.families.trm.model import IGNORE, TRMSpec
from tinsmith.families.trm.symmetry import SquareSymmetry, SudokuSymmetry, fingerprints
from tinsmith.families.trm.tokens import (
    CharTokenizer,
    SpanMasking,
    TextTokenizer,
    load_tokenizer,
    prepare_code_input,
    tokenize_and_pad,
)
from tinsmith.retrieval import RAGDatasetWrapper, RAGRetriever, TextEmbedder, build_rag

log = logging.getLogger(__name__)

BLANK, ONE = 1, 2  # tokens of a sudoku; 0 is padding


@dataclass(slots=True)
class Built:
    """What a task gives: splits and maskings by name, the symmetry of training, and the rest of ``Data``."""

    splits: dict[str, Samples]
    spec: TRMSpec
    symmetry: Symmetry | None
    masking: dict[str, Masking]
    artifacts: dict[str, Any]


def build_data(cfg: TRMConfig) -> Data:
    """Make or read the samples of ``data.task``, split them, and wrap them for training.

    Raises:
        DataError: a file is missing, malformed, or too small for its splits.
        ConfigError: a number of samples that cannot be had.
    """
    makers = {"sudoku": _sudoku, "maze": _mazes, "arc": _arc, "code": _code}
    built = makers[cfg.data.task](cfg)
    loaders: dict[str, Loader | None] = {}
    for split in ("train", "valid", "test"):
        samples = built.splits[split]
        if not len(samples):
            if split != "test":
                raise DataError(f"no samples are left for the {split} split: give more, or ask for fewer")
            loaders[split] = None
            continue
        train = split == "train"
        symmetry = built.symmetry if train and cfg.data.augment else None
        dataset = GridDataset(samples, symmetry, built.masking.get(split), cfg.data.order == "hard_first")
        loaders[split] = Loader(
            dataset,
            cfg.trainer.batch_size if train else 256,
            shuffle=train,
            seed=cfg.seed,
            drop_last=train,  # the carry has a place for each row of a batch
            num_workers=cfg.trainer.num_workers if train else 0,
        )
    return Data(loaders["train"], loaders["valid"], loaders["test"], built.spec, built.artifacts)


def _named(parts: tuple[Any, Any, Any]) -> dict[str, Any]:
    return dict(zip(("train", "valid", "test"), parts, strict=True))


def _total(cfg: TRMConfig) -> int:
    data = cfg.data
    if not data.train:
        raise ConfigError("data.train=0 takes all of a file: without data.path say how many are to be made.")
    return data.train + data.valid + data.test


# ---- sudoku -----------------------------------------------------------------------------------------


def sudoku_tokens(boards: sudoku.Boards) -> NDArray[np.uint8]:
    """Boards with 0 for a blank -> tokens."""
    return (boards + BLANK).astype(np.uint8)


def _sudoku(cfg: TRMConfig) -> Built:
    data, side = cfg.data, cfg.data.side()
    if data.path:
        boards, solutions = _read_boards(Path(data.path), side), None
    else:
        made = sudoku.generate(_total(cfg), side, data.clues, data.clues_to, cfg.seed)
        boards, solutions = made.boards, made.solutions
    rows = split_by_class(fingerprints(boards), (data.valid, data.test), data.train, cfg.seed)
    splits = {}
    for name, part in _named(rows).items():
        puzzles = boards[part]
        answers = solutions[part] if solutions is not None else _solved(puzzles, data.on_bad_record)
        keep = answers[:, 0] > 0
        splits[name] = _sudoku_samples(puzzles[keep], answers[keep])
    spec = TRMSpec("sudoku", side + ONE, side + ONE, side**2, side)
    return Built(splits, spec, SudokuSymmetry(side, ONE), {}, {})


def _sudoku_samples(boards: sudoku.Boards, solutions: sudoku.Boards) -> Samples:
    labels = np.where(boards > 0, IGNORE, solutions.astype(np.int16) + BLANK).astype(np.int16)
    return Samples(sudoku_tokens(boards), labels, (boards == 0).sum(1).astype(np.float32))


def _read_boards(path: Path, side: int) -> sudoku.Boards:
    """The boards of a text file (also .gz), one in front of each line."""
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error})") from None
    boards = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.replace(",", " ").split()
        if words and not words[0].startswith("#"):
            try:
                boards.append(sudoku.parse(words[0], side))
            except DataError as error:
                raise DataError(f"{path}:{number}: {error}") from None
    if not boards:
        raise DataError(f"{path}: no boards")
    return np.unique(np.stack(boards), axis=0)


def _solved(boards: sudoku.Boards, on_bad: str) -> sudoku.Boards:
    """The solutions; zeros for a board that has not exactly one, where such are to be skipped."""
    found = sudoku.solve(boards)
    bad = np.nonzero(found.count != 1)[0]
    if len(bad) and on_bad == "error":
        what = "no solution" if found.count[bad[0]] == 0 else "several solutions"
        raise DataError(
            f"{sudoku.show(boards[bad[0]])} has {what}, and {len(bad) - 1} more are not unique: "
            "leave them out with data.on_bad_record=skip"
        )
    if len(bad):
        log.warning("%d boards without exactly one solution were left out", len(bad))
    return np.where((found.count == 1)[:, None], found.grids, 0).astype(np.uint8)


# ---- maze -------------------------------------------------------------------------------------------


def _mazes(cfg: TRMConfig) -> Built:
    data = cfg.data
    if data.path:
        raise ConfigError("data.path: mazes are made, not read; leave it out.")
    inputs, solved = maze.make_mazes(_total(cfg), data.size, cfg.seed)
    labels = np.where(inputs == maze.OPEN, solved.astype(np.int16), IGNORE).astype(np.int16)
    samples = Samples(inputs, labels, (solved == maze.PATH).sum(1).astype(np.float32))
    rows = split_by_class(np.arange(len(inputs)), (data.valid, data.test), data.train, cfg.seed)
    splits = {name: samples[part] for name, part in _named(rows).items()}
    spec = TRMSpec("maze", maze.VOCABULARY, maze.VOCABULARY, data.size**2, data.size)
    return Built(splits, spec, SquareSymmetry(data.size), {}, {})


# ---- arc --------------------------------------------------------------------------------------------


def arc_row(grid: Any, task: int, number: int, side: int, augmentations: int) -> NDArray[np.int16]:
    """The input of version ``number`` of a grid: the version's token, then the canvas."""
    canvas = arc.to_canvas(arc.version(task, number).apply(grid), side)
    return np.concatenate([[arc.NUM_OUTPUTS + task * augmentations + number], canvas]).astype(np.int16)


def _arc(cfg: TRMConfig) -> Built:
    data = cfg.data
    tasks = arc.read_tasks(Path(data.path)) if data.path else arc.toy_tasks()
    small = {name: task for name, task in tasks.items() if arc.largest_side(task) <= data.size}
    if len(small) < len(tasks):
        log.warning(
            "%d of %d tasks have grids above data.size=%d", len(tasks) - len(small), len(tasks), data.size
        )
    if not small:
        raise DataError(f"no task has grids of side {data.size} or less: raise data.size (up to 30)")
    parts: dict[str, list[tuple[Any, Any]]] = {"train": [], "valid": [], "test": []}
    for t, task in enumerate(small.values()):
        for number in range(data.augmentations):
            parts["train"] += [_arc_pair(pair, t, number, cfg) for pair in task["train"]]
        held = [pair for pair in task["test"] if "output" in pair]
        parts["valid" if t % 2 == 0 else "test"] += [_arc_pair(pair, t, 0, cfg) for pair in held]
    splits = {}
    for name, pairs in parts.items():
        inputs = np.array([a for a, _ in pairs], np.int16).reshape(len(pairs), data.size**2 + 1)
        labels = np.array([b for _, b in pairs], np.int16).reshape(len(pairs), data.size**2 + 1)
        splits[name] = Samples(inputs, labels, np.zeros(len(pairs), np.float32))
    spec = TRMSpec(
        "arc",
        arc.NUM_OUTPUTS + len(small) * data.augmentations,
        arc.NUM_OUTPUTS,
        data.size**2 + 1,
        data.size,
        tasks=tuple(small),
        augmentations=data.augmentations,
    )
    return Built(splits, spec, None, {}, {"tasks": small})


def _arc_pair(pair: dict[str, Any], task: int, number: int, cfg: TRMConfig) -> tuple[Any, Any]:
    side = cfg.data.size
    row = arc_row(pair["input"], task, number, side, cfg.data.augmentations)
    target = arc.to_canvas(arc.version(task, number).apply(pair["output"]), side)
    return row, np.concatenate([[IGNORE], target])


# ---- code -------------------------------------------------------------------------------------------

CODE_LENGTH = 128  # tokens of a sample where data.seq_len does not say


def code_query(sample: Any) -> str:
    """What a sample is looked up by: its documentation and its first line, never what may be masked alone."""
    return f"{sample['context']} {str(sample['code']).partition(chr(10))[0]}"


def code_context(context: str, snippet: str, length: int) -> str:
    """What stands in front of a sample's code: of the context a third of ``length``, more for short code."""
    return prepare_code_input(context[: max(length // 3, length - len(snippet) - 1)], "")


def make_embedder(cfg: RetrievalConfig) -> TextEmbedder:
    """The encoder of the settings: ``chars``, a teacher, or the predictor of a run folder."""
    folder = Path(cfg.encoder)
    files = [folder / "model" / "config.json", folder / "config.json"]
    meta: Any = next((json.loads(file.read_text("utf-8")) for file in files if file.is_file()), {})
    if meta.get("family") not in FAMILIES:
        return TextEmbedder(cfg.encoder)
    predictor = load_family(meta["family"]).predictor.load(folder)
    if not hasattr(predictor, "encode"):
        raise ConfigError(f"retrieval.encoder={cfg.encoder}: this run's model encodes no texts")
    return TextEmbedder(predictor)


def _code(cfg: TRMConfig) -> Built:
    data = cfg.data
    length = data.seq_len or CODE_LENGTH
    if data.path:
        snippets = code.read_snippets(Path(data.path), data.columns, data.on_bad_record == "skip")
    else:
        # Modules are kept whole, and some functions stand twice: a part of them will go to no split.
        snippets = code.standard_library(_total(cfg) * 3 // 2 + 64, cfg.seed)
    unique = list({snippet["code"]: snippet for snippet in snippets}.values())
    groups = [snippet["group"] for snippet in unique]
    rows = split_by_class(groups, (data.valid, data.test), data.train, cfg.seed)
    tokenizer = load_tokenizer(data.tokenizer)
    parts: dict[str, Any] = {name: [unique[i] for i in part] for name, part in _named(rows).items()}
    artifacts: dict[str, Any] = {"tokenizer": tokenizer, "snippets": dict(parts)}
    if cfg.retrieval.encoder:
        retriever = _retriever(cfg, parts["train"])
        artifacts["retriever"] = retriever
        for name in parts:
            parts[name] = _enriched(parts[name], retriever, cfg.retrieval)
    splits = {name: _code_samples(part, tokenizer, length) for name, part in parts.items()}
    spec = TRMSpec(
        "code", tokenizer.vocab_size, tokenizer.vocab_size, length, span=data.span, tokenizer=tokenizer.name
    )
    one, several = SpanMasking(tokenizer, data.span), SpanMasking(tokenizer, data.span, data.spans)
    return Built(splits, spec, None, {"train": several, "valid": one, "test": one}, artifacts)


def _retriever(cfg: TRMConfig, train: list[code.Snippet]) -> RAGRetriever:
    documents = [{"text": s["code"], "key": code_query(s)} for s in train]
    return build_rag(documents, make_embedder(cfg.retrieval), key="key")


def _enriched(
    samples: list[code.Snippet], retriever: RAGRetriever, cfg: RetrievalConfig
) -> RAGDatasetWrapper:
    return RAGDatasetWrapper(
        samples, retriever, query=code_query, own=lambda s: str(s["code"]), k=cfg.count, near=cfg.near
    )


def _code_samples(samples: Any, tokenizer: TextTokenizer, length: int) -> Samples:
    rows = [samples[i] for i in range(len(samples))]
    texts = [code_context(row["context"], row["code"], length) + row["code"] for row in rows]
    ids, _ = tokenize_and_pad(texts, tokenizer, length, keep="start")
    inputs = ids.numpy().astype(np.int32)
    return Samples(inputs, inputs, np.zeros(len(rows), np.float32))


def tokenizer_of(spec: TRMSpec, file: Path | None = None) -> TextTokenizer:
    """The tokeniser of a saved model."""
    return CharTokenizer() if file is None else load_tokenizer(str(file))
