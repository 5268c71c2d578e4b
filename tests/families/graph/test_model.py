"""The nets against what they should be, worked out node by node; and what must not change their answers."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families.graph.some_graphs import permuted, some
from families.graph.test_encodings import everything
from torch import Tensor, nn

from tinsmith.families.graph.batches import Batch, GraphDataset, Layout, pair_dim, statistics
from tinsmith.families.graph.config import ModelConfig, PEConfig
from tinsmith.families.graph.encode import encode, lap_dim, node_dim
from tinsmith.families.graph.graphs import Graphs
from tinsmith.families.graph.layers import GCN, GINE, Attention, GPSBlock, Structure, dropped
from tinsmith.families.graph.model import GraphModel, GraphSpec, build_model, get_model
from tinsmith.families.graph.sets import no_encodings

KINDS: list[dict[str, Any]] = [
    {"name": "graph_transformer"},
    {"name": "graph_transformer", "pair_values": True},
    {"name": "gps"},
    {"name": "gps", "norm": "batch"},
    {"name": "gine"},
    {"name": "gcn"},
]


def dataset(graphs: Graphs, pe: PEConfig) -> GraphDataset:
    layout = Layout(pe, (2,))
    return GraphDataset(graphs, encode(graphs, pe), layout)


def model_of(data: GraphDataset, task: str = "regression", **options: Any) -> GraphModel:
    pe = data.layout.pe
    spec = GraphSpec(task, 2, (3,), (2,), 0, node_dim(pe), lap_dim(pe), pair_dim(data.layout), mean_nodes=5.0)
    torch.manual_seed(0)
    cfg = ModelConfig(**{"dim": 16, "num_layers": 2, "num_heads": 2, "pair_dim": 8, **options})
    cfg.validate()
    model = build_model(cfg, spec, pe.lap.signs)
    model.start_from(statistics(data))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    with torch.no_grad():  # running figures of the batch norms
        for _ in range(3):
            model.train()(data.batch(torch.arange(len(data))))
    return model.eval()


def batch(data: GraphDataset, *which: int) -> Batch:
    return data.batch(torch.tensor(which or range(len(data))))


# ---- what must hold ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("pe", [PEConfig(), everything(), no_encodings()], ids=["default", "all", "none"])
def test_permuting_the_nodes_changes_nothing(options: dict[str, Any], pe: PEConfig) -> None:
    graphs = some(1, count=5)
    model = model_of(dataset(graphs, pe), **options)
    for i in range(5):
        order = np.random.default_rng(i).permutation(int(graphs.num_nodes[i]))
        other = dataset(permuted(graphs, i, order), pe)
        one, two = model(batch(dataset(graphs, pe), i)), model(batch(other))
        assert (one - two).abs().max() < 1e-5


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_nodes_keep_their_answers_when_permuted(options: dict[str, Any]) -> None:
    graphs = some(2, count=3)
    model = model_of(dataset(graphs, PEConfig()), "node_classification", **options)
    order = np.random.default_rng(0).permutation(int(graphs.num_nodes[1]))
    one = model(batch(dataset(graphs, PEConfig()), 1))
    two = model(batch(dataset(permuted(graphs, 1, order), PEConfig())))
    torch.testing.assert_close(one[order], two, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("pool", ["sum", "mean", "max"])
def test_a_graph_alone_is_as_in_a_batch(options: dict[str, Any], pool: str) -> None:
    data = dataset(some(4, count=5), everything())
    model = model_of(data, pool=pool, **options)
    whole = model(batch(data))
    for i in range(5):
        torch.testing.assert_close(model(batch(data, i))[0], whole[i], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_every_weight_gets_a_gradient(options: dict[str, Any]) -> None:
    data = dataset(some(5), everything())
    model = model_of(data, **options)
    model(batch(data)).square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("signs", ["invariant", "spe"])
def test_signs_of_eigenvectors_change_nothing(signs: str) -> None:
    pe = no_encodings()
    pe.lap.node, pe.lap.signs = True, signs
    data = dataset(some(6), pe)
    model, given = model_of(data), batch(data)
    flipped = {**given, "lap": given["lap"] * torch.tensor([1.0, -1.0] * 4)}
    assert not torch.equal(given["lap"], flipped["lap"])
    torch.testing.assert_close(model(given), model(flipped), atol=1e-5, rtol=0)
    assert (model(given) - model({**given, "lap": given["lap"].roll(1, 0)})).abs().max() > 1e-4


def test_signs_flip_at_random_in_training_only() -> None:
    pe = no_encodings()
    pe.lap.node, pe.lap.signs = True, "flip"
    data = dataset(some(6), pe)
    model, given = model_of(data), batch(data)
    assert torch.equal(model(given), model(given))
    model.train()
    assert not torch.equal(model(given), model(given))


def test_a_change_of_basis_in_an_eigenspace_changes_nothing_for_spe() -> None:
    from families.graph.some_graphs import from_adjacencies

    ring = np.roll(np.eye(10), 1, 0) + np.roll(np.eye(10), -1, 0)
    pe = no_encodings()
    pe.lap.node = True
    data = dataset(from_adjacencies([ring]), pe)
    model, given = model_of(data), batch(data)
    c, s = np.cos(0.7), np.sin(0.7)
    turn = torch.eye(8)
    turn[:2, :2] = torch.tensor([[c, -s], [s, c]])
    torch.testing.assert_close(model(given), model({**given, "lap": given["lap"] @ turn}), atol=1e-5, rtol=0)


# ---- layers, slowly ---------------------------------------------------------------------------------


def structure(data: GraphDataset) -> tuple[Structure, Tensor]:
    given = batch(data)
    torch.manual_seed(1)
    count, n = given["mask"].shape
    bias = torch.randn(count, 2, n, n).masked_fill(~given["mask"][:, None, None], -torch.inf)
    degree = torch.bincount(given["edges"][1], minlength=len(given["position"]))
    s = Structure(
        *given["edges"],
        edge=torch.randn(given["edges"].shape[1], 8),
        norm=(1.0 + degree).rsqrt(),
        position=given["position"],
        mask=given["mask"],
        bias=bias,
        pair=None,
    )
    return s, torch.randn(len(given["position"]), 8)


def test_gine_node_by_node() -> None:
    s, x = structure(dataset(some(7), no_encodings()))
    layer = GINE(8)
    expected = torch.zeros_like(x)
    for i in range(len(x)):
        total = x[i].clone()
        for k, (j, to) in enumerate(zip(s.source.tolist(), s.target.tolist(), strict=True)):
            if to == i:
                assert s.edge is not None
                total += F.relu(x[j] + s.edge[k])
        expected[i] = layer.mlp(total)
    torch.testing.assert_close(layer(x, s), expected)


def test_gcn_is_the_product_with_the_normalised_adjacency() -> None:
    s, x = structure(dataset(some(7), no_encodings()))
    layer = GCN(8)
    a = torch.eye(len(x))
    a[s.target, s.source] = 1
    root = a.sum(1).rsqrt()
    torch.testing.assert_close(
        layer(x, s), layer.linear((root[:, None] * a * root) @ x), atol=1e-5, rtol=1e-5
    )


def test_attention_graph_by_graph() -> None:
    data = dataset(some(7), no_encodings())
    s, x = structure(data)
    layer = Attention(8, 2)
    out, weights = layer(x, s, s.bias), layer.weights(x, s, s.bias)
    start = 0
    for g, n in enumerate(data.graphs.num_nodes.tolist()):
        q, k, v = layer.qkv(x[start : start + n]).chunk(3, -1)
        heads = []
        for h in range(2):
            part = slice(4 * h, 4 * h + 4)
            assert s.bias is not None
            scores = q[:, part] @ k[:, part].T / 2 + s.bias[g, h, :n, :n]
            torch.testing.assert_close(weights[g, h, :n, :n], scores.softmax(-1), atol=1e-6, rtol=1e-5)
            heads.append(scores.softmax(-1) @ v[:, part])
        expected = layer.out(torch.cat(heads, -1))
        torch.testing.assert_close(out[start : start + n], expected, atol=1e-6, rtol=1e-5)
        start += n


def test_attention_without_a_bias_masks_the_padding() -> None:
    s, x = structure(dataset(some(7), no_encodings()))
    layer = Attention(8, 2)
    zero = torch.zeros(len(s.mask), 2, *2 * s.mask.shape[1:]).masked_fill(~s.mask[:, None, None], -torch.inf)
    torch.testing.assert_close(layer(x, s, None), layer(x, s, zero))
    assert layer.weights(x, s, None).sum(-1).allclose(torch.ones(1))


def test_pair_values_pair_by_pair() -> None:
    data = dataset(some(7, count=2), no_encodings())
    s, x = structure(data)
    count, n = s.mask.shape
    s.pair = torch.randn(count, n, n, 3)
    layer = Attention(8, 2, pair_dim=3)
    out, weights = layer(x, s, s.bias), layer.weights(x, s, s.bias)
    assert layer.from_pair is not None
    start = 0
    for g, size in enumerate(data.graphs.num_nodes.tolist()):
        v = layer.qkv(x[start : start + size])[:, 16:]
        for i in range(size):
            parts = []
            for h in range(2):
                total = torch.zeros(4)
                for j in range(size):
                    value = v[j, 4 * h : 4 * h + 4] + s.pair[g, i, j] @ layer.from_pair[h]
                    total = total + weights[g, h, i, j] * value
                parts.append(total)
            torch.testing.assert_close(out[start + i], layer.out(torch.cat(parts)), atol=1e-5, rtol=1e-4)
        start += size


def test_gps_is_its_equations() -> None:
    s, x = structure(dataset(some(7), no_encodings()))
    block = GPSBlock(8, 2, nn.BatchNorm1d, 0.0, 0.0)

    def norm(values: Tensor) -> Tensor:
        return (values - values.mean(0)) / (values.var(0, unbiased=False) + 1e-5).sqrt()

    y = norm(x + block.local(x, s)) + norm(x + block.attention(x, s, s.bias))
    torch.testing.assert_close(block(x, s, s.bias), norm(y + block.mlp(y)), atol=1e-5, rtol=1e-4)


def test_gps_has_the_gradients_of_its_parts() -> None:
    s, x = structure(dataset(some(7, count=2), no_encodings()))
    s = dataclasses.replace(s, edge=s.edge.double() if s.edge is not None else None, bias=None)
    block = GPSBlock(8, 2, nn.LayerNorm, 0.0, 0.0).double()
    assert torch.autograd.gradcheck(lambda v: block(v, s, None), (x.double().requires_grad_(),))


# ---- the public front -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["graph_transformer", "gps", "gine", "gcn"])
def test_get_model_trains_in_a_plain_trainer(name: str) -> None:
    from tinsmith import Trainer
    from tinsmith.families.graph import get_dataset

    sets = get_dataset("csl")
    train, valid, _ = sets.get_splits()
    model = get_model(name, num_features=sets.num_features, num_classes=sets.num_classes, hidden_dim=16)
    trainer = Trainer(model, task_type="classification", device="cpu", checkpoint_dir=None, progress=False)
    history = trainer.fit(train.loader(32, shuffle=True), valid.loader(32), epochs=1)
    assert np.isfinite(history["train_loss"][0])
    assert 0 <= history["val_accuracy"][0] <= 1


def test_objects_like_those_of_pytorch_geometric_are_read() -> None:
    class Like:
        pass

    graphs = some(8, count=3)
    like: Any = Like()
    shift = np.repeat(graphs.node_start, graphs.num_edges)
    like.edge_index = torch.from_numpy((graphs.ends + shift).astype(np.int64))
    like.num_nodes = int(graphs.num_nodes.sum())
    like.x = torch.randn(like.num_nodes, 4)
    like.batch = torch.from_numpy(np.repeat(np.arange(3), graphs.num_nodes))
    model = get_model("gps", num_features=4, num_classes=2, hidden_dim=8, num_layers=2).eval()
    whole = model(like)
    assert whole.shape == (3, 2)
    one: Any = Like()
    n = int(graphs.num_nodes[0])
    one.edge_index = like.edge_index[:, : graphs.num_edges[0]]
    one.num_nodes, one.x = n, like.x[:n]
    torch.testing.assert_close(model(one)[0], whole[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.999])
def test_dropped_numbers_are_as_many_as_asked_for_and_the_mean_stays(share: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(7, 33, 999, requires_grad=True)
    out = dropped(x, share)
    zeros = min(share, 255 / 256)
    assert float((out == 0).double().mean()) == pytest.approx(zeros, abs=0.004)
    kept = out[out != 0].detach()
    assert (kept == kept[0]).all()
    assert float(kept[0] * (1 - zeros)) == pytest.approx(1, rel=1e-6)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out)


def test_attention_with_dropout_is_that_without_on_average() -> None:
    data = dataset(some(), everything())
    batch = data.batch(torch.arange(len(data)))
    model = model_of(data, name="gps", attn_dropout=0.3)
    s, attention = model.structure(batch), model.blocks[0].attention
    assert s.bias is not None
    x, bias = torch.randn(len(batch["position"]), 16), s.bias[:, 0]
    with torch.no_grad():
        exact = attention.eval()(x, s, bias)
        mean = torch.stack([attention.train()(x, s, bias) for _ in range(800)]).mean(0)
    torch.testing.assert_close(mean, exact, atol=0.06, rtol=0)
    assert not torch.equal(attention(x, s, bias), attention(x, s, bias))
