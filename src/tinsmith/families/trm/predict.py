"""Use of a trained recursive model: a puzzle in, its answer out, thinking as long as one likes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from tinsmith.durable import replace_bytes
from tinsmith.engine.contract import Data, Predictor, Task
from tinsmith.engine.weights import save_weights
from tinsmith.errors import DataError
from tinsmith.families.trm import arc, maze, sudoku
from tinsmith.families.trm.config import DepthConfig, HaltConfig, ModelConfig, RetrievalConfig, TRMConfig
from tinsmith.families.trm.data import (
    BLANK,
    arc_row,
    code_context,
    code_query,
    make_embedder,
    sudoku_tokens,
    tokenizer_of,
)
from tinsmith.families.trm.model import TinyRecursiveModel, TRMSpec, build_model
from tinsmith.families.trm.search import Effort, Solved, solve
from tinsmith.families.trm.tokens import pad_sequence, with_gap
from tinsmith.retrieval import RAGRetriever
from tinsmith.retrieval.retriever import told
from tinsmith.sealed import model_folder, read_manifest, read_sealed, reading_model, seal

WEIGHTS, META, TOKENIZER, RETRIEVAL = "model.safetensors", "config.json", "tokenizer.json", "retrieval"


class ModelLoader:
    """Reads a saved model: a ``model/`` folder, or the run folder that holds one.

    Attributes:
        spec: what it was trained for. config: sizes and depth. halt, depth: how it halts and searches.

    Raises:
        DataError: there is none, or a file is not the one that was saved; names it.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = model_folder(path)
        with reading_model(self.folder, "recursive model"):
            files = read_sealed(self.folder, "model", (META, WEIGHTS))
            meta = json.loads(files[META])
            self.spec = TRMSpec(**{**meta["spec"], "tasks": tuple(meta["spec"]["tasks"])})
            self.config, self.halt = ModelConfig(**meta["model"]), HaltConfig(**meta["halt"])
            self.depth, self.retrieval = DepthConfig(**meta["depth"]), RetrievalConfig(**meta["retrieval"])
            for part in (self.config, self.halt, self.depth, self.retrieval):
                part.validate()
            self._weights = safetensors.torch.load(files[WEIGHTS])
            self._model = build_model(self.config, self.spec, self.halt.bias, self.halt.weight)
            self._model.load_state_dict(self._weights)
            self.has_tokenizer = TOKENIZER in read_manifest(self.folder, "model", ())
            if self.has_tokenizer:
                read_sealed(self.folder, "model", (TOKENIZER,))

    def load(self, device: str | torch.device = "cpu") -> TinyRecursiveModel:
        """The model, in eval mode."""
        return self._model.to(device).eval().requires_grad_(False)


