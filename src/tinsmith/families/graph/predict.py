"""Use of a trained model: molecules and graphs to predictions."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from tinsmith.durable import replace_bytes
from tinsmith.engine.contract import Data, Predictor, Task
from tinsmith.engine.data import to_device
from tinsmith.engine.weights import save_weights
from tinsmith.errors import DataError
from tinsmith.families.graph import molecules
from tinsmith.families.graph.batches import Batch, GraphDataset, Layout
from tinsmith.families.graph.config import GraphConfig, ModelConfig, PEConfig, build_pe
from tinsmith.families.graph.encode import encode
from tinsmith.families.graph.graphs import Array, Graphs, build, join, simple
from tinsmith.families.graph.model import GraphModel, GraphSpec, build_model
from tinsmith.sealed import model_folder, read_sealed, reading_model, seal

WEIGHTS, META = "model.safetensors", "config.json"
FILES = (META, WEIGHTS)  # what MANIFEST.json vouches for
_PADDED = 1 << 21  # padded pairs of nodes in a batch


class GraphPredictor(Predictor):
    """A trained model. Safe to use from several threads at once.

    Attributes:
        spec: what the model was trained for: task, sizes, names and figures of the targets.
        pe: its encodings.
    """

    def __init__(self, model: GraphModel, cfg: ModelConfig, pe: PEConfig, spec: GraphSpec) -> None:
        self.model = model.eval().requires_grad_(False)
        self.cfg, self.pe, self.spec = cfg, pe, spec
        self.device = next(model.parameters()).device
        self.layout = Layout(pe, spec.bond_sizes, spec.pair_dim > 0)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> GraphPredictor:
        """Load a ``model/`` folder, or the run folder that holds one.

        Raises:
            DataError: there is no model, or a file is not the one that was saved; names it.
        """
        folder = model_folder(path)
        with reading_model(folder, "graph model"):
            files = read_sealed(folder, "model", FILES)
            meta = json.loads(files[META])
            known: dict[str, Any] = {item.name: meta["spec"][item.name] for item in fields(GraphSpec)}
            known = {k: tuple(v) if isinstance(v, list) else v for k, v in known.items()}
            spec = GraphSpec(**known)
            cfg = ModelConfig(**meta["model"])
            cfg.validate()
            pe = build_pe(meta["pe"])
            pe.validate()
            model = build_model(cfg, spec, pe.lap.signs)
            model.load_state_dict(safetensors.torch.load(files[WEIGHTS]))
        return cls(model.to(device), cfg, pe, spec)

    def predict_graphs(self, graphs: Graphs, pairs: Sequence[Array] | None = None) -> list[Any]:
        """An answer for each graph, in order.

        Args:
            graphs: of the model's kind: columns and numbers as in training.
            pairs: for edge prediction the pairs of nodes of each graph that are asked for [2, R].
        """
        out: list[Any] = [None] * len(graphs)
        for which in self._batches(graphs):
            batch = self.batch(graphs.take(which), [pairs[i] for i in which] if pairs is not None else None)
            for i, answer in zip(which, self._answers(batch, pairs, which), strict=True):
                out[i] = answer
        return out

    def __call__(self, inputs: list[Any]) -> list[Any]:
        """The answer to each input: a SMILES, an object with ``smiles``, or a graph.

        A graph is ``{"num_nodes", "edges": [[i, j], ...]}``, with ``atoms`` and ``bonds`` (rows of
        categories) and ``x`` (rows of numbers) as the model was trained with, and ``pairs`` for edge
        prediction.

        Raises:
            DataError: an input is none of these, or does not fit the model; names its number.
        """
        if not inputs:
            return []
        read = [self._read(item, i) for i, item in enumerate(inputs)]
        pairs = [pair for _, pair in read] if self.spec.task == "edge_prediction" else None
        return self.predict_graphs(join([graph for graph, _ in read]), pairs)

    def batch(self, graphs: Graphs, pairs: Sequence[Array] | None = None) -> Batch:
        """The batch of graphs as the model takes it, with encodings, on the model's device."""
        dataset = GraphDataset(graphs, encode(graphs, self.pe, self.layout.pairs), self.layout)
        if self.layout.pairs and int(graphs.num_nodes.max()) > self.pe.largest:
            raise DataError(
                f"a graph of {int(graphs.num_nodes.max())} nodes: the model's pairs go to {self.pe.largest}"
            )
        batch = dataset.batch(torch.arange(len(graphs)))
        if pairs is not None:
            shifted = [
                np.asarray(p, np.int64).reshape(2, -1) + s
                for p, s in zip(pairs, graphs.node_start, strict=True)
            ]
            batch["pairs"] = torch.from_numpy(np.concatenate(shifted, 1))
        moved: Batch = to_device(batch, self.device)
        return moved

    def outputs(self, batch: Batch) -> Tensor:
        """Predictions of a regression in the targets' own units, else logits; on the CPU."""
        with torch.inference_mode():
            outputs: Tensor = self.model(batch).float().cpu()
        if self.spec.task == "regression":
            return outputs * torch.tensor(self.spec.target_std) + torch.tensor(self.spec.target_mean)
        return outputs

    def attention(self, graphs: Graphs, which: int = 0) -> Tensor:
        """How much each node of a graph attends to each, in each layer and head: [layers, H, n, n].

        Raises:
            DataError: the model has no attention.
        """
        batch = self.batch(graphs.take([which]))
        with torch.inference_mode():
            s, states, found = self.model.structure(batch), self.model.states(batch), []
            blocks: Any = self.model.blocks
            for i, block in enumerate(blocks):
                if not hasattr(block, "attention"):
                    raise DataError(f"a {self.cfg.name} has no attention")
                x = states[i]
                x = block.norm_attention(x) if self.cfg.name == "graph_transformer" else x
                found.append(block.attention.weights(x, s, None if s.bias is None else s.bias[:, i])[0])
        return torch.stack(found).cpu()

    # ---- inside -------------------------------------------------------------------------------------

    def _batches(self, graphs: Graphs) -> list[Array]:
        """Graphs of like size together, a bounded number of padded pairs each."""
        order = np.argsort(graphs.num_nodes, kind="stable")
        found, start = [], 0
        while start < len(order):
            end = start + 1
            while end < len(order) and (end + 1 - start) * int(graphs.num_nodes[order[end]]) ** 2 <= _PADDED:
                end += 1
            found.append(order[start:end])
            start = end
        return found

    def _answers(self, batch: Batch, pairs: Sequence[Array] | None, which: Array) -> list[dict[str, Any]]:
        outputs = self.outputs(batch)
        sizes = batch["size"].tolist()
        if self.spec.task == "regression":
            names = self.spec.target_names
            return [dict(zip(names, row, strict=True)) for row in outputs.tolist()]
        if self.spec.task == "classification":
            return [self._class(row) for row in outputs.softmax(-1)]
        if self.spec.task == "node_classification":
            found = [rows.argmax(-1).tolist() for rows in torch.split(outputs, sizes)]
            names = self.spec.target_names
            return [{"labels": [names[k] for k in labels]} for labels in found]
        assert pairs is not None
        counts = [np.asarray(pairs[i]).reshape(2, -1).shape[1] for i in which]
        return [{"scores": rows.tolist()} for rows in torch.split(outputs.sigmoid(), counts)]

    def _class(self, probabilities: Tensor) -> dict[str, Any]:
        names, label = self.spec.target_names, int(probabilities.argmax())
        return {"label": names[label], "probabilities": dict(zip(names, probabilities.tolist(), strict=True))}

    def _read(self, item: Any, number: int) -> tuple[Graphs, Array]:
        place = f"input {number}"
        smiles = item.get("smiles") if isinstance(item, dict) else item
        if isinstance(smiles, str):
            if self.spec.source == "graph":
                raise DataError(f"{place}: this model reads graphs as JSON, not molecules")
            none = np.zeros(1, np.float32)
            graph = molecules.from_smiles([smiles], none, self.spec.source, [place])
            return graph, np.zeros((2, 0), np.int64)
        if not isinstance(item, dict):
            raise DataError(f"{place}: a SMILES or an object is needed, not {item!r:.80}")
        try:
            return self._read_graph(item)
        except (DataError, ValueError, TypeError, OverflowError) as error:
            raise DataError(f"{place}: {' '.join(str(error).split())}") from None

    def _read_graph(self, item: dict[str, Any]) -> tuple[Graphs, Array]:
        known = {"num_nodes", "edges", "atoms", "bonds", "x", "pairs"}
        if unknown := sorted(set(item) - known):
            raise DataError(f"a graph has no '{unknown[0]}'; it has: {', '.join(sorted(known))}")
        n = item.get("num_nodes")
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise DataError(
                f"num_nodes is {n!r:.40}: a whole number of 1 or more is needed (a graph has a node)"
            )
        pairs = _rows(item, "edges", len(item.get("edges", [])), 2, np.int64)
        bonds = _rows(item, "bonds", len(pairs), len(self.spec.bond_sizes), np.int64)
        atoms = _rows(item, "atoms", n, len(self.spec.atom_sizes), np.int64)
        x = _rows(item, "x", n, self.spec.x_dim, np.float32)
        for name, rows, sizes in (
            ("atoms", atoms, self.spec.atom_sizes),
            ("bonds", bonds, self.spec.bond_sizes),
        ):
            if rows.size and ((rows < 0) | (rows >= np.array(sizes))).any():
                raise DataError(f"{name}: a category is beyond the model's, which has {list(sizes)}")
        graph = build([simple(n, pairs, bonds)], [n], np.zeros(1, np.float32), atoms.astype(np.int16), x)
        return graph, self._asked(item, n)

    def _asked(self, item: dict[str, Any], n: int) -> Array:
        if self.spec.task != "edge_prediction":
            return np.zeros((2, 0), np.int64)
        asked = _rows(item, "pairs", len(item.get("pairs", [])), 2, np.int64)
        if asked.size and not 0 <= asked.min() <= asked.max() < n:
            raise DataError(f"pairs: a node is beyond 0 to {n - 1}")
        return asked.T


def _rows(item: dict[str, Any], name: str, count: int, width: int, kind: Any) -> Array:
    """A field as [count, width]; none where the width is 0 and the field is left out."""
    value = item.get(name, [[]] * count if not width else [])
    array = np.array(value, np.float64) if len(value) else np.zeros((0, width))
    if array.size == 0:
        array = array.reshape(count if not width else 0, width)
    if array.shape != (count, width):
        raise DataError(f"{name} is {list(array.shape)}, the model wants [{count}, {width}]")
    if not all(math.isfinite(v) for v in (array.min(initial=0), array.max(initial=0))):
        raise DataError(f"{name}: a number is not finite")
    if kind is np.int64 and (array != array.round()).any():
        raise DataError(f"{name}: whole numbers are needed")
    return array.astype(kind)


def save_model(cfg: GraphConfig, task: Task, data: Data, folder: Path) -> None:
    """Write a folder that ``GraphPredictor.load`` reads: weights, ``config.json``, and their digests."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(task.model, folder / WEIGHTS)
    meta = {"family": "graph", "model": asdict(cfg.model), "pe": asdict(cfg.pe), "spec": asdict(data.spec)}
    replace_bytes(folder / META, json.dumps(meta, indent=1).encode())
    seal(folder, FILES)
