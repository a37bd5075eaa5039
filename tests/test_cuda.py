"""Predictions by array type: points that are CuPy's are answered by arrays that are CuPy's, as NumPy answers."""

import numpy as np
import pytest
from emulator.cupy import standing_in

from refdiff import cuda
from refdiff.backends import use
from refdiff.distributions import Empirical, Gaussian, GaussianMixture
from refdiff.model import ExactModel
from refdiff.predictions import PREDICTIONS
from refdiff.processes import AffineProcess, LinearProcess
from refdiff.schedules import FlowMatching, VEPower, VPLinear

SCHEDULE = VPLinear()
# Rounding of logits of some hundreds moves responsibilities by as many units in the last place, and answers by
# that times what components differ in: with room for 16 axes and the sum over components.
BOUND = {"f8": 2e3 * 2.0**-53, "f4": 2e3 * 2.0**-24}


def laws():
    rng = np.random.default_rng(5)
    m, v, w = rng.normal(size=(7, 3)), rng.random((7, 3)) + 0.1, rng.random(7)
    s = np.einsum("kij,klj->kil", *[rng.normal(size=(7, 3, 3))] * 2) + 0.1 * np.eye(3)
    return {
        "gaussian": Gaussian(m[0], s[0]),
        "isotropic": GaussianMixture.isotropic(m, v[:, 0], w),
        "diagonal": GaussianMixture.diagonal(m, v, w),
        "shared": GaussianMixture.shared(m, s[0], w),
        "full": GaussianMixture.full(m, s, w),
        "points": Empirical(m, w),
    }


LAWS = laws()
POINTS = LAWS["points"]
X = np.random.default_rng(6).normal(size=(4, 5, 3))


def assert_near(found, expected, kind):
    assert found.dtype == kind
    assert found.shape == expected.shape
    assert abs(found.get() - expected).max() <= BOUND[kind] * max(1, abs(expected).max())


@pytest.mark.parametrize("kind", ["f8", "f4"])
@pytest.mark.parametrize("name", LAWS)
def test_a_model_answers_points_on_a_device_as_points_of_numpy(cupy, name, kind):
    model = ExactModel(LAWS[name], SCHEDULE)
    x = X.astype(kind)
    there, here = cupy.asarray(x), x.astype(float)
    with use("numpy"):
        for prediction in PREDICTIONS:
            assert_near(model.predict(there, 0.3, prediction), model.predict(here, 0.3, prediction), kind)
        assert_near(model.log_density(there, 0.3), model.log_density(here, 0.3), kind)
        assert_near(model.velocity_divergence(there, 0.3), model.velocity_divergence(here, 0.3), kind)
        other = model.predict(here, 0.301, "score")
    with pytest.raises(AssertionError):
        assert_near(model.score(there, 0.3), other, kind)


def test_a_law_is_there_for_all_streams_before_one_asks_for_it():
    law = GaussianMixture.isotropic(np.eye(3), np.ones(3))
    with standing_in() as cupy:
        cuda.mixture(law, np.float32)
        assert cupy.state.waits == 1
        cuda.mixture(law, np.float32)
        assert (cupy.state.waits, cupy.state.copies["to"]) == (1, 4)


def test_a_law_is_known_only_when_it_is_there(monkeypatch):
    """Another thread that finds it asks in a stream of its own, which does not wait for the copies."""
    law, known = GaussianMixture.isotropic(np.eye(3), np.ones(3)), []
    with standing_in() as cupy:
        monkeypatch.setattr(cupy.cuda.Stream, "synchronize", lambda _: known.append(len(cuda._mixtures[law])))
        cuda.mixture(law, np.float32)
    assert (known, len(cuda._mixtures[law])) == ([0], 1)


def test_points_are_looked_at_on_their_own_gpu(monkeypatch):
    """Of two, the other is current: an array there is not the current one's to read."""
    with standing_in() as cupy:
        current, x, bad, empty = [0], cupy.asarray(X), cupy.full(3, np.nan), cupy.empty

        class Device:
            attributes = cupy.cuda.Device.attributes

            def __init__(self, number=None):
                self.id = current[-1] if number is None else number

            def __enter__(self):
                current.append(self.id)

            def __exit__(self, *_):
                current.pop()

        def here(*arguments):
            assert current[-1] == 1
            return empty(*arguments)

        monkeypatch.setattr(cupy.cuda, "Device", Device)
        monkeypatch.setattr(type(x), "device", property(lambda _: Device(1)))
        monkeypatch.setattr(cupy, "empty", here)
        with pytest.raises(AssertionError):
            cupy.isfinite(x)
        found = ExactModel(LAWS["full"], SCHEDULE).score(x, 0.3)
        with pytest.raises(ValueError, match="finite"):
            cuda.points("x", bad, 3)
        assert current == [0]
        assert_near(found, ExactModel(LAWS["full"], SCHEDULE).score(X, 0.3), "f8")


