import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.families.lm.config import ModelConfig
from tinsmith.families.lm.decoding import PromptDecoder
from tinsmith.families.lm.model import LanguageModel, LMSpec

KINDS: list[dict[str, Any]] = [{}, {"style": "plain"}, {"mlp": "swiglu"}, {"softcap": 15.0}]


def model(trained: bool = True, context: int = 8, **options: Any) -> LanguageModel:
    torch.manual_seed(0)
    made = LanguageModel(ModelConfig(dim=16, num_heads=2, num_layers=2, **options), LMSpec(11, context))
    if trained:
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


def ids(rows: int, length: int) -> Tensor:
    return torch.randint(4, 11, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_the_first_loss_is_that_of_no_knowledge(options: dict[str, Any]) -> None:
    tokens = ids(16, 9)
    logits = model(trained=False, **options)(tokens[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
    assert loss == pytest.approx(math.log(11), rel=0.02)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_changed_future_leaves_the_past_as_it_was(options: dict[str, Any]) -> None:
    net, tokens = model(**options), ids(2, 8)
    for t in range(1, 8):
        other = tokens.clone()
        other[:, t:] = (other[:, t:] - 3) % 7 + 4
        a, b = net(tokens), net(other)
        assert torch.equal(a[:, :t], b[:, :t])
        assert not torch.equal(a[:, t], b[:, t])
        torch.testing.assert_close(net(tokens[:, :t]), a[:, :t], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_chunks_with_a_cache_are_the_whole(options: dict[str, Any]) -> None:
    net, tokens = model(**options), ids(3, 8)
    with torch.inference_mode():
        whole = net(tokens)
        cache, parts = PromptDecoder(net, [[4]]).cache, []
        for start, stop in ((0, 1), (1, 4), (4, 8)):
            parts.append(net(tokens[:, start:stop], cache=cache))
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-5)


def test_beyond_the_context_a_window_slides() -> None:
    net, tokens = model(context=4), ids(1, 10)
    with torch.inference_mode():
        whole = net(tokens)
        decoder = PromptDecoder(net, [tokens[0, :3].tolist()])
        logits = [decoder.start()]
        for t in range(3, 10):
            logits.append(decoder.step(tokens[:, t]))
        torch.testing.assert_close(torch.stack(logits, 1), whole[:, 2:], rtol=1e-5, atol=1e-5)
        # What is further back than two layers of four positions can see changes nothing.
        other = tokens.clone()
        other[0, 0] = (other[0, 0] - 3) % 7 + 4
        assert torch.equal(net(other)[:, 7:], whole[:, 7:])
        assert not torch.equal(net(other)[:, 6], whole[:, 6])


@pytest.mark.parametrize("options", [{}, {"style": "plain"}], ids=str)
def test_prompts_of_unequal_length_are_each_as_if_alone(options: dict[str, Any]) -> None:
    net = model(**options)
    prompts = [[4, 5, 6, 7], [8], [9, 10, 4]]
    follow = ids(3, 3)
    with torch.inference_mode():
        together = PromptDecoder(net, prompts)
        logits = [together.start(), *(together.step(follow[:, t]) for t in range(3))]
        for row, prompt in enumerate(prompts):
            alone = PromptDecoder(net, [prompt])
            own = [alone.start(), *(alone.step(follow[row : row + 1, t]) for t in range(3))]
            full = net(torch.tensor([[*prompt, *follow[row].tolist()]]))[0, len(prompt) - 1 :]
            for t in range(4):
                torch.testing.assert_close(logits[t][row], own[t][0], rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(own[t][0], full[t], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("use_cache", [True, False])
def test_reordered_rows_go_on_as_their_own(use_cache: bool) -> None:
    net = model()
    prompts = [[4, 5, 6], [8], [9, 10]]
    rows = torch.tensor([2, 0, 0, 1])
    with torch.inference_mode():
        decoder = PromptDecoder(net, prompts, use_cache)
        decoder.start()
        decoder.step(torch.tensor([4, 5, 6]))
        decoder.reorder(rows)
        logits = decoder.step(torch.tensor([7, 8, 9, 10]))
        for i, row in enumerate(rows.tolist()):
            sequence = [*prompts[row], [4, 5, 6][row], [7, 8, 9, 10][i]]
            torch.testing.assert_close(logits[i], net(torch.tensor([sequence]))[0, -1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"style": "plain"}], ids=str)
def test_packed_documents_are_each_as_if_alone(options: dict[str, Any]) -> None:
    net = model(**options)
    first, second = ids(1, 3)[0], ids(1, 4)[0]
    tokens = torch.cat([first, second, torch.zeros(1, dtype=torch.long)])[None]
    segments = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 0]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0]])
    packed = net(tokens, segments, positions)[0]
    torch.testing.assert_close(packed[:3], net(first[None])[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(packed[3:7], net(second[None])[0], rtol=1e-5, atol=1e-5)
    assert torch.isfinite(packed).all()


def test_the_softcap_by_definition() -> None:
    soft, hard = model(softcap=2.0), model()
    soft.load_state_dict(hard.state_dict())
    torch.testing.assert_close(soft(ids(1, 5)), 2 * torch.tanh(hard(ids(1, 5)) / 2))
