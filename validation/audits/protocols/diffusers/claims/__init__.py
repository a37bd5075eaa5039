"""What each class of diffusers is by its options: a function for each class, found by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType

from refdiff.validation.audits.protocols.diffusers.playing import Made
from refdiff.validation.audits.subject import Sampler

# what a network answers by its prediction_type
PREDICTIONS: Mapping[str, str] = MappingProxyType(
    {
        "epsilon": "noise",
        "sample": "denoiser",
        "original_sample": "denoiser",
        "v_prediction": "v_prediction",
        "flow_prediction": "velocity",
    }
)
Reader = Callable[[Made], Sampler]


@cache
def readers() -> Mapping[str, Reader]:
    """The functions by the names of the classes: every module of this package that has `CLASSES` takes part."""
    found: dict[str, Reader] = {}
    for module in iter_modules(__path__):
        found |= getattr(import_module(f"{__name__}.{module.name}"), "CLASSES", {})
    return MappingProxyType(found)
