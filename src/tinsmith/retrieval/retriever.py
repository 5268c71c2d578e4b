"""Documents by meaning, and data sets whose samples are told what was found: never themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinsmith.durable import replace_bytes
from tinsmith.engine.config import check
from tinsmith.errors import DataError
from tinsmith.retrieval.embedder import Encoder, TextEmbedder
from tinsmith.retrieval.store import META, VECTORS, MemoryVectorStore
from tinsmith.sealed import read_sealed, seal

DOCUMENTS = "documents.jsonl"
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that was found: its id, its cosine to the query, its text, and what was given with it."""

    id: int
    score: float
    text: str
    document: Document


class RAGRetriever:
    """Documents in a vector store, found by the cosine of their keys.

    Args:
        embedder: makes the vectors.
        store: keeps them; a new one by default.
        key: the field of a document that its vector is made of, ``text`` by default.
    """

    def __init__(
        self, embedder: TextEmbedder, store: MemoryVectorStore | None = None, key: str = "text"
    ) -> None:
        self.embedder, self.key = embedder, key
        self.store = store if store is not None else MemoryVectorStore(embedder.size)
        self.documents: dict[int, Document] = {}

    def __len__(self) -> int:
        return len(self.documents)

    def add(self, documents: Iterable[str | Mapping[str, Any]]) -> list[int]:
        """Add documents: texts, or mappings with ``text`` and the key. Returns their ids.

        Raises:
            DataError: a document without a text.
        """
        rows = [_document(item, i, self.key) for i, item in enumerate(documents)]
        if not rows:
            return []
        ids = self.store.add(self.embedder.encode([row[self.key] for row in rows]))
        self.documents.update(zip(ids, rows, strict=True))
        return ids

    def delete(self, ids: Sequence[int]) -> int:
        """Remove documents; returns how many were there."""
        for number in ids:
            self.documents.pop(int(number), None)
        return self.store.delete(ids)

    def retrieve(
        self,
        queries: str | Sequence[str],
        k: int = 5,
        exclude: Sequence[str | None] | None = None,
        near: float = 0.95,
    ) -> list[list[Hit]]:
        """The ``k`` best documents for each query, the best first.

        Args:
            queries: one text, or several.
            exclude: for each query a text whose copies must not be found (the sample's own, say), or None.
            near: a document is a copy if so much of the shorter text's shingles is in the other.
        """
        queries = [queries] if isinstance(queries, str) else list(queries)
        return self.retrieve_vectors(self.embedder.encode(queries), k, exclude, near)

    def retrieve_vectors(
        self, vectors: Tensor, k: int = 5, exclude: Sequence[str | None] | None = None, near: float = 0.95
    ) -> list[list[Hit]]:
        """``retrieve`` by vectors [Q, Z]."""
        check(k >= 1, "k", k, "1 or more")
        owns = exclude if exclude is not None else [None] * len(vectors)
        found: list[list[Hit]] = [[] for _ in owns]
        open_, width = list(range(len(vectors))), 2 * k if exclude is not None else k
        shingled: dict[int, frozenset[int]] = {}
        while open_ and len(self.store):  # copies may fill the list: look further for those who lack some
            scores, ids = self.store.search(vectors[open_], min(width, len(self.store)))
            for i, score, number in zip(open_, scores.tolist(), ids.tolist(), strict=True):
                found[i] = self._allowed(score, number, owns[i], near, k, shingled)
            open_ = [i for i in open_ if len(found[i]) < k] if width < len(self.store) else []
            width *= 4
        return found

    def _allowed(
        self,
        scores: list[float],
        ids: list[int],
        own: str | None,
        near: float,
        k: int,
        shingled: dict[int, frozenset[int]],
    ) -> list[Hit]:
        hits: list[Hit] = []
        mine = shingles(own) if own is not None else None
        for score, number in zip(scores, ids, strict=True):
            if number < 0 or len(hits) == k:
                break
            document = self.documents[number]
            if mine is not None:
                if number not in shingled:
                    shingled[number] = shingles(document["text"])
                if overlap(mine, shingled[number]) >= near:
                    continue
            hits.append(Hit(number, score, document["text"], document))
        return hits

    def save(self, folder: str | Path) -> None:
        """Write the store and the documents into a folder. The encoder is not saved."""
        folder = Path(folder)
        self.store.save(folder)
        rows = [json.dumps({"id": i, "document": d}, ensure_ascii=False) for i, d in self.documents.items()]
        head = json.dumps({"encoder": self.embedder.name, "key": self.key})
        replace_bytes(folder / DOCUMENTS, "\n".join([head, *rows]).encode())
        seal(folder, (META, VECTORS, DOCUMENTS))

    @classmethod
    def load(cls, folder: str | Path, embedder: TextEmbedder | None = None) -> RAGRetriever:
        """Read what ``save`` wrote.

        Args:
            embedder: what the vectors were made by; by default the one of the saved name.

        Raises:
            DataError: nothing there, damaged, or vectors of another size.
        """
        store = MemoryVectorStore.load(folder)
        try:
            text = read_sealed(Path(folder), "retriever", (DOCUMENTS,))[DOCUMENTS].decode()
            head, *rows = [json.loads(line) for line in text.split("\n")]
            documents = {row["id"]: row["document"] for row in rows}
        except FileNotFoundError:
            raise DataError(f"no documents in {folder}: {DOCUMENTS} is missing") from None
        if set(documents) != set(store.ids.tolist()):
            raise DataError(f"{folder}: its documents and its vectors are not of one save")
        embedder = embedder or TextEmbedder(head["encoder"])
        if embedder.size != store.dim:
            raise DataError(
                f"{folder}: vectors of {store.dim} numbers; {embedder.name} makes {embedder.size}"
            )
        retriever = cls(embedder, store, head["key"])
        retriever.documents = documents
        return retriever


