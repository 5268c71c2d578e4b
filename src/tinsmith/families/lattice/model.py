"""The cube: a vector enters on one face, local updates carry it to the opposite one, where it is read.

    out = A v + b + Z^-1/2 · R(face_K),   face_0 = I(v),   h_k+1 = h_k + GLU(conv3x3x3(LN_k(h_k)))

``A v + b`` is a linear path past the cube. It starts as the closed-form solution (PCA for the autoencoder,
ridge regression for the dialogue), ``R`` starts at zero: training starts at the best linear model, and the
cube is what corrects it. The convolution is the same in every step; scale and shift of the norm are not.

In autoencoder mode a wall stands in the middle of the cube. The vector crosses the first half, ``bottleneck``
numbers are read at the wall and enter the second half; each half has a linear path of its own.

A cell sleeps, with a state that is learned, until the signal has reached its slice, and one whose state can
no longer reach the face that is read need not be computed: of D slices a step computes K - D + 2 at most.

Shapes: B batch, Z embedding size, N numbers in or out, D slices, H height, W width, C channels, K steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinsmith.engine.config import check
from tinsmith.errors import DataError
from tinsmith.families.lattice.config import ModelConfig
from tinsmith.families.lattice.metrics import DIALOGUE

if TYPE_CHECKING:
    from tinsmith.families.lattice.data import LatticeSpec


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of the cube and of the time: slices ``first`` to ``last``, states ``begin`` to ``end``.

    A signal enters slice ``first`` in state ``begin``; each step takes it one slice further.
    """

    first: int
    last: int
    begin: int
    end: int

    @property
    def arrival(self) -> int:
        """The first state in which slice ``last`` has heard of the signal."""
        return self.begin + self.last - self.first

    def awake(self, state: int) -> int:
        """The last slice that the signal has reached in a state."""
        return min(self.first + state - self.begin, self.last)

    def needed(self, state: int) -> int:
        """The first slice of a state that slice ``last`` will hear of until state ``end``."""
        return max(self.first, self.last - (self.end - state))


class EmbeddingProcessor(nn.Module):
    """The cells of the cube and their one local update.

    Args:
        size: (D, H, W). channels: C. steps: K.
    """

    def __init__(self, size: tuple[int, int, int], channels: int, steps: int) -> None:
        super().__init__()
        self.size, self.channels, self.steps = size, channels, steps
        self.asleep = nn.Parameter(0.5 * torch.randn(*size, channels))
        self.scale = nn.Parameter(torch.ones(steps, channels))
        self.shift = nn.Parameter(torch.zeros(steps, channels))
        self.conv = nn.Conv3d(channels, 2 * channels, 3, padding=(0, 1, 1))
        with torch.no_grad():  # at the start a pattern moves on by one slice a step, not only fades
            self.conv.weight[:channels, :, 0, 1, 1] += torch.eye(channels)

    def forward(self, face: Tensor, stretch: Stretch) -> list[Tensor]:
        """Carry a pattern across a stretch of the cube.

        Args:
            face: what is added to the cells of the first slice [B, H, W, C].

        Returns:
            The last slice [B, H, W, C] in each state from its arrival on, ``end - arrival + 1`` of them.
        """
        states = self.evolve(face, stretch)
        return [h[:, -1] for state, h in enumerate(states, stretch.begin) if state >= stretch.arrival]

    def evolve(self, face: Tensor, stretch: Stretch, whole: bool = False) -> Iterator[Tensor]:
        """The cells awake and needed in each state [B, slices, H, W, C]; ``whole``: all awake ones."""
        h = (face + self.asleep[stretch.first])[:, None]
        low = stretch.first
        yield h
        for state in range(stretch.begin, stretch.end):
            to = stretch.first if whole else stretch.needed(state + 1)
            h = self._update(h, state, low, to, stretch)
            low = to
            yield h

    def _update(self, h: Tensor, state: int, low: int, to: int, stretch: Stretch) -> Tensor:
        """Slices ``to`` to the last awake one of the next state, from those of this state from ``low`` on."""
        last = stretch.awake(state + 1)
        ahead = self.asleep[stretch.awake(state) + 1 : min(last + 1, stretch.last) + 1]
        if len(ahead):
            h = torch.cat([h, ahead.expand(len(h), *ahead.shape)], 1)
        x = F.layer_norm(h, (self.channels,), self.scale[state], self.shift[state])
        edges = int(to == stretch.first), int(last == stretch.last)  # beyond them there is nothing
        if any(edges):
            x = F.pad(x, (0, 0, 0, 0, 0, 0, *edges))
        x = self.conv(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)  # channels last: no copies
        return h[:, to - low : last - low + 1] + F.glu(x, dim=-1)


