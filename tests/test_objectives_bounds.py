"""The bound against the printed values, its dense definition, other routes and its limits."""

import numpy as np
import pytest

from refdiff import AffineProcess, BetaTable, Empirical, ExactModel, Gaussian, GaussianMixture, VEGeometric, VPCosine
from refdiff.channels import Channel
from refdiff.distributions import entropy, kl_divergence
from refdiff.objectives import (
    MonteCarlo,
    Quadrature,
    continuous_loss,
    discrete_loss,
    importance_sampling,
    mean_squared_error,
    standard_prior,
    variational_bound,
)
from refdiff.processes import critically_damped_langevin
from refdiff.validation.identities.elbo import Chain

# scalar Gaussian data of variance 1.7 and ten betas from .02 to .4: the fixture that gives PODA-223's numbers
TEN = BetaTable(np.linspace(0.02, 0.4, 10))
# DMI's fixture: data N(0, 1/4), thirty betas from .01 to .3
THIRTY = BetaTable(np.linspace(0.01, 0.3, 30))
UNIT = Gaussian([0.0], 1.0)
PEAKS = GaussianMixture.isotropic([[-1.5], [1.0]], [0.2, 0.05], [0.3, 0.7])


def test_the_values_of_poda_223():
    model, times = ExactModel(Gaussian([0.0], 1.7), TEN), np.arange(1, 11)
    exact = variational_bound(model, times, variances="matched", prior=UNIT)
    assert abs(exact.total - 1.6850834807451323) < 1e-15 * 4
    small = variational_bound(model, times, decoder=0.9 * TEN.betas[0], prior=UNIT)
    gap = small.total - entropy(model.distribution)
    assert abs(gap - 1.32033882830) < 5e-12  # printed to 11 decimals
    # the divergence of the marginals, which the bound exceeds: the chain pushed through its own kernels
    generated = UNIT
    for i in range(10, 0, -1):
        step = TEN.posterior()
        before, after = (model.marginal(u).cov()[0, 0] for u in (i - 1, i))
        slope = np.sqrt(1 - TEN.betas[i - 1]) * before / after
        generated = Channel(slope, 0.0, 0.9 * TEN.betas[0] if i == 1 else step.variance[i - 1]).push(generated)
    assert abs(kl_divergence(model.distribution, generated) - 0.0242) < 5e-5
    assert kl_divergence(model.distribution, generated) < gap


def test_the_values_of_dmi_27_and_x7():
    model, times = ExactModel(Gaussian([0.0], 0.25), THIRTY), np.arange(1, 31)
    found = variational_bound(model, times, prior=UNIT)
    printed = {"prior": 0.000689184, "reconstruction": -0.898426, "diffusion": 2.222922, "total": 1.325185}
    for name, value in printed.items():
        assert abs(getattr(found, name) - value) < 0.5 * 10.0 ** -(9 if name == "prior" else 6), name
    # III = sum of w_t E|eps - eps*|^2 = w_t abar_t c / V_t
    bar, beta = THIRTY.alpha_bar, THIRTY.betas
    losses = (beta / (2 * (1 - beta)))[1:] / (1 - bar[:-1]) * (0.25 * bar / (0.25 * bar + 1 - bar))[1:]
    np.testing.assert_allclose(found.steps, losses, rtol=1e-13)
    exact = variational_bound(model, times, variances="matched", prior=UNIT)
    # both sides of DMI-24 as printed: the left one, a difference of numbers near 1, to 1e-14 of them
    assert abs(exact.total - entropy(model.distribution) - 4.194132508517e-06) < 1e-14
    assert abs(kl_divergence(model.marginal(30.0), UNIT) - 4.194132510088e-06) < 1e-17


@pytest.mark.parametrize("variances", ["small", "large", "matched"])
def test_terms_are_those_of_dense_chains(variances):
    # the chain of `elbo`, whose bound is made of Gaussian divergences at cubature points
    rng = np.random.default_rng(3)
    table = BetaTable(np.array([0.1, 0.3, 0.2, 0.5]))
    data = Gaussian([0.3, -0.2], [[0.8, 0.3], [0.3, 0.5]])
    model, times = ExactModel(data, table), np.arange(1, 5)
    forward = [Channel(np.sqrt(1 - beta), 0.0, beta) for beta in table.betas]
    chain = Chain(data, forward, Gaussian(np.zeros(2), 1.0), [])
    back = [channel.reverse(chain.marginal(i)) for i, channel in enumerate(forward)]
    noises = {
        "small": list(table.posterior().variance),
        "large": list(table.betas),
        "matched": [one.noise for one in back],
    }[variances]
    noises[0] = back[0].noise
    kernels = [
        Channel(b.gain, b.offset, np.eye(2) * w if np.ndim(w) == 0 else w) for b, w in zip(back, noises, strict=True)
    ]
    chain = Chain(data, forward, chain.prior, kernels)
    x0 = data.sample(3, rng)
    found = variational_bound(model, times, x0, variances=variances, decoder="matched")
    np.testing.assert_allclose(found.total, [chain.bound(x) for x in x0], rtol=1e-12)
    given = variational_bound(model, times, x0, variances=noises[1:], decoder=noises[0])
    np.testing.assert_allclose(given.total, found.total, rtol=1e-12)


