"""A model's folder with one file cut short, then gone: what every family has to say of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tinsmith.errors import DataError


def refuses_damage(load: Callable[[Path], Any], folder: Path, copy: Path, name: str, what: str) -> None:
    """``load`` of a ``copy`` of ``folder`` says ``what`` it is not, and which file, ``name``, is missing."""
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"not a {what}, or a damaged one"):
        load(copy)
    (copy / name).unlink()
    with pytest.raises(DataError, match=f"no {what} in .*: {name} is missing"):
        load(copy)
