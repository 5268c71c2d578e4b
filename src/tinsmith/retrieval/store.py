"""A vector store in memory: exact nearest neighbours by matrix products, in pieces that fit the cache.

On a CPU that beats vector databases up to about a million rows where queries come in batches.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.durable import replace_bytes
from tinsmith.engine.config import check, check_choice
from tinsmith.engine.device import computes_in_bf16
from tinsmith.errors import DataError, MissingExtraError
from tinsmith.sealed import read_sealed, seal
from tinsmith.text.topk import largest

VECTORS, META = "vectors.safetensors", "store.json"
_ROWS = 20_000  # rows of one product
_SCREENED = 32  # queries for which it pays to bring the vectors to bf16 on the way
_WIDER = 4  # times the vectors wanted: those that the screening keeps
# How far a cosine in bf16 can be from the true one: half a unit of the last of 8 bits for either vector and
# for the result, 3 / 512, and a little for the sums, which are fp32.
_BF16_ERROR = 0.006


class MemoryVectorStore:
    """Vectors by id; the similarity is the cosine.

    Args:
        dim: Z.
        index: ``exact``; ``usearch`` (an approximate index, needs ``pip install usearch``); ``auto``:
            exact up to ``exact_up_to`` vectors, or where usearch is not installed.
        dtype: in which vectors are kept: ``float32``, or ``float16`` for half the memory.
    """

    def __init__(
        self, dim: int, index: str = "auto", dtype: str = "float32", exact_up_to: int = 1_000_000
    ) -> None:
        check(dim >= 1, "dim", dim, "1 or more")
        check_choice("index", index, ("auto", "exact", "usearch"))
        check_choice("dtype", dtype, ("float32", "float16"))
        if index == "usearch" and find_spec("usearch") is None:
            raise MissingExtraError("index=usearch needs a package: pip install usearch")
        self.dim, self.index, self.exact_up_to = dim, index, exact_up_to
        self.dtype = torch.float32 if dtype == "float32" else torch.float16
        self._buffer = torch.empty(0, dim, dtype=self.dtype)
        self._ids = torch.empty(0, dtype=torch.long)
        self._rows: dict[int, int] = {}
        self._graph: Any = None  # usearch's index, made when it is first needed

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, number: int) -> bool:
        return number in self._rows

    @property
    def vectors(self) -> Tensor:
        """The vectors [N, Z], length one. Do not change them."""
        return self._buffer[: len(self)]

    @property
    def ids(self) -> Tensor:
        """Their ids [N]."""
        return self._ids

    def add(self, vectors: Tensor, ids: Sequence[int] | Tensor | None = None) -> list[int]:
        """Add vectors [M, Z] (they are brought to length one); returns their ids.

        Args:
            ids: of their own; by default the numbers after the largest so far.

        Raises:
            DataError: another size, a vector that is not finite or zero, an id that is there already.
        """
        vectors = torch.as_tensor(vectors).detach().cpu().float()
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise DataError(f"the store holds vectors of {self.dim} numbers, these are {list(vectors.shape)}")
        norms = vectors.norm(dim=1)
        if not bool((torch.isfinite(norms) & (norms > 0)).all()):
            row = int((~(torch.isfinite(norms) & (norms > 0))).nonzero()[0])
            raise DataError(f"vector {row} is zero or not finite: it has no direction")
        first = int(self._ids.max()) + 1 if len(self) else 0
        new = list(range(first, first + len(vectors))) if ids is None else [int(i) for i in ids]
        if len(new) != len(vectors) or len(set(new)) != len(new) or any(i in self._rows for i in new):
            raise DataError(f"{len(vectors)} vectors need as many ids, all new and different")
        self._grow(len(vectors))
        start = len(self)
        self._buffer[start : start + len(vectors)] = F.normalize(vectors, dim=1).to(self.dtype)
        self._ids = torch.cat([self._ids, torch.tensor(new, dtype=torch.long)])
        self._rows.update({number: start + i for i, number in enumerate(new)})
        self._graph = None
        return new

    def _grow(self, more: int) -> None:
        need = len(self) + more
        if need > len(self._buffer):
            buffer = torch.empty(max(need, 2 * len(self._buffer)), self.dim, dtype=self.dtype)
            buffer[: len(self)] = self.vectors
            self._buffer = buffer

    def delete(self, ids: Sequence[int]) -> int:
        """Remove vectors; returns how many were there."""
        gone = [self._rows[int(i)] for i in set(map(int, ids)) if int(i) in self._rows]
        if gone:
            keep = torch.ones(len(self), dtype=torch.bool)
            keep[gone] = False
            self._buffer, self._ids = self.vectors[keep], self._ids[keep]
            self._rows = {number: row for row, number in enumerate(self._ids.tolist())}
            self._graph = None
        return len(gone)

    def search(self, queries: Tensor, k: int = 10) -> tuple[Tensor, Tensor]:
        """The ``k`` nearest vectors.

        Args:
            queries: [Q, Z] or [Z].

        Returns:
            Cosines [Q, k], falling, and ids [Q, k]; ``-inf`` and -1 where there are fewer than k.
        """
        check(k >= 1, "k", k, "1 or more")
        queries = torch.as_tensor(queries).detach().cpu().float()
        queries = queries[None] if queries.ndim == 1 else queries
        if queries.shape[1] != self.dim:
            raise DataError(
                f"the store holds vectors of {self.dim} numbers, the query has {queries.shape[1]}"
            )
        queries = F.normalize(queries, dim=1)
        found = min(k, len(self))
        scores = queries.new_full((len(queries), k), float("-inf"))
        ids = torch.full((len(queries), k), -1)
        if found:
            near = self._approximate if self._uses_graph() else self._exact
            scores[:, :found], rows = near(queries, found)
            ids[:, :found] = self._ids[rows]
        return scores, ids

    def _exact(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Scores and rows [Q, k]. On a CPU that computes in bf16 a first look at all is in bf16."""
        wide = min(_WIDER * k, len(self))
        if len(queries) < _SCREENED or not computes_in_bf16(torch.device("cpu")):
            return self._best(queries, k, torch.float32)
        rough, rows = self._best(queries, wide, torch.bfloat16)
        found = (self._buffer[rows].float() @ queries[:, :, None])[..., 0]
        scores, place = found.topk(k, dim=1)
        rows = rows.gather(1, place)
        # Whoever was left out had no more than the last one kept. Is that enough to know?
        unsure = scores[:, -1] < rough[:, -1] + _BF16_ERROR
        if wide < len(self) and bool(unsure.any()):
            scores[unsure], rows[unsure] = self._best(queries[unsure], k, torch.float32)
        return scores, rows

    def _best(self, queries: Tensor, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Scores and rows [Q, k] by products of all queries with a piece of the store at a time."""
        best: tuple[Tensor, Tensor] | None = None
        for start in range(0, len(self), _ROWS):
            piece = self._buffer[start : min(start + _ROWS, len(self))].to(dtype)
            if dtype == torch.float32:
                # numpy's product of such shapes is 1.3 times as fast as torch's
                product = torch.from_numpy(queries.numpy() @ piece.numpy().T)
            else:
                product = (queries.to(dtype) @ piece.T).float()
            score, row = largest(product, min(k, len(piece)))
            row = row + start
            if best is not None:
                score, place = torch.cat([best[0], score], 1).topk(
                    min(k, best[0].shape[1] + score.shape[1]), dim=1
                )
                row = torch.cat([best[1], row], 1).gather(1, place)
            best = score, row
        assert best is not None
        return best

    def _uses_graph(self) -> bool:
        if self.index == "auto":
            return len(self) > self.exact_up_to and find_spec("usearch") is not None
        return self.index == "usearch"

    def _approximate(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        from usearch.index import Index

        if self._graph is None:
            self._graph = Index(ndim=self.dim, metric="cos")
            self._graph.add(torch.arange(len(self)).numpy(), self.vectors.float().numpy())
        matches = self._graph.search(queries.numpy(), k)
        rows = torch.as_tensor(matches.keys.astype("int64")).view(len(queries), k)
        return 1 - torch.as_tensor(matches.distances).view(len(queries), k), rows

    def save(self, folder: str | Path) -> None:
        """Write vectors and ids into a folder, with their digests."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"vectors": self.vectors.contiguous(), "ids": self._ids.contiguous()}
        meta = {"dim": self.dim, "index": self.index, "dtype": str(self.dtype).removeprefix("torch.")}
        replace_bytes(folder / VECTORS, safetensors.torch.save(tensors))
        replace_bytes(folder / META, json.dumps({**meta, "exact_up_to": self.exact_up_to}).encode())
        seal(folder, (META, VECTORS))

    @classmethod
    def load(cls, folder: str | Path) -> MemoryVectorStore:
        """Read what ``save`` wrote.

        Raises:
            DataError: nothing there, or damaged; names the file.
        """
        try:
            files = read_sealed(Path(folder), "vector store", (META, VECTORS))
        except FileNotFoundError as error:
            raise DataError(
                f"no vector store in {folder}: {Path(str(error.filename)).name} is missing"
            ) from None
        store = cls(**json.loads(files[META]))
        tensors = safetensors.torch.load(files[VECTORS])
        store._buffer, store._ids = tensors["vectors"], tensors["ids"]
        store._rows = {number: row for row, number in enumerate(store._ids.tolist())}
        return store
