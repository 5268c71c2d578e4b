"""``init=RUN``: going on from a trained codec."""

from pathlib import Path

import pytest
import torch
from families.codec.test_text_task import BOTH, DECODE
from families.tiny import build
from text.tiny_teachers import save_model

from tinsmith.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("codec")
    for name, words in (("plain", []), ("pair", BOTH)):
        built = build("codec", root, *words)
        built.trainer(root / "checkpoints" / name, max_steps=4).fit(built.data.train)
        built.family.save_model(built.cfg, built.task, built.data, root / name / "model")
        torch.save({k: v.clone() for k, v in built.task.model.state_dict().items()}, root / f"{name}.pt")
    return root


def weights(root: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(root / f"{name}.pt", weights_only=True)  # type: ignore[no-any-return]


def test_an_encoder_goes_on_where_it_was(root: Path) -> None:
    task = build("codec", root, f"init={root}/plain").task
    theirs = weights(root, "plain")
    assert all(torch.equal(value, theirs[key]) for key, value in task.model.state_dict().items())
    from_pair = build("codec", root, f"init={root}/pair").task.model.state_dict()
    theirs = weights(root, "pair")
    assert all(torch.equal(value, theirs[f"encoder.{key}"]) for key, value in from_pair.items())


def test_a_decoder_is_added_to_an_encoder(root: Path) -> None:
    task = build("codec", root, f"init={root}/plain/model", *DECODE).task
    theirs = weights(root, "plain")
    for key, value in task.model.encoder.state_dict().items():
        assert torch.equal(value, theirs[key])


def test_both_go_on_with_their_vocabularies(root: Path) -> None:
    other = root / "other.jsonl"
    other.write_text(
        "".join(f'{{"text": "iron cups {w} of tin"}}\n' for w in ["his", "her", "red", "old", "new"]), "utf-8"
    )
    built = build("codec", root, f"init={root}/pair", *BOTH, f"data.path={other}")
    theirs = weights(root, "pair")
    for key, value in built.task.model.state_dict().items():
        assert torch.equal(value, theirs[key]), key
    first = build("codec", root, *BOTH).data.artifacts["writer"]
    assert built.data.artifacts["writer"].fingerprint == first.fingerprint


def test_what_does_not_fit_is_told_with_the_settings_that_do(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has other sizes: add model\.dim=8 model\.dilations=\[1,2\]"):
        build("codec", root, f"init={root}/plain", "model.dim=16", "model.dilations=[1]")
    with pytest.raises(ConfigError, match=r"add decoder\.dim=16"):
        build("codec", root, f"init={root}/pair", *BOTH, "decoder.dim=24")
    with pytest.raises(DataError, match="no codec in"):
        build("codec", root, f"init={tmp_path}")
    save_model(tmp_path / "teacher", "bert", seed=5)
    with pytest.raises(DataError, match="learned from another teacher"):
        build("codec", root, f"init={root}/plain", f"teacher.name={tmp_path}/teacher")
