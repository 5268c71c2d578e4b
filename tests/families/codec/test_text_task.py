"""The objective of a codec that writes, on the tiny run."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families.tiny import Built, build
from torch import Tensor

from tinsmith.engine.contract import Context
from tinsmith.engine.data import Loader
from tinsmith.families.codec.decoder import EOS, PAD, shifted
from tinsmith.families.codec.text_task import TextTask, writes

GOLDEN = Path(__file__).parents[2] / "golden"
SMALL = ["decoder.vocab_size=300", "decoder.dim=16", "decoder.dilations=[1,2]", "decoder.max_len=24"]
SMALL += ["decoder.validate_texts=8"]
BOTH, DECODE = ["mode=both", *SMALL], ["mode=decode", *SMALL]
VARIANTS = [
    DECODE,
    [*DECODE, "decoder.source=student"],
    [*DECODE, "decoder.block=ssm"],
    [*DECODE, "decoder.shared=true"],
    [*DECODE, "decoder.drop_path=0.3", "decoder.dropout=0.1", "decoder.noise=0.5"],
    [*DECODE, "decoder.codes=4"],
    [*DECODE, "decoder.kind=ctc"],
    [*DECODE, "decoder.correct=true"],
    [*DECODE, "loss.cycle=0.5", "loss.contrast=0.5"],
    BOTH,
    [*BOTH, "decoder.source=both", "loss.through=0.1"],
    [*BOTH, "loss.alternate=false"],
]


def label(words: list[str]) -> str:
    return " ".join(word for word in words if word not in SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("codec")


def first(built: Built) -> dict[str, Tensor]:
    return next(iter(built.data.train))


def state(task: torch.nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in task.state_dict().items()}


def test_the_share_of_steps_is_spread_and_known() -> None:
    assert [writes(step, 0.5) for step in range(6)] == [False, True] * 3
    assert sum(writes(step, 0.3) for step in range(1000)) == 300
    gaps = [step for step in range(100) if writes(step, 0.25)]
    assert {b - a for a, b in itertools.pairwise(gaps)} == {4}


def test_targets_are_the_texts(folder: Path) -> None:
    data = build("codec", folder, *BOTH).data
    batch, texts = data.train.dataset.batch(torch.tensor([3, 0])), data.artifacts["corpus"].train
    for row, n in zip(batch["target"].tolist(), (3, 0), strict=True):
        assert data.artifacts["writer"].decode(row) == texts[n]["text"].lower()
        assert row[: len([i for i in row if i != PAD])][-1] == EOS
    assert data.spec.decoder_vocab_size == 300
    assert "target" not in first(build("codec", folder))


def test_a_text_that_is_cut_has_no_end(folder: Path) -> None:
    data = build("codec", folder, *BOTH, "decoder.max_len=2").data
    target = data.train.dataset.batch(torch.arange(8))["target"]
    assert target.shape[1] == 2
    assert not (target == EOS).any()


def test_the_first_loss_is_what_theory_says(folder: Path) -> None:
    """Unsmoothed: the unigram and ten times the cosine to each word's own centred vector."""
    built = build("codec", folder, *DECODE, "loss.label_smoothing=0")
    batch, words = first(built), built.data.artifacts["words"]
    unit = F.normalize(words - words[4:].mean(0), dim=-1)
    unit[:4] = 0
    logp = (built.data.artifacts["log_share"] + 10 * batch["z"] @ unit.T).log_softmax(-1)
    target = batch["target"]
    each = -logp.gather(1, target)[target != PAD]
    out = built.task(batch, Context())
    assert out.loss.item() == pytest.approx(float(each.mean()), rel=1e-4)
    assert float(out.weight) == len(each)


@pytest.mark.parametrize("words", VARIANTS, ids=label)
def test_gradient_reaches_what_is_trained_and_nothing_else(words: list[str], folder: Path) -> None:
    built = build("codec", folder, *words)
    before = state(built.task)
    trainer = built.trainer(folder / "gradient" / label(words), max_steps=6)
    trainer.fit(built.data.train)
    after = state(built.task)
    for step in (6, 7):  # one of each kind where they alternate
        built.task(first(built), Context(step, 9)).loss.backward()
    named = dict(built.task.named_parameters())
    without = [
        key
        for key, parameter in named.items()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.to_dense().any())
    ]
    assert without == []
    fixed = [
        key for key in before if key.startswith("model.encoder.") and torch.equal(before[key], after[key])
    ]
    encoder = [key for key in before if key.startswith("model.encoder.")]
    assert fixed == (encoder if words[0] == "mode=decode" else [])


