"""The cube against a slow twin that computes every cell; what can reach what; where training starts."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families.lattice.tiny_lattice import Z, lattice, spec, unit
from torch import Tensor

from tinsmith.errors import ConfigError, DataError
from tinsmith.families.lattice.config import ModelConfig
from tinsmith.families.lattice.metrics import AUTOENCODER, DIALOGUE
from tinsmith.families.lattice.model import Crossing, EmbeddingProcessor, Lattice, Stretch, build_model
from tinsmith.families.lattice.task import principal_components

STRETCHES = [(0, 3, 0, 3), (0, 3, 0, 4), (0, 3, 0, 9), (0, 1, 0, 2), (2, 3, 2, 4), (1, 1, 0, 0), (1, 1, 1, 3)]


def slow(cube: EmbeddingProcessor, face: Tensor, where: Stretch) -> list[Tensor]:
    """Every cell of the stretch in every step; those that sleep keep their state."""
    h = cube.asleep[where.first : where.last + 1].expand(len(face), -1, -1, -1, -1).clone()
    h[:, 0] += face
    seen = [h]
    for state in range(where.begin, where.end):
        x = F.layer_norm(h, (cube.channels,), cube.scale[state], cube.shift[state])
        x = F.pad(x.permute(0, 4, 1, 2, 3), (1, 1, 1, 1, 1, 1))
        x = F.conv3d(x, cube.conv.weight, cube.conv.bias).permute(0, 2, 3, 4, 1)
        value, gate = x.chunk(2, dim=-1)
        awake = torch.arange(h.shape[1]) <= state + 1 - where.begin
        h = torch.where(awake[None, :, None, None, None], h + value * torch.sigmoid(gate), h)
        seen.append(h)
    arrival = where.last - where.first
    return [h[:, -1] for h in seen[arrival:]]


@pytest.mark.parametrize("stretch", STRETCHES)
def test_what_is_left_out_changes_nothing(stretch: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    cube = EmbeddingProcessor((4, 3, 5), 6, 9).double()
    with torch.no_grad():
        for parameter in cube.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    where, face = Stretch(*stretch), torch.randn(2, 3, 5, 6, requires_grad=True, dtype=torch.float64)
    fast, full = cube(face, where), slow(cube, face, where)
    assert len(fast) == len(full) == where.end - where.arrival + 1
    for a, b in zip(fast, full, strict=True):
        torch.testing.assert_close(a, b)
    grads = [torch.autograd.grad(sum(h.square().sum() for h in out), face)[0] for out in (fast, full)]
    torch.testing.assert_close(*grads)


def test_a_signal_moves_one_slice_a_step() -> None:
    model, x = lattice("dialogue", size=(5, 3, 3), steps=6), unit(2)
    changed = (model.states(x)[:, 0] != model.states(x)[:, 1]).any(1).flatten(2).any(2)  # [K + 1, D]
    assert changed.shape == (7, 5)
    for state in range(7):
        assert changed[state].tolist() == [i <= state for i in range(5)]


def test_the_wall_lets_nothing_through_but_its_numbers() -> None:
    model, x = lattice("autoencoder", size=(5, 3, 3), steps=6), unit(2)
    states = model.states(x)
    assert states.shape == (7, 2, 5, 5, 3, 3)
    changed = (states[:, 0] != states[:, 1]).any(1).flatten(2).any(2)
    assert changed[2].tolist() == [True, True, False, False, False]  # slices 0 and 1 are before the wall
    assert changed[3].tolist() == [True, True, True, False, False]
    code = model.encode(x)
    assert code.shape == (2, 6)
    torch.testing.assert_close(model.decode(code), model(x))
    with torch.no_grad():  # all that differs between two inputs is in the code
        model.encoder.linear.weight.zero_()  # type: ignore[union-attr]
        model.encoder.read_out.weight.zero_()  # type: ignore[union-attr]
    torch.testing.assert_close(model(x)[0], model(x)[1])


@pytest.mark.parametrize("options", [{}, {"steps": 3}, {"size": (2, 2, 2), "steps": 1}, {"size": (5, 4, 3)}])
@pytest.mark.parametrize("mode", ["autoencoder", "dialogue", "mixed"])
def test_every_weight_gets_a_gradient(mode: str, options: dict[str, Any]) -> None:
    model, x = lattice(mode, **options), unit(6)
    kinds = {"autoencoder": [0] * 6, "dialogue": [1] * 6, "mixed": [0, 1] * 3}[mode]
    model(x, torch.tensor(kinds)).mul(unit(6, seed=1)).sum().backward()
    assert [name for name, w in model.named_parameters() if w.grad is None or not w.grad.any()] == []


def test_rows_of_two_modes_do_not_meet() -> None:
    model, x = lattice("mixed"), unit(7)
    mode = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    both = model(x, mode)
    torch.testing.assert_close(both.norm(dim=-1), torch.ones(7))
    for i in range(7):
        torch.testing.assert_close(model(x[i : i + 1], mode[i : i + 1])[0], both[i])
    assert not torch.allclose(model(x, torch.zeros(7)), model(x, torch.ones(7)))
    with pytest.raises(DataError, match="two modes"):
        model(x)


def test_a_mode_that_was_not_trained_is_refused() -> None:
    with pytest.raises(DataError, match="not trained for dialogue rows"):
        lattice("autoencoder")(unit(2), torch.tensor([AUTOENCODER, DIALOGUE]))
    with pytest.raises(DataError, match="not trained for autoencoder rows"):
        lattice("dialogue").encode(unit(2))


def test_training_starts_at_the_linear_path() -> None:
    model, x = lattice("mixed", trained=False), unit(40)
    basis, mean = principal_components(x, 6)
    assert model.encoder is not None
    assert model.decoder is not None
    assert model.answer is not None
    model.encoder.start_from(basis, -mean @ basis)
    model.decoder.start_from(basis.T, mean)
    weight, bias = torch.randn(Z, Z), torch.randn(Z)
    model.answer.start_from(weight, bias)
    torch.testing.assert_close(model.encode(x), (x - mean) @ basis)
    pca = mean + (x - mean) @ basis @ basis.T
    torch.testing.assert_close(model.raw(x, torch.zeros(40)), pca, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.raw(x, torch.ones(40)), x @ weight + bias, atol=1e-5, rtol=1e-4)


def test_principal_components_are_those_of_svd() -> None:
    x = unit(50)
    basis, mean = principal_components(x, 4)
    torch.testing.assert_close(basis.T @ basis, torch.eye(4), atol=1e-5, rtol=0)
    _, _, rows = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    torch.testing.assert_close((basis.T @ rows[:4].T).abs(), torch.eye(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(mean, x.mean(0))


def test_a_fixed_linear_path_is_not_trained() -> None:
    names = [
        name for name, w in lattice("mixed", train_linear=False).named_parameters() if not w.requires_grad
    ]
    assert names == [
        f"{part}.linear.{what}" for part in ("encoder", "decoder", "answer") for what in ("weight", "bias")
    ]


def test_a_bottleneck_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.bottleneck=12 is not allowed: below the 12 numbers"):
        build_model(ModelConfig(bottleneck=12), spec())
    assert isinstance(build_model(ModelConfig(bottleneck=12), spec("dialogue")), Lattice)


def test_the_learned_weights_say_which_states_of_the_last_slice_count() -> None:
    torch.manual_seed(0)
    cube = EmbeddingProcessor((3, 2, 2), 4, 5)
    crossing = Crossing(Z, 7, Stretch(0, 2, 0, 5), 16, ModelConfig())
    assert crossing.when is not None
    assert len(crossing.when) == 4
    torch.nn.init.normal_(crossing.read_out.weight)
    with torch.no_grad():
        crossing.when[1] = 100.0  # as if the cube had three steps
    short = Crossing(Z, 7, Stretch(0, 2, 0, 3), 16, ModelConfig())
    assert short.when is not None
    short.load_state_dict({**crossing.state_dict(), "when": torch.tensor([0.0, 100.0])})
    torch.testing.assert_close(crossing(unit(3), cube), short(unit(3), cube))
