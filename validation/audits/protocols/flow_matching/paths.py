"""What flow_matching makes of its schedulers: paths, conversions, changes of schedule, likelihoods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.model import ExactModel
from refdiff.validation.audits.checks.parts import Answer
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch
from refdiff.validation.audits.protocols.flow_matching.schedulers import EPS, OPERATIONS, ROUNDING, schedulers


def ends(quick: bool) -> Iterator[Answer]:  # noqa: ARG001
    """snr_inverse at both ends, and a velocity changed to another scheduler there."""
    import torch

    for name, (make, _) in schedulers().items():
        for snr, s in ((0.0, 0.0), (np.inf, 1.0)):
            if name == "VPScheduler" and s == 0:
                continue  # alpha > 0 at its noisy end
            found = to_numpy(make().snr_inverse(torch.tensor([snr], dtype=torch.float64)))
            yield Answer(f"{name}().snr_inverse({snr})", found, [s], OPERATIONS * EPS, ROUNDING)


def transformed(quick: bool) -> Iterator[Answer]:
    """ScheduleTransformedModel on Gaussian data, where the velocity of every schedule is known."""
    import torch
    from flow_matching.path.scheduler import ScheduleTransformedModel

    law, x = Gaussian([0.7], [[0.3]]), np.array([[-1.0], [0.4], [2.0]])
    known = {name: (make(), p) for name, (make, p) in schedulers().items() if p is not None}
    for first, (old, p) in known.items():
        for second, (new, q) in known.items():
            before, after = ExactModel(law, p), ExactModel(law, q)

            def velocity(x: Any, t: Any, before: ExactModel = before) -> Any:
                if not bool(torch.isfinite(x).all() and torch.isfinite(t).all()):
                    return torch.full_like(x, torch.nan)
                return to_torch(-np.asarray(before.velocity(to_numpy(x), 1 - float(t))))

            model = ScheduleTransformedModel(velocity, old, new)
            for s in (0.5, 1.0) if quick else (0.2, 0.5, 0.8, 1.0):
                with torch.no_grad():
                    found = to_numpy(model(x=to_torch(x), t=torch.tensor(s, dtype=torch.float64)))
                yield _changed(f"{first} to {second}, s = {s}", found, x, before, after, s)


def _changed(place: str, found: Array, x: Array, before: ExactModel, after: ExactModel, s: float) -> Answer:
    """Beside the exact velocity, within what roundings of t, s and x / s do to each of its two terms."""
    right = -np.asarray(after.velocity(x, 1 - s))
    if not np.isfinite(right).all() or s == 1.0:
        # all is 0 / 0 there: whether it is a number, and of the size of the limit
        return Answer(place, found, right, 1 + np.abs(right).max(), "a limit that exists, to its size")
    c = after.affine.coefficients(1 - s)
    t = float(before.affine.schedules[0].time_of_log_snr(c.log_snr))
    b = before.affine.coefficients(t)
    scale, rate = c.sigma / b.sigma, (c.g2 / c.sigma**2) / (b.g2 / b.sigma**2)
    inner = x / scale
    old = np.abs(before.velocity(inner, t)) + np.abs(before.velocity_rate(inner, t)) / b.sigma**2
    old = old + np.abs(np.squeeze(before.velocity_jacobian(inner, t), -1) * inner)
    terms = scale * rate * old + np.abs(x) * (np.abs(c.dsigma / c.sigma) + np.abs(rate * b.dsigma / b.sigma))
    return Answer(place, found, right, OPERATIONS * EPS * terms / b.sigma**2 / c.sigma**2,
                  "16 roundings in each term and in t, over sigma^2, which may cancel")  # fmt: skip


def conversions(quick: bool) -> Iterator[Answer]:  # noqa: ARG001
    """AffineProbPath: the sample, its velocity, and the six conversions between velocity, target and noise."""
    import torch
    from flow_matching.path import AffineProbPath

    rng = np.random.default_rng(0)
    x0, x1 = rng.standard_normal((2, 9, 1))
    s = np.linspace(0.1, 0.9, 9)
    for name, (make, _) in schedulers().items():
        path = AffineProbPath(make())
        c = path.scheduler(to_torch(s))
        a, b, da, db = (to_numpy(part)[:, None] for part in (c.alpha_t, c.sigma_t, c.d_alpha_t, c.d_sigma_t))
        sample = path.sample(x_0=to_torch(x0), x_1=to_torch(x1), t=to_torch(s))
        sizes = np.abs(a * x1) + np.abs(b * x0), np.abs(da * x1) + np.abs(db * x0)
        given = {"target": x1, "epsilon": x0, "velocity": da * x1 + db * x0}
        right = {"x_t": a * x1 + b * x0, "dx_t": given["velocity"]}
        for which, size in zip(right, sizes, strict=True):
            yield Answer(
                f"{name}: {which}", to_numpy(getattr(sample, which)), right[which], OPERATIONS * EPS * size, ROUNDING
            )
        turn, t = np.abs(da * b - db * a), torch.tensor(s, dtype=torch.float64)[:, None]
        # a conversion divides by alpha, by sigma or by their Wronskian
        worst = (
            OPERATIONS
            * EPS
            * (sizes[0] + sizes[1])
            * (1 + (np.abs(da) + np.abs(db)) ** 2)
            / (a * b * np.minimum(turn, 1))
        )
        for before in given:
            for after in given:
                if before != after:
                    call = getattr(path, f"{before}_to_{after}")
                    word = {"target": "x_1"}.get(before, before)
                    found = call(**{word: to_torch(given[before])}, x_t=to_torch(right["x_t"]), t=t)
                    yield Answer(f"{name}: {before}_to_{after}", to_numpy(found), given[after], worst,
                                 "16 roundings of all terms, over what is divided by")  # fmt: skip


def likelihood(quick: bool) -> Iterator[Answer]:  # noqa: ARG001
    """compute_likelihood on Gaussian data: the change of log p is the method's own quadrature of the divergence."""
    import torch
    from flow_matching.solver import ODESolver

    variance, steps = 0.3, 8

    def slope(s: Any) -> Any:
        return (s * variance - (1 - s)) / (s**2 * variance + (1 - s) ** 2)

    def velocity(x: Any, t: Any) -> Any:
        return slope(t) * x

    times = np.linspace(1, 0, steps + 1)
    x = torch.tensor([[0.3, -0.2], [1.0, 0.7]], dtype=torch.float64)
    found, log_p = ODESolver(velocity).compute_likelihood(
        x, lambda y: -(y**2).sum(1) / 2, None, "rk4", time_grid=to_torch(times), exact_divergence=True
    )
    change = to_numpy(log_p).astype(float) + (to_numpy(found) ** 2).sum(1) / 2
    h = 1 / steps
    rule = [(0, 1), (1 / 3, 3), (2 / 3, 3), (1, 1)]  # the 3/8 rule
    right = -sum(h / 8 * w * 2 * slope(t - part * h) for t in times[:-1] for part, w in rule)
    yield Answer(
        "change of log p", change, np.full(2, right), OPERATIONS * steps * EPS * 10, "16 roundings in each step"
    )


PARTS: Mapping[str, Callable[[bool], Iterator[Answer]]] = MappingProxyType(
    {
        "AffineProbPath": conversions,
        "ScheduleTransformedModel": transformed,
        "snr_inverse": ends,
        "compute_likelihood": likelihood,
    }
)
