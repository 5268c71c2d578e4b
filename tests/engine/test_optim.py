import copy
import json
import math

import pytest
import torch
from torch import Tensor, nn

from tinsmith.engine.optim import CombinedOptimizer, FiniteCheck, RowAdam, clip_grad_norm, get_optimizer
from tinsmith.errors import ConfigError


class Net(nn.Module):
    """One of each kind: table, norms of one and two dimensions, matrices, a kernel, biases."""

    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 4, sparse=sparse)
        self.norm = nn.LayerNorm([3, 4])
        self.rms = nn.RMSNorm(4)
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.batch = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.rms(self.norm(self.table(ids)))
        return self.head(self.batch(self.conv(x.mT)).mean(-1))


def net(sparse: bool = False) -> Net:
    torch.manual_seed(0)
    return Net(sparse)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids = torch.randint(20, (6, 3), generator=generator)
        model(ids).square().mean().backward()
        clip_grad_norm(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()


def names(model: nn.Module, group: dict) -> list[str]:
    known = {id(p): name for name, p in model.named_parameters()}
    return [known[id(p)] for p in group["params"]]


def test_norms_biases_and_embeddings_do_not_decay():
    model = net()
    decay, rest = get_optimizer(model, "adamw", lr=0.1, weight_decay=0.3).param_groups
    assert names(model, decay) == ["head.weight", "conv.weight"]
    assert names(model, rest) == [
        *("table.weight", "norm.weight", "norm.bias", "rms.weight"),
        *("conv.bias", "batch.weight", "batch.bias", "head.bias"),
    ]
    assert (decay["weight_decay"], rest["weight_decay"], decay["lr"]) == (0.3, 0.0, 0.1)


def test_decay_reaches_only_the_matrices():
    model = net()
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = get_optimizer(model, "adamw", lr=0.1, weight_decay=0.5)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        factor = 0.95 if name in ("conv.weight", "head.weight") else 1.0
        torch.testing.assert_close(p.detach(), before[name] * factor)


def test_a_table_tied_to_the_head_does_not_decay():
    model = nn.Sequential(nn.Linear(4, 9), nn.Embedding(9, 4))
    model[0].weight = model[1].weight
    assert [g["name"] for g in get_optimizer(model).param_groups] == ["no_decay"]


def test_named_parameters_decide_by_shape():
    model = net()
    decay, rest = get_optimizer(list(model.named_parameters())).param_groups
    assert names(model, decay) == ["table.weight", "norm.weight", "norm.bias", "head.weight", "conv.weight"]
    assert all(p.ndim < 2 for p in rest["params"])


@pytest.mark.parametrize(
    ("kind", "made"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_dense_kinds_are_torchs_own_and_fused(kind, made):
    optimizer = get_optimizer(net(), kind)
    assert type(optimizer) is made
    assert all(group["fused"] for group in optimizer.param_groups)


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_fused_equals_the_plain_loop(kind):
    twins = [net(), net()]
    options = {"momentum": 0.8} if kind == "sgd" else {"betas": (0.8, 0.95), "eps": 1e-6}
    ours = get_optimizer(twins[0], kind, lr=1e-2, weight_decay=0.1, **options)
    groups = copy.copy(get_optimizer(twins[1], kind, weight_decay=0.1).param_groups)
    bare = [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in groups]
    plain = type(ours)(bare, lr=1e-2, foreach=False, **options)
    for model, optimizer in zip(twins, (ours, plain), strict=True):
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator) if p.requires_grad else None
            optimizer.step()
    for a, b in zip(twins[0].parameters(), twins[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_muon_takes_the_matrices_and_adamw_the_rest():
    model = net(sparse=True)
    optimizer = get_optimizer(model, "muon", lr=1e-2, weight_decay=0.2, muon_lr=5e-3, eps=1e-7)
    assert isinstance(optimizer, CombinedOptimizer)
    found = {g["name"]: names(model, g) for g in optimizer.param_groups}
    assert found["matrix"] == ["head.weight"]
    assert found["decay"] == ["conv.weight"]
    assert found["sparse"] == ["table.weight"]
    assert [g["lr"] for g in optimizer.param_groups] == [5e-3, 1e-2, 1e-2, 1e-2]
    before = model.head.weight.detach().clone()
    train(model, optimizer, steps=1)
    # an orthogonal step of root mean square 0.2 * lr: about 0.2 sqrt(max(A, B)) / sqrt(A B) sqrt(rank) lr
    moved = (model.head.weight - before * (1 - 5e-3 * 0.2)).square().mean().sqrt().item()
    assert moved == pytest.approx(0.2 * 5e-3, rel=0.3)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_combined_state_survives_json_and_resumes_to_the_bit(kind):
    models = [net(sparse=True), net(sparse=True)]
    first, second = (get_optimizer(m, kind, lr=1e-2) for m in models)
    train(models[0], first)
    models[1].load_state_dict(copy.deepcopy(models[0].state_dict()))
    state = copy.deepcopy(first.state_dict())
    json.dumps(state["param_groups"])
    flat = [value for entry in state["state"].values() for value in entry.values()]
    assert flat
    assert all(isinstance(value, Tensor) for value in flat)
    second.load_state_dict(state)
    for model, optimizer in zip(models, (first, second), strict=True):
        train(model, optimizer, seed=2)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_combined_shares_its_groups_with_the_parts():
    optimizer = get_optimizer(net(sparse=True), "adamw", lr=1e-2, sparse_lr=0.5)
    assert isinstance(optimizer, CombinedOptimizer)
    for _ in range(2):
        inner = [group for part in optimizer.parts for group in part.param_groups]
        assert all(a is b for a, b in zip(inner, optimizer.param_groups, strict=True))
        assert [g["lr"] for g in inner] == [1e-2, 1e-2, 0.5]
        optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("options", [{}, {"betas": (0.7, 0.9), "eps": 1e-4}])
def test_row_adam_is_adam_for_each_row_over_the_steps_that_touch_it(options):
    torch.manual_seed(0)
    table = nn.Embedding(50, 8, sparse=True)
    rows = [nn.Parameter(row.clone()) for row in table.weight.detach()]
    plain = [torch.optim.Adam([row], lr=0.03, **options) for row in rows]
    optimizer = RowAdam(table.parameters(), lr=0.03, **options)
    for _ in range(20):
        ids = torch.randint(50, (12,))  # some twice: the gradient is not coalesced
        (table(ids).square().sum() + table(ids).sin().sum()).backward()
        picked = torch.stack([rows[i] for i in ids.tolist()])
        (picked.square().sum() + picked.sin().sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        for i in set(ids.tolist()):
            plain[i].step()
            plain[i].zero_grad()
    torch.testing.assert_close(table.weight.detach(), torch.stack(rows).detach(), rtol=1e-5, atol=1e-6)


def test_row_adam_equals_sparse_adam_where_every_step_touches_every_row():
    weights = []
    for make in (RowAdam, torch.optim.SparseAdam):
        torch.manual_seed(0)
        table = nn.Embedding(5, 3, sparse=True)
        optimizer = make(list(table.parameters()), lr=0.03)
        for _ in range(10):
            table(torch.arange(5)).sin().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        weights.append(table.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


def test_row_adam_first_step_by_hand_and_untouched_rows_rest():
    table = nn.Embedding(3, 2, sparse=True)
    before = table.weight.detach().clone()
    optimizer = RowAdam(table.parameters(), lr=0.1, eps=0.0)
    (table(torch.tensor([2, 2])) * torch.tensor([3.0, -0.5])).sum().backward()
    optimizer.step()  # the first step of Adam is lr * sign(gradient)
    moved = torch.tensor([[0.0, 0.0], [0.0, 0.0], [-0.1, 0.1]])
    torch.testing.assert_close(table.weight.detach(), before + moved)
    state = optimizer.state_dict()["state"][0]
    assert {k: tuple(v.shape) for k, v in state.items()} == {
        "touched": (3, 1),
        "exp_avg": (3, 2),
        "exp_avg_sq": (3, 2),
    }


def test_row_adam_is_deterministic_with_two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(3):
            torch.manual_seed(0)
            table = nn.Embedding(300, 384, sparse=True)
            optimizer = RowAdam(table.parameters())
            for _ in range(3):
                ids = torch.randint(300, (2000,))
                (table(ids) * torch.randn(2000, 384)).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            runs.append(table.weight.detach().clone())
        assert torch.equal(runs[0], runs[1])
        assert torch.equal(runs[0], runs[2])
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)


def test_a_sparse_table_with_a_dense_gradient_is_explained():
    table = nn.Embedding(4, 2, sparse=True)
    (table(torch.tensor([1])) @ table.weight.T).sum().backward()
    with pytest.raises(ConfigError, match="sparse=False"):
        get_optimizer(table).step()


def with_grads(shapes: list[tuple[int, ...]], scale: float) -> list[Tensor]:
    torch.manual_seed(0)
    params = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for p in params:
        p.grad = scale * torch.randn_like(p)
    return params


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clip_equals_torchs(max_norm):
    ours, theirs = (with_grads([(5, 3), (7,), ()], 2.0) for _ in range(2))
    ours.append(nn.Parameter(torch.ones(2)))  # without a gradient
    norm = clip_grad_norm(ours, max_norm)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    torch.testing.assert_close(norm, expected)
    assert norm.ndim == 0
    for a, b in zip(ours, theirs, strict=False):
        torch.testing.assert_close(a.grad, b.grad)


def test_clip_by_hand_and_only_measuring():
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    assert clip_grad_norm([p], None).item() == 5.0
    assert p.grad.tolist() == [3.0, 4.0]
    assert clip_grad_norm([p], 1.0).item() == 5.0
    assert p.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-6)
    assert clip_grad_norm([nn.Parameter(torch.zeros(2))], 1.0).item() == 0.0


def test_clip_counts_a_sparse_row_once():
    table = nn.Embedding(5, 1, sparse=True)
    dense = nn.Parameter(torch.zeros(1))
    table(torch.tensor([3, 3, 3])).sum().backward()  # one row of gradient 3, not three of 1
    dense.grad = torch.tensor([4.0])
    assert clip_grad_norm([table.weight, dense], 1.0).item() == 5.0
    assert table.weight.grad.to_dense()[3].item() == pytest.approx(0.6)
    assert table.weight.grad.is_coalesced()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_returned(bad):
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([bad, 1.0])
    assert not math.isfinite(clip_grad_norm([p], 1.0))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: get_optimizer(net(), "adamm"), "Did you mean: adam"),
        (lambda: get_optimizer(net(), "adamw", beta=(0.9, 0.99)), "Did you mean: betas"),
        (lambda: get_optimizer(net(), "adamw", momentum=0.9), "no option 'momentum'"),
        (lambda: get_optimizer(nn.Linear(2, 2).requires_grad_(False)), "nothing to optimise"),
    ],
)
def test_mistakes_are_explained(call, said):
    with pytest.raises(ConfigError, match=said):
        call()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_is_found_and_left_as_it_is(value: float) -> None:
    params = [
        nn.Parameter(torch.zeros(3, 2)),
        nn.Parameter(torch.zeros(4).double()),
        nn.Parameter(torch.zeros(1)),
    ]
    finite = FiniteCheck(params)
    assert finite()
    for param in params[:2]:
        param.grad = torch.randn_like(param)
    before = [param.grad.clone() for param in params[:2] if param.grad is not None]
    assert finite()
    assert all(torch.equal(a, b.grad) for a, b in zip(before, params, strict=False) if b.grad is not None)
    for param in params[:2]:
        assert param.grad is not None
        param.grad.view(-1)[-1] = value
        assert not finite()
        assert not finite()
        param.grad.view(-1)[-1] = 0
        assert finite()
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1, 1, 3])).sum().mul(value).backward()
    assert not FiniteCheck(table.parameters())()
