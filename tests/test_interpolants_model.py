"""The exact model of an interpolant: Bayes against regression, stencils in space and time, ends, equations."""

import numpy as np
import pytest
from pairs import JOININGS, KINDS, build

from refdiff import (
    Empirical,
    ExactModel,
    FlowMatching,
    Gaussian,
    SubVP,
    Trigonometric,
    VEPower,
    VPLinear,
    operators,
)
from refdiff.channels import Channel
from refdiff.distributions import random_mixture
from refdiff.interpolants import (
    InterpolantModel,
    brownian,
    from_schedule,
    linear,
)
from refdiff.transport import gaussian_pairs, image_pairs, independent, point_pairs
from refdiff.validation.numeric import derivative, divergence, jacobian

STEP = 0.01


# laws of pairs that have a density in between without noise of the interpolant
SMOOTH = tuple(kind for kind in KINDS if kind not in ("points with points", "pairs of points"))


# one of every storage
EACH = ("isotropic", "diagonal", "components", "Gaussians", "points with points", "a noisy image", "a scaling")


def models(kinds=KINDS):
    for name, joining in JOININGS.items():
        for kind in kinds:
            if kind in SMOOTH or name != "linear":
                yield pytest.param(InterpolantModel(build(kind), joining), id=f"{kind}, {name}")


def at(model, fraction=0.4, n=4, seed=0):
    """A time and points drawn from its marginal."""
    t = fraction * model.T
    return t, model.sample(n, t, seed)


@pytest.mark.parametrize("model", list(models()))
def test_velocities_are_what_bayes_rule_says_of_the_pair_and_the_noise(model):
    t, x = at(model)
    now, d = model.interpolant.at(t), model.dim
    score = model.score(x, t)
    for row, one, rising in zip(x, model.velocity(x, t), score, strict=True):
        pair = model.posterior(row, t).mean()
        first, second = operators.apply(now.dfirst, pair[:d]), operators.apply(now.dsecond, pair[d:])
        expected = first + second + now.doffset - operators.apply(now.spread, rising)
        size = np.abs(first).max() + np.abs(second).max() + np.abs(pair).max() + np.abs(rising).max()
        np.testing.assert_allclose(one, expected, rtol=0, atol=2e-12 * size)
        np.testing.assert_allclose(model.expected_first(row, t), pair[:d], rtol=0, atol=1e-12 * size)
        np.testing.assert_allclose(model.expected_second(row, t), pair[d:], rtol=0, atol=1e-12 * size)


@pytest.mark.parametrize("model", list(models(EACH)))
def test_derivatives_in_space_and_time_are_those_of_stencils(model):
    t, x = at(model, 0.45, 3)
    widest = np.linalg.eigvalsh(model.marginal(t).covariances.dense(2)).min() ** 0.5
    h = 0.03 * min(widest, 0.5)
    v, slope = model.velocity(x, t), model.velocity_jacobian(x, t)
    # truncation h^8 at a thirtieth of the narrowest component, and rounding eps / h of what is differenced
    size = np.abs(slope).max() + np.abs(v).max() + 1
    slack = 2e-6 * size
    np.testing.assert_allclose(slope, jacobian(lambda y: model.velocity(y, t), x, h), rtol=0, atol=slack)
    np.testing.assert_allclose(
        model.velocity_divergence(x, t), np.trace(slope, axis1=1, axis2=2), rtol=0, atol=1e-11 * size
    )
    speed = 1 + np.abs(model.score(x, t)).max() * np.abs(v).max() + np.abs(slope).max()
    u = h / (1 + np.abs(v).max())
    np.testing.assert_allclose(
        model.log_density_rate(x, t), derivative(lambda s: model.log_density(x, s), t, u), rtol=0, atol=2e-6 * speed
    )
    rate = model.velocity_rate(x, t)
    expected = derivative(lambda s: model.velocity(x, s), t, u)
    np.testing.assert_allclose(rate, expected, rtol=0, atol=2e-6 * (1 + np.abs(expected).max()) * speed)
    along = derivative(lambda s: model.velocity(x + (s - t) * v, s), t, u)
    np.testing.assert_allclose(model.acceleration(x, t), along, rtol=0, atol=2e-6 * (1 + np.abs(along).max()) * speed)


