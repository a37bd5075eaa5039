"""Log likelihoods by the flow against densities in closed form; priors, probes and fields of a user's own."""

import numpy as np
import pytest
from numba import config

from refdiff import (
    Empirical,
    ExactModel,
    FlowMatching,
    Gaussian,
    GaussianMixture,
    SubVP,
    VEGeometric,
    VEPower,
    VPCosine,
    VPLinear,
    backends,
)
from refdiff.distributions import kl_divergence, random_mixture
from refdiff.dynamics import (
    Unfinished,
    VelocityField,
    flow,
    log_likelihood,
)
from refdiff.processes.matrix_families import critically_damped_langevin, ornstein_uhlenbeck, with_velocity

if config.DISABLE_JIT:
    pytest.skip("hours without compilation; tests/test_kernels_adaptive.py runs the kernel", allow_module_level=True)

PROCESSES = {
    "VP": VPLinear(),
    "cosine": VPCosine(),
    "EDM": VEPower(T=80.0),
    "VE": VEGeometric(),
    "sub-VP": SubVP(),
    "straight": FlowMatching(),
}
UNIT = Gaussian([0.0, 0.0], 1.0)
DIMS = {1: "full", 2: "full", 8: "full", 64: "isotropic"}


def mixture(dim):
    return random_mixture(dim, 5, dim, DIMS[dim])


def of_model(model, *, only_products=True):
    """What a user would have: functions of an exact model, without its marginals."""

    def jvp(x, t, u):
        return np.einsum("nij,nj->ni", model.velocity_jacobian(x, t), u)

    return VelocityField(model.velocity, model.dim, None if only_products else model.velocity_divergence, jvp)


@pytest.mark.parametrize("dim", sorted(DIMS))
@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_mixture_density_by_the_flow_is_the_closed_one(name, dim):
    model = ExactModel(mixture(dim), PROCESSES[name])
    x = model.sample(20, 0.0, dim)
    with backends.use("numba"):
        found = log_likelihood(model, x, rtol=1e-12, atol=1e-14)
    exact = model.log_density(x, 0.0)
    # 150 steps of 1e-12 of log p each
    np.testing.assert_allclose(found.log_likelihood, exact, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.log_prior + found.volume, found.log_likelihood, rtol=1e-14)
    assert not found.standard_error.any()
    # the control: the volume with the other sign
    assert np.abs(found.log_prior - found.volume - exact).min() > 1e-3


@pytest.mark.parametrize("name", ["VP", "straight"])
def test_numpy_finds_the_same(name):
    model = ExactModel(mixture(2), PROCESSES[name])
    x = mixture(2).sample(2, 1)
    with backends.use("numpy"):
        found = log_likelihood(model, x, rtol=1e-7)
    np.testing.assert_allclose(found.log_likelihood, mixture(2).logpdf(x), rtol=0, atol=1e-5)


def test_encoding_has_an_inverse():
    model = ExactModel(mixture(8), VPLinear())
    x = mixture(8).sample(4, 2).reshape(2, 2, 8)
    with backends.use("numba"):
        found = log_likelihood(model, x, rtol=1e-12, atol=1e-14)
        back = flow(model, found.encoded, 1.0, 0.0, rtol=1e-12, atol=1e-14, log_density=True)
    assert found.encoded.shape == x.shape
    assert found.evaluations.shape == found.log_likelihood.shape == (2, 2)
    # errors of the way there are stretched on the way back
    np.testing.assert_allclose(back.x, x, rtol=0, atol=1e-8)
    np.testing.assert_allclose(back.log_density_change, found.volume, rtol=0, atol=1e-8)


def test_between_any_two_times_and_in_either_direction():
    model = ExactModel(mixture(2), VPLinear())
    for start, end in ((0.3, 0.6), (0.6, 0.3), (0.5, 0.5)):
        x = model.sample(2, start, 1)
        with backends.use("numba"):
            found = log_likelihood(model, x, start=start, end=end)
        np.testing.assert_allclose(found.log_likelihood, model.log_density(x, start), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["turning", "Langevin", "Langevin from rest"])
def test_matrix_processes_have_likelihoods_too(name):
    """Jacobians that are not symmetric; velocities that are noised from a small time on only."""
    law, start = random_mixture(1 if "Langevin" in name else 2, 2, 5, "full"), 0.0
    if name == "turning":
        process = ornstein_uhlenbeck([[1.0, 2.5], [-0.5, 2.0]], noise=[[1.0, 0.0], [0.3, 1.0]])
    else:
        law, process = with_velocity(law, 0.0 if "rest" in name else 0.04), critically_damped_langevin(1)
        start = 0.1 if "rest" in name else 0.0
    model = ExactModel(law, process)
    x = model.sample(2, start, 1)
    exact = model.log_density(x, start)
    found = log_likelihood(model, x, start=start, end=0.5, rtol=1e-7)
    np.testing.assert_allclose(found.log_likelihood, exact, rtol=0, atol=1e-5)
    framed = log_likelihood(model, x, start=start, end=0.5, divergence="orthogonal", probes=2, seed=1, rtol=1e-5)
    np.testing.assert_allclose(framed.log_likelihood, exact, rtol=0, atol=1e-3)
    jacobian = model.velocity_jacobian(x, 0.4)
    assert np.abs(jacobian - np.swapaxes(jacobian, 1, 2)).max() > 1e-3


