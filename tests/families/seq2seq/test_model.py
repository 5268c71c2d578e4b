import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tinsmith.engine.contract import Context
from tinsmith.families.seq2seq.config import ModelConfig
from tinsmith.families.seq2seq.decoding import SourceDecoder
from tinsmith.families.seq2seq.model import Seq2SeqSpec, Transformer
from tinsmith.families.seq2seq.task import Seq2SeqTask

V = 13
KINDS: list[dict[str, Any]] = [{}, {"style": "plain"}, {"encoder_layers": 1}, {"mlp": "swiglu"}]


def model(trained: bool = True, **options: Any) -> Transformer:
    torch.manual_seed(0)
    made = Transformer(
        ModelConfig(**{"dim": 16, "num_heads": 2, "num_layers": 2, **options}), Seq2SeqSpec(V, 12)
    )
    if trained:
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


def sides() -> tuple[Tensor, Tensor]:
    src = torch.tensor([[5, 6, 7, 8, 2], [9, 2, 0, 0, 0], [4, 10, 2, 0, 0]])
    tgt = torch.tensor([[1, 4, 5, 6, 2], [1, 8, 9, 10, 2], [1, 7, 2, 0, 0]])
    return src, tgt


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_the_first_loss_is_that_of_no_knowledge(options: dict[str, Any]) -> None:
    src, tgt = sides()
    task = Seq2SeqTask(model(trained=False, **options), label_smoothing=0.0)
    assert task((src, tgt), Context()).loss.item() == pytest.approx(math.log(V), rel=0.02)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_what_stands_under_padding_changes_nothing(options: dict[str, Any]) -> None:
    net, (src, tgt) = model(**options), sides()
    out = net(src, tgt[:, :-1])
    for row in range(3):
        s, t = src[row][src[row] != 0], tgt[row, :-1][tgt[row, :-1] != 0]
        alone = net(s[None], t[None])[0]
        torch.testing.assert_close(out[row, : len(t)], alone, rtol=1e-5, atol=1e-5)
    wider = F.pad(src, (0, 3))
    torch.testing.assert_close(net(wider, tgt[:, :-1]), out, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_later_target_changes_no_earlier_logits(options: dict[str, Any]) -> None:
    net, (src, tgt) = model(**options), sides()
    out = net(src, tgt)
    for t in range(1, 5):
        other = tgt.clone()
        other[:, t:] = (other[:, t:] + 5) % V
        assert torch.equal(net(src, other)[:, :t], out[:, :t])


def test_every_source_token_is_seen_by_every_target() -> None:
    net, (src, tgt) = model(), sides()
    out = net(src, tgt)
    other = src.clone()
    other[0, 3] = 11
    assert (net(other, tgt)[0] != out[0]).any(-1).all()
    assert torch.equal(net(other, tgt)[1:], out[1:])


def test_logits_of_the_kept_positions_are_those_of_all() -> None:
    net, (src, tgt) = model(), sides()
    keep = tgt[:, 1:] != 0
    torch.testing.assert_close(net(src, tgt[:, :-1], keep), net(src, tgt[:, :-1])[keep])


def test_the_row_of_padding_is_never_trained() -> None:
    net = model().train()
    task = Seq2SeqTask(net)
    task(sides(), Context()).loss.backward()  # type: ignore[no-untyped-call]
    assert net.embed.weight.grad is not None
    assert not net.embed.weight.grad[0].any()
    assert net.embed.weight.grad[5].any()


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("use_cache", [True, False])
def test_token_by_token_is_the_whole(options: dict[str, Any], use_cache: bool) -> None:
    net, (src, tgt) = model(**options), sides()
    sources = [row[row != 0].tolist() for row in src]
    with torch.inference_mode():
        whole = net(src, tgt)
        decoder = SourceDecoder(net, sources, 1, use_cache)
        logits = [decoder.start(), *(decoder.step(tgt[:, t]) for t in range(1, 5))]
    torch.testing.assert_close(torch.stack(logits, 1), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("use_cache", [True, False])
def test_reordered_rows_go_on_as_their_own(use_cache: bool) -> None:
    net, (src, tgt) = model(), sides()
    rows = torch.tensor([2, 0, 2, 1])
    sources = [row[row != 0].tolist() for row in src]
    with torch.inference_mode():
        decoder = SourceDecoder(net, sources, 1, use_cache)
        decoder.start()
        decoder.step(tgt[:, 1])
        decoder.reorder(rows)
        out = decoder.step(torch.tensor([4, 5, 6, 7]))
        whole = net(src[rows], torch.cat([tgt[rows, :2], torch.tensor([[4], [5], [6], [7]])], 1))
    torch.testing.assert_close(out, whole[:, -1], rtol=1e-5, atol=1e-5)


def test_plain_blocks_are_torchs_own() -> None:
    """The same numbers as ``nn.TransformerDecoderLayer`` (norm first, GELU) with our weights in it."""
    net, (src, _) = model(style="plain", num_layers=1), sides()
    block = net.decoder[0]
    layer = torch.nn.TransformerDecoderLayer(16, 2, 48, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(block.attention.qkv.weight)
        layer.self_attn.in_proj_bias.copy_(block.attention.qkv.bias)
        layer.self_attn.out_proj.load_state_dict(block.attention.out.state_dict())
        layer.multihead_attn.in_proj_weight.copy_(
            torch.cat([block.cross.query.weight, block.cross.source.weight])
        )
        layer.multihead_attn.in_proj_bias.copy_(torch.cat([block.cross.query.bias, block.cross.source.bias]))
        layer.multihead_attn.out_proj.load_state_dict(block.cross.out.state_dict())
        layer.linear1.load_state_dict(block.mlp.inp.state_dict())
        layer.linear2.load_state_dict(block.mlp.out.state_dict())
        for mine, theirs in zip(
            (block.attention_norm, block.cross_norm, block.mlp_norm),
            (layer.norm1, layer.norm2, layer.norm3),
            strict=True,
        ):
            theirs.load_state_dict(mine.state_dict())
        x, memory = torch.randn(3, 5, 16), torch.randn(3, 5, 16)
        blocked = src == 0
        causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
        expected = layer(x, memory, tgt_mask=causal, memory_key_padding_mask=blocked)
        own = block(x, None, block.cross.read(memory), ~blocked[:, None, None], (None, True))
    torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)
