"""One file per topic; a check joins the registry by decorator, a file by being here."""

import importlib
import pkgutil


def load() -> None:
    """Import every file of this package, which registers its checks."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
