import math

import pytest
import torch
import torch.nn.functional as F
from torch import tensor

from tinsmith.engine.losses import CrossEntropyLoss, LabelSmoothing, MeanSquaredError, get_loss_fn
from tinsmith.errors import ConfigError

ROWS = [
    ("regression", "mse", F.mse_loss),
    ("regression", "mae", F.l1_loss),
    ("regression", "huber", F.huber_loss),
    ("edge_prediction", "bce_logits", F.binary_cross_entropy_with_logits),
    ("classification", "bce_logits", F.binary_cross_entropy_with_logits),
    ("embeddings", "mse", F.mse_loss),
]


@pytest.mark.parametrize(("task", "name", "reference"), ROWS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_elementwise_losses_equal_torchs(task, name, reference, reduction):
    outputs, targets = torch.randn(6, 3), torch.rand(6, 3)
    found = get_loss_fn(task, loss_type=name, reduction=reduction)(outputs, targets)
    torch.testing.assert_close(found, reference(outputs, targets, reduction=reduction))


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("regression", "MeanSquaredError"),
        ("classification", "CrossEntropyLoss"),
        ("edge_prediction", "Elementwise"),
        ("embeddings", "CosineLoss"),
    ],
)
def test_defaults(task, name):
    assert type(get_loss_fn(task)).__name__ == name


@pytest.mark.parametrize("name", ["mse", "mae", "huber"])
def test_a_trailing_one_is_aligned_and_all_else_refused(name):
    loss, x = get_loss_fn("regression", name), torch.randn(5)
    y = torch.randn(5)
    assert loss(x[:, None], y) == loss(x, y[:, None]) == loss(x, y)
    for a, b in [((5, 1), (4,)), ((5,), (5, 5)), ((1, 5), (5,)), ((5, 2), (5,))]:
        with pytest.raises(ValueError, match=r"output is \[.*\], the target \[.*\]") as error:
            loss(torch.zeros(a), torch.zeros(b))
        assert str(list(a)) in str(error.value)
        assert str(list(b)) in str(error.value)


def test_integer_targets_of_a_regression():
    assert get_loss_fn("regression", "mae")(tensor([1.5, 2.0]), tensor([1, 4])).item() == 1.25


def test_huber_delta():
    assert get_loss_fn("regression", "huber", delta=2.0)(tensor([5.0]), tensor([0.0])).item() == 2 * (5 - 1)


def test_mse_weight_by_hand():
    loss = MeanSquaredError(weight=[1.0, 0.0, 3.0])
    outputs, targets = tensor([[1.0, 9.0, 2.0]]), tensor([[0.0, 0.0, 0.0]])
    assert loss(outputs, targets).item() == pytest.approx((1 + 0 + 12) / 3)
    assert MeanSquaredError("sum", weight=2.0)(outputs, targets).item() == 2 * (1 + 81 + 4)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"weight": [1.0, 2.0, 0.5, 3.0]}])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_equals_torchs(options, reduction):
    logits, targets = torch.randn(6, 5, 4), torch.randint(4, (6, 5))
    targets[0, :3] = -100
    ours = CrossEntropyLoss(reduction=reduction, **options)(logits, targets)
    if "weight" in options:
        options = {"weight": tensor(options["weight"])}
    theirs = F.cross_entropy(logits.mT, targets, reduction=reduction, **options)
    torch.testing.assert_close(ours, theirs)


def test_cross_entropy_by_hand():
    # softmax of (log 3, 0) is (3/4, 1/4)
    loss = get_loss_fn("classification")(tensor([[math.log(3), 0.0]]), tensor([1]))
    assert loss.item() == pytest.approx(math.log(4))


def test_cross_entropy_of_ignored_targets_only_is_zero_not_nan():
    logits = torch.randn(3, 4, requires_grad=True)
    for loss in (CrossEntropyLoss(ignore_index=0), CrossEntropyLoss(ignore_index=0, weight=[1.0] * 4)):
        value = loss(logits, torch.zeros(3, dtype=torch.long))
        value.backward()
        assert value.item() == 0
    assert logits.grad.abs().max() == 0


def test_cross_entropy_takes_probabilities_and_a_trailing_one():
    logits, targets = torch.randn(6, 4), torch.randint(4, (6,), dtype=torch.int32)
    loss = CrossEntropyLoss()
    hard = loss(logits, targets)
    torch.testing.assert_close(loss(logits, F.one_hot(targets.long(), 4).float()), hard)
    torch.testing.assert_close(loss(logits, targets[:, None]), hard)


