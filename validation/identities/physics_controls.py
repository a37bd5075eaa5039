r"""Controls of diffusion on the reflected clock: what is recorded on the way to noise, and when it is used.

    forward   0 <= t <= T      v(x, t) is recorded
    back      T <= t' <= 2 T   u = -2 v(x, 2 T - t') on top of the noise, or the velocity -v(x, 2 T - t') without noise

The printed T - t' of the introduction lies before the data. It has a meaning where the data are so wide that their
density can be run back by T, and then does not restore them. Nor do (96)'s ranges as printed: an update for 0 <= t <= T
with scores of T < t' <= 2 T undoes a second half of noising and ends where the first half ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Empirical, Gaussian
from refdiff.dynamics import VelocityField, field_flow, flow
from refdiff.model import ExactModel
from refdiff.physics import Clock, controlled_equation, diffusive_velocity, expansion_velocity
from refdiff.processes import LinearProcess
from refdiff.samplers import propagate
from refdiff.schedules import VPLinear
from refdiff.validation import laws
from refdiff.validation.cases import Case, ModelCase
from refdiff.validation.conditions import smooth, spread_out
from refdiff.validation.identities.ancestral_samplers import controlled
from refdiff.validation.identity import ORDER, Sides, identity
from refdiff.validation.numeric import dot, extrapolate

TOPIC = "Controls of diffusion"


def euler_moments(drift: Callable[[Array, float], Array], noise: Array, law: Gaussian, times: Array) -> Array:
    """Mean and covariance after Euler's steps of dx = drift dt + dw with covariance `noise` dt, shape (d + 1, d).

    The drift is affine in x, and asked for at d + 1 points at each of the `times` (n + 1,), from the law (`law`) on.
    """
    dim, mean, cov = law.dim, law.mean(), law.cov()
    for k, step in enumerate(np.diff(times)):
        at = drift(np.vstack([mean, mean + np.eye(dim)]), float(times[k]))
        gain = np.eye(dim) + step * (at[1:] - at[0]).T
        mean, cov = mean + step * at[0], gain @ cov @ gain.T + step * noise
    return np.vstack([mean, cov])


@identity(
    "A control on the reflected clock restores the data",
    topic=TOPIC,
    formula=r"dx = -2 v(x, 2 T - t')\, dt' + \sqrt{2 D}\, dw,\; T \le t' \le 2 T,\quad v = -D \nabla \log \rho_t:"
    r"\quad x_{2T} \sim \rho_0",
    covers=["PHY-00", "PHY-07"],
    refutes=["PHY-00"],
    over="once",
    evidence=ORDER,
    # three extrapolations leave (h / T)^4 of order 1: 1e-7, and less than that of what is small
    tolerance=1e-6,
    control="v(x, T - t'), as printed in the introduction, for data so wide that it exists",
)
def reflected_clock(case: Case, wrong: bool) -> Iterator[Sides]:
    """Moments of Euler's steps, extrapolated, for matrices D and Gaussian data from which 2 D T can be taken away."""
    rng = case.rng
    for dim in (1, 2, 3):
        law, T = laws.gaussian(rng, dim), rng.uniform(0.3, 0.8)
        root = rng.standard_normal((dim, dim))
        d = root @ root.T + np.eye(dim)
        d *= 0.4 * np.linalg.eigvalsh(law.cov())[0] / (2 * T * np.linalg.eigvalsh(d)[-1])
        model = ExactModel(law, LinearProcess(np.zeros((dim, dim)), laws.square_root(2 * d), T))
        back = controlled_equation(model, Clock.reflected(T))

        def printed(x: Array, now: float, law: Gaussian = law, d: Array = d, T: float = T) -> Array:
            then = Gaussian(law.mean(), law.cov() + 2 * d * (T - now))
            return -2 * diffusive_velocity(then, x, d)

        drift, start = printed if wrong else back.drift_at, Gaussian(law.mean(), law.cov() + 2 * d * T)
        found = [euler_moments(drift, 2 * d, start, np.linspace(T, 2 * T, n + 1)) for n in (8, 16, 32, 64)]
        yield Sides(extrapolate(found), np.vstack([law.mean(), law.cov()]))