def test_average_is_the_mean_of_points_and_matched_kernels_lose_only_the_prior():
    data = Gaussian([0.3, -0.2], [[0.8, 0.3], [0.3, 0.5]])
    model, times = ExactModel(data, THIRTY), np.arange(1, 31, 4)
    root = np.sqrt(2) * np.linalg.cholesky(data.cov()).T
    nodes = data.mean() + np.concatenate([root, -root])  # exact for quadratics
    at = variational_bound(model, times, nodes, variances="large")
    mean = variational_bound(model, times, variances="large")
    for name in ("prior", "reconstruction", "diffusion", "total"):
        np.testing.assert_allclose(getattr(at, name).mean(), getattr(mean, name), rtol=1e-12)
    last = data.affine(1.0)
    exact = variational_bound(model, times, variances="matched")
    np.testing.assert_allclose(
        exact.total - entropy(last), kl_divergence(model.marginal(29.0), standard_prior(THIRTY, 2))
    )


def test_routes_agree_within_their_errors():
    model, times, x0 = ExactModel(PEAKS, THIRTY), np.arange(1, 31, 5), np.array([[0.4], [-1.2]])
    for points in (None, x0):
        exact = variational_bound(model, times, points, variances="large", decoder=0.02, route=Quadrature(1e-11))
        finer = variational_bound(model, times, points, variances="large", decoder=0.02, route=Quadrature(1e-13))
        assert (np.abs(exact.total - finer.total) <= 1e-11 * exact.total).all()
        drawn = variational_bound(model, times, points, variances="large", decoder=0.02, route=MonteCarlo(4000, 5))
        # six standard errors: a false alarm in 2e-9 of seeds, and this one is fixed
        assert (np.abs(drawn.total - exact.total) < 6 * drawn.error).all()
        assert (drawn.error < 0.05).all()
        assert (drawn.route, exact.route) == ("monte carlo", "quadrature")
    closed = ExactModel(Gaussian([0.2], 0.7), THIRTY)
    found = [variational_bound(closed, times, x0, route=route).steps for route in (None, Quadrature(1e-12))]
    np.testing.assert_allclose(*found, rtol=1e-11)


def test_the_error_of_quadrature_is_that_of_the_decoder_and_of_the_loss_in_discrete_time():
    model, times, rule, w = ExactModel(PEAKS, THIRTY), [2.0, 9.0, 20.0], Quadrature(1e-3), 0.05
    for points in (None, np.array([[0.4], [-1.2]])):
        bound = variational_bound(model, times, points, decoder=w, route=rule)
        decoder = mean_squared_error(model, 2.0, points, route=rule).error / (2 * w)
        steps = discrete_loss(model, times, points, route=rule).error
        np.testing.assert_allclose(bound.error, decoder + steps, rtol=1e-9)
        assert min(np.max(decoder), np.max(steps)) > 1e-3 * np.max(bound.error)  # either part would be missed


@pytest.mark.parametrize("route", [None, Quadrature(1e-6), MonteCarlo(10, 1)])
def test_no_point_has_no_objective_and_is_no_error(route):
    model, none = ExactModel(Gaussian([0.2], 0.7), THIRTY), np.zeros((3, 0, 1))
    bound = variational_bound(model, [1, 2, 3], none, route=route)
    assert bound.total.shape == bound.error.shape == (3, 0)
    assert bound.steps.shape == (3, 0, 2)
    for loss in (
        discrete_loss(model, [1, 2, 3], none, route=route),
        continuous_loss(model, 1, 3, none, route=route),
        mean_squared_error(model, 2, none, route=route),
    ):
        assert loss.value.shape == loss.error.shape == (3, 0)


def test_matched_variances_are_the_best_constant_ones():
    model, times = ExactModel(PEAKS, THIRTY), np.array([3.0, 12.0, 25.0])
    route = Quadrature(1e-11)
    best = variational_bound(model, times, variances="matched", route=route)
    for variances in ("small", "large"):
        assert variational_bound(model, times, variances=variances, route=route).diffusion > best.diffusion
    # stationary: a change of 1 in 1e4 changes the bound at second order, by less than 1e-8
    from refdiff.objectives.reverse import reverse_steps

    chain = reverse_steps(model, times, "matched", "matched", route)
    for factor in (1 + 1e-4, 1 - 1e-4):
        moved = variational_bound(
            model, times, variances=[s.noise * factor for s in chain[1:]], decoder=chain[0].noise * factor, route=route
        )
        assert 0 < moved.total - best.total < 1e-8


def test_one_latent_has_no_steps_and_pure_noise_no_prior_loss():
    data = Gaussian([0.3, -0.2], [0.5, 2.0])
    one = variational_bound(ExactModel(data, VPCosine()), [1.0])
    assert one.steps.shape == (0,)
    # at alpha = 0 the denoiser is the mean, and the bound the entropy
    np.testing.assert_allclose([one.prior, one.diffusion, one.total], [0, 0, entropy(data)], atol=1e-13)
    ended = BetaTable(np.array([0.1, 0.4, 1.0]))
    found = variational_bound(ExactModel(data, ended), [1, 2, 3], variances="matched")
    np.testing.assert_allclose(found.total, entropy(data), rtol=1e-13)


