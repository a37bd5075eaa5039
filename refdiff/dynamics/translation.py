r"""Translation by dual encoders: noise by one flow, denoise by another (dual diffusion implicit bridges).

    z = Psi^source_{0->t}(x),      y = Psi^target_{t->0}(z)

Both halves are flows, so the way back, target for source, returns to x: no cycle is trained, it is consistent. y has
the law of the target up to how far the two laws of z differ, which is nothing where alpha_t = 0 and both processes have
one noise there. Then, with covariances S of source and target and one schedule for all axes,

    Gaussians       y = m_target + S_target^(1/2) S_source^(-1/2) (x - m_source)
    on the line     y = F_target^-1(F_source(x)), the monotone map

The affine map is the optimal one, S_s^(-1/2) (S_s^(1/2) S_t S_s^(1/2))^(1/2) S_s^(-1/2), only where the covariances
commute: the product of two symmetric roots is symmetric only then. Sources: PODB-69 (Su, Song, Meng and Ermon 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions.mixture import Gaussian
from refdiff.dynamics.flow import flow
from refdiff.dynamics.gaussian_flow import gaussian_flow
from refdiff.dynamics.stepping import times_with_density
from refdiff.model import ExactModel


@dataclass(frozen=True, eq=False)
class Translation:
    """Points of the source's data as points of the target's.

    Attributes:
        x: the translations, shape (..., d).
        latent: z, what both have in common, shape (..., d).
        log_density_change: log p_target(y) - log p_source(x) but for the difference of the two densities of z: minus
            the integral of the divergences along both flows, shape (...); None where it was not asked for.
    """

    x: Array
    latent: Array
    log_density_change: Any


def translate(
    source: ExactModel,
    target: ExactModel,
    x: ArrayLike,
    t: float | None = None,
    *,
    clean: float = 0.0,
    method: str = "dop853",
    rtol: float = 1e-10,
    atol: float = 1e-12,
    log_density: bool = False,
    max_steps: int = 10_000,
    threads: int | None = None,
) -> Translation:
    """Points of the source's law carried to noise by its flow, and to data by the target's.

    Args:
        source, target: models of one dimension; their processes may differ, and their times.
        x: points of the source at the time `clean`, shape (..., d).
        t: the noisy time, of both; the end of each one's time where left out.
        clean: the time of data, of both: above 0 for point sets, which have no flow from sigma = 0.
        method, rtol, atol, max_steps, threads: as of `flow`.
        log_density: whether the change of log p is wanted.

    Raises:
        TypeError: the source or the target is no ExactModel.
        ValueError: their dimensions differ, and what `flow` refuses.
        Unfinished: a flow does not end.

    Examples:
        >>> from refdiff import ExactModel, FlowMatching, Gaussian
        >>> from refdiff.dynamics import translate
        >>> source, target = (ExactModel(Gaussian([m], s**2), FlowMatching()) for m, s in ((0.0, 1.0), (3.0, 2.0)))
        >>> print(translate(source, target, [[1.0]]).x.round(6))  # one standard deviation above the mean of each
        [[5.]]
    """
    noisy = _noisy(source, target, t)
    for model in (source, target):
        times_with_density(model, clean=clean)
    options: Any = {"method": method, "rtol": rtol, "atol": atol, "max_steps": max_steps, "threads": threads}
    there = flow(source, x, clean, noisy[0], log_density=log_density, **options)
    back = flow(target, there.x, noisy[1], clean, log_density=log_density, **options)
    change = there.log_density_change + back.log_density_change if log_density else None
    return Translation(back.x, there.x, change)


def gaussian_translation(
    source: ExactModel, target: ExactModel, t: float | None = None, *, clean: float = 0.0
) -> Channel:
    """`translate` between Gaussian data, in closed form: the two flows as one channel without noise.

    Args:
        source, target: models of Gaussian data of one dimension.
        t: the noisy time, of both; the end of each one's time where left out.
        clean: the time of data, of both.

    Raises:
        TypeError: the source or the target is no ExactModel of Gaussian data.
        ValueError: their dimensions differ, and what `gaussian_flow` refuses.
    """
    noisy = _noisy(source, target, t)
    laws = source.distribution, target.distribution
    for name, law in zip(("source", "target"), laws, strict=True):
        if not isinstance(law, Gaussian):
            raise TypeError(f"{name} must be a model of Gaussian data, got {law!r}")
    there, back = (Gaussian(law.mean(), law.covariances.operator()) for law in laws)
    encode = gaussian_flow(there, source.process, clean, noisy[0])
    return gaussian_flow(back, target.process, noisy[1], clean).compose(encode)


def _noisy(source: ExactModel, target: ExactModel, t: float | None) -> tuple[float, float]:
    """The noisy times of two models of one dimension."""
    for name, model in (("source", source), ("target", target)):
        if not isinstance(model, ExactModel):
            raise TypeError(f"{name} must be an ExactModel, got {model!r}")
    if source.dim != target.dim:
        raise ValueError(f"target must have {source.dim} dimensions like the source, got {target.dim}")
    return (source.process.T, target.process.T) if t is None else (t, t)
