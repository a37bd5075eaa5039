"""Small samplers with a calling convention of their own, for tests of audits."""

import itertools

import numpy as np

from refdiff.samplers.edm import edm_euler
from refdiff.samplers.families import families
from refdiff.validation.audits.checks.coefficients import coefficients
from refdiff.validation.audits.levels import EXPLODING
from refdiff.validation.audits.protocols import protocol as protocol_module
from refdiff.validation.audits.protocols.protocol import Protocol
from refdiff.validation.audits.subject import Claim, Sampler, Subject


def right(model, x, sigmas):
    """Euler on x_0 + sigma eps."""
    for s, t in itertools.pairwise(sigmas):
        x = x + (t - s) * (x - model(x, s)) / s
    return x


def halved(model, x, sigmas):
    """The same with half of the second step's length."""
    for i, (s, t) in enumerate(itertools.pairwise(sigmas)):
        x = x + (t - s) * (0.5 if i == 1 else 1.0) * (x - model(x, s)) / s
    return x


def levels(steps):
    return np.append(np.geomspace(80.0, 0.02, steps), 0.0)


def build(function, family=None, **options):
    """steps -> Sampler."""

    def made(steps):
        grid = levels(steps)
        tableau = families()[family] if family else edm_euler
        return Sampler(
            name=function.__name__,
            play=lambda model, x, normal: function(model, x, grid, **options),
            claim=Claim(lambda g: tableau(EXPLODING, g), grid, EXPLODING, "denoiser"),
        )

    return made


def members(functions):
    def listed(quick):  # noqa: ARG001
        def of(function):
            for name in ("", "again"):
                yield Subject(f"{function.__name__}({name})", build(function), "numpy", "1.2", "toy")

        return {f.__name__: lambda f=f: of(f) for f in functions}

    return listed


def wrap(found, request):
    name = f"{found.__name__}()"
    return Subject(name, build(found, request.family or "edm-euler", **request.options), protocol="toy")


def toy(*functions, library="numpy"):
    """A protocol whose library has these functions."""
    return Protocol("toy", "f(model, x, sigmas)", wrap, library, members(functions))


def install(monkeypatch, *these):
    """These protocols and no other, and of the common checks only that of the coefficients."""
    monkeypatch.setattr("refdiff.validation.audits.audit.common", lambda: (coefficients,))
    table = {one.name: one for one in these}
    for module in ("audit", "targets", "report"):
        monkeypatch.setattr(f"refdiff.validation.audits.{module}.protocols", lambda: table)
    monkeypatch.setattr(protocol_module, "protocols", lambda: table)
