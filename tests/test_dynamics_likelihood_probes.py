"""Likelihoods by fixed probes: estimates of the trace of one matrix, which err as their exact variance says."""

import numpy as np
import pytest
from scipy.linalg import logm
from scipy.special import ndtri

from refdiff import AffineProcess, Empirical, ExactModel, FlowMatching, Gaussian, VPCosine, VPLinear
from refdiff.distributions import random_mixture
from refdiff.dynamics import VelocityField, draw_probes, log_likelihood, trace_variance, volume_matrix
from refdiff.dynamics.trace import PROBES


@pytest.mark.parametrize("probe", sorted(PROBES))
def test_fixed_probes_estimate_the_trace_of_one_matrix(probe):
    """For Gaussian data int J dt = log(V_end V_start^-1) / 2, so every form is known."""
    law = random_mixture(3, 1, 4, "full")
    model = ExactModel(law, VPLinear(0.1, 4.0))
    x = law.sample(4, 1)
    found = log_likelihood(model, x, divergence=probe, probes=2, seed=9, rtol=1e-9)
    start, end = model.marginal(0.0).cov(), model.marginal(1.0).cov()
    m = logm(end @ np.linalg.inv(start)).real / 2
    u = draw_probes(probe, 4, 2, 3, 9)
    np.testing.assert_allclose(found.forms, np.einsum("nmi,ij,nmj->mn", u, m, u), rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.volume, found.forms.mean(axis=0), rtol=1e-13)
    left = 1 / 3 if probe == "orthogonal" else 1.0  # 2 of the 3 axes of a frame
    np.testing.assert_allclose(found.standard_error, found.forms.std(axis=0, ddof=1) * np.sqrt(left / 2), rtol=1e-12)
    # the control: probes drawn anew would not do
    assert np.abs(found.forms - np.einsum("nmi,ij,nmj->mn", u[::-1], m, u[::-1])).max() > 1e-3


def test_probes_belong_to_their_points_in_any_batch():
    a = np.random.default_rng(2).standard_normal((3, 3))
    field = VelocityField(lambda x, t: x @ a.T, 3, jvp=lambda x, t, u: u @ a.T)
    x = np.random.default_rng(3).standard_normal((5, 3))
    asked = {"end": 0.7, "prior": Gaussian(np.zeros(3), 1.0), "divergence": "rademacher", "probes": 2, "seed": 6}
    u = draw_probes("rademacher", 5, 2, 3, 6)
    for batch in (1, 2, 5):
        found = log_likelihood(field, x, batch=batch, **asked)
        np.testing.assert_allclose(found.forms, 0.7 * np.einsum("nmi,ij,nmj->mn", u, a, u), rtol=0, atol=1e-8)


def test_a_whole_frame_finds_the_exact_volume_where_jacobians_are_not_symmetric():
    process = AffineProcess([VPLinear(0.1, 5.0), FlowMatching()])
    model = ExactModel(random_mixture(2, 3, 7, "full"), process)
    x = model.sample(3, 0.0, 2)
    found = log_likelihood(model, x, divergence="orthogonal", probes=2, seed=1, rtol=1e-7)
    np.testing.assert_allclose(found.log_likelihood, model.log_density(x, 0.0), rtol=0, atol=1e-5)
    assert not found.standard_error.any()
    jacobian = model.velocity_jacobian(x, 0.4)
    assert np.abs(jacobian - np.swapaxes(jacobian, 1, 2)).max() > 1e-3


