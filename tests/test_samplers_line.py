"""The law of the output on the line: against the exact Gaussian law, a Markov kernel by hand, and many particles."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from refdiff import Empirical, ExactModel, FlowMatching, Gaussian, GaussianMixture, VPLinear
from refdiff.samplers.ddim import ddim
from refdiff.samplers.line import propagate_line
from refdiff.samplers.propagation import propagate
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.running import run

PROCESS = VPLinear()
MIXTURE = GaussianMixture.isotropic([[-1.0], [1.2]], [0.09, 0.25], [0.4, 0.6])
TIMES = np.linspace(1.0, 0.05, 7)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_gaussian_data_have_the_law_of_exact_propagation(eta):
    tableau, law = ddim(PROCESS, TIMES, eta=eta), Gaussian([0.7], 0.25)
    found, expected = propagate_line(tableau, law), propagate(tableau, law)
    np.testing.assert_allclose(found.mean(), expected.output.mean()[0], rtol=1e-13)
    np.testing.assert_allclose(found.variance(), expected.output.cov()[0, 0], rtol=1e-13)
    np.testing.assert_allclose(found.wasserstein(), expected.wasserstein(), rtol=1e-12)
    np.testing.assert_allclose(found.kl(), expected.kl(), rtol=1e-12)
    # |1 - q/p| has kinks where the densities cross: the rule is of second order there, h = 24 std / 2000
    np.testing.assert_allclose(found.total_variation(), expected.total_variation(), rtol=1e-4)


def test_a_deterministic_sampler_moves_every_quantile():
    tableau, model = ddim(PROCESS, TIMES), ExactModel(MIXTURE, PROCESS)
    found = propagate_line(tableau, MIXTURE)
    x = found.x[::200, None]
    np.testing.assert_allclose(found.y[::200], run(tableau, model, x)[:, 0], rtol=0, atol=1e-13)
    u = np.linspace(-9, 9, 4001)[:, None]
    weights = np.exp(model.log_density(u, 1.0))
    images = run(tableau, model, u)[:, 0]
    mean = np.average(images, weights=weights)
    np.testing.assert_allclose(found.mean(), mean, rtol=1e-9)
    np.testing.assert_allclose(found.variance(), np.average((images - mean) ** 2, weights=weights), rtol=1e-9)
    slope = (run(tableau, model, x + 1e-5) - run(tableau, model, x - 1e-5))[:, 0] / 2e-5
    start = model.marginal(1.0)
    expected = np.exp(start.logpdf(x)) / slope
    np.testing.assert_allclose(found.density[::200], expected, rtol=1e-8)  # a central difference of step 1e-5


def test_one_noisy_step_is_the_integral_of_its_kernel():
    tableau = ddim(PROCESS, [1.0, 0.5], eta=1.0)
    model = ExactModel(MIXTURE, PROCESS)
    a, d, c = tableau.states[1, 0], tableau.outputs[1, 0], tableau.noise[1, 0]
    found = propagate_line(tableau, MIXTURE)

    def mean(x):
        return a * x + d * model.denoiser(np.array([[x]]), 1.0)[0, 0]

    for i in (len(found.y) // 3, len(found.y) // 2):
        expected, _ = quad(
            lambda x, y=found.y[i]: float(np.exp(model.log_density(np.array([x]), 1.0))) * norm.pdf(y, mean(x), c),
            -8, 8, epsabs=1e-13, limit=200,
        )  # fmt: skip
        np.testing.assert_allclose(found.density[i], expected, rtol=1e-10)


@pytest.mark.statistical
def test_many_particles_have_the_moments_of_the_quadrature():
    """z-scores of mean and variance below 4.5: a false alarm in 7e-6 of such comparisons, and the seed is fixed."""
    tableau, model, n = ddim(PROCESS, TIMES, eta=1.0), ExactModel(MIXTURE, PROCESS), 10**6
    found = propagate_line(tableau, MIXTURE)
    y = run(tableau, model, model.sample(n, 1.0, 5), 6)[:, 0]
    fourth = found.weights @ (found.y - found.mean()) ** 4
    assert abs(y.mean() - found.mean()) / np.sqrt(found.variance() / n) < 4.5
    assert abs(y.var() - found.variance()) / np.sqrt((fourth - found.variance() ** 2) / n) < 4.5


def test_the_exact_law_is_reached_as_steps_shrink():
    errors = [propagate_line(ddim(PROCESS, np.linspace(1.0, 0.05, n + 1)), MIXTURE) for n in (20, 40)]
    for first, second in pairwise(errors):
        assert 1.7 < first.wasserstein() / second.wasserstein() < 2.3  # first order
        assert second.kl() < first.kl()
        assert second.total_variation() < first.total_variation()


@pytest.mark.parametrize("nodes", [500, 2000])
def test_steep_maps_between_separated_points_are_resolved(nodes):
    process, law = FlowMatching(), Empirical([[-1.0], [1.0]])
    s, t = (process.coefficients(time) for time in (0.5, 0.2))
    found = propagate_line(ddim(process, [0.5, 0.2]), law, nodes)

    def error(x):
        """phi(x) less the quantile of the target: one step of DDIM on two points, half of the line."""
        clean = np.tanh(s.alpha * x / s.sigma**2)
        above = norm.sf(x, s.alpha, s.sigma) + norm.sf(x, -s.alpha, s.sigma)
        right = brentq(
            lambda y: norm.sf(y, t.alpha, t.sigma) + norm.sf(y, -t.alpha, t.sigma) - above, -1, 9, xtol=1e-14
        )
        return t.alpha * clean + t.sigma / s.sigma * (x - s.alpha * clean) - right

    def integrand(x):
        return (norm.pdf(x, s.alpha, s.sigma) + norm.pdf(x, -s.alpha, s.sigma)) * error(x) ** 2

    pieces = pairwise([0.0, *np.geomspace(1e-4, 1.0, 9), 4.5])
    expected = np.sqrt(sum(quad(integrand, a, b, epsabs=1e-15)[0] for a, b in pieces))
    np.testing.assert_allclose(found.wasserstein(), expected, rtol=1e-9)


def test_the_first_nodes_do_not_matter_where_modes_are_narrow():
    law = GaussianMixture.isotropic([[-1.0], [1.0]], 1e-4)
    few, many = (propagate_line(ddim(PROCESS, np.geomspace(1.0, 0.002, 11)), law, nodes) for nodes in (400, 3000))
    for number in ("variance", "wasserstein", "kl"):
        np.testing.assert_allclose(getattr(few, number)(), getattr(many, number)(), rtol=1e-9)


def test_the_distance_to_points_is_that_of_their_quantiles():
    # one step to sigma = 0 puts every x at D(x) = tanh(alpha x / sigma^2), between the points
    process = FlowMatching()
    found = propagate_line(ddim(process, [0.5, 0.0]), Empirical([[-1.0], [1.0]]))
    c = process.coefficients(0.5)

    def integrand(x):
        return (norm.pdf(x, c.alpha, c.sigma) + norm.pdf(x, -c.alpha, c.sigma)) * (1 - np.tanh(2.0 * x)) ** 2

    np.testing.assert_allclose(found.wasserstein(), np.sqrt(quad(integrand, 0, 7, epsabs=1e-15)[0]), rtol=1e-10)


def test_point_data_have_moments_at_the_end_and_no_density():
    found = propagate_line(ddim(PROCESS, np.linspace(1.0, 0.0, 6)), Empirical([[-1.0], [1.0]]))
    assert abs(found.mean()) < 1e-13
    assert 0 < found.variance() < 1
    with pytest.raises(ValueError, match="target must have a density"):
        found.kl()


def inside(rec):
    """A step with noise before its second evaluation."""
    x = rec.start + rec.evaluate(rec.start, rec.points[0])
    u = rec.keep(x + rec.noise(0.3), rec.at(0.6))
    return rec.finish(x + rec.evaluate(u, rec.at(0.6)))


def folded(rec):
    """x - 10 D(x) falls where D rises fast."""
    return rec.finish(rec.start - 10.0 * rec.evaluate(rec.start, rec.points[0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: propagate_line(ddim(PROCESS, TIMES), Gaussian([0.0, 0.0], 1.0)), "law must have dimension 1, got 2"),
        (lambda: propagate_line(ddim(PROCESS, TIMES), MIXTURE, nodes=3), "nodes must be at least 16, got 3"),
        (
            lambda: propagate_line(ddim(PROCESS, [1.0, 0.5, 0.02, 0.01], eta=0.01), MIXTURE, nodes=100),
            r"nodes must be at least \d+ for a step with noise",
        ),
        (lambda: propagate_line(inside(Recorder("x", PROCESS, [0.8, 0.4])), MIXTURE), "must add noise only at the end"),
        (
            lambda: propagate_line(folded(Recorder("x", PROCESS, [0.5, 0.4])), MIXTURE).wasserstein(),
            "must be an increasing map",
        ),
    ],
)
def test_what_the_line_cannot_do_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