@pytest.mark.parametrize("model", list(models()))
def test_velocities_carry_densities(model):
    t, x = at(model, 0.7)
    carried = (model.velocity(x, t) * model.score(x, t)).sum(axis=1)
    spread = model.velocity_divergence(x, t)
    rate = model.log_density_rate(x, t)
    size = np.abs(carried).max() + np.abs(spread).max() + np.abs(rate).max() + 1
    np.testing.assert_allclose(rate + carried + spread, 0, atol=1e-11 * size)


@pytest.mark.parametrize(
    ("kind", "name"), [*((kind, "Brownian") for kind in KINDS), ("components", "turning"), ("a map", "turning")]
)
def test_conditional_velocities_average_to_the_velocity(kind, name):
    model = InterpolantModel(build(kind), JOININGS[name])
    t, x = at(model, 0.3)
    for row, expected in zip(x, model.velocity(x, t), strict=True):
        pair = model.posterior(row, t)  # the conditional velocity is affine in the pair: its mean is that at the mean
        found = model.conditional_velocity(row, pair.mean()[:2], pair.mean()[2:], t)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * (1 + np.abs(pair.means).max()))


@pytest.mark.parametrize("name", JOININGS)
def test_conditional_velocities_follow_the_path_of_a_pair_and_its_noise(name):
    joining = JOININGS[name]
    model = InterpolantModel(point_pairs([[0.4, -1.0]], [[2.0, 1.0]]), joining)
    ends, t = (np.array([0.4, -1.0]), np.array([2.0, 1.0])), 0.3 * model.T
    z = np.array([0.7, -0.2])

    def path(u):
        now = joining.at(u)
        parts = ((now.first, ends[0]), (now.second, ends[1]), (operators.root(now.noise), z))
        return sum(operators.apply(*one) for one in parts) + now.offset

    if name == "turning":  # a spread that is not symmetric turns the noise besides: only the law of it is the same
        x = path(t)
        rate = derivative(lambda u: InterpolantModel(model.pairs, joining).log_density(x, u), t, STEP)
        score = jacobian(lambda y: model.log_density(y, t), x[None], STEP)[0]
        flow = lambda y: model.conditional_velocity(y, *(np.tile(e, (len(y), 1)) for e in ends), t)  # noqa: E731
        trace = divergence(flow, x[None], STEP)
        assert rate == pytest.approx(-float(score @ flow(x[None])[0]) - float(trace[0]), abs=1e-7)
        return
    np.testing.assert_allclose(model.conditional_velocity(path(t), *ends, t), derivative(path, t, STEP), atol=1e-9)


# ---------------------------------------------------------------------- against the model of a noising process


@pytest.mark.parametrize("schedule", [FlowMatching(), Trigonometric(), VPLinear(), SubVP(), VEPower(T=5.0)], ids=repr)
@pytest.mark.parametrize("kind", ["full", "isotropic", "points"])
def test_data_and_unit_noise_are_the_exact_model_of_the_schedule(schedule, kind):
    data = {
        "full": lambda: random_mixture(3, 4, 0, "full"),
        "isotropic": lambda: random_mixture(3, 4, 1, "isotropic"),
        "points": lambda: Empirical(np.random.default_rng(0).standard_normal((20, 3))),
    }[kind]()
    exact = ExactModel(data, schedule)
    model = InterpolantModel(independent(data, Gaussian(np.zeros(3), 1.0)), from_schedule(schedule))
    for t in (0.2 * schedule.T, 0.7 * schedule.T, schedule.T):
        x = exact.sample(5, t, 0)
        np.testing.assert_allclose(model.log_density(x, t), exact.log_density(x, t), rtol=1e-12)
        pairs = [
            ("velocity", "velocity"),
            ("expected_first", "denoiser"),
            ("expected_second", "noise"),
            ("score", "score"),
            ("velocity_jacobian", "velocity_jacobian"),
            ("velocity_divergence", "velocity_divergence"),
            ("log_density_rate", "log_density_rate"),
        ]
        for mine, theirs in pairs:
            expected = getattr(exact, theirs)(x, t)
            np.testing.assert_allclose(
                getattr(model, mine)(x, t), expected, rtol=0, atol=1e-10 * (1 + np.abs(expected).max())
            )
        for name in ("velocity_rate", "acceleration"):
            expected = getattr(exact, name)(x, t)
            np.testing.assert_allclose(
                getattr(model, name)(x, t), expected, rtol=0, atol=1e-9 * (1 + np.abs(expected).max())
            )


