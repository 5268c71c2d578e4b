"""What a lattice has to beat, fitted in the same run: the mean, PCA, ridge regression and a plain MLP.

A model maps unit vectors to unit vectors. Shapes: N rows, Z embedding size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.engine.losses import InfoNCELoss

Model = Callable[[Tensor], Tensor]  # [N, Z] -> [N, Z]
Judge = Callable[[Model], float]  # a model's worth on the validation rows, the higher the better

ALPHAS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_HIDDEN, _BATCH, _LR = 1024, 256, 1e-3  # of the MLP
_CONTRAST, _TEMPERATURE = 0.3, 0.05  # of its InfoNCE: ranks as well as InfoNCE alone


@dataclass(frozen=True, slots=True)
class Affine:
    """``normalise(x W + b)`` with W [Z, Z] and b [Z]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """[N, Z] -> [N, Z]."""
        return F.normalize(x @ self.weight + self.bias, dim=-1)


def identity(x: Tensor) -> Tensor:
    """The input itself."""
    return x


def fit_constant(y: Tensor) -> Affine:
    """The mean of ``y`` [N, Z], whatever the input."""
    return Affine(torch.zeros(y.shape[1], y.shape[1]), y.mean(0))


def fit_pca(x: Tensor, numbers: int) -> Affine:
    """The first ``numbers`` principal components of ``x`` [N, Z], and back: the best that is linear."""
    mean = x.double().mean(0)
    centred = x.double() - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # eigenvalues ascend
    basis = vectors[:, -min(numbers, x.shape[1]) :]
    project = basis @ basis.T
    return Affine(project.float(), (mean - mean @ project).float())


def fit_ridge(x: Tensor, y: Tensor, judge: Judge, alphas: tuple[float, ...] = ALPHAS) -> Affine:
    """Ridge regression from [N, Z] to [N, Z], in closed form, with the alpha that ``judge`` likes best.

    The bias is the difference of the means: it is not shrunk.
    """
    x_mean, y_mean = x.double().mean(0), y.double().mean(0)
    centred = x.double() - x_mean
    gram, cross = centred.T @ centred, centred.T @ (y.double() - y_mean)
    eye = torch.eye(len(gram), dtype=torch.float64)
    models = []
    for alpha in alphas:
        weight = torch.linalg.solve(gram + alpha * eye, cross)
        models.append(Affine(weight.float(), (y_mean - x_mean @ weight).float()))
    return max(models, key=judge)


class Mlp(nn.Module):
    """One hidden layer around the identity; with a bottleneck, a plain autoencoder of two."""

    def __init__(self, z_dim: int, bottleneck: int = 0) -> None:
        super().__init__()
        self.residual = not bottleneck
        middle: list[nn.Module] = [nn.Dropout(0.1)]
        if bottleneck:
            middle = [nn.Linear(_HIDDEN, bottleneck), nn.Linear(bottleneck, _HIDDEN), nn.GELU()]
        self.net = nn.Sequential(nn.Linear(z_dim, _HIDDEN), nn.GELU(), *middle, nn.Linear(_HIDDEN, z_dim))

    def forward(self, x: Tensor) -> Tensor:
        """[N, Z] -> [N, Z]."""
        out = self.net(x)
        return F.normalize(x + out if self.residual else out, dim=-1)


def fit_mlp(
    x: Tensor,
    y: Tensor,
    judge: Judge,
    bottleneck: int = 0,
    seed: int = 0,
    epochs: int = 20,
    max_steps: int = 2500,
) -> Model:
    """An ``Mlp`` from [N, Z] to [N, Z], as it was after the epoch that ``judge`` likes best.

    Without a bottleneck it learns ``1 - cosine + 0.3 InfoNCE``, with one ``1 - cosine``. The global
    generators stay as they are.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(seed)
        net = Mlp(x.shape[1], bottleneck)
        per_epoch = math.ceil(len(x) / _BATCH)
        steps = min(epochs * per_epoch, max_steps)
        optimizer = torch.optim.AdamW(net.parameters(), lr=_LR)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        contrast = InfoNCELoss(_TEMPERATURE)
        best, kept = -math.inf, net.state_dict()
        order = torch.randperm(len(x))
        for step in range(1, steps + 1):
            at = (step - 1) % per_epoch
            rows = order[at * _BATCH : (at + 1) * _BATCH]
            out, target = net(x[rows]), y[rows]
            loss = 1 - (out * target).sum(-1).mean()
            if not bottleneck:
                loss = loss + _CONTRAST * contrast(out, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if at + 1 == per_epoch or step == steps:
                order = torch.randperm(len(x))
                value = judge(_frozen(net))
                if value > best:
                    best, kept = value, {name: weight.clone() for name, weight in net.state_dict().items()}
        net.load_state_dict(kept)
        return _frozen(net)


def _frozen(net: Mlp) -> Model:
    """The net in use: no dropout, no gradients."""

    def model(x: Tensor) -> Tensor:
        net.eval()
        with torch.no_grad():
            out: Tensor = net(x)
        net.train()
        return out

    return model