def _document(item: str | Mapping[str, Any], number: int, key: str) -> Document:
    row: Document = {"text": item} if isinstance(item, str) else dict(item)
    if not isinstance(row.get("text"), str) or not isinstance(row.get(key), str):
        raise DataError(f"document {number}: a text, or an object with '{key}', is needed, not {item!r:.80}")
    return row


def shingles(text: str, length: int = 5) -> frozenset[int]:
    """Hashes of the runs of ``length`` characters of a text, blanks and case apart."""
    plain = "".join(text.lower().split())
    return frozenset(hash(plain[i : i + length]) for i in range(max(1, len(plain) - length + 1)))


def overlap(a: frozenset[int], b: frozenset[int]) -> float:
    """The share of the smaller set that is in the other: 1 for a copy, also one inside a longer text."""
    return len(a & b) / max(1, min(len(a), len(b)))


def told(context: str, hits: Iterable[Hit]) -> str:
    """A context with the texts that were found behind it, a line between each."""
    return "\n".join([context, *(hit.text for hit in hits)]).strip("\n")


class RAGDatasetWrapper:
    """Samples with retrieved context behind their own, so that a cut leaves them theirs. The neighbours are
    found once, at the start.

    A sample's copies and near-copies, itself above all, are never among them.

    Args:
        dataset: mappings by index.
        retriever: of the documents.
        query: a sample's query text; must not hold what the sample asks for.
        own: a sample's own text, whose copies are left out.
        context: the field that gets the retrieved texts, a line between each, behind what it holds.
        k: neighbours.
        near: see ``RAGRetriever.retrieve``.
    """

    def __init__(
        self,
        dataset: Sequence[Mapping[str, Any]],
        retriever: RAGRetriever,
        *,
        query: Callable[[Mapping[str, Any]], str],
        own: Callable[[Mapping[str, Any]], str],
        context: str = "context",
        k: int = 1,
        near: float = 0.95,
    ) -> None:
        self.dataset, self.retriever, self.context = dataset, retriever, context
        samples = [dataset[i] for i in range(len(dataset))]
        vectors = retriever.embedder.encode([query(s) for s in samples]) if samples else torch.zeros(0, 1)
        self.neighbours = (
            retriever.retrieve_vectors(vectors, k, [own(s) for s in samples], near) if samples else []
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample with its context."""
        sample = dict(self.dataset[index])
        sample[self.context] = told(str(sample.get(self.context, "")), self.neighbours[index])
        return sample


def build_rag(
    documents: Iterable[str | Mapping[str, Any]],
    encoder: str | Encoder | TextEmbedder = "chars",
    *,
    key: str = "text",
    index: str = "auto",
) -> RAGRetriever:
    """A retriever over documents: texts, or mappings with ``text``.

    Args:
        encoder: see ``TextEmbedder``.
        key: the field that vectors are made of.
        index: see ``MemoryVectorStore``.
    """
    embedder = encoder if isinstance(encoder, TextEmbedder) else TextEmbedder(encoder)
    retriever = RAGRetriever(embedder, MemoryVectorStore(embedder.size, index), key)
    retriever.add(documents)
    return retriever