def test_one_point_is_reconstructed_and_its_steps_cost_nothing():
    x = np.array([0.7, -1.0])
    model = ExactModel(Empirical([x]), THIRTY)
    found = variational_bound(model, np.arange(1, 31), x, decoder=1e-3)
    np.testing.assert_array_equal(found.steps, np.zeros(29))
    np.testing.assert_allclose(found.reconstruction, np.log(2 * np.pi * 1e-3), rtol=1e-13)
    with pytest.raises(ValueError, match=r"decoder must have full rank, got 0\.0"):
        variational_bound(model, np.arange(1, 31), x)


def test_bound_is_above_the_surprise_of_large_and_small_data_in_many_dimensions():
    rng = np.random.default_rng(0)
    law = GaussianMixture.isotropic(rng.normal(size=(5, 40)), 0.3)
    model = ExactModel(law, VEGeometric(0.05, 20.0))
    x0 = law.sample(3, 1)
    found = variational_bound(model, np.linspace(0.05, 1, 12), x0, decoder=0.01, route=MonteCarlo(200, 2))
    assert found.steps.shape == (3, 11)
    assert (found.total > -law.logpdf(x0)).all()


def test_shape_and_precision_follow_the_points():
    model, x0 = ExactModel(Gaussian([0.2, 0.1], 0.7), THIRTY), np.zeros((2, 3, 2), dtype=np.float32)
    found = variational_bound(model, [1, 5, 30], x0)
    assert found.total.shape == found.prior.shape == found.error.shape == (2, 3)
    assert found.steps.shape == (2, 3, 2)
    assert {part.dtype for part in (found.total, found.steps, found.error)} == {np.dtype(np.float32)}


def test_offsets_move_nothing():
    data, x0 = Gaussian([0.2, 0.1], [[0.7, 0.2], [0.2, 0.4]]), [0.5, -0.4]
    plain = AffineProcess(THIRTY)
    moved = AffineProcess(THIRTY, lambda t: ([3 * t, -t], [3.0, -1.0], [0.0, 0.0]))
    for points in (None, x0):
        a, b = (variational_bound(ExactModel(data, p), [1, 7, 30], points) for p in (plain, moved))
        np.testing.assert_allclose(b.total, a.total, rtol=1e-11)


def test_first_time_without_noise_has_no_decoder():
    model = ExactModel(Gaussian([0.2], 0.7), THIRTY)
    for objective in (variational_bound, discrete_loss, lambda m, t: importance_sampling(m, t, [0.1], 2, 0)):
        with pytest.raises(ValueError, match=r"times must begin where there is noise in every direction, got 0\.0"):
            objective(model, [0, 1, 2])
    # the force of Langevin's equation has not reached the position yet
    rest = ExactModel(Gaussian([0.2, 0.1], 0.7), critically_damped_langevin(1))
    with pytest.raises(ValueError, match="times must begin where there is noise in every direction"):
        variational_bound(rest, [0.0, 0.5])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": THIRTY}, TypeError, "model must be an ExactModel"),
        ({"prior": 1.0}, TypeError, "prior must be a Gaussian"),
        ({"times": [2.0, 1.0]}, ValueError, "times must increase"),
        ({"times": []}, ValueError, "times must be at least 1"),
        ({"times": [1.0, 31.0]}, ValueError, "times must increase within"),
        ({"variances": "medium"}, ValueError, "variances must be one of small, large, matched"),
        ({"variances": [1.0]}, ValueError, "variances must be one for each of the 2 steps, got 1"),
        ({"variances": [1.0, -1.0]}, ValueError, "variances must not be negative"),
        ({"variances": [[1.0, 1.0], 1.0]}, ValueError, "variances of shape"),
        ({"decoder": "small"}, ValueError, "decoder must be one of matched"),
        ({"decoder": [1.0, 2.0]}, ValueError, "decoder of shape"),
        ({"decoder": 0.0}, ValueError, "decoder must have full rank"),
        ({"variances": [0.0, 1.0]}, ValueError, "variances of the step from t = 2.0 must have full rank"),
        ({"prior": Gaussian([0.0], 0.0)}, ValueError, "prior must have full rank"),
        ({"times": [1.0, 1.0]}, ValueError, "times must increase within"),
        ({"x0": [[1.0, 2.0]]}, ValueError, "x0 must have shape"),
        ({"route": 100}, TypeError, "route must be a Quadrature, a MonteCarlo or None"),
        ({"model": ExactModel(PEAKS, THIRTY)}, ValueError, "there is no closed form"),
    ],
)
def test_bad_input_is_refused_by_name(change, error, message):
    arguments = {"model": ExactModel(Gaussian([0.2], 0.7), THIRTY), "times": [1.0, 2.0, 3.0], **change}
    with pytest.raises(error, match=message):
        variational_bound(arguments.pop("model"), arguments.pop("times"), arguments.pop("x0", None), **arguments)
