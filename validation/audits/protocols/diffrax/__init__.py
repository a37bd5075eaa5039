r"""The solvers of diffrax: solver.init, and solver.step over every step, as diffeqsolve calls them.

Noise is additive, for which Ito and Stratonovich are the same equation. Implicit solvers ask the model as often as
their root finder wants and are no tables: their order is measured on Gaussian data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.order import fit
from refdiff.samplers.runge_kutta import Method
from refdiff.validation.audits.findings import Finding, judged, not_applicable
from refdiff.validation.audits.protocols import callables
from refdiff.validation.audits.protocols.diffrax.compiled import integrate, precision
from refdiff.validation.audits.protocols.integrators.conditions import conditions, embedded
from refdiff.validation.audits.protocols.integrators.schemes import (
    Build,
    combined,
    leapfrog,
    one_step,
    reversible_heun,
)
from refdiff.validation.audits.protocols.integrators.strong import strong_order
from refdiff.validation.audits.protocols.integrators.ways import FLOWING, REVERSING, Driven, Way, driven
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Subject

# solver -> (what it is, its order); those without a name are what their tableau says, which is examined by itself
ODE: Mapping[str, tuple[Build | None, float]] = MappingProxyType(
    {
        "Euler": (one_step("euler"), 1),
        "Heun": (one_step("heun"), 2),
        "Midpoint": (one_step("midpoint"), 2),
        "Ralston": (one_step("ralston"), 2),
        "Bosh3": (one_step("bogacki-shampine"), 3),
        "Tsit5": (None, 5),
        "Dopri5": (one_step("dormand-prince"), 5),
        "Dopri8": (None, 8),
        "LeapfrogMidpoint": (leapfrog, 2),
        "ReversibleHeun": (reversible_heun, 2),
    }
)
# solver -> (what it is for additive noise, weak order, strong order)
SDE: Mapping[str, tuple[Build, float, float]] = MappingProxyType(
    {
        "Euler": (one_step("euler"), 1, 1.0),
        # the diffusion at the start of the step in both places, as where time is a state that has no noise
        "EulerHeun": (one_step("euler"), 1, 1.0),
        "ItoMilstein": (one_step("euler"), 1, 1.0),
        "StratonovichMilstein": (one_step("euler"), 1, 1.0),
        "Heun": (one_step("heun"), 2, 1.0),
        "Midpoint": (one_step("midpoint"), 2, 1.0),
        "Ralston": (one_step("ralston"), 2, 1.0),
        "ReversibleHeun": (reversible_heun, 2, 1.0),
        "SEA": (one_step("sea"), 1, 1.0),
        "SRA1": (one_step("sra1-start"), 2, 1.5),
        "ShARK": (one_step("shark"), 2, 1.5),
        "GeneralShARK": (one_step("general-shark"), 2, 1.5),
        "SPaRK": (one_step("spark"), 2, 1.5),
        "SlowRK": (one_step("slow-rk"), 2, 1.5),
    }
)
IMPLICIT: Mapping[str, float] = MappingProxyType({"ImplicitEuler": 1, "Kvaerno3": 3, "Kvaerno4": 4, "Kvaerno5": 5})
PARTED = ("SemiImplicitEuler", "Sil3", "KenCarp3", "KenCarp4", "KenCarp5", "ALIGN", "ShOULD", "QUICSORT")


def tableau(name: str) -> tuple[Array, Array, Array]:
    """A, b and the embedded b of an explicit solver, as the library has them."""
    import diffrax

    found = getattr(diffrax, name).tableau
    A = np.zeros((len(found.b_sol), len(found.b_sol)))
    for i, row in enumerate(found.a_lower):
        A[i + 1, : i + 1] = row
    return A, np.asarray(found.b_sol), np.asarray(found.b_sol) - np.asarray(found.b_error)


def _build(name: str) -> Build:
    known = ODE[name][0]
    if known is not None:
        return known
    A, b, _ = tableau(name)
    ends = np.array_equal(A[-1], b)
    return one_step(combined(Method(A[:-1, :-1], b[:-1]) if ends else Method(A, b), again=ends))


def sampler(name: str, stochastic: bool, dtype: str, steps: int) -> Driven:
    """A solver on the probability flow or on the reverse equation."""
    way: Way = REVERSING if stochastic else FLOWING
    build, order = (SDE[name][0], SDE[name][1]) if stochastic else (_build(name), ODE[name][1])
    script = (
        "import diffrax\nterm = diffrax.ODETerm(lambda t, y, args: -y)\n"
        f"diffrax.diffeqsolve(term, diffrax.{name}(), 0.0, 1.0, {1 / steps}, 1.0)"
    )
    return driven(
        _name(name, stochastic, dtype),
        partial(integrate, name, stochastic),
        way,
        way.clock(steps, dtype),
        build,
        order=order,
        strong=SDE[name][2] if stochastic else None,
        source="Foster et al. 2023" if "SEA" in name or "RK" in name else "Hairer, Norsett, Wanner 1993",
        conventions=("both diffusions are taken at the start of the step",) if name == "EulerHeun" else (),
        script=script,
    )


def _name(name: str, stochastic: bool, dtype: str) -> str:
    return f"{name}()" + (", reverse equation" if stochastic else "") + (f", {dtype}" if dtype != "float64" else "")


def subject(name: str, stochastic: bool, dtype: str = "float64") -> Subject:
    """A solver."""
    import diffrax

    steps = (1, 2, 4, 8) if stochastic else (1, 2, 5, 8)
    return Subject(
        _name(name, stochastic, dtype),
        partial(sampler, name, stochastic, dtype),
        "diffrax",
        diffrax.__version__,
        "diffrax",
        steps,
        (("equation", "reverse" if stochastic else "flow"),),
    )


def implicit(name: str) -> Subject:
    """A solver that is no table."""
    import diffrax

    def build(steps: int) -> Driven:
        return driven(f"{name}()", partial(integrate, name, False), FLOWING, FLOWING.clock(steps, "float64"), None)

    return Subject(f"{name}()", build, "diffrax", diffrax.__version__, "diffrax", (4, 8), (("implicit", True),))


def wrap(target: Any, request: Request) -> Subject:
    """A solver class; option equation: flow or reverse.

    Raises:
        ValueError: it is not diffrax's own, or an option or a value of one is unknown.
    """
    import diffrax

    name = getattr(target, "__name__", str(target))
    if target is not getattr(diffrax, name, None):
        raise ValueError(
            f"{name} must be the class of diffrax itself; a solver of your own goes by the protocol velocity"
        )
    equation = callables.settings(request, ("equation",)).get("equation", "flow" if name in ODE else "reverse")
    if equation not in ("flow", "reverse"):
        raise ValueError(f"equation must be flow or reverse, got {equation!r}")
    if name in IMPLICIT:
        return implicit(name)
    stochastic = equation == "reverse"
    if name not in (SDE if stochastic else ODE):
        raise ValueError(f"solver must be one of {', '.join({**ODE, **SDE, **IMPLICIT})}, got {name!r}")
    return subject(name, stochastic, request.dtype)


def members(quick: bool) -> Mapping[str, Callable[[], Iterator[Subject]]]:
    """Every solver that takes one drift, and one diffusion."""

    def of(name: str) -> Iterator[Subject]:
        for stochastic, names in ((False, ODE), (True, SDE)):
            if name in names:
                yield subject(name, stochastic)
                if not quick:
                    yield subject(name, stochastic, "float32")
        if name in IMPLICIT:
            yield implicit(name)

    return {name: partial(of, name) for name in dict.fromkeys([*ODE, *SDE, *IMPLICIT])}


# ---------------------------------------------------------------------- what only this library has


def numbers(subject: Subject, quick: bool) -> Iterator[Finding]:  # noqa: ARG001
    """The conditions of a tableau and of its embedded weights."""
    name = subject.name.removesuffix("()")
    if name not in ODE or name in ("LeapfrogMidpoint", "ReversibleHeun", "Euler"):
        return
    A, b, lower = tableau(name)
    order = int(ODE[name][1])
    yield conditions(subject.name, A, b, order)
    yield embedded(subject.name, A, lower, order)


def implicit_order(subject: Subject, quick: bool) -> Iterator[Finding]:
    """The order of an implicit solver on the flow of a Gaussian."""
    name = subject.name.removesuffix("()")
    if name not in IMPLICIT:
        return
    counts = (8, 16, 32) if quick else (8, 16, 32, 64)
    errors = [_gaussian(name, n) for n in counts]
    found, order = fit(counts, errors, 0.0, len(counts)).order, IMPLICIT[name]
    said = f"order {found:.3f} over {counts}, known as {order:g}"
    rule = "the order less 0.1, what the next term of the error leaves of a fit over these steps"
    yield judged(subject.name, "order", order - found, 0.1, said, rule=rule, errors=errors)


def _gaussian(name: str, steps: int, variance: float = 0.3) -> float:
    """The error on the flow of N(0, variance), where x_0 = x_1 sqrt(variance), in JAX all through."""
    import diffrax
    import jax.numpy as jnp
    import optimistix

    with precision("float64"):

        def slope(u: Any, y: Any, args: Any) -> Any:  # noqa: ARG001
            t = 1 - u
            return -y * (t - (1 - t) * variance) / ((1 - t) ** 2 * variance + t**2)

        solver = getattr(diffrax, name)(root_finder=optimistix.Newton(rtol=1e-12, atol=1e-12))
        times = jnp.linspace(0, 1, steps + 1)
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(slope), solver, 0.0, 1.0, None, jnp.ones(1), stepsize_controller=diffrax.StepTo(times)
        )
        return float(abs(float(found.ys[-1][0]) - np.sqrt(variance)))


def parted(subject: Subject, quick: bool) -> Iterator[Finding]:  # noqa: ARG001
    """Solvers of other equations are named once."""
    if subject.name == "Euler()":
        yield not_applicable(
            subject.name, "other solvers", f"{', '.join(PARTED)} take a drift in two parts or the Langevin equation"
        )


PROTOCOLS = (
    Protocol(
        "diffrax",
        "solver.step(terms, t0, t1, y0, args, state, made_jump)",
        wrap,
        "diffrax",
        members,
        checks=(strong_order, numbers, implicit_order, parted),
        options=("equation",),
        given=None,
    ),
)