class Crossing(nn.Module):
    """Numbers in at the first slice of a stretch, numbers out at its last, and a linear path beside it.

    The last slice is read in all states from the signal's arrival on, weighted: how many of the steps count
    is learned.

    Args:
        num_in, num_out: numbers of a vector that goes in, and of one that comes out.
        stretch: where it goes through the cube.
        cells: numbers in a slice, H W C.
    """

    def __init__(self, num_in: int, num_out: int, stretch: Stretch, cells: int, cfg: ModelConfig) -> None:
        super().__init__()
        self.stretch = stretch
        self.linear = nn.Linear(num_in, num_out).requires_grad_(cfg.train_linear)
        self.read_in = nn.Linear(num_in, cells)
        self.read_out = nn.Linear(cells, num_out)
        self.dropout = nn.Dropout(cfg.dropout)
        nn.init.zeros_(self.read_out.weight)
        nn.init.zeros_(self.read_out.bias)
        states = stretch.end - stretch.arrival + 1
        self.when = nn.Parameter(torch.zeros(states)) if states > 1 else None

    def forward(self, v: Tensor, cube: EmbeddingProcessor) -> Tensor:
        """Vectors of about length one [B, N] -> [B, N]."""
        arrived = cube(self.enter(v, cube), self.stretch)
        face = arrived[0]
        if self.when is not None:
            face = torch.einsum("k,kbhwc->bhwc", self.when.softmax(0), torch.stack(arrived))
        face = self.dropout(F.layer_norm(face, face.shape[-1:]))
        # A vector of length one has entries of N^-1/2: inside they are about one, at both ends.
        out: Tensor = self.linear(v) + self.read_out(face.flatten(1)) * self.linear.out_features**-0.5
        return out

    def enter(self, v: Tensor, cube: EmbeddingProcessor) -> Tensor:
        """What a vector [B, N] adds to the cells of the first slice: [B, H, W, C]."""
        cells: Tensor = self.read_in(v * self.linear.in_features**0.5)
        return cells.view(len(v), *cube.size[1:], cube.channels)

    @torch.no_grad()
    def start_from(self, weight: Tensor, bias: Tensor) -> None:
        """Make the linear path ``v W + b``: ``weight`` [N, N], ``bias`` [N]."""
        self.linear.weight.copy_(weight.T)
        self.linear.bias.copy_(bias)


