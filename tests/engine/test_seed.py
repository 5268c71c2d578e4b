import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tinsmith.engine.seed import (
    ReproducibilityContext,
    deterministic_algorithms,
    get_rng_state,
    preserve_rng,
    set_rng_state,
    set_seed,
)


@pytest.fixture(autouse=True)
def _restored():
    """The switches are global: leave them as they were for the other tests."""
    with deterministic_algorithms(False), preserve_rng():
        yield


def draw() -> list[float]:
    """Draws from every generator; the odd number of normals leaves a cached one behind."""
    numbers = [random.random(), random.gauss(0, 1), np.random.rand(), *np.random.randn(3)]
    return [float(x) for x in [*numbers, *torch.randn(3).tolist(), *torch.rand(17).tolist()]]


def test_a_seed_repeats_all_generators():
    set_seed(7)
    first = draw()
    set_seed(7)
    assert draw() == first
    set_seed(8)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_a_large_seed_reaches_numpy():
    set_seed(2**40 + 3)
    first = np.random.rand()
    np.random.seed(3)
    assert np.random.rand() == first


def test_state_survives_json_and_safetensors_exactly(tmp_path):
    set_seed(3)
    draw()
    state = get_rng_state()
    after = draw()
    tensors = {"torch": state["torch"], "py": state["python"]["words"], "np": state["numpy"]["keys"]}
    save_file(tensors, tmp_path / "t.safetensors")
    plain = {
        kind: {k: v for k, v in state[kind].items() if k not in ("words", "keys")}
        for kind in ("python", "numpy")
    }
    tensors, plain = load_file(tmp_path / "t.safetensors"), json.loads(json.dumps(plain))
    set_seed(99)
    set_rng_state(
        {
            "torch": tensors["torch"],
            "python": {**plain["python"], "words": tensors["py"]},
            "numpy": {**plain["numpy"], "keys": tensors["np"]},
        }
    )
    assert draw() == after


def test_preserve_rng_hides_what_is_drawn_inside_even_on_error():
    set_seed(1)
    expected = draw()
    set_seed(1)
    with pytest.raises(ZeroDivisionError), preserve_rng():
        _ = draw()[0] / 0
    assert draw() == expected


def test_context_seeds_and_restores_generators_and_switches():
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.backends.cudnn.benchmark = True
    set_seed(5, deterministic=False)
    expected = draw()
    set_seed(5, deterministic=False)
    with ReproducibilityContext(seed=123) as context:
        inside = draw()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.backends.cudnn.benchmark
        with context:  # the same one again, inside itself
            assert draw() == inside
    assert draw() == expected
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False


def test_deterministic_switches():
    set_seed(0)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.backends.cudnn.deterministic
    set_seed(1, deterministic=False)  # a per-sample seed in the middle of a run must not undo it
    assert torch.are_deterministic_algorithms_enabled()


def test_deterministic_algorithms_restores_on_leaving():
    torch.use_deterministic_algorithms(False)
    with deterministic_algorithms():
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic_algorithms(False):
        assert not torch.are_deterministic_algorithms_enabled()
