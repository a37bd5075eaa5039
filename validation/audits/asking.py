"""What is set of a callable and claimed of it, checked by name before it is examined."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping
from typing import Any

from refdiff.arguments import one_of
from refdiff.predictions import PREDICTIONS
from refdiff.validation.audits.protocols.callables import process_named
from refdiff.validation.audits.protocols.protocol import Protocol, Request

# what a claim may say beside the options of its family
CLAIMED: Mapping[str, Callable[[Any], Any]] = {
    "process": process_named,
    "prediction_type": lambda said: one_of("prediction_type", said, PREDICTIONS),
}


class BadTarget(ValueError):
    """There is nothing of this name to be audited, or it is not what its protocol calls."""


class Watched(Mapping[str, Any]):
    """What is claimed, which knows what of it has been asked for by name: the rest says nothing to the protocol."""

    def __init__(self, claimed: Mapping[str, Any]) -> None:
        self.claimed, self.read = claimed, set[str]()

    def __getitem__(self, name: str) -> Any:
        self.read |= {name} & self.claimed.keys()
        return self.claimed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.claimed)

    def __len__(self) -> int:
        return len(self.claimed)

    def items(self) -> ItemsView[str, Any]:
        """All of it, which asks for nothing in particular."""
        return self.claimed.items()


def check_names(found: Any, name: str, request: Request, protocol: Protocol) -> None:
    """The options that are set of a callable `found` exist, and so do the family and what is claimed of it.

    Raises:
        BadTarget: one does not, or a claim has a value that there is not; the message says what there is.
    """
    from refdiff.samplers.families import families

    for claim, value in request.claimed.items():
        try:
            CLAIMED.get(claim, str)(value)
        except ValueError as error:
            raise BadTarget(str(error)) from None
    taken = [] if protocol.given is None else accepted(found)
    own = None if taken is None else [*taken[protocol.given :], *protocol.options]
    _known(request.options, own, f"option of {name}")
    if request.family is None or request.family in protocol.families:
        _known(request.claimed, CLAIMED, "claim without a family, which --family NAME gives")
        return
    _known([request.family], families(), "family (refdiff samplers lists them)")
    build = families()[request.family].build
    options = [p.name for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY]
    _known(request.claimed, [*options, *CLAIMED], f"option of the family {request.family}")


def accepted(found: Any) -> list[str] | None:
    """The names of what a function or a class, its set_timesteps and its step may be given; None for anything."""
    parts = [found]
    if inspect.isclass(found):
        parts += [getattr(found, name) for name in ("set_timesteps", "step") if hasattr(found, name)]
    names: list[str] = []
    for part in parts:
        try:
            parameters = list(inspect.signature(part).parameters.values())
        except (TypeError, ValueError):  # compiled code
            return None
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return None
        names += [
            p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"
        ]
    return list(dict.fromkeys(names))


def _known(asked: Iterable[str], known: Iterable[str] | None, what: str) -> None:
    listed = None if known is None else list(known)
    for name in asked:
        if listed is not None and name not in listed:
            hint = near(name, listed)
            raise BadTarget(f"{name!r} is no {what}{hint}" + ("" if hint else f": {', '.join(listed)}"))


def near(name: str, known: Iterable[str]) -> str:
    """A question for the end of a message, where known names are spelled like this one."""
    spelled = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {', '.join(spelled)}?" if spelled else ""
