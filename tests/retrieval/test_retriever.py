from pathlib import Path

import numpy as np
import pytest
import torch

from tinsmith.errors import DataError
from tinsmith.retrieval import CharEncoder, RAGDatasetWrapper, RAGRetriever, TextEmbedder, build_rag
from tinsmith.retrieval.retriever import overlap, shingles

TEXTS = [
    "the tin smith mends old pots",
    "the tin smith mends old pans",
    "a red house by the river",
    "iron cups and silver spoons",
    "the weather is fine today",
]


def test_char_vectors_are_near_for_like_texts() -> None:
    z = TextEmbedder("chars").encode(TEXTS)
    assert z.shape == (5, 384)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(5))
    assert z[0] @ z[1] > 0.7
    assert z[0] @ z[2] < 0.3
    assert torch.equal(TextEmbedder("chars").encode([TEXTS[3]])[0], z[3])
    assert np.isfinite(CharEncoder().encode(["", "é"])).all()


def test_any_object_that_encodes_serves() -> None:
    class Lengths:
        def encode(self, texts: list[str]) -> list[list[float]]:
            return [[len(text), 1.0] for text in texts]

    embedder = TextEmbedder(Lengths(), batch_size=2)
    assert embedder.size == 2
    assert embedder.encode(TEXTS).shape == (5, 2)
    with pytest.raises(TypeError, match="a list of texts"):
        embedder.encode("text")


def test_retrieval_finds_leaves_out_and_forgets() -> None:
    rag = build_rag(TEXTS)
    (hits,) = rag.retrieve("tin smith", 2)
    assert {hit.id for hit in hits} == {0, 1}
    assert hits[0].score >= hits[1].score
    assert hits[0].text == TEXTS[hits[0].id]
    assert rag.delete([hits[0].id]) == 1
    assert rag.retrieve("tin smith", 1)[0][0].id == hits[1].id
    assert len(rag) == 4
    assert len(rag.retrieve(["a", "b"], 9)[1]) == 4
    with pytest.raises(DataError, match="document 0: a text"):
        rag.add([{"name": "x"}])


def test_copies_are_never_found_however_many_there_are() -> None:
    copies = [f"  {TEXTS[0].upper()} " for _ in range(30)] + [TEXTS[0] + "!" for _ in range(30)]
    rag = build_rag([*copies, *TEXTS])
    (hits,) = rag.retrieve([TEXTS[0]], 3, exclude=[TEXTS[0]])
    assert [hit.id for hit in hits] == sorted({hit.id for hit in hits}, key=[h.id for h in hits].index)
    assert len(hits) == 3
    assert all(hit.id >= 61 for hit in hits)  # none of the copies, nor the text itself
    assert hits[0].text == TEXTS[1]


def test_overlap() -> None:
    assert overlap(shingles("abcdefgh"), shingles("ABC DEFGH")) == 1
    assert overlap(shingles("abcdefgh"), shingles("xx abcdefgh yy")) == 1
    assert overlap(shingles("abcdefgh"), shingles("stuvwxyz")) == 0


def test_wrapper_tells_each_sample_about_others() -> None:
    samples = [{"context": f"c{i}", "code": text} for i, text in enumerate(TEXTS)]
    rag = build_rag([s["code"] for s in samples])
    told = RAGDatasetWrapper(samples, rag, query=lambda s: s["code"], own=lambda s: s["code"])
    assert len(told) == 5
    assert told[0] == {"context": f"c0\n{TEXTS[1]}", "code": TEXTS[0]}
    for i, text in enumerate(TEXTS):
        assert text not in told[i]["context"]
    assert samples[0]["context"] == "c0"
    two = RAGDatasetWrapper(samples, rag, query=lambda s: s["code"], own=lambda s: s["code"], k=2)
    assert two[0]["context"].count("\n") == 2


def test_save_and_load(tmp_path: Path) -> None:
    rag = build_rag([{"text": text, "key": text[:12], "n": i} for i, text in enumerate(TEXTS)], key="key")
    rag.delete([1])
    rag.save(tmp_path)
    again = RAGRetriever.load(tmp_path)
    assert again.retrieve("the tin smith", 3) == rag.retrieve("the tin smith", 3)
    assert again.documents[4]["n"] == 4
    file = tmp_path / "documents.jsonl"
    file.write_text(file.read_text("utf-8").replace("river", "rover"), "utf-8")
    with pytest.raises(DataError, match=r"documents\.jsonl"):
        RAGRetriever.load(tmp_path)
    with pytest.raises(DataError, match="no vector store"):
        RAGRetriever.load(tmp_path / "elsewhere")
