"""Whether two trainers ended in the same weights, to the bit."""

from torch import Tensor

from tinsmith import Trainer


def weights(trainer: Trainer) -> dict[str, Tensor]:
    """A copy of the model's weights and buffers."""
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether all names and all bits are the same."""
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)