@pytest.mark.parametrize(
    ("outputs", "targets", "said"),
    [
        (torch.zeros(4, 1), torch.zeros(4, dtype=torch.long), "at least two classes.*use bce_logits"),
        (torch.zeros(4), torch.zeros(4, dtype=torch.long), "use bce_logits"),
        (torch.zeros(4, 3), torch.zeros(5, dtype=torch.long), r"\[4, 3\], the target \[5\]"),
        (torch.zeros(4, 3), torch.zeros(4), "of torch.float32. Wanted: integers"),
    ],
)
def test_cross_entropy_explains_wrong_shapes(outputs, targets, said):
    with pytest.raises(ValueError, match=said):
        CrossEntropyLoss()(outputs, targets)


def test_label_smoothing_by_hand():
    # V = 5, pad 0, e = 0.3: q = 0.7 on the target, 0.1 on the three others, 0 on padding. p is uniform.
    loss = LabelSmoothing(smoothing=0.3, pad_idx=0)
    q_log_q = 0.7 * math.log(0.7) + 3 * 0.1 * math.log(0.1)
    found = loss(torch.zeros(2, 2, 5), tensor([[2, 0], [4, 0]]))
    assert found.item() == pytest.approx(q_log_q + math.log(5), rel=1e-6)


@pytest.mark.parametrize("pad_idx", [None, 0, 3])
def test_label_smoothing_equals_the_dense_kl(pad_idx):
    torch.manual_seed(0)
    logits, targets = torch.randn(7, 6).double(), tensor([1, 2, 4, 5, 1, 0, 3])
    vocab, e = 6, 0.2
    q = torch.full((7, vocab), e / (vocab - (1 if pad_idx is None else 2))).double()
    q.scatter_(1, targets[:, None], 1 - e)
    kept = torch.ones(7, dtype=torch.bool)
    if pad_idx is not None:
        q[:, pad_idx] = 0
        kept = targets != pad_idx
    dense = F.kl_div(logits.log_softmax(-1)[kept], q[kept], reduction="sum") / kept.sum()
    torch.testing.assert_close(LabelSmoothing(e, pad_idx)(logits, targets), dense)


def test_label_smoothing_is_zero_at_its_best_and_without_targets():
    q = tensor([[0.1, 0.8, 0.1]])
    assert LabelSmoothing(0.2)(q.log(), tensor([1])).item() == pytest.approx(0, abs=1e-6)
    assert LabelSmoothing(0.1, pad_idx=0)(torch.randn(2, 4), tensor([0, 0])).item() == 0
    hard = LabelSmoothing(0.0)(torch.ones(1, 4), tensor([2]))
    assert hard.item() == pytest.approx(math.log(4))


def test_cosine_and_combined_by_hand():
    outputs, targets = tensor([[2.0, 0.0], [0.0, 1.0]]), tensor([[1.0, 0.0], [1.0, 0.0]])
    assert get_loss_fn("embeddings")(outputs, targets).item() == pytest.approx(0.5)
    combined = get_loss_fn("embeddings", "combined", alpha=0.25, reduction="none")(outputs, targets)
    assert combined.tolist() == pytest.approx([0.75 * 0.5, 0.25 + 0.75 * 1.0])


def test_info_nce_by_hand():
    eye = torch.eye(3)
    loss = get_loss_fn("embeddings", "info_nce", temperature=1.0)
    assert loss(5 * eye, eye).item() == pytest.approx(math.log(math.e + 2) - 1)
    assert loss(eye, eye.roll(1, 0)).item() == pytest.approx(math.log(math.e + 2))
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    torch.testing.assert_close(loss(a, b), loss(b, a))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: get_loss_fn("regresion"), "Did you mean: regression"),
        (lambda: get_loss_fn("regression", "rmse"), "Did you mean: mse"),
        (lambda: get_loss_fn("regression", "huber", delte=1), "Did you mean: delta"),
        (lambda: get_loss_fn("regression", reduction="average"), "reduction"),
        (lambda: CrossEntropyLoss(label_smoothing=1.5), "label_smoothing=1.5"),
    ],
)
def test_mistakes_are_explained(call, said):
    with pytest.raises(ConfigError, match=said):
        call()
