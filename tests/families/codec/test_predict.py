from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from families.damaged import refuses_damage
from families.tiny import sentences, trained

from tinsmith.errors import ConfigError, DataError
from tinsmith.families.codec import Codec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model's folder."""
    return trained("codec", tmp_path_factory.mktemp("codec"), 6)


@pytest.fixture
def codec(folder: Path) -> Codec:
    return Codec.load(folder)


def test_vectors_are_in_order_and_of_length_one(codec: Codec) -> None:
    texts = [*sentences(9), "tin", "the red tin of the old house in it with his good cups and pots"]
    z = codec.encode(texts)
    assert z.shape == (11, 16)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(11))
    for i, text in enumerate(texts):
        torch.testing.assert_close(codec.encode([text])[0], z[i], rtol=0, atol=1e-6)
    for size in (1, 3, 64):
        torch.testing.assert_close(codec.encode(texts, batch_size=size), z, rtol=0, atol=1e-6)


def test_the_tiers_differ_and_are_known_by_name(codec: Codec) -> None:
    full, static = codec.encode(sentences(3)), codec.encode(sentences(3), tier="static")
    assert not torch.allclose(full, static)
    with pytest.raises(ConfigError, match="tier='fast' is not known: full, static"):
        codec.encode(["tin"], tier="fast")  # type: ignore[arg-type]


def test_mistakes_are_named(codec: Codec) -> None:
    with pytest.raises(DataError, match="sentence 1 is empty"):
        codec.encode(["tin", " "])
    with pytest.raises(TypeError, match="a list of sentences"):
        codec.encode("tin")
    with pytest.raises(DataError, match="input 1: a text"):
        codec(["tin", 5])
    assert codec.encode([]).shape == (0, 16)


def test_threads_share_one_codec(codec: Codec) -> None:
    texts = sentences(24)
    expected = codec.encode(texts)
    with ThreadPoolExecutor(8) as pool:
        for z in pool.map(lambda _: codec.encode(texts), range(32)):
            assert torch.equal(z, expected)


def test_answers_are_what_json_holds(codec: Codec) -> None:
    one, two = codec(["tin", {"text": "red tin"}])
    assert (one["text"], two["text"]) == ("tin", "red tin")
    assert all(isinstance(value, float) for value in one["z"])


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    refuses_damage(Codec.load, folder, tmp_path / "model", name, "codec")