class TRMInference(Predictor):
    """A trained model and what it needs to read and write its task.

    Args:
        model: in eval mode.
        spec: what it was trained for.
        effort: how long it thinks.
    """

    def __init__(self, model: TinyRecursiveModel, spec: TRMSpec, effort: Effort) -> None:
        self.model, self.spec, self.effort = model, spec, effort
        self.tokenizer = tokenizer_of(spec)
        self.retriever: RAGRetriever | None = None
        self.retrieval = RetrievalConfig()

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> TRMInference:
        """Load a ``model/`` folder, or the run folder that holds one.

        Raises:
            DataError: there is no model, or a file is not the one that was saved; names it.
        """
        loader = ModelLoader(path)
        depth = loader.depth
        effort = Effort(
            depth.test_steps or loader.halt.max_steps,
            depth.threshold,
            restarts=depth.restarts,
            noise=depth.noise,
            path_noise=loader.config.path_noise if depth.restarts > 1 else 0.0,
            select=depth.select,
        )
        found = cls(loader.load(device), loader.spec, effort)
        found.retrieval = loader.retrieval
        if loader.has_tokenizer:
            found.tokenizer = tokenizer_of(loader.spec, loader.folder / TOKENIZER)
        if (loader.folder / RETRIEVAL).is_dir():
            found.retriever = RAGRetriever.load(loader.folder / RETRIEVAL, make_embedder(loader.retrieval))
        return found

    def solve(self, inputs: NDArray[np.integer[Any]], **effort: Any) -> Solved:
        """Answer token rows [N, L]; ``effort`` changes what ``Effort`` takes (steps, restarts, ...)."""
        tokens = torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.int64))
        return solve(self.model, tokens, replace(self.effort, **effort))

    def __call__(self, inputs: list[Any]) -> list[Any]:
        """Answer puzzles.

        A sudoku is a text of digits and dots or ``{"puzzle": ...}``; a maze lines between ``/`` or
        ``{"maze": [lines]}``; an ARC task ``{"id": ..., "input": grid}``; code ``{"code": "a = ___",
        "context": "..."}`` or its text.

        Raises:
            DataError: an input that is no puzzle, or one with no or several solutions; says which.
        """
        readers = {"sudoku": self._boards, "maze": self._mazes, "arc": self._grids, "code": self._snippets}
        return readers[self.spec.task](inputs)

    # ---- sudoku and mazes ---------------------------------------------------------------------------

    def _boards(self, inputs: Sequence[Any]) -> list[Any]:
        boards = []
        for i, item in enumerate(inputs):
            with _numbered(i):
                boards.append(sudoku.parse(_field(item, "puzzle"), self.spec.side))
        for i, count in enumerate(sudoku.solve(np.stack(boards)).count):
            with _numbered(i):
                sudoku.check_count(int(count))
        found = self.solve(sudoku_tokens(np.stack(boards)))
        answers = np.maximum(found.predictions.cpu().numpy() - BLANK, 0)
        rows = []
        for i, board in enumerate(boards):
            full = np.where(board > 0, board, answers[i])
            solved = bool(full.min() > 0) and is_legal(full)
            rows.append(
                {
                    "puzzle": sudoku.show(board),
                    "solution": sudoku.show(full),
                    "solved": solved,
                    **_how(found, i),
                }
            )
        return rows

    def _mazes(self, inputs: Sequence[Any]) -> list[Any]:
        grids, truths = [], []
        for i, item in enumerate(inputs):
            with _numbered(i):
                lines = _field(item, "maze")
                grid = maze.parse(
                    lines.replace("/", "\n") if isinstance(lines, str) else lines, self.spec.side
                )
                truths.append(maze.shortest_path(grid).ravel())
                grids.append(grid.ravel())
        found = self.solve(np.stack(grids))
        answers = found.predictions.cpu().numpy()
        rows = []
        for i, grid in enumerate(grids):
            full = np.where((grid == maze.OPEN) & (answers[i] == maze.PATH), maze.PATH, grid)
            lines = maze.show(full, self.spec.side).split("\n")
            rows.append({"maze": lines, "solved": bool((full == truths[i]).all()), **_how(found, i)})
        return rows

    # ---- arc ----------------------------------------------------------------------------------------

    def _grids(self, inputs: Sequence[Any]) -> list[Any]:
        rows = []
        for i, item in enumerate(inputs):
            with _numbered(i):
                task = self.spec.tasks.index(item["id"]) if _known(item, self.spec.tasks) else -1
                if task < 0:
                    raise DataError(
                        "an object with 'input', a grid, and 'id', a task of the training, is needed"
                    )
                grid = arc.check_grid(item.get("input"), "input")
                if max(grid.shape) > self.spec.side:
                    raise DataError(
                        f"the grid is {list(grid.shape)}, the model's largest is {self.spec.side}"
                    )
                rows.append((task, grid))
        return [{"id": self.spec.tasks[task], "attempts": self.vote(task, grid)} for task, grid in rows]

    def vote(self, task: int, grid: NDArray[np.integer[Any]], count: int = 2) -> list[arc.Grid]:
        """The ``count`` best answers to a grid of a task, by the votes of its versions."""
        versions, side = self.spec.augmentations, self.spec.side
        inputs = np.stack([arc_row(grid, task, v, side, versions) for v in range(versions)])
        found = self.solve(inputs)
        grids = [
            arc.version(task, v).undo(arc.from_canvas(tokens[1:], side))
            for v, tokens in enumerate(found.predictions.cpu().numpy())
        ]
        return arc.vote(grids, found.halt_probs.tolist(), count)

    # ---- code ---------------------------------------------------------------------------------------

    def _snippets(self, inputs: Sequence[Any]) -> list[Any]:
        rows, starts, queries = [], [], []
        for i, item in enumerate(inputs):
            with _numbered(i):
                row, start, query = self._code_row(item)
            rows.append(row)
            starts.append(start)
            queries.append(query)
        found = self.solve(np.array(rows))
        answers = []
        for i, (start, query) in enumerate(zip(starts, queries, strict=True)):
            span = self.tokenizer.decode(found.predictions[i, start : start + self.spec.span].tolist())
            answers.append({"code": _filled(query, span), "span": span, **_how(found, i)})
        return answers

    def _code_row(self, item: Any) -> tuple[list[int], int, str]:
        """Ids of a sample, where its gap begins, and its code."""
        query = _field(item, "code")
        context = item.get("context", "") if isinstance(item, dict) else ""
        if not isinstance(query, str) or not isinstance(context, str):
            raise DataError("'code' and 'context' have to be texts")
        if self.retriever is not None:
            asked = code_query({"context": context, "code": query})
            hits = self.retriever.retrieve(asked, self.retrieval.count)[0]
            context = told(context, hits)
        try:
            ids, gap = with_gap(query, self.tokenizer, self.spec.span)
        except ValueError as error:
            raise DataError(str(error)) from None
        filled = _filled(query, "_" * self.spec.span)
        head = self.tokenizer.encode(code_context(context, filled, self.spec.seq_len))
        start = len(head) + gap
        if start + self.spec.span > self.spec.seq_len:
            raise DataError(
                f"the gap ends at token {start + self.spec.span}, the model reads {self.spec.seq_len}"
            )
        return pad_sequence([*head, *ids], self.spec.seq_len, self.tokenizer.pad_id, "start"), start, query