@pytest.mark.parametrize(
    ("mean", "variance", "sigma", "what"),
    [
        (1e39, 1.0, 0.1, "a mean or a variance beyond it"),
        (1.0, 1e39, 0.1, "a mean or a variance beyond it"),
        (1.0, 0.0, 1e-23, "a variance of 1e-46"),
        (1.0, 1e-42, 0.0, "a variance of 1e-42"),
    ],
)
def test_a_law_that_float32_does_not_hold_is_refused_and_not_answered_by_nan(cupy, mean, variance, sigma, what):
    model = ExactModel(GaussianMixture.isotropic([[mean], [-mean]], variance), VEPower())
    x = np.array([[mean]])
    for ask in (model.log_density, model.score, model.velocity_divergence):
        with pytest.raises(ValueError, match=f"as float32 does not: there is {what}"):
            ask(cupy.asarray(x.astype("f4") if mean < 1e38 else np.zeros((1, 1), "f4")), sigma)
        assert np.isfinite(ask(cupy.asarray(x), sigma).get()).all()


def test_a_point_too_far_for_its_own_type_is_told_so(cupy):
    with pytest.raises(ValueError, match="near enough to a component for float32"):
        ExactModel(LAWS["full"], SCHEDULE).score(cupy.full(3, 1e30, dtype="f4"), 0.5)


@pytest.mark.parametrize("name", [name for name in LAWS if name != "points"])
def test_a_law_answers_points_on_a_device_as_points_of_numpy(cupy, name):
    law = LAWS[name]
    with use("numpy"):
        for question in ("logpdf", "score", "laplacian"):
            assert_near(getattr(law, question)(cupy.asarray(X)), getattr(law, question)(X), "f8")
        other = law.score(X + 1e-9)
    with pytest.raises(AssertionError):
        assert_near(law.score(cupy.asarray(X)), other, "f8")


def test_a_process_may_have_an_offset_and_differ_on_the_axes(cupy):
    offset = lambda t: (np.array([t, 2.0, -t]), np.array([1.0, 0.0, -1.0]), 0.0)  # noqa: E731
    model = ExactModel(LAWS["diagonal"], AffineProcess([VPLinear(), VPLinear(0.5, 3.0), FlowMatching()], offset))
    with use("numpy"):
        assert_near(model.velocity(cupy.asarray(X), 0.3), model.velocity(X, 0.3), "f8")
        assert_near(model.log_density(cupy.asarray(X), 0.3), model.log_density(X, 0.3), "f8")
        with pytest.raises(AssertionError):
            assert_near(model.velocity(cupy.asarray(X), 0.3), model.centred.velocity(X, 0.3), "f8")


@pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 0, 3)])
def test_answers_have_the_leading_shape_of_their_points(cupy, shape):
    model = ExactModel(LAWS["full"], SCHEDULE)
    assert model.score(cupy.zeros(shape), 0.5).shape == shape
    assert model.log_density(cupy.zeros(shape), 0.5).shape == shape[:-1]


def test_whole_numbers_are_taken_as_float64(cupy):
    found = ExactModel(LAWS["full"], SCHEDULE).score(cupy.asarray(np.arange(6).reshape(2, 3)), 0.5)
    assert_near(found, ExactModel(LAWS["full"], SCHEDULE).score(np.arange(6.0).reshape(2, 3), 0.5), "f8")


def test_parts_of_an_array_need_not_be_contiguous(cupy):
    model = ExactModel(LAWS["full"], SCHEDULE)
    assert_near(model.score(cupy.asarray(X)[::2, 1:, ::-1], 0.5), model.score(X[::2, 1:, ::-1], 0.5), "f8")


def test_only_the_law_goes_to_the_device_and_nothing_comes_back():
    model = ExactModel(LAWS["full"], SCHEDULE)
    with standing_in() as cupy:
        x = cupy.asarray(X)
        model.score(x, 0.5)
        before = dict(cupy.state.copies)
        model.denoiser(x, 0.7)
        assert cupy.state.copies == {**before, "to": before["to"] + 1}  # the numbers of the time


REFUSED = {
    "points on other axes": (ValueError, "x must have shape", lambda model, xp: model.score(xp.zeros((4, 2)), 0.5)),
    "no number": (ValueError, "x must be finite, got nan", lambda model, xp: model.score(xp.full(3, np.nan), 0.5)),
    "complex numbers": (TypeError, "x must hold real", lambda model, xp: model.score(xp.zeros(3, dtype=complex), 0.5)),
    "a matrix": (TypeError, "for the jacobian", lambda model, xp: model.hessian(xp.zeros(3), 0.5)),
    "too far": (ValueError, "near enough", lambda model, xp: model.score(xp.full(3, 1e200), 0.5)),
    "no density": (ValueError, "no density", lambda _, xp: ExactModel(POINTS, SCHEDULE).score(xp.zeros(3), 0)),
    "a law of device arrays": (
        TypeError,
        "mean must be numbers that NumPy takes",
        lambda _, xp: Gaussian(xp.ones(3), 1),
    ),
    "matrices on axes that differ": (
        ValueError,
        "for matrices",
        lambda model, xp: ExactModel(model.distribution, AffineProcess([VPLinear()] * 3)).score(xp.zeros(3), 0.5),
    ),
    "a process of matrices": (
        ValueError,
        "process must be an AffineProcess",
        lambda model, xp: ExactModel(model.distribution, LinearProcess(-np.eye(3), np.eye(3))).score(xp.zeros(3), 0.5),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_answered_says_why(cupy, case):
    error, message, ask = REFUSED[case]
    with pytest.raises(error, match=message):
        ask(ExactModel(LAWS["full"], SCHEDULE), cupy)
