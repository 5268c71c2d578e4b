"""``import tinsmith`` makes transformers, and so sentence-transformers, know our models; it imports neither.

Whichever comes first: a model is registered when transformers' table of models is imported, or at once if
it is there.
"""

import importlib
import importlib.abc
import importlib.util
import logging
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

log = logging.getLogger(__name__)

_WATCHED = "transformers.models.auto.modeling_auto"
_REGISTERING = ("tinsmith.families.codec.hub_model",)  # modules with a function ``register``


def watch() -> None:
    """Register now if transformers' table is there, else as soon as it is imported."""
    if _WATCHED in sys.modules:
        _register()
    elif not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


def _register() -> None:
    for name in _REGISTERING:
        try:
            importlib.import_module(name).register()
        except Exception as error:  # it must not keep anybody from using transformers
            log.warning("transformers does not know tinsmith's models: %s: %s", type(error).__name__, error)


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds nothing itself: has the watched module, once it is loaded, register our models."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the watched module, with the registration behind its loading; None for any other."""
        if fullname != _WATCHED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module: ModuleType) -> None:
                load(module)
                _register()

            spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec
