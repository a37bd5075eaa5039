"""What an audit is asked about, from words.

    diffusers                              every member of an installed library
    diffusers:UniPCMultistepScheduler      one member: with everything that is tried of it, or with the options given
    mypackage.module:my_sampler            a callable or class of one's own, called as a protocol calls it
    path/to/file.py:my_sampler             the same, in a file

A target is words all through, so that a worker process can look it up again.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from refdiff.validation.audits.asking import CLAIMED, BadTarget, Watched, check_names, near
from refdiff.validation.audits.protocols.protocol import Protocol, Request, protocols
from refdiff.validation.audits.subject import Subject


@dataclass(frozen=True)
class Target:
    """A member of a library, or a callable of one's own.

    Attributes:
        protocol: its name.
        member: the name of the class or function.
        where: the module or the file of a callable that is to be wrapped; "" for a member of the protocol's library
            with everything that is tried of it.
        family, options, claimed, dtype: as in a `Request`.
        quick: whether a library is to list fewer sets of options.
    """

    protocol: str
    member: str
    where: str = ""
    family: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    claimed: tuple[tuple[str, Any], ...] = ()
    dtype: str = "float64"
    quick: bool = False

    @property
    def request(self) -> Request:
        """What is asked about a callable."""
        return Request(self.family, dict(self.options), dict(self.claimed), self.dtype)

    @property
    def about(self) -> str:
        """What tells a callable from another one of its name and options; "" for a member of a library as it is."""
        if not self.where:
            return ""
        library = protocols()[self.protocol].library
        own = library is not None and self.where.split(".")[0] == library
        where = Path(os.path.relpath(self.where)).as_posix() if self.where.endswith(".py") else self.where
        claims = [f"{name}={value!r}" for name, value in sorted(self.claimed)]
        dtype = "" if self.dtype == "float64" else self.dtype
        said = [*(() if own else (self.protocol, where)), self.family, *claims, dtype]
        return ", ".join(filter(None, said))

    def subjects(self) -> Iterator[Subject]:
        """What there is to be examined."""
        protocol = protocols()[self.protocol]
        if self.where:
            yield protocol.wrap(load(self.where, self.member), self.request)
        elif protocol.members:
            yield from protocol.members(self.quick)[self.member]()


def find(
    text: str,
    protocol: str | None = None,
    *,
    family: str | None = None,
    options: Mapping[str, Any] | None = None,
    claimed: Mapping[str, Any] | None = None,
    dtype: str = "float64",
    quick: bool = False,
) -> list[Target]:
    """The targets that words stand for.

    Raises:
        BadTarget: no such library, member, module, callable, protocol, family or option, or it is not installed; the
            message says what is there.
    """
    if protocol is not None and protocol not in protocols():
        raise BadTarget(
            f"protocol must be one of {', '.join(protocols())}; got {protocol!r}{near(protocol, protocols())}"
        )
    head, colon, name = text.rpartition(":") if ":" in text else (text, "", "")
    asked = family is not None or bool(options) or bool(claimed)
    libraries = [one for one in protocols().values() if one.members and head in (one.name, one.library, _dashed(one))]
    if libraries and protocol is None:
        if not colon and asked:
            raise BadTarget(f"options and families are those of one member: {head}:NAME")
        for one in libraries:
            if one.library and not installed(one.library):
                raise BadTarget(missing(one))
        found = [Target(one.name, member, quick=quick) for one in libraries for member in members(one, quick)]
        if not colon:
            return found
        mine = [target for target in found if target.member == name]
        if not mine:
            there = [target.member for target in found]
            raise BadTarget(f"{head} has no {name!r}{near(name, there)}; refdiff audit --list shows all")
        if not asked:
            return mine
        protocol, head = mine[0].protocol, _home(protocols()[mine[0].protocol], name)
    if not colon or not head or not name:
        known = [one.name for one in protocols().values() if one.members]
        raise BadTarget(
            f"{text!r} is no library that can be audited ({', '.join(known)}){near(text, known)}; "
            "a callable of your own is MODULE:NAME or FILE.py:NAME, with protocol= or --protocol"
        )
    if protocol is None:
        raise BadTarget(f"how is {name} called? protocol= or --protocol must be one of {', '.join(protocols())}")
    target = Target(
        protocol, name, head, family, tuple((options or {}).items()), tuple((claimed or {}).items()), dtype, quick
    )
    subject_of(load(head, name), protocols()[protocol], target.request)
    return [target]


# ---------------------------------------------------------------------- libraries


def installed(library: str) -> str | None:
    """The version of the library of this import name, "" where it has none, None where it is not there."""
    try:
        if importlib.util.find_spec(library) is None:
            return None
    except (ImportError, ValueError):
        return None
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


def missing(protocol: Protocol) -> str:
    """What to do about a library that is not there."""
    return f"{protocol.library} is not installed: pip install {_dashed(protocol)}"


def members(protocol: Protocol, quick: bool) -> list[str]:
    """The names of what the installed library has.

    Raises:
        BadTarget: the library breaks when it is imported.
    """
    try:
        return list(protocol.members(quick)) if protocol.members else []
    except (Exception, SystemExit) as error:  # a library that is there, but lacks what it needs itself
        raise BadTarget(f"{protocol.library} cannot be imported: {type(error).__name__}: {error}") from error


def _dashed(protocol: Protocol) -> str:
    return (protocol.library or "").replace("_", "-")


def _home(protocol: Protocol, member: str) -> str:
    """The loaded module of the protocol's library that has the member, the library itself before its parts."""
    library = protocol.library or ""
    parts = sorted((m for m in sys.modules if m == library or m.startswith(f"{library}.")), key=lambda m: m.count("."))
    for name in parts:
        if hasattr(sys.modules[name], member):
            return name
    raise BadTarget(f"{library}:{member} is a part of the protocol's own and takes no options or family")