def is_legal(board: NDArray[np.integer[Any]]) -> bool:
    """Whether each row, column and box of a full board [L] has each digit once."""
    members = sudoku.layout(round(len(board) ** 0.5)).members  # [S, 3 S]
    return bool((np.sort(board[members], 0) == np.arange(1, len(members) + 1)[:, None]).all())


def _how(found: Solved, row: int) -> dict[str, Any]:
    return {"steps": int(found.exit_steps[row]), "sure": float(found.halt_probs[row])}


def _filled(query: str, span: str) -> str:
    return re.sub(r"_{3,}", lambda _: span, query, count=1)


def _field(item: Any, name: str) -> Any:
    value = item.get(name) if isinstance(item, dict) else item
    if value is None or isinstance(value, (bool, int, float)):
        raise DataError(f"a text, or an object with '{name}', is needed, not {item!r:.80}")
    return value


def _known(item: Any, tasks: tuple[str, ...]) -> bool:
    return isinstance(item, dict) and item.get("id") in tasks


class _numbered:
    """Put the number of the input in front of the message of a ``DataError``."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, DataError):
            raise DataError(f"input {self.number}: {error}") from None


def save_model(task: Task, data: Data, folder: Path, cfg: TRMConfig) -> None:
    """Write a folder that ``TRMInference.load`` reads: weights, settings, tokeniser, retriever, digests."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(task.model, folder / WEIGHTS)
    meta = {
        "family": "trm",
        "spec": asdict(data.spec),
        "model": asdict(cfg.model),
        "halt": asdict(cfg.halt),
        "depth": {**asdict(cfg.depth), "stages": []},
        "retrieval": asdict(cfg.retrieval),
    }
    replace_bytes(folder / META, json.dumps(meta, indent=1).encode())
    files = [META, WEIGHTS]
    tokenizer = data.artifacts.get("tokenizer")
    if tokenizer is not None and (text := tokenizer.to_json()):
        replace_bytes(folder / TOKENIZER, text.encode())
        files.append(TOKENIZER)
    if "retriever" in data.artifacts:
        data.artifacts["retriever"].save(folder / RETRIEVAL)
    seal(folder, files)