def test_an_end_that_starts_infinitely_fast_has_a_law_and_no_velocity():
    data = Gaussian([1.0, 2.0], 0.5)
    model = InterpolantModel(independent(data, Gaussian([0.0, 0.0], 1.0)), from_schedule(VPLinear()))
    np.testing.assert_allclose(model.marginal(0.0).mean(), data.mean())
    np.testing.assert_allclose(model.marginal(0.0).cov(), data.cov())
    for name in ("velocity", "velocity_jacobian", "velocity_divergence", "log_density_rate", "velocity_rate"):
        with pytest.raises(ValueError, match="t must be a time at which the interpolant has finite rates"):
            getattr(model, name)([0.0, 0.0], 0.0)
    with pytest.raises(ValueError, match="finite rates"):
        model.conditional_velocity([0.0, 0.0], [0.0, 0.0], [0.0, 0.0], 0.0)


# ---------------------------------------------------------------------- ends, limits, closed forms


@pytest.mark.parametrize("kind", ["independent", "components", "Gaussians", "a noisy image", "a map", "a scaling"])
def test_at_the_ends_the_laws_are_those_of_the_halves(kind):
    pair = build(kind)
    model = InterpolantModel(pair, brownian(0.6, 3.0))
    for t, half in ((0.0, pair.first), (3.0, pair.second)):
        x = half.sample(5, 1)
        np.testing.assert_allclose(model.log_density(x, t), half.logpdf(x), rtol=1e-12)
        near = model.velocity(x, t + (1e-7 if t == 0 else -1e-7))
        np.testing.assert_allclose(model.velocity(x, t), near, rtol=0, atol=1e-4 * (1 + np.abs(near).max()))


def test_velocities_of_maps_are_their_differences_along_the_way():
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    p = random_mixture(2, 3, 0, "full")
    model = InterpolantModel(image_pairs(p, Channel(turn, [1.0, 2.0], 0.0)), linear())
    x0 = p.sample(6, 0)
    x1 = x0 @ turn.T + [1.0, 2.0]
    for t in (0.0, 0.25, 0.9, 1.0):
        np.testing.assert_allclose(model.velocity((1 - t) * x0 + t * x1, t), x1 - x0, atol=1e-12)
        np.testing.assert_allclose(model.acceleration((1 - t) * x0 + t * x1, t), 0, atol=1e-11)


def test_gaussians_move_as_the_closed_form_says():
    s0, s1 = random_mixture(3, 1, 0, "full").cov(), random_mixture(3, 1, 1, "full").cov()
    cross = 0.5 * np.linalg.cholesky(s0) @ np.linalg.cholesky(s1).T
    m0, m1, x, t = np.zeros(3), np.array([1.0, -2.0, 0.5]), np.random.default_rng(0).standard_normal((4, 3)), 0.3
    model = InterpolantModel(gaussian_pairs(Gaussian(m0, s0), Gaussian(m1, s1), cross), linear())
    covariance = (1 - t) ** 2 * s0 + t**2 * s1 + t * (1 - t) * (cross + cross.T)
    slope = ((1 - t) * (cross.T - s0) + t * (s1 - cross)) @ np.linalg.inv(covariance)
    np.testing.assert_allclose(model.marginal(t).cov(), covariance, atol=1e-13)
    np.testing.assert_allclose(model.velocity(x, t), m1 - m0 + (x - t * m1) @ slope.T, atol=1e-12)
    np.testing.assert_allclose(model.velocity_jacobian(x, t), np.broadcast_to(slope, (4, 3, 3)), atol=1e-12)


def test_one_point_to_one_point_is_a_beam():
    model = InterpolantModel(point_pairs([[1.0]], [[3.0]]), linear(0.2))
    x = np.linspace(-1, 4, 7)[:, None]
    np.testing.assert_allclose(model.velocity(x, 0.4), 2.0, atol=1e-15)
    np.testing.assert_allclose(model.expected_noise(x, 0.4), (x - 1.8) / 0.2, atol=1e-13)
    bare = InterpolantModel(point_pairs([[1.0]], [[3.0]]), linear())
    with pytest.raises(ValueError, match="singular"):
        bare.velocity(x, 0.4)
    np.testing.assert_allclose(bare.interpolated(3, [0.0, 0.5, 1.0], 0)[:, :, 0].T, np.tile([1.0, 2.0, 3.0], (3, 1)))