def audited(target: Target) -> Any:
    """The class or function that a target names, None for a part of the protocol's own."""
    try:
        return load(target.where or _home(protocols()[target.protocol], target.member), target.member)
    except (Exception, SystemExit):  # it is not there, or its library raises what it likes when it is looked for
        return None


# ---------------------------------------------------------------------- callables


def load(where: str, name: str) -> Any:
    """The callable or class of this name, dots allowed, in a module or in a file.

    Raises:
        BadTarget: it is not there, or its module breaks when it is imported.
    """
    try:
        module = _from_file(Path(where)) if where.endswith(".py") else _from_module(where)
    except BadTarget:
        raise
    except (Exception, SystemExit) as error:
        raise BadTarget(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise BadTarget(f"{where} has no {name!r}{near(name, known)}")
        found = getattr(found, part)
    if not callable(found):
        raise BadTarget(f"{where}:{name} must be a function or a class, got {type(found).__name__}")
    return found


def _from_module(where: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:  # as `python -m` has it: a package that one stands beside need not be installed
        sys.path.insert(0, here)
    return importlib.import_module(where)


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise BadTarget(f"{path} is not there")
    folder = str(path.parent.resolve())
    if folder not in sys.path:  # as `python file.py` has it
        sys.path.insert(0, folder)
    name = f"audited_{path.stem}"
    if name in sys.modules and getattr(sys.modules[name], "__file__", "") == str(path.resolve()):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise BadTarget(f"{path} must be a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses of the file look for their module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def subject_of(found: Any, protocol: Protocol, request: Request) -> Subject:
    """A callable or class of one's own as its protocol wraps it, called once to see that it is what the protocol calls.

    What it raises itself is for the checks to report; what is told here is that it cannot be called like this at all.

    Raises:
        BadTarget: no such option or family, arguments or values that it does not take, or the protocol refuses it.
    """
    name = getattr(found, "__name__", type(found).__name__)
    check_names(found, name, request, protocol)
    claimed = Watched(request.claimed)
    try:
        subject = protocol.wrap(found, replace(request, claimed=claimed))
    except (ValueError, TypeError) as error:
        raise BadTarget(f"{name} is nothing for protocol {protocol.name}: {error}") from error
    except AttributeError as error:  # a function where a class is called, or the reverse
        raise BadTarget(f"{name} is nothing for protocol {protocol.name}, {protocol.summary}: {error}") from error
    except ImportError as error:
        raise BadTarget(missing(protocol) if protocol.library else f"{protocol.name} needs {error.name}") from error
    steps = subject.steps[0] if subject.steps else 5
    try:
        sampler = subject.build(steps)
    except (ValueError, TypeError, NotImplementedError) as error:
        if request.options or request.claimed:
            raise BadTarget(f"{name} refuses what is set: {type(error).__name__}: {error}") from None
        return subject
    except (Exception, SystemExit):  # for the checks to report
        return subject
    for claim in CLAIMED:
        if claim in request.claimed and claim not in claimed.read:
            without = "" if request.family else " without a family"
            raise BadTarget(f"{claim} is no claim that protocol {protocol.name} looks at{without}")
    try:
        sampler.play(lambda x, _: np.zeros_like(x), np.ones((1, 1)), lambda: np.zeros((1, 1)))
    except TypeError as error:
        if not _entered(found, error):
            said = f"{name} cannot be called as {protocol.name} calls it, {protocol.summary}: {error}"
            raise BadTarget(said) from None
    except (Exception, SystemExit):  # for the checks to report
        pass
    return subject


def _entered(function: Any, error: TypeError) -> bool:
    """Whether the function had begun when the error was raised; where arguments do not fit, it had not."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    return code is None or code in frames