# ---------------------------------------------------------------------- where there is no density


def test_a_point_set_has_a_density_from_a_small_time_on_only():
    points = Empirical([[-1.0, 0.0], [1.0, 0.5]])
    for process in (VPLinear(), VEPower(T=80.0)):
        model = ExactModel(points, process)
        with pytest.raises(ValueError, match=r"start must be a time at which the data have a density, got 0\.0"):
            log_likelihood(model, [0.0, 0.0])
        with pytest.raises(ValueError, match="end must be a time"):
            log_likelihood(model, [0.0, 0.0], start=0.5, end=0.0)
        start = 1e-2 * process.T
        x = model.sample(3, start, 0)
        with backends.use("numba"):
            found = log_likelihood(model, x, start=start, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(found.log_likelihood, model.log_density(x, start), rtol=0, atol=1e-8)
    # where the process itself starts noisy, 0 is such a time
    with backends.use("numba"):
        log_likelihood(ExactModel(points, VEGeometric()), [0.0, 0.0], rtol=1e-6)


def test_a_flat_law_has_no_density_at_data():
    flat = Gaussian([0.0, 0.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="have a density"):
        log_likelihood(ExactModel(flat, VPLinear()), [0.0, 0.0])


# ---------------------------------------------------------------------- priors


def test_a_users_prior_enters_at_every_point():
    model = ExactModel(mixture(2), VPLinear(0.1, 5.0))
    x = mixture(2).sample(3, 3)
    with backends.use("numba"):
        own, unit = (log_likelihood(model, x, prior=prior) for prior in (None, UNIT))
        by_function = log_likelihood(model, x.reshape(3, 1, 2), prior=UNIT.logpdf)
    z = own.encoded
    gap = -np.log(2 * np.pi) - 0.5 * (z**2).sum(axis=1) - model.log_density(z, 1.0)
    np.testing.assert_allclose(unit.log_likelihood - own.log_likelihood, gap, rtol=0, atol=1e-12)
    assert np.abs(gap).min() > 1e-3
    np.testing.assert_array_equal(by_function.log_likelihood[:, 0], unit.log_likelihood)


def test_exploding_variance_loses_3e_5_to_its_prior():
    """PODA-421: a Gaussian at T = 50 with the prior N(0, T^2): the mean loss is KL(p_T || prior)."""
    data, process = Gaussian([0.3], 0.25), VEPower(T=50.0)
    model, prior = ExactModel(data, process), Gaussian([0.0], 2500.0)
    # both log densities are quadratic and the flow is affine: two points average exactly
    x = np.array([[0.3 - 0.5], [0.3 + 0.5]])
    with backends.use("numba"):
        own = log_likelihood(model, x, rtol=1e-12, atol=1e-14)
        other = log_likelihood(model, x, prior=prior, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(own.log_likelihood, data.logpdf(x), rtol=0, atol=1e-11)
    loss = (own.log_likelihood - other.log_likelihood).mean()
    assert loss == pytest.approx(kl_divergence(model.marginal(50.0), prior), rel=1e-6)
    assert 1e-5 < loss < 1e-4


# ---------------------------------------------------------------------- fields of a user's own


@pytest.mark.parametrize("only_products", [True, False])
def test_a_users_field_has_the_likelihood_of_the_model_it_is(only_products):
    law = random_mixture(2, 2, 3, "full")
    model = ExactModel(law, FlowMatching())
    x, field = law.sample(2, 4), of_model(model, only_products=only_products)
    own = {"end": 0.6, "prior": model.marginal(0.6), "rtol": 1e-5}
    found = log_likelihood(field, x, **own)
    np.testing.assert_allclose(found.log_likelihood, law.logpdf(x), rtol=0, atol=1e-3)
    probed = {"divergence": "rademacher", "probes": 2, "seed": 5, "method": "dopri5", "rtol": 1e-5}
    by_model, by_field = log_likelihood(model, x, end=0.6, **probed), log_likelihood(field, x, **(own | probed))
    np.testing.assert_allclose(by_model.forms, by_field.forms, rtol=0, atol=1e-3)


def test_a_flow_from_noise_at_0_to_data_at_1_has_its_sign():
    """The texts' flipped time: x(0) ~ N(0, I), x' = (log 3) x, so that x(1) = 3 x(0)."""
    rate = np.log(3.0)
    field = VelocityField(lambda x, t: rate * x, 2, divergence=lambda x, t: np.full(len(x), 2 * rate))
    x = np.array([[3.0, -1.0], [0.2, 0.4]])
    found = log_likelihood(field, x, start=1.0, end=0.0, prior=UNIT)
    np.testing.assert_allclose(found.log_likelihood, Gaussian([0.0, 0.0], 9.0).logpdf(x), rtol=1e-9)
    np.testing.assert_allclose(found.encoded, x / 3, rtol=1e-9)


def test_single_precision_points():
    model = ExactModel(Gaussian([0.0, 1.0], [1.0, 0.5]), VPLinear())
    x = np.array([[0.5, 0.25]])
    for divergence in ("exact", "sphere"):
        found = log_likelihood(model, x.astype(np.float32), divergence=divergence, seed=0, rtol=1e-3)
        double = log_likelihood(model, x, divergence=divergence, seed=0, rtol=1e-3)
        for part in ("log_likelihood", "encoded", "log_prior", "volume", "standard_error", "forms"):
            assert getattr(found, part).dtype == np.float32, part
            np.testing.assert_array_equal(getattr(found, part), getattr(double, part).astype(np.float32))


def test_one_point_and_no_point():
    model = ExactModel(Gaussian([0.0], 1.0), VPLinear())
    assert np.shape(log_likelihood(model, [0.3]).log_likelihood) == ()
    assert log_likelihood(model, np.zeros((0, 1))).log_likelihood.shape == (0,)
    assert log_likelihood(model, np.zeros((0, 1)), divergence="sphere", seed=1).forms.shape == (16, 0)


def test_who_does_not_arrive_is_named():
    with pytest.raises(Unfinished, match="max_steps = 3 must be larger"):
        log_likelihood(ExactModel(Gaussian([0.0], 1.0), VEPower(T=80.0)), [0.3], max_steps=3)


MODEL = ExactModel(UNIT, VPLinear())
FIELD = VelocityField(lambda x, t: x, 2)


@pytest.mark.parametrize(
    ("error", "said", "model", "asked"),
    [
        (TypeError, "model must be an ExactModel or a VelocityField", UNIT, {}),
        (ValueError, "divergence must be one of", MODEL, {"divergence": "hutchinson"}),
        (ValueError, r"start must lie in \[0", MODEL, {"start": -1.0}),
        (ValueError, r"end must lie in \[0", MODEL, {"end": 2.0}),
        (ValueError, "prior must have dimension 2", MODEL, {"prior": Gaussian([0.0], 1.0)}),
        (ValueError, "prior must have a density", MODEL, {"prior": Gaussian([0.0, 0.0], [1.0, 0.0])}),
        (TypeError, "prior must be a Gaussian", MODEL, {"prior": 1.0}),
        (ValueError, "prior must answer with shape", MODEL, {"prior": lambda x: x}),
        (TypeError, "seed must be given", MODEL, {"divergence": "sphere"}),
        (ValueError, "probes must be at least 1", MODEL, {"divergence": "sphere", "seed": 0, "probes": 0}),
        (ValueError, "probes must be at most 2", MODEL, {"divergence": "orthogonal", "seed": 0, "probes": 3}),
        (ValueError, "method must be one of", MODEL, {"method": "rk4"}),
        (ValueError, "rtol must lie in", MODEL, {"rtol": 0.0}),
        (ValueError, "end must be given", FIELD, {"prior": UNIT}),
        (ValueError, "prior must be given", FIELD, {"end": 1.0}),
        (ValueError, "divergence or jvp must be given", FIELD, {"end": 1.0, "prior": UNIT}),
        (ValueError, "jvp must be given", FIELD, {"end": 1.0, "prior": UNIT, "divergence": "sphere", "seed": 0}),
    ],
)
def test_bad_input_is_refused_by_name(error, said, model, asked):
    with pytest.raises(error, match=said):
        log_likelihood(model, [[0.1, 0.2]], **asked)


def test_points_have_the_dimension_of_the_model():
    for divergence in ("exact", "sphere"):
        with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 2\)"):
            log_likelihood(MODEL, [0.1, 0.2, 0.3], divergence=divergence, seed=0)


def test_mixtures_may_be_priors():
    law = GaussianMixture.isotropic([[-1.0, 0.0], [1.0, 0.0]], 0.5)
    found = log_likelihood(MODEL, [[0.1, 0.2]], start=1.0, prior=law)
    np.testing.assert_allclose(found.log_likelihood, law.logpdf([[0.1, 0.2]]), rtol=1e-14)
