r"""Samplers of bridges as tables: from x_T to x_0 with a model that answers E[x_0 | x_t], or E[x_0 | x_t, x_T].

With x_t = a x_0 + b x_T + N(0, V) given both ends, D the model's answer and z a unit normal, a step from t to s < t is

    x_s = u x_t + (a_s - u a_t) D + (b_s - u b_t) x_T + r z,      u^2 V_t + r^2 = V_s,    r = k r_1

    r_1^2 = V_s - (b_s / b_t)^2 V_t,  u_1 = b_s / b_t:      for k = 1 x_T drops out, the reference being Markov

k = 1 is the posterior of the reference at the model's x_0 (I2SB, DDBM's ancestral steps), k = 0 the implicit sampler
(DBIM), in which the first normal, at T, stays; without noise (V = 0) it is Euler's method for the line through D, the
flow of I2SB. These are DDIM's steps for x_t - b x_T. Any k keeps the law of x_t, given x_T, for a model that is given
x_T; one that is not needs k = 1, or pairs for which x_T adds nothing to x_t: those of a Schroedinger bridge. In n
steps the law of the output is O(1/n) away where they shorten towards both ends, like cosines of even angles, and
O(log n / n) where they are even; it is exact for one x_0, whatever n.

`propagate` cannot follow such a table, as the x_T that its process is pinned to has no density. For Gaussian pairs
`bridge_channels` has the exact law of each stage. Sources: PODB-80, PODB-81, PODB-92, TOPB-68; Liu, Vahdat, Huang,
Theodorou, Nie and Anandkumar 2023, "I2SB"; Zhou, Lou, Khanna and Ermon 2024, "Denoising diffusion bridge models";
Zheng, He, Chen, Bao and Zhu 2025, "Diffusion bridge implicit models".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, points, real_scalar
from refdiff.channels import Channel
from refdiff.interpolants import Blend, Interpolant, InterpolantModel
from refdiff.samplers import Recorder, Tableau
from refdiff.schedules import Coefficients
from refdiff.schroedinger.markovian import gaussian_model

Answer = Callable[[Array, float], Array]


@dataclass(frozen=True)
class _PinnedKernel:
    """x_t - b x_T as a noising of x_0: alpha = a and sigma = V^(1/2) of an interpolant, for tables.

    Args:
        interpolant: how ends are joined, with numbers a, b and V and no offset.

    Raises:
        TypeError: it is no Interpolant.
    """

    interpolant: Interpolant

    def __post_init__(self) -> None:
        if not isinstance(self.interpolant, Interpolant):
            raise TypeError(f"interpolant must be an Interpolant, got {self.interpolant!r}")

    @property
    def T(self) -> float:
        """The final time."""
        return self.interpolant.T

    def blend(self, t: float) -> Blend:
        """a, b, V and their rates at a time t.

        Raises:
            ValueError: they are no numbers, or there is an offset.
        """
        now = self.interpolant.at(t)
        if any(part.ndim for part in (now.first, now.second, now.noise)) or np.any(now.offset):
            raise ValueError(
                f"interpolant must join by numbers and without an offset for a table, got {now} at t = {t}"
            )
        return now

    def coefficients(self, t: float) -> Coefficients:
        """alpha, sigma and what follows from them at a time t: infinite rates where sigma or alpha is 0."""
        now = self.blend(t)
        alpha, variance, rate = now.first, now.noise, 2 * now.spread
        bends = (np.full((), np.nan) if part is None else part for part in (now.d2first, now.dspread))
        with np.errstate(divide="ignore", invalid="ignore"):
            sigma, (d2alpha, dspread) = np.sqrt(variance), bends
            dsigma, f = rate / (2 * sigma), now.dfirst / alpha
            d2sigma = (dspread - dsigma**2) / sigma
            log_snr = np.log(alpha) - 0.5 * np.log(variance)
            g2 = rate - 2 * f * variance
        return Coefficients(alpha, now.dfirst, d2alpha, sigma, dsigma, d2sigma, rate, 2 * dspread, f, g2, log_snr)


def bridge_sampler(interpolant: Interpolant, times: ArrayLike, stochasticity: float = 1.0) -> Tableau:
    """Steps from x_T to x_0 that are linear in the state, the model's E[x_0 | ..], x_T and noise: I2SB, DBIM.

    Run it from points of the second law with a network's D, or with the exact one: `bridge_denoiser`. A network of I2SB
    that answers F = (x_t - x_0) / sigma_t has D = x_t - sigma_t F.

    Args:
        interpolant: how ends are joined, with numbers a, b and V: `brownian`, ReferenceBridges of a schedule.
        times: decreasing, from T, shape (n + 1,).
        stochasticity: k in [0, 1].

    Raises:
        TypeError: it is no Interpolant.
        ValueError: times that do not decrease from T, k out of range, an interpolant with matrices or an offset, or
            one whose noise grows too fast towards x_0 for a step without x_T.
    """
    k = real_scalar("stochasticity", stochasticity, low=0, high=1)
    kernel = _PinnedKernel(interpolant)
    rec: Any = Recorder(f"bridge, k = {k:g}", kernel, times, "denoiser")  # type: ignore[arg-type]
    if rec.points[0].t != kernel.T:
        raise ValueError(f"times must start at T = {kernel.T}, where the state is x_T, got {rec.points[0].t}")
    x = start = rec.start
    for t, s in rec.steps:
        clean = rec.evaluate(x, t)
        kept, of_clean, of_end, std = _weights(kernel.blend(t.t), kernel.blend(s.t), k)
        moved = kept * x + of_clean * clean + rec.noise(std)
        x = moved + of_end * start if of_end else moved
    table: Tableau = rec.finish(x)
    return table


def _weights(now: Blend, then: Blend, k: float) -> tuple[float, float, float, float]:
    """u, the weights of D and of x_T, and r, of a step between two times."""
    a, b, v = float(now.first), float(now.second), float(now.noise)
    a1, b1, v1 = float(then.first), float(then.second), float(then.noise)
    if b == 0:
        raise ValueError(f"interpolant must have b_t > 0 for t > 0, got 0 on the way to b_s = {b1}")
    kept = b1 / b
    left = v1 - kept**2 * v
    if left < -8 * np.finfo(float).eps * v1:
        raise ValueError(
            f"interpolant must have steps that forget x_T, with V_s >= (b_s / b_t)^2 V_t, got {v1} and {v}"
        )
    drawn = max(left, 0.0) if v == 0 else k * k * max(left, 0.0)
    if k == 1 or v == 0:
        return kept, a1 - kept * a, 0.0, float(np.sqrt(drawn))
    kept = float(np.sqrt(max(v1 - drawn, 0.0) / v))
    return kept, a1 - kept * a, b1 - kept * b, float(np.sqrt(drawn))


# ---------------------------------------------------------------------- models


def bridge_denoiser(model: InterpolantModel, end: ArrayLike | None = None) -> Answer:
    """(x, t) -> E[x_0 | x_t = x], or E[x_0 | x_t = x, x_T], for `run`: what a perfect network of a bridge answers.

    At T, where x_t is x_T, points of a point set are answered too: there `InterpolantModel` has no density.

    Args:
        model: pairs and how they are joined.
        end: x_T of the points that will be asked for, row by row, shape (..., d), for a network that is shown it.

    Raises:
        TypeError: the model is no InterpolantModel.
        ValueError: other points are asked for than there are ends, or an end has no density and is no point of the
            second law.
    """
    if not isinstance(model, InterpolantModel):
        raise TypeError(f"model must be an InterpolantModel, got {model!r}")
    atoms = not model.pairs.second.covariances.dense(model.dim).any()
    if end is None:
        return lambda x, t: _given_atoms(model, x) if atoms and t == model.T else np.asarray(model.expected_first(x, t))
    ends, _ = points("end", end, model.dim)

    def asked(x: Array, t: float) -> Array:
        if x.shape != ends.shape:
            raise ValueError(f"x must be {len(ends)} points like end, got shape {x.shape}")
        if not atoms:
            return _both_seen(model, model.interpolant.at(t), x, ends)
        return _given_atoms(model, ends, None if t == model.T else (x, model.interpolant.at(t)))

    return asked


def _given_atoms(model: InterpolantModel, ends: Array, seen: tuple[Array, Blend] | None = None) -> Array:
    """E[x_0 | x_T], or E[x_0 | x_t, x_T], at ends (n, d) that are points of the second law."""
    found = np.empty(ends.shape)
    known = model.pairs.second.means
    for y in np.unique(ends, axis=0):
        if not (known == y).all(axis=1).any():
            raise ValueError(f"x_T must be a point of the second law, which has no density, got {y}")
        rows, law = (ends == y).all(axis=1), model.pairs.given_second(y)
        if seen is None:
            found[rows] = law.mean()
            continue
        x, now = seen
        pinned = Channel(now.first, operators.apply(now.second, y) + now.offset, now.noise)
        found[rows] = pinned.posterior_mean(law, x[rows])
    return found


def _both_seen(model: InterpolantModel, now: Blend, x: Array, ends: Array) -> Array:
    """E[x_0 | x_t, x_T] at points x and ends, each (n, d), where x_T has a density."""
    d = model.dim
    eye, zero = np.eye(d), np.zeros((d, d))
    law = model.pairs.mixture()
    if not now.first.any() and not now.noise.any():  # x_t is x_T
        return np.asarray(Channel(np.hstack([zero, eye])).posterior_mean(law, ends)[:, :d])
    rows = np.hstack([operators.dense(part, d) for part in (now.first, now.second)])
    noise = np.block([[operators.dense(now.noise, d), zero], [zero, zero]])
    offset = np.append(np.broadcast_to(now.offset, (d,)), np.zeros(d))
    both = Channel(np.vstack([rows, np.hstack([zero, eye])]), offset, noise)
    return np.asarray(both.posterior_mean(law, np.hstack([x, ends]))[:, :d])


# ---------------------------------------------------------------------- exact laws


def bridge_channels(tableau: Tableau, model: InterpolantModel, *, given_end: bool = False) -> tuple[Channel, ...]:
    """The exact channels from x_T to every stage of a table run with the model of Gaussian pairs.

    Args:
        tableau: of `bridge_sampler`, or any other whose model answers with x_0.
        model: Gaussian pairs and how they are joined, with densities where the model is asked.
        given_end: whether the model is shown x_T.

    Raises:
        TypeError: what is no tableau, or no InterpolantModel.
        ValueError: the pairs are a mixture, the table is for another prediction or coordinate, or no density.
    """
    if not isinstance(tableau, Tableau):
        raise TypeError(f"tableau must be a Tableau, got {tableau!r}")
    gaussian_model(model)
    if tableau.prediction != "denoiser" or tableau.coordinate != "x":
        raise ValueError(f"tableau must be for a denoiser in x, got {tableau!r}")
    d = model.dim
    # every stage as G x_T + g + sum_m Z_m z_m, the answers likewise
    stages, answers = [(np.eye(d), np.zeros(d), np.zeros((tableau.draws, d, d)))], dict[int, tuple[Array, ...]]()
    for k in range(tableau.stages):
        if k:
            states, own, drawn = tableau.row(k)
            terms = [(w, stages[j]) for j, w in states] + [(w, answers[j]) for j, w in own]
            gain = sum((operators.product(w, part[0]) for w, part in terms), np.zeros((d, d)))
            shift = sum((operators.apply(w, part[1]) for w, part in terms), np.zeros(d))
            noise = sum((operators.product(w, part[2]) for w, part in terms), np.zeros((tableau.draws, d, d)))
            for m, w in drawn:
                noise[m] = noise[m] + operators.dense(w, d)
            stages.append((gain, shift, noise))
        if tableau.evaluated[k]:
            of_state, of_end, constant = _affine_answer(model, float(tableau.times[k]), given_end=given_end)
            gain, shift, noise = stages[k]
            answers[k] = (of_state @ gain + of_end, of_state @ shift + constant, of_state @ noise)
    return tuple(Channel(gain, shift, np.einsum("mij,mkj->ik", noise, noise)) for gain, shift, noise in stages)


def _affine_answer(model: InterpolantModel, t: float, *, given_end: bool) -> tuple[Array, Array, Array]:
    """K, L and l with E[x_0 | ..] = K x_t + L x_T + l."""
    d = model.dim
    zero, units = np.zeros((1, d)), np.eye(d)
    if not given_end:
        constant = np.asarray(model.expected_first(zero, t))[0]
        return np.asarray(model.expected_first(units, t) - constant).T, np.zeros((d, d)), constant
    ask = bridge_denoiser(model, np.vstack([zero, units, np.zeros((d, d))]))
    found = ask(np.vstack([zero, np.zeros((d, d)), units]), t)
    constant, of_end, of_state = found[0], found[1 : d + 1] - found[0], found[d + 1 :] - found[0]
    return of_state.T, of_end.T, constant
