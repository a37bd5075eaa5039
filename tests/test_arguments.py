"""Malformed calls are refused by a ValueError or TypeError that names the argument, before any work is done."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from refdiff import (
    AffineProcess,
    Alignment,
    BetaTable,
    Channel,
    Empirical,
    ExactModel,
    FlowMatching,
    FunctionSchedule,
    Gaussian,
    GaussianMixture,
    SubVP,
    Transformed,
    Trigonometric,
    VEGeometric,
    VEPower,
    VPCosine,
    VPLinear,
    arguments,
    beta_table,
    distributions,
)

NAN, INF = float("nan"), float("inf")
LAW = Gaussian([0.0, 1.0], 1.0)
MIXTURE = GaussianMixture.isotropic([[0.0, 1.0], [2.0, 3.0]], 0.5)
MODEL = ExactModel(MIXTURE, VPLinear())
PROCESS = AffineProcess(FlowMatching())
MEANS = [[0.0, 1.0], [2.0, 3.0]]

# the argument that must be named, and a call
MALFORMED = {
    "nan in a mean": ("mean", lambda: Gaussian([NAN], 1.0)),
    "a scalar mean": ("mean", lambda: Gaussian(0.0, 1.0)),
    "no coordinate": ("mean", lambda: Gaussian([], 1.0)),
    "a mean of words": ("mean", lambda: Gaussian(["a"], 1.0)),
    "a complex mean": ("mean", lambda: Gaussian([1j], 1.0)),
    "a mean of None": ("mean", lambda: Gaussian(None, 1.0)),
    "a ragged mean": ("mean", lambda: Gaussian([[0.0], [1.0, 2.0]], 1.0)),
    "a negative variance": ("covariance", lambda: Gaussian([0.0], -1.0)),
    "an infinite variance": ("covariance", lambda: Gaussian([0.0], INF)),
    "variances of another dimension": ("covariance", lambda: Gaussian([0.0, 1.0], [1.0, 1.0, 1.0])),
    "a covariance that is not square": ("covariance", lambda: Gaussian([0.0, 1.0], [[1.0, 0.0]])),
    "a covariance that is not symmetric": ("covariance", lambda: Gaussian([0.0, 1.0], [[1.0, 0.5], [0.0, 1.0]])),
    "an indefinite covariance": ("covariance", lambda: Gaussian([0.0, 1.0], [[1.0, 2.0], [2.0, 1.0]])),
    "an empty covariance": ("covariance", lambda: Gaussian([0.0], np.zeros((0, 0)))),
    "means of one dimension": ("means", lambda: GaussianMixture.isotropic([0.0, 1.0], 1.0)),
    "no means": ("means", lambda: GaussianMixture.isotropic(np.zeros((0, 2)), 1.0)),
    "a negative component variance": ("variances", lambda: GaussianMixture.isotropic(MEANS, [1.0, -1.0])),
    "too many variances": ("variances", lambda: GaussianMixture.isotropic(MEANS, [1.0, 1.0, 1.0])),
    "variances of a wrong shape": ("variances", lambda: GaussianMixture.diagonal(MEANS, np.ones((3, 2)))),
    "a shared covariance of another dimension": ("covariance", lambda: GaussianMixture.shared(MEANS, np.eye(3))),
    "one matrix for two components": ("covariances", lambda: GaussianMixture.full(MEANS, np.eye(2))),
    "one matrix too few": ("covariances", lambda: GaussianMixture.full(MEANS, [np.eye(2)])),
    "a negative weight": ("weights", lambda: GaussianMixture.isotropic(MEANS, 1.0, [1.0, -0.5])),
    "weights that are all zero": ("weights", lambda: GaussianMixture.isotropic(MEANS, 1.0, [0.0, 0.0])),
    "a weight too many": ("weights", lambda: GaussianMixture.isotropic(MEANS, 1.0, [1.0, 1.0, 1.0])),
    "a nan weight": ("weights", lambda: Empirical(MEANS, [1.0, NAN])),
    "points of one dimension": ("points", lambda: Empirical([0.0, 1.0])),
    "x of another dimension": ("x", lambda: MIXTURE.logpdf([1.0, 2.0, 3.0])),
    "a scalar x": ("x", lambda: MIXTURE.score(1.0)),
    "a nan x": ("x", lambda: MIXTURE.score([NAN, 0.0])),
    "x of words": ("x", lambda: MIXTURE.hessian(["a", "b"])),
    "x of objects": ("x", lambda: MIXTURE.responsibilities([object(), object()])),
    "no seed": ("seed", lambda: MIXTURE.sample(3, None)),
    "a negative seed": ("seed", lambda: MIXTURE.sample(3, -1)),
    "a fractional seed": ("seed", lambda: MIXTURE.sample(3, 0.5)),
    "a negative number of draws": ("n", lambda: MIXTURE.sample(-1, 0)),
    "a fractional number of draws": ("n", lambda: MIXTURE.sample(2.5, 0)),
    "a true number of draws": ("n", lambda: MIXTURE.sample(True, 0)),
    "a gain of another dimension": ("gain", lambda: MIXTURE.affine(np.eye(3))),
    "a gain of three dimensions": ("gain", lambda: MIXTURE.affine(np.zeros((1, 2, 2)))),
    "an offset of another dimension": ("offset", lambda: MIXTURE.affine(1.0, [1.0, 2.0, 3.0])),
    "an offset that is nan": ("offset", lambda: MIXTURE.affine(1.0, NAN)),
    "noise of another dimension": ("noise", lambda: MIXTURE.convolve(np.eye(3))),
    "negative noise": ("noise", lambda: MIXTURE.convolve(-1.0)),
    "a coordinate out of range": ("kept", lambda: MIXTURE.marginal([2])),
    "a coordinate twice": ("kept", lambda: MIXTURE.marginal([0, -2])),
    "no coordinate kept": ("kept", lambda: MIXTURE.marginal([])),
    "a fractional coordinate": ("kept", lambda: MIXTURE.marginal([0.5])),
    "ragged coordinates": ("kept", lambda: MIXTURE.marginal([[0], [0, 1]])),
    "all coordinates given": ("given", lambda: MIXTURE.conditional([0, 1], [0.0, 0.0])),
    "a value too many": ("values", lambda: MIXTURE.conditional([0], [0.0, 0.0])),
    "values at two points": ("values", lambda: MIXTURE.conditional([0], [[0.0], [1.0]])),
    "a channel of three sizes": ("offset", lambda: Channel(np.eye(2), [1.0, 2.0, 3.0])),
    "a channel with negative noise": ("noise", lambda: Channel(1.0, 0.0, -1.0)),
    "a channel with indefinite noise": ("noise", lambda: Channel(noise=[[0.0, 1.0], [1.0, 0.0]])),
    "a channel with empty noise": ("noise", lambda: Channel(noise=np.zeros((0, 0)))),
    "a channel with nan gain": ("gain", lambda: Channel(NAN)),
    "a channel without rows": ("gain", lambda: Channel(np.zeros((0, 2)))),
    "an observation of another dimension": ("y", lambda: Channel(noise=1.0).posterior(LAW, [0.0])),
    "two observations for one posterior": ("y", lambda: Channel(noise=1.0).posterior(LAW, np.zeros((2, 2)))),
    "a nan observation": ("y", lambda: Channel(noise=1.0).posterior_mean(LAW, [NAN, 0.0])),
    "the reverse of a mixture": ("law", lambda: Channel(noise=1.0).reverse(MIXTURE)),
    "pushing a number": ("law", lambda: Channel().push(3)),
    "the posterior of a number": ("law", lambda: Channel(noise=1.0).posterior_mean(3, [0.0])),
    "a gain that does not act on the law": ("gain", lambda: Channel(np.eye(3)).push(LAW)),
    "an offset that does not fit the law": ("offset", lambda: Channel(1.0, np.zeros(3)).push(LAW)),
    "composing with a number": ("earlier", lambda: Channel().compose(3)),
    "composing channels that do not fit": ("earlier", lambda: Channel(np.ones((2, 3))).compose(Channel(np.eye(4)))),
    "x of another dimension for a channel": ("gain|x", lambda: Channel(np.eye(2)).logpdf([0.0, 0.0], [0.0])),
    "x that does not fit the offset": ("offset|x", lambda: Channel(1.0, np.zeros(3)).at(np.zeros(2))),
    "x that does not fit the noise": ("noise|x", lambda: Channel(1.0, 0.0, np.ones(3)).at(np.zeros(2))),
    "one point to sample from": ("x", lambda: Channel(noise=1.0).sample([0.0, 0.0], 0)),
    "a time after the end": ("t", lambda: VPLinear().alpha(1.5)),
    "a time before the start": ("t", lambda: FlowMatching().sigma([-0.1, 0.5])),
    "a nan time": ("t", lambda: VPCosine().log_snr(NAN)),
    "a time in words": ("t", lambda: VEPower().coefficients("now")),
    "no time": ("t", lambda: VEPower().coefficients(None)),
    "a lambda never reached": ("lam", lambda: VEGeometric().time_of_log_snr(100.0)),
    "an infinite lambda never reached": ("lam", lambda: VEGeometric().time_of_log_snr(INF)),
    "a nan lambda": ("lam", lambda: VPLinear().time_of_log_snr(NAN)),
    "a negative rate": ("beta_min", lambda: VPLinear(-0.1)),
    "a falling rate": ("beta_max", lambda: VPLinear(1.0, 0.5)),
    "no rate at all": ("beta_max", lambda: SubVP(0.0, 0.0)),
    "a nan rate": ("beta_max", lambda: SubVP(0.1, NAN)),
    "no final time": ("T", lambda: VPLinear(T=0.0)),
    "a negative offset": ("s", lambda: VPCosine(-0.1)),
    "a zero sigma_min": ("sigma_min", lambda: VEGeometric(0.0)),
    "sigma_max not above sigma_min": ("sigma_max", lambda: VEGeometric(1.0, 1.0)),
    "a zero power": ("power", lambda: VEPower(0.0)),
    "a straight path that ends elsewhere": ("T", lambda: FlowMatching(2.0)),
    "an arc that ends elsewhere": ("T", lambda: Trigonometric(1.0, 1.0)),
    "a negative data scale": ("sigma_d", lambda: Trigonometric(-1.0)),
    "alpha that is not a function": ("alpha_of", lambda: FunctionSchedule(1.0, lambda t: t)),
    "a derivative that is not a function": (
        "dalpha_of",
        lambda: FunctionSchedule(lambda t: 1 - t, lambda t: t, 1.0, 3.0),
    ),
    "a base that is not a schedule": ("base", lambda: Transformed(3, lambda t: (t, 1.0, 0.0))),
    "a clock that is not a function": ("clock", lambda: Transformed(VPLinear(), 3)),
    "a source that is not a schedule": ("source", lambda: Alignment(3, VPLinear()).tau(0.5)),
    "no betas": ("betas", lambda: BetaTable([])),
    "a beta above one": ("betas", lambda: BetaTable([0.1, 1.5])),
    "a beta of one before the end": ("betas", lambda: BetaTable([1.0, 0.5])),
    "a negative beta": ("betas", lambda: BetaTable([0.1, -0.1])),
    "a first beta of zero": ("betas", lambda: BetaTable([0.0, 0.1])),
    "a single beta": ("betas", lambda: BetaTable(0.1)),
    "no steps": ("steps", lambda: beta_table.linear(0)),
    "fractional steps": ("steps", lambda: beta_table.squared_cosine(10.5)),
    "a start above one": ("beta_start", lambda: beta_table.sigmoid(10, 1.5)),
    "a cap of zero": ("cap", lambda: beta_table.squared_cosine(10, cap=0.0)),
    "rising products": ("alpha_bar", lambda: beta_table.from_alpha_bar([0.5, 0.6])),
    "products that start at one": ("alpha_bar", lambda: beta_table.from_alpha_bar([1.0, 0.6])),
    "no schedules": ("schedules", lambda: AffineProcess([])),
    "a number for a schedule": ("schedules", lambda: AffineProcess(5)),
    "a list of numbers for schedules": ("schedules", lambda: AffineProcess([5])),
    "schedules that end at different times": ("schedules", lambda: AffineProcess([VPLinear(), VEPower()])),
    "a channel backwards in time": ("s", lambda: PROCESS.channel(0.5, 0.4)),
    "a channel from before the start": ("s", lambda: PROCESS.channel(-0.5, 0.4)),
    "a channel from words": ("s", lambda: PROCESS.channel("a", 0.4)),
    "a channel from many times": ("s", lambda: PROCESS.channel([0.1, 0.2], 0.4)),
    "a channel out of pure noise": ("s", lambda: AffineProcess(BetaTable([0.5, 1.0])).channel(1.5, 2.0)),
    "two times for a process": ("t", lambda: PROCESS.coefficients([0.1, 0.2])),
    "a model of a number": ("distribution", lambda: ExactModel(3, VPLinear())),
    "a model under a number": ("process", lambda: ExactModel(LAW, 3)),
    "a model with an axis too many": ("process", lambda: ExactModel(LAW, AffineProcess([VPLinear()] * 3))),
    "model points of another dimension": ("x", lambda: MODEL.denoiser([1.0], 0.5)),
    "model points that are nan": ("x", lambda: MODEL.velocity([NAN, 1.0], 0.5)),
    "model points in words": ("x", lambda: MODEL.noise("ab", 0.5)),
    "a model time after the end": ("t", lambda: MODEL.score([0.0, 0.0], 2.0)),
    "many model times": ("t", lambda: MODEL.score([0.0, 0.0], [0.1, 0.2])),
    "a model posterior at many points": ("x|y", lambda: MODEL.posterior(np.zeros((2, 2)), 0.5)),
    "entropy of a mixture": ("gaussian", lambda: distributions.entropy(MIXTURE)),
    "divergence from a mixture": ("q", lambda: distributions.kl_divergence(LAW, MIXTURE)),
    "divergence across dimensions": ("p and q", lambda: distributions.kl_divergence(LAW, Gaussian([0.0], 1.0))),
    "too many axes": ("count", lambda: distributions.pca(LAW, 3)),
    "an unknown kind of covariance": ("covariance", lambda: distributions.random_mixture(2, 2, 0, "round")),
    "a list for a kind of covariance": ("covariance", lambda: distributions.random_mixture(2, 2, 0, ["full"])),
    "a ring without components": ("count", lambda: distributions.ring(0)),
    "a negative radius": ("radius", lambda: distributions.ring(3, -1.0)),
    "a negative bandwidth": ("bandwidth", lambda: distributions.from_samples(MEANS, bandwidth=-1.0)),
    "a roll of four dimensions": ("dim", lambda: distributions.swiss_roll(3, 0, dim=4)),
    "a board of one square": ("squares", lambda: distributions.checkerboard(3, 0, 1)),
}


@pytest.mark.parametrize("call", MALFORMED)
def test_a_malformed_call_is_refused_by_the_name_of_its_argument(call):
    argument, function = MALFORMED[call]
    with pytest.raises((ValueError, TypeError)) as refusal:
        function()
    # the name as a word of its own, not inside a quotation of something else
    assert re.search(rf"(?<![\w'])({argument})(?![\w'])", str(refusal.value)), str(refusal.value)


def test_the_table_of_malformed_calls_is_long():
    assert len(MALFORMED) >= 60


@given(st.integers(0, 100), st.integers(-5, 5))
def test_whole_numbers_keep_their_value_and_their_bounds(value, low):
    assert arguments.whole_number("n", np.int32(value), low=low) == value
    with pytest.raises(ValueError, match="n must be at least"):
        arguments.whole_number("n", low - 1, low=low)


@given(arrays(np.float64, (2, 3), elements=st.floats(-1e300, 1e300)))
def test_real_arrays_are_copies_so_that_the_caller_can_go_on(value):
    found = arguments.real_array("x", value)
    np.testing.assert_array_equal(found, value)
    assert not np.shares_memory(found, value)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint64, np.float16, np.float32, np.longdouble])
def test_real_arrays_of_every_kind_become_float64(dtype):
    assert arguments.real_array("x", np.ones(3, dtype=dtype)).dtype == np.float64


@given(st.lists(st.integers(0, 3), max_size=2), st.booleans())
def test_points_come_back_in_the_shape_and_precision_they_had(lead, single):
    x = np.zeros((*lead, 2), dtype=np.float32 if single else np.float64)
    rows, restore = arguments.points("x", x, 2)
    assert rows.shape == (int(np.prod(lead)), 2)
    assert rows.dtype == np.float64
    back = restore(np.ones((len(rows), 4)))
    assert np.shape(back) == (*lead, 4)
    assert np.asarray(back).dtype == x.dtype


def test_indices_count_from_either_end():
    np.testing.assert_array_equal(arguments.indices("kept", [-1, 0], 3), [2, 0])


def test_a_generator_is_used_as_it_is_and_a_seed_makes_one():
    rng = np.random.default_rng(0)
    assert arguments.generator(rng) is rng
    assert arguments.generator(5).random() == np.random.default_rng(5).random()


def test_what_a_function_answers_has_the_shape_it_was_asked_for():
    np.testing.assert_array_equal(arguments.answered("f", [[1, np.inf]], (1, 2)), [[1.0, np.inf]])
    with pytest.raises(ValueError, match=r"f must answer with shape \(2,\), got \(1, 2\)"):
        arguments.answered("f", [[1, 2]], (2,))
    with pytest.raises(ValueError, match="f must be finite, got inf"):
        arguments.answered("f", [np.inf], (1,), finite=True)


def test_results_are_as_precise_as_what_they_are_of():
    assert arguments.precise_as(np.float32(1), np.asarray(0.1)) == np.float32(0.1)
    for value in (1.0, [1.0], np.ones(2, dtype=np.float16)):
        assert arguments.precise_as(value, np.asarray(0.1)).dtype == np.float64
