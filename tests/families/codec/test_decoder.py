import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.families.codec.config import DecoderConfig
from tinsmith.families.codec.decoder import BOS, EOS, PAD, UNK, Decoder, shifted, token_losses
from tinsmith.families.codec.decoding import VectorDecoder, vector_seeds, write
from tinsmith.text.decoding import Vocabulary
from tinsmith.text.generation_config import GenerationConfig

V, Z = 24, 6
WORDS = Vocabulary(EOS, (PAD, BOS, UNK), lambda ids: " ".join(map(str, ids)))


def decoder(trained: bool = True, **options: Any) -> Decoder:
    torch.manual_seed(0)
    settings = {"dim": 8, "dilations": [1, 2, 4], "max_len": 12, **options}
    model = Decoder(DecoderConfig(**settings), V, Z)
    if trained:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def vectors(count: int = 3) -> Tensor:
    return F.normalize(torch.randn(count, Z, generator=torch.Generator().manual_seed(1)), dim=-1)


def ids(count: int = 3, length: int = 9) -> Tensor:
    return torch.randint(4, V, (count, length), generator=torch.Generator().manual_seed(2))


def written(model: Decoder, z: Tensor, **options: Any) -> list[list[list[int]]]:
    cfg = GenerationConfig(max_new_tokens=12, **options)
    answers = write(model, z, cfg, WORDS, vector_seeds(z, 0))
    return [[answer.tokens for answer in several] for several in answers]


KINDS: list[dict[str, Any]] = [
    {},
    {"block": "ssm"},
    {"shared": True},
    {"kernel": 2},
    {"drop_path": 0.5},
    {"correct": True},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_token_by_token_is_the_whole_at_once(options: dict[str, Any]) -> None:
    model, z, tokens = decoder(**options).double(), vectors().double(), ids()
    whole = model(z, tokens)
    state = model.start(z)
    for t in range(tokens.shape[1]):
        torch.testing.assert_close(model.step(tokens[:, t], state, t), whole[:, t])


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_what_comes_later_changes_nothing(options: dict[str, Any]) -> None:
    model, z, tokens = decoder(**options), vectors(), ids()
    other = tokens.clone()
    other[:, 6:] = (other[:, 6:] + 1) % V
    with torch.no_grad():
        one, two = model(z, tokens), model(z, other)
    torch.testing.assert_close(one[:, :6], two[:, :6], rtol=0, atol=1e-6)
    assert not torch.allclose(one[:, 6:], two[:, 6:])


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_the_vector_is_told_at_every_position(options: dict[str, Any]) -> None:
    model, tokens = decoder(**options), ids()
    one, two = model(vectors(), tokens), model(-vectors(), tokens)
    assert ((one - two).abs().amax((0, 2)) > 1e-3).all()


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_every_weight_gets_a_gradient(options: dict[str, Any]) -> None:
    model = decoder(**options)
    model(vectors(), ids()).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize(
    "how", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True}], ids=str
)
def test_with_and_without_a_cache_the_same_is_written(options: dict[str, Any], how: dict[str, Any]) -> None:
    model, z = decoder(**options).double(), vectors(5).double()
    with_cache = written(model, z, **how)
    assert with_cache == written(model, z, use_cache=False, **how)
    assert len({str(several) for several in with_cache}) > 1


def test_greedy_takes_the_likeliest_of_the_whole_each_time() -> None:
    model, z = decoder(), vectors(5)
    for row, (tokens,) in zip(z, written(model, z), strict=True):
        for t, token in enumerate(tokens):
            logits = model(row[None], torch.tensor([[BOS, *tokens[:t]]]))[0, -1]
            logits[[PAD, BOS, UNK]] = -math.inf
            assert token == int(logits.argmax())


def test_a_draft_is_told_of_in_both_ways_of_writing() -> None:
    model, z, draft = decoder(correct=True).double(), vectors(4).double(), -vectors(4).double()
    cfg = GenerationConfig(max_new_tokens=12)
    one, two = (
        [a[0].tokens for a in write(model, z, replace(cfg, use_cache=use), WORDS, [0] * 4, draft)]
        for use in (True, False)
    )
    assert one == two != [several[0] for several in written(model, z)]
    rows = torch.tensor([2, 0])
    slow = VectorDecoder(model, z, draft, use_cache=False)
    slow.reorder(rows)
    torch.testing.assert_close(slow.start(), VectorDecoder(model, z[rows], draft[rows]).start())


def test_a_row_alone_is_the_row_in_a_batch() -> None:
    model, z = decoder(), vectors(4)
    for how in ({}, {"do_sample": True, "num_return_sequences": 3}, {"num_beams": 2}):
        together = written(model, z, **how)
        assert [written(model, z[i : i + 1], **how)[0] for i in range(4)] == together
        assert written(model, z.flip(0), **how) == together[::-1]


def test_only_text_is_written_and_nothing_behind_its_end() -> None:
    model = decoder()
    with torch.no_grad():
        model.unigram[[PAD, BOS, UNK]] = 50.0
        model.unigram[EOS] = 8.0
    for (tokens,) in written(model, vectors(6), do_sample=True):
        assert len(tokens) <= 12
        assert not {PAD, BOS, UNK} & set(tokens)
        assert EOS not in tokens[:-1]


def test_starts_as_the_words_that_the_vector_is_near_to() -> None:
    model, z = decoder(trained=False), vectors()
    table, log_share = torch.randn(V, Z), torch.randn(V).log_softmax(-1)
    model.start_from(table, log_share)
    words = F.normalize(table - table[4:].mean(0), dim=-1)
    words[:4] = 0
    expected = log_share + 10 * z @ words.T
    logits = model(z, ids())
    torch.testing.assert_close(logits, expected[:, None].expand_as(logits), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_losses_are_torchs_and_so_is_their_gradient(smoothing: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, V, requires_grad=True)
    target = torch.randint(4, V, (2, 4))
    target[1, 2:] = PAD
    smooth, plain = token_losses(logits, target, smoothing)
    kept = target.flatten() != PAD
    theirs = F.cross_entropy(
        logits.flatten(0, 1)[kept], target.flatten()[kept], label_smoothing=smoothing, reduction="sum"
    )
    torch.testing.assert_close(smooth.sum(), theirs)
    (mine,) = torch.autograd.grad(smooth.sum(), logits)
    (their,) = torch.autograd.grad(theirs, logits)
    torch.testing.assert_close(mine, their)
    assert not plain.requires_grad
    plainly = F.cross_entropy(logits.flatten(0, 1)[kept], target.flatten()[kept], reduction="sum")
    torch.testing.assert_close(plain.sum(), plainly.detach())


def test_shifted_reads_what_was_before() -> None:
    assert shifted(torch.tensor([[7, 8, EOS]])).tolist() == [[BOS, 7, 8]]


def test_learns_to_write_what_a_vector_stands_for() -> None:
    """Eight vectors, eight different texts: not one text for all."""
    model = decoder(trained=False, dim=32).train()
    z, target = vectors(8), torch.cat([ids(8, 6), torch.full((8, 1), EOS)], 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        smooth, plain = token_losses(model(z, shifted(target)), target, 0.0)
        optimizer.zero_grad()
        smooth.mean().backward()
        optimizer.step()
    assert plain.mean() < 0.1 < math.log(V)
    assert written(model.eval(), z) == [[row] for row in target.tolist()]