@identity(
    "The reversed velocity leads every particle back",
    topic=TOPIC,
    formula=r"\dot x = -v_{2T - t'}(x) = \tfrac{\beta_{2T - t'}}{2} (x + \sigma^2 \nabla \log \rho(x; 2 T - t')):"
    r"\quad x(2T) = x(0)",
    covers=["PHY-94"],
    # some 30 steps of 1e-12 on either way, whose errors the way back stretches by less than ten
    tolerance=1e-10,
    control="velocities replayed in the order of their recording",
    needs=lambda case: smooth(case) and spread_out(case) and case.law.dim <= 3 and case.law.count <= 3,
    most=4,
)
def reversed_velocity(case: ModelCase, wrong: bool) -> Sides:
    """The flow from s to t in the model's own time, and a field on the wall clock from t to 2 t - s."""
    model, s, t = case.model, case.s, case.t
    x = model.sample(3, s, case.rng)
    there = flow(model, x, s, t, rtol=1e-12, atol=1e-14).x

    def velocity(y: Array, now: float) -> Array:
        return -np.asarray(model.velocity(y, s + now - t if wrong else 2 * t - now))

    back = field_flow(VelocityField(velocity, model.dim), there, t, 2 * t - s, rtol=1e-12, atol=1e-14).x
    return Sides(back, x, scale=np.abs(x).max())


@identity(
    "Reverse update with control: when which score",
    topic=TOPIC,
    formula=r"x_{t' + h} = (\sqrt{1 - \beta h} + \beta h)\, x_{t'} + \beta h \nabla \log \rho(x_{t'}; 2T - t')"
    r" + \sqrt{\beta h}\, \epsilon,\; T \le t' < 2T:\quad x_{2T} \sim \rho_0",
    covers=["PHY-96"],
    refutes=["PHY-96"],
    over="once",
    evidence=ORDER,
    control="the printed ranges: an update for 0 <= t <= T with scores of T < t' <= 2 T",
)
def update_ranges(case: Case, wrong: bool) -> Sides:
    """The update as a table, its law extrapolated at first order, against the data; noising goes on to 2 T."""
    low, high, data = case.rng.uniform(0.1, 0.5), case.rng.uniform(1.0, 3.0), case.rng.uniform(0.2, 0.6)
    # beta(t) is one line over [0, 2], T = 1
    schedule, law = VPLinear(low, 2 * high - low, T=2.0), Gaussian([0.0], data)
    start, end = (2.0, 1.0) if wrong else (1.0, 0.0)
    found = []
    for n in (16, 32, 64, 128, 256):
        table = controlled(schedule, np.linspace(start, end, n + 1), exchanged=False)
        found.append(propagate(table, law).output.cov()[0, 0])
    return Sides(extrapolate([np.asarray(one) for one in found]), data)


@identity(
    "A point expands without knowing how fast it diffuses",
    topic=TOPIC,
    formula=r"\rho_t = N(x_0, \beta t I):\quad -\tfrac{\beta}{2} \nabla \log \rho_t = \frac{x - x_0}{2 t}",
    covers=["PHY-91"],
    over="once",
    control="two points in place of one",
)
def expansion(case: Case, wrong: bool) -> Iterator[Sides]:
    """The velocities for two rates, and at the point itself, which rests at all times."""
    rng, t = case.rng, case.rng.uniform(0.1, 2.0)
    for dim in (1, 2, 5):
        start = rng.standard_normal((2 if wrong else 1, dim))
        x = rng.standard_normal((4, dim))
        slow, fast = (expansion_velocity(Empirical(start), x, beta * t, beta) for beta in rng.uniform(0.1, 5.0, 2))
        yield Sides(slow, fast)
        yield Sides(slow, (x - start[0]) / (2 * t))
        yield Sides(expansion_velocity(Empirical(start), start[0], 1e-9 * t, 1.0), 0.0, scale=1.0)


@identity(
    "Continuity does not single out the expansion, Fick's law does",
    topic=TOPIC,
    formula=r"v = \frac{x}{2t} + \Omega x:\quad \nabla \cdot v - \frac{x \cdot v}{\beta t}"
    r" = -\frac{1}{2t} \Big( \frac{|x|^{2}}{\beta t} - d \Big)\;\text{for every}\; \Omega^{\top} = -\Omega,"
    r"\quad v = -\tfrac{\beta}{2} \nabla \log k \;\text{only for}\; \Omega = 0",
    covers=["PHY-91"],
    over="once",
    control="a symmetric matrix in place of the turning one",
)
def rotating_expansions(case: Case, wrong: bool) -> Iterator[Sides]:
    """(89) for fields that turn, which the derivation passes over; the velocity of Fick's law has no rotation."""
    rng = case.rng
    for dim in (2, 3, 5):
        beta, t, root = rng.uniform(0.5, 2.0), rng.uniform(0.1, 1.0), rng.standard_normal((dim, dim))
        field = np.eye(dim) / (2 * t) + (root + root.T if wrong else root - root.T)
        x = np.sqrt(beta * t) * rng.standard_normal((4, dim))
        squares, size = dot(x, x) / (beta * t), (dim + dot(x, x) / (beta * t)) * np.linalg.norm(field, 2)
        yield Sides(np.trace(field) - dot(x, x @ field.T) / (beta * t), -(squares - dim) / (2 * t), scale=size)
        flow = diffusive_velocity(Gaussian(np.zeros(dim), beta * t), x, beta / 2)
        yield Sides(flow, x / (2 * t))
