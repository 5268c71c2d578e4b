import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tinsmith.errors import ConfigError
from tinsmith.families.codec.config import DecoderConfig
from tinsmith.families.codec.ctc import BLANK, CtcDecoder
from tinsmith.families.codec.decoder import EOS, PAD
from tinsmith.families.codec.decoding import merged, write
from tinsmith.text.decoding import Vocabulary
from tinsmith.text.generation_config import GenerationConfig

V, Z = 8, 6
WORDS = Vocabulary(EOS, (PAD, 1, 3), lambda ids: " ".join(map(str, ids)))


def decoder(max_len: int = 2) -> CtcDecoder:
    torch.manual_seed(0)
    return CtcDecoder(DecoderConfig(kind="ctc", dim=8, dilations=[1, 2], max_len=max_len), V, Z)


def vectors(count: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, Z, generator=torch.Generator().manual_seed(1)), dim=-1)


def written(model: CtcDecoder, z: torch.Tensor, longest: int = 5, **options: Any) -> list[list[list[int]]]:
    cfg = GenerationConfig(max_new_tokens=longest, **options)
    return [[answer.tokens for answer in several] for several in write(model, z, cfg, WORDS, range(len(z)))]


def test_the_loss_sums_over_all_ways_to_write_it() -> None:
    model, z = decoder(), vectors(1)
    target = torch.tensor([[5, 6, EOS, PAD]])
    logp = model(z)[0].log_softmax(-1)
    total = torch.zeros(())
    for path in itertools.product(range(V), repeat=4):  # 4 slots
        merged = [a for a, _ in itertools.groupby(path) if a != BLANK]
        if merged == [5, 6]:
            total = total + torch.stack([logp[s, a] for s, a in enumerate(path)]).sum().exp()
    assert model.losses(z, target).item() == pytest.approx(-total.log().item(), rel=1e-4)


def test_repetitions_and_blanks_are_taken_out() -> None:
    model = decoder(max_len=4)
    best = torch.tensor([[BLANK, 5, 5, BLANK, 5, 6, 6, BLANK], [7] * 8])
    model.forward = lambda z: F.one_hot(best, V).float() * 9  # type: ignore[method-assign]
    assert written(model, vectors(2), 4) == [[[5, 5, 6, EOS]], [[7, EOS]]]
    assert written(model, vectors(2), 2) == [[[5, 5, EOS]], [[7, EOS]]]
    assert merged([BLANK, BLANK]) == []


def test_draws_are_each_vectors_own() -> None:
    model, z = decoder(max_len=8), vectors(4)
    several = written(model, z, do_sample=True, num_return_sequences=3)
    assert len({str(tokens) for tokens in several[0]}) > 1
    alone = write(model, z[2:3], GenerationConfig(max_new_tokens=5, do_sample=True), WORDS, [2])
    assert alone[0][0].tokens == several[2][0]
    with pytest.raises(ConfigError, match=r"num_beams=4 is not allowed: 1, for decoder\.kind=ctc"):
        written(model, z, num_beams=4)


def test_learns_texts() -> None:
    model = decoder(max_len=5).train()
    with torch.no_grad():
        model.start_from(torch.randn(V, Z), torch.zeros(V).log_softmax(-1))
    z, target = (
        vectors(4),
        torch.tensor([[4, 5, 6, EOS], [6, 6, 4, EOS], [7, EOS, PAD, PAD], [5, 7, EOS, PAD]]),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(150):
        loss = model.losses(z, target).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert written(model, z) == [[[i for i in row if i != PAD]] for row in target.tolist()]
