import pytest
import torch
import torch.nn.functional as F

from tinsmith.families.codec import measure


def unit(*rows: list[float]) -> torch.Tensor:
    return F.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)


def test_each_domain_counts_the_same() -> None:
    cosine, domain = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([0, 0, 0, 1])
    out = measure.cosine_summary(cosine, domain, ("a", "b"))
    assert out["cosine"] == 0.5
    assert (out["cosine_a"], out["cosine_b"]) == (1.0, 0.0)
    assert out["cosine_p10"] == pytest.approx(0.3)


def test_one_domain_has_no_column_of_its_own() -> None:
    out = measure.cosine_summary(torch.tensor([0.2, 0.4]), torch.tensor([0, 0]), ("a",))
    assert set(out) == {"cosine", "cosine_p10"}
    assert out["cosine"] == pytest.approx(0.3)


def test_sentences_of_unknown_domains_count_where_there_is_no_known_one() -> None:
    out = measure.cosine_summary(torch.tensor([0.2, 0.4]), torch.tensor([-1, -1]), ("a",))
    assert out["cosine"] == pytest.approx(0.3)


def test_recall() -> None:
    teacher = unit([1, 0, 0], [0, 1, 0], [0, 0, 1])
    student = unit([1, 0.1, 0], [0.1, 1, 0], [0, 1, 0.5])  # the third is nearest to the second
    assert measure.recall_at_1(student, teacher) == pytest.approx(2 / 3)


def test_neighbours() -> None:
    teacher = unit([1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9])
    assert measure.neighbour_precision(teacher, teacher, k=1) == 1.0
    swapped = teacher[[0, 2, 1, 3]]
    assert measure.neighbour_precision(swapped, teacher, k=1) == 0.0
    assert measure.neighbour_precision(teacher, teacher, k=50) == 1.0  # all there are
    assert measure.neighbour_precision(teacher[:1], teacher[:1]) != measure.neighbour_precision(
        teacher, teacher
    )


def test_spearman_sees_ranks_and_shares_ties() -> None:
    a = torch.tensor([0.1, 5.0, 2.0, 3.0])
    assert measure.spearman(a, a.exp()) == pytest.approx(1)
    assert measure.spearman(a, -a) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4
    assert measure.spearman(torch.tensor([0.0, 1, 1, 2]), torch.arange(4.0)) == pytest.approx(0.9**0.5)


def test_the_linear_baseline_finds_a_linear_map() -> None:
    torch.manual_seed(0)
    x, true, shift = torch.randn(200, 4), torch.randn(4, 4), torch.randn(4)
    weights = measure.fit_linear(x, x @ true + shift, ridge=1e-6)
    torch.testing.assert_close(
        measure.apply_linear(weights, x), F.normalize(x @ true + shift, dim=-1), rtol=1e-3, atol=1e-4
    )
