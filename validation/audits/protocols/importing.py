"""Importing a library's samplers where packages that the rest of it needs are missing or do not load.

Research packages import image readers, metrics and loggers beside their samplers. What cannot be imported of the named
packages is replaced by a stand-in while the library is imported: what uses it later gets nothing sensible, and the
mathematics does not use it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from unittest.mock import MagicMock


def load(name: str, without: Sequence[str] = ()) -> ModuleType:
    """The module, with stand-ins for those packages of `without` that it fails to import without.

    Raises:
        ImportError: it is not installed, or needs something else.
    """
    if name in sys.modules:
        return sys.modules[name]
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, AttributeError) as error:  # the latter two: compiled for another version
        if not without:
            raise ImportError(f"{name} cannot be imported: {error}") from error
    _forget(name.partition(".")[0])
    missing = [package for package in without if not _loads(package)]
    stand_ins = {package: MagicMock(__path__=[], __spec__=None) for package in missing}
    # submodules too: `import cleanfid.inception_torchscript`
    sys.meta_path.insert(0, finder := _StandIns(stand_ins))
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module(name)
    finally:
        sys.meta_path.remove(finder)
        for package in missing:
            _forget(package)


class _StandIns(MetaPathFinder):
    """Finds submodules of stand-ins."""

    def __init__(self, stand_ins: dict[str, MagicMock]) -> None:
        self.stand_ins = stand_ins

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        package = name.partition(".")[0]
        if package not in self.stand_ins:
            return None
        return ModuleSpec(name, _Made(), is_package=True)


class _Made(Loader):
    """The loader of a stand-in's submodule."""

    def create_module(self, _: ModuleSpec) -> MagicMock:
        return MagicMock(__path__=[])

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


def _loads(package: str) -> bool:
    try:
        importlib.import_module(package)
    except Exception:  # whatever a broken installation raises
        _forget(package)
        return False
    return True


def _forget(package: str) -> None:
    for name in [m for m in sys.modules if m == package or m.startswith(f"{package}.")]:
        del sys.modules[name]
