"""The strong order of an integrator: how fast it comes to the solution on the same Brownian path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.order import fit
from refdiff.validation.audits.findings import Finding, judged
from refdiff.validation.audits.protocols.integrators.ways import Driven
from refdiff.validation.audits.subject import Sampler, Subject


def strong_order(subject: Subject, quick: bool) -> Iterator[Finding]:
    """The strong order on Gaussian data, from the exact distance to the solution on the same Brownian path."""
    counts = (8, 16, 32, 64)[: 3 if quick else None]
    samplers = [subject.build(n) for n in counts]
    first = samplers[0]
    if not isinstance(first, Driven) or first.strong is None or not first.way.noise:
        return
    errors = [strong_error(sampler) for sampler in samplers if isinstance(sampler, Driven)]
    found = fit(counts, errors, 0.0, len(counts)).order
    text = f"strong order {found:.3f} over {counts}, known as {first.strong:g}"
    rule = "the order less 0.1, what the next term of the error leaves of a fit over these steps"
    yield judged(
        subject.name, "strong order", first.strong - found, 0.1, text, rule=rule, script=first.script, errors=errors
    )


def strong_error(sampler: Driven, variance: float = 0.5) -> float:
    """sqrt(E |x - x*|^2) for data N(0, variance), x* the solution with the path whose increments the sampler drew.

    Over a step the path gives W and its area H: the parts of int gain G dw along 1 and 1/2 - r/h. What is orthogonal
    to both no sampler of W and H can know.
    """
    way, process = sampler.way, sampler.way.process
    total = np.asarray(sampler.claim.grid if sampler.claim else way.grid(way.clock(1, "float64")))
    steps = len(total) - 1

    def exact(x: Array, t: Any) -> Array:
        c = process.coefficients(float(t))
        rate = c.alpha * c.dalpha * variance + c.dvariance / 2
        return np.asarray(x * rate / (c.alpha**2 * variance + c.sigma**2))

    weights = _linear(sampler, exact)
    per = (len(weights) - 1) // steps
    c = process.coefficients(way.start)
    square = (weights[0] - float(way.gain(np.array(way.start), variance))) ** 2 * float(
        c.alpha**2 * variance + c.sigma**2
    )
    nodes, w = (np.asarray(part) for part in np.polynomial.legendre.leggauss(8))
    r, w = (nodes + 1) / 2, w / 2
    for i in range(steps):
        h = total[i] - total[i + 1]
        t = total[i] - r * h
        value = way.gain(t, variance) * np.array([way.diffusion(way.start - one) for one in t])
        mine = weights[1 + per * i : 1 + per * (i + 1)]
        along = mine[0] / np.sqrt(h) + (mine[1] * np.sqrt(12 / h) * (0.5 - r) if per > 1 else 0.0)
        square += h * float(w @ (value - along) ** 2)
    return float(np.sqrt(square))


def _linear(sampler: Sampler, model: Callable[[Array, Any], Array]) -> Array:
    """Weights of the start and of every normal in the output, for a model that is linear."""
    drawn = 0

    def count() -> Array:
        nonlocal drawn
        drawn += 1
        return np.zeros((1, 1))

    sampler.play(model, np.zeros((1, 1)), count)
    pulses, asked = np.eye(1 + drawn), iter(range(1, 1 + drawn))
    return np.asarray(sampler.play(model, pulses[:, :1].copy(), lambda: pulses[:, [next(asked)]].copy())[:, 0])
