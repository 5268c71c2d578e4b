"""How near a student is to its teacher, and the baselines that say whether it was worth training.

Shapes: N sentences, Z embedding size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_summary(cosine: Tensor, domain: Tensor, domains: tuple[str, ...]) -> dict[str, float]:
    """``cosine`` (each domain counts the same), ``cosine_p10``, ``cosine_<domain>`` where there are several.

    Args:
        cosine: [N]. domain: index of each sentence's domain [N]. domains: their names.
    """
    means = {name: cosine[domain == i].mean() for i, name in enumerate(domains) if (domain == i).any()}
    overall = torch.stack(list(means.values())).mean() if means else cosine.mean()
    each = {f"cosine_{name}": float(value) for name, value in means.items()} if len(means) > 1 else {}
    return {"cosine": float(overall), "cosine_p10": float(torch.quantile(cosine, 0.1)), **each}


def recall_at_1(student: Tensor, teacher: Tensor, limit: int = 2000) -> float:
    """Share of the first ``limit`` sentences whose student vector is nearest to their own teacher vector.

    Args:
        student, teacher: unit vectors [N, Z].
    """
    student, teacher = student[:limit], teacher[:limit]
    nearest = (student @ teacher.T).argmax(1)
    return float((nearest == torch.arange(len(student))).float().mean())


def neighbour_precision(student: Tensor, teacher: Tensor, k: int = 10, limit: int = 2000) -> float:
    """Mean share of a sentence's ``k`` nearest by the teacher that are among the student's ``k`` nearest.

    Args:
        student, teacher: unit vectors [N, Z].
    """
    student, teacher = student[:limit], teacher[:limit]
    k = min(k, len(student) - 1)
    if k < 1:
        return float("nan")
    hits = (_nearest(student, k)[:, :, None] == _nearest(teacher, k)[:, None, :]).any(-1)
    return float(hits.float().mean())


def _nearest(vectors: Tensor, k: int) -> Tensor:
    similarity = vectors @ vectors.T
    similarity.fill_diagonal_(-2)
    return similarity.topk(k, dim=1).indices


def spearman(a: Tensor, b: Tensor) -> float:
    """Correlation of the ranks of ``a`` and ``b`` [N]; equal values share their mean rank."""
    return float(torch.corrcoef(torch.stack([_ranks(a), _ranks(b)]))[0, 1])


def _ranks(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    ranks: Tensor = ((ends - counts + ends + 1) / 2)[inverse]
    return ranks


def score(student: Tensor, teacher: Tensor, domain: Tensor, domains: tuple[str, ...]) -> dict[str, float]:
    """All the metrics of a row of the evaluation table. ``student``, ``teacher``: unit vectors [N, Z]."""
    summary = cosine_summary((student * teacher).sum(-1), domain, domains)
    first = {name: summary.pop(name) for name in ("cosine", "cosine_p10")}
    return {
        **first,
        "recall_at_1": recall_at_1(student, teacher),
        "neighbours_at_10": neighbour_precision(student, teacher),
        **summary,
    }


def fit_linear(inputs: Tensor, targets: Tensor, ridge: float = 1.0) -> Tensor:
    """Ridge regression with a bias, in closed form: weights [Z + 1, Z] from [N, Z] to [N, Z]."""
    x = torch.cat([inputs, torch.ones(len(inputs), 1)], 1).double()
    gram = x.T @ x + ridge * torch.eye(x.shape[1], dtype=torch.float64)
    weights: Tensor = torch.linalg.solve(gram, x.T @ targets.double())
    return weights.float()


def apply_linear(weights: Tensor, inputs: Tensor) -> Tensor:
    """Unit vectors [N, Z] by the weights of ``fit_linear``."""
    return F.normalize(inputs @ weights[:-1] + weights[-1], dim=-1)