class Lattice(nn.Module):
    """Unit vectors to unit vectors across the cube, by the mode of each row.

    Args:
        cfg: sizes. spec: size of the vectors, and which modes there are.

    Attributes:
        bottleneck: numbers that pass the wall in autoencoder mode.
    """

    encoder: Crossing | None
    decoder: Crossing | None
    answer: Crossing | None

    def __init__(self, cfg: ModelConfig, spec: LatticeSpec) -> None:
        super().__init__()
        self.cube = EmbeddingProcessor(cfg.size, cfg.channels, cfg.steps)
        self.z_dim, self.bottleneck = spec.z_dim, cfg.bottleneck
        z, end, steps = spec.z_dim, cfg.size[0] - 1, cfg.steps
        cells = cfg.size[1] * cfg.size[2] * cfg.channels
        self.encoder = self.decoder = self.answer = None
        if spec.mode != "dialogue":
            wall, half = cfg.size[0] // 2, steps // 2
            self.encoder = Crossing(z, cfg.bottleneck, Stretch(0, wall - 1, 0, half), cells, cfg)
            self.decoder = Crossing(cfg.bottleneck, z, Stretch(wall, end, half, steps), cells, cfg)
        if spec.mode != "autoencoder":
            self.answer = Crossing(z, z, Stretch(0, end, 0, steps), cells, cfg)

    def forward(self, x: Tensor, mode: Tensor | None = None) -> Tensor:
        """Predicted unit vectors.

        Args:
            x: unit vectors [B, Z].
            mode: 0 autoencoder, 1 dialogue, of each row [B]; None where the model has only one.

        Returns:
            [B, Z].

        Raises:
            DataError: the model was not built for a row's mode.
        """
        return F.normalize(self.raw(x, mode), dim=-1)

    def raw(self, x: Tensor, mode: Tensor | None = None) -> Tensor:
        """``forward`` before the length is made one: [B, Z]."""
        if mode is None:
            if self.encoder is not None and self.answer is not None:
                raise DataError(
                    "this lattice has two modes: say of each row which (0 autoencoder, 1 dialogue)"
                )
            return self._rebuilt(x) if self.answer is None else self._answered(x)
        asked = mode == DIALOGUE
        if asked.all():
            return self._answered(x)
        if not asked.any():
            return self._rebuilt(x)
        rows = torch.cat([(~asked).nonzero()[:, 0], asked.nonzero()[:, 0]])
        out = torch.cat([self._rebuilt(x[~asked]), self._answered(x[asked])])
        return out[rows.argsort()]

    def encode(self, x: Tensor) -> Tensor:
        """The numbers that pass the wall: [B, Z] -> [B, bottleneck]."""
        code: Tensor = _has(self.encoder, "autoencoder")(x, self.cube)
        return code

    def decode(self, code: Tensor) -> Tensor:
        """Unit vectors from the numbers that pass the wall: [B, bottleneck] -> [B, Z]."""
        return F.normalize(_has(self.decoder, "autoencoder")(code, self.cube), dim=-1)

    def _rebuilt(self, x: Tensor) -> Tensor:
        out: Tensor = _has(self.decoder, "autoencoder")(self.encode(x), self.cube)
        return out

    def _answered(self, x: Tensor) -> Tensor:
        out: Tensor = _has(self.answer, "dialogue")(x, self.cube)
        return out

    def states(self, x: Tensor, mode: int | None = None) -> Tensor:
        """The whole cube in every state, for pictures: [B, Z] -> [K + 1, B, C, D, H, W].

        Args:
            mode: ``AUTOENCODER`` or ``DIALOGUE``; None: the one that the model has, of two the dialogue.
        """
        asked = mode == DIALOGUE if mode is not None else self.answer is not None
        if asked:
            parts = [(_has(self.answer, "dialogue"), x)]
        else:
            encoder, decoder = _has(self.encoder, "autoencoder"), _has(self.decoder, "autoencoder")
            parts = [(encoder, x), (decoder, self.encode(x))]
        cells = self.cube.asleep.expand(len(x), *self.cube.asleep.shape)
        seen: list[Tensor] = []
        for crossing, v in parts:
            where = crossing.stretch
            del seen[where.begin :]  # the state in which the numbers pass the wall is the second half's first
            for h in self.cube.evolve(crossing.enter(v, self.cube), where, whole=True):
                cells = cells.clone()
                cells[:, where.first : where.first + h.shape[1]] = h
                seen.append(cells)
        return torch.stack(seen).permute(0, 1, 5, 2, 3, 4)


def _has(crossing: Crossing | None, mode: str) -> Crossing:
    if crossing is None:
        raise DataError(f"this lattice was not trained for {mode} rows: train one with mode={mode} or mixed")
    return crossing


def build_model(cfg: ModelConfig, spec: LatticeSpec) -> Lattice:
    """The lattice for a spec, with random weights; ``build_task`` gives its linear paths their start.

    Raises:
        ConfigError: a bottleneck that is none.
    """
    if spec.mode != "dialogue":
        fits = f"below the {spec.z_dim} numbers of a vector, for example {max(1, spec.z_dim // 3)}"
        check(cfg.bottleneck < spec.z_dim, "model.bottleneck", cfg.bottleneck, fits)
    return Lattice(cfg, spec)
