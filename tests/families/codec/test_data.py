from pathlib import Path

import pytest
import torch
from families.tiny import build, sentences
from torch import Tensor

from tinsmith.families.codec.data import SentenceDataset
from tinsmith.text.shards import Rows
from tinsmith.text.teachers import EmbeddingLoader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("codec")


@pytest.fixture(scope="module")
def teacher(folder: Path) -> EmbeddingLoader:
    build("codec", folder)
    return EmbeddingLoader(str(folder / "teacher"), normalize=True, device="cpu")


def rows(dataset: SentenceDataset, *indices: int) -> dict[str, Tensor]:
    return dataset.batch(torch.tensor(indices))


def test_a_batch_holds_the_sentences_and_their_teachers_vectors(
    folder: Path, teacher: EmbeddingLoader
) -> None:
    built = build("codec", folder)
    dataset, tokenizer = built.data.train.dataset, built.data.artifacts["tokenizer"]
    texts = [row["text"] for row in built.data.artifacts["corpus"].train]
    batch = rows(dataset, 5, 0, 17)
    for i, n in enumerate((5, 0, 17)):
        ids = batch["tokens"][i][batch["mask"][i]]
        assert ids.tolist() == tokenizer.encode(texts[n])
        assert batch["domain"][i] == n % 2
    expected = torch.from_numpy(teacher.encode([texts[n] for n in (5, 0, 17)]))
    torch.testing.assert_close(batch["z"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch["z"].norm(dim=-1), torch.ones(3))


def test_what_is_beyond_max_len_is_not_read(folder: Path) -> None:
    batch = next(iter(build("codec", folder, "data.max_len=2").data.train))
    assert batch["tokens"].shape[1] == 2


def test_a_fitted_tokenizer_starts_from_the_teachers_vectors_of_its_words(folder: Path) -> None:
    data = build("codec", folder, "data.tokenizer=bpe", "data.vocab_size=300").data
    table = data.artifacts["table"]
    assert table.shape == (data.spec.vocab_size, 16)
    assert torch.isfinite(table).all()
    assert next(iter(data.train))["tokens"].max() < data.spec.vocab_size


def test_frequent_tokens_weigh_less(folder: Path) -> None:
    data = build("codec", folder).data
    weight = data.artifacts["log_weight"]
    ids = [data.artifacts["tokenizer"].encode(text) for text in sentences(64)]
    counts = torch.bincount(torch.tensor([i for row in ids for i in row]), minlength=len(weight))
    assert weight[counts == 0].eq(0).all()
    assert weight.argmin() == counts.argmax()


def test_larger_sets_are_read_from_the_map(folder: Path) -> None:
    assert isinstance(build("codec", folder).data.train.dataset.store.vectors, Rows)