@pytest.mark.parametrize("words", VARIANTS, ids=label)
def test_resume_is_bitwise(words: list[str], folder: Path, tmp_path: Path) -> None:
    def fit(steps: int, checkpoints: Path, load: bool = False) -> dict[str, Tensor]:
        built = build("codec", folder, *words)
        trainer = built.trainer(checkpoints, max_steps=8, ema=0.9, eval_every=4)
        if load:
            torch.manual_seed(99)
            trainer.load_checkpoint(checkpoints)
        else:
            trainer.add_log_hook(lambda metrics, step, prefix: trainer.stop() if step == steps else None)
        trainer.fit(built.data.train, built.data.valid)
        assert trainer.parts.ema is not None
        return {
            **state(built.task),
            **{f"ema.{k}": v for k, v in trainer.parts.ema.state_dict()["shadow"].items()},
        }

    whole = fit(8, tmp_path / "whole")
    fit(3, tmp_path / "cut")
    again = fit(3, tmp_path / "cut", load=True)
    assert [key for key in whole if not torch.equal(whole[key], again[key])] == []


@pytest.mark.parametrize("words", [DECODE, BOTH, [*DECODE, "decoder.kind=ctc"]], ids=label)
def test_evaluation_does_not_depend_on_the_batch_size(words: list[str], folder: Path) -> None:
    built = build("codec", folder, *words)
    trainer = built.trainer(folder / "batches")
    dataset = built.data.valid.dataset
    values = [trainer.eval_epoch(Loader(dataset, size, lengths=dataset.lengths)) for size in (1, 5, 16)]
    assert values[0] == pytest.approx(values[1], rel=1e-5, abs=1e-4)
    assert values[0] == pytest.approx(values[2], rel=1e-5, abs=1e-4)
    assert built.task.monitor[0] in values[0]


def test_overfits_eight_texts_and_writes_them(folder: Path) -> None:
    built = build("codec", folder, *DECODE, "decoder.dim=32", "loss.label_smoothing=0")
    batch = built.data.train.dataset.batch(torch.arange(8))
    trainer = built.trainer(folder / "overfit", max_steps=150, eval_every=150)
    trainer.fit([batch], [batch])
    assert trainer.metrics["perplexity"] < 1.2
    texts = [row["text"] for row in built.data.artifacts["corpus"].train[:8]]
    assert built.task.write(batch["z"]) == texts


def test_the_steps_of_the_encoder_are_those_of_the_encoder_alone(folder: Path) -> None:
    alone, both = build("codec", folder), build("codec", folder, *BOTH)
    batch = first(alone)
    both_batch = first(both)
    one, two = alone.task(batch, Context(0)), both.task(both_batch, Context(0))
    assert one.loss.item() == pytest.approx(two.loss.item(), rel=1e-6)
    assert set(both.task(both_batch, Context(1)).metrics) == {"nll"}


@pytest.mark.parametrize(("through", "reaches"), [(0.0, False), (0.5, True)])
def test_the_writing_moves_the_encoder_only_where_that_is_wanted(
    through: float, reaches: bool, folder: Path
) -> None:
    built = build("codec", folder, *BOTH, "decoder.source=student", f"loss.through={through}")
    with torch.no_grad():
        for parameter in built.task.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    built.task(first(built), Context(1)).loss.backward()
    grads = [p.grad for p in built.task.model.encoder.parameters()]
    assert any(g is not None and bool(g.to_dense().any()) for g in grads) == reaches


def test_cycle_and_contrast_by_hand(folder: Path) -> None:
    plain = build("codec", folder, *DECODE)
    batch = first(plain)
    base = plain.task(batch, Context()).loss.item()
    cycle = build("codec", folder, *DECODE, "loss.cycle=1").task
    assert isinstance(cycle, TextTask)
    with torch.no_grad():
        added = cycle(batch, Context()).loss.item() - base
        logits = cycle.model.decoder(batch["z"], shifted(batch["target"]))
        share = logits.softmax(-1) * (batch["target"] != PAD)[..., None]
        expected = torch.stack([(row.sum(0) @ cycle.meaning) for row in share])
        assert added == pytest.approx(float((1 - F.cosine_similarity(expected, batch["z"])).mean()), abs=1e-4)
    contrast = build("codec", folder, *DECODE, "loss.contrast=1").task(batch, Context()).loss.item() - base
    assert 0 < contrast < 2  # log 2 where the vector says nothing


@pytest.mark.parametrize("mode", ["decode", "both"])
def test_first_losses_do_not_move(mode: str, folder: Path) -> None:
    """As tests/families/test_golden.py, and rewritten likewise."""
    losses: list[float] = []
    built = build("codec", folder, *(DECODE if mode == "decode" else [*BOTH, "decoder.source=both"]))
    trainer = built.trainer(folder / "golden" / mode, max_steps=6)
    trainer.add_log_hook(lambda metrics, step, prefix: losses.append(metrics["loss"]))
    trainer.fit(built.data.train)
    path = GOLDEN / f"codec_{mode}.json"
    if os.environ.get("TINSMITH_REWRITE_GOLDEN"):
        path.write_text(json.dumps({"losses": losses}) + "\n", "utf-8")
    assert losses == pytest.approx(json.loads(path.read_text("utf-8"))["losses"], rel=1e-4)


def test_labels(folder: Path) -> None:
    assert label(VARIANTS[0]) == "mode=decode"
    kinds: list[Any] = [label(words) for words in VARIANTS]
    assert len(set(kinds)) == len(kinds)