@pytest.mark.parametrize("per_axis", [False, True])
def test_the_matrix_of_a_mixtures_path_says_what_probes_will(per_axis):
    process = AffineProcess([VPLinear(0.1, 5.0), FlowMatching()] if per_axis else VPLinear(0.1, 5.0))
    model = ExactModel(random_mixture(2, 3, 7, "full"), process)
    x = model.sample(4, 0.0, 2).reshape(2, 2, 2)
    m = volume_matrix(model, x, rtol=1e-6)
    found = log_likelihood(model, x, divergence="gaussian", probes=3, seed=2, rtol=1e-6)
    u = draw_probes("gaussian", 4, 3, 2, 2)
    forms = np.einsum("nmi,nij,nmj->mn", u, m.reshape(4, 2, 2), u)
    np.testing.assert_allclose(found.forms.reshape(3, 4), forms, rtol=0, atol=1e-4)

    def jvp(y, t, v):
        return np.einsum("nij,nj->ni", model.velocity_jacobian(y, t), v)

    by_field = volume_matrix(VelocityField(model.velocity, 2, jvp=jvp), x, end=1.0, rtol=1e-5)
    np.testing.assert_allclose(by_field, m, rtol=0, atol=1e-3)
    # turned round, the same matrix with the other sign
    back = volume_matrix(model, found.encoded, start=1.0, end=0.0, rtol=1e-6)
    np.testing.assert_allclose(back, -m, rtol=0, atol=1e-4)
    assert (np.abs(m - np.swapaxes(m, -1, -2)).max() > 1e-3) == per_axis


@pytest.mark.statistical
@pytest.mark.parametrize("probe", sorted(PROBES))
def test_estimates_scatter_as_the_exact_variance_says(probe):
    """400 estimates at one point of Gaussian data: mean and mean square within 6 deviations, false in 4e-9."""
    law, n = random_mixture(4, 1, 5, "full"), 400
    model = ExactModel(law, VPLinear(0.1, 4.0))
    x = np.broadcast_to(law.mean() + 0.3, (n, 4))
    found = log_likelihood(model, x, divergence=probe, probes=3, seed=3, method="dopri5", rtol=1e-6, batch=n)
    m = logm(model.marginal(1.0).cov() @ np.linalg.inv(law.cov())).real / 2
    error, variance = found.log_likelihood - law.logpdf(x[0]), trace_variance(m, probe, 3)
    limit = -ndtri(1e-9)
    assert abs(error.mean()) < limit * np.sqrt(variance / n) + 1e-5
    assert abs((error**2).mean() - variance) < limit * (error**2).std() / np.sqrt(n)
    assert abs((found.standard_error**2).mean() - variance) < limit * (found.standard_error**2).std() / np.sqrt(n)


def test_schedules_give_probes_of_the_sphere_the_same_error():
    """Flows of two schedules differ by a factor on x, which adds a multiple of I to the Jacobian."""
    law = random_mixture(2, 3, 5, "full")
    x, errors = law.sample(2, 0), []
    # both end at the same signal-to-noise ratio, 1
    for process in (VPCosine(s=0.0), FlowMatching()):
        model = ExactModel(law, process)
        found = log_likelihood(model, x, end=0.5, divergence="sphere", probes=2, seed=4, rtol=1e-6)
        errors.append(found.log_likelihood - law.logpdf(x))
    np.testing.assert_allclose(errors[0], errors[1], rtol=0, atol=1e-4)
    assert np.abs(errors[0]).max() > 1e-2


def test_one_probe_says_nothing_of_its_error_and_a_seed_says_all():
    model = ExactModel(Gaussian([0.0, 1.0], [1.0, 0.5]), VPLinear())
    asked = {"divergence": "gaussian", "probes": 1, "method": "dopri5", "rtol": 1e-3}
    one, other = (log_likelihood(model, [[0.1, 0.2]], seed=seed, **asked) for seed in (1, 2))
    assert np.isnan(one.standard_error).all()
    assert one.forms.shape == (1, 1)
    assert one.log_likelihood != other.log_likelihood
    again = log_likelihood(model, [[0.1, 0.2]], seed=1, **asked)
    np.testing.assert_array_equal(one.forms, again.forms)
    rng = np.random.default_rng(0)
    first, second = (log_likelihood(model, [[0.1, 0.2]], seed=rng, **asked).volume for _ in range(2))
    assert first != second


def test_a_matrix_of_volume_needs_products_and_a_density():
    for error, said, model in (
        (ValueError, "jvp must be given, for a Jacobian", VelocityField(lambda x, t: x, 2)),
        (TypeError, "model must be an ExactModel or a VelocityField", None),
        (ValueError, "start must be a time", ExactModel(Empirical([[0.0, 0.0]]), VPLinear())),
    ):
        with pytest.raises(error, match=said):
            volume_matrix(model, [0.1, 0.2], end=1.0)
