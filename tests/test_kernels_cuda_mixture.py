"""The mixture on the device against NumPy's two routes and mpmath, in units of the rounding that the formula allows.

`mixtures.allowance` says how much that is; NumPy and the kernel may each err so much. In single precision the law, the
points and the numbers of the time are rounded too: as many errors again. Other batches, other orders of threads, less
memory: the same bits.
"""

from functools import partial

import mpmath as mp
import numpy as np
import plain
import pytest
from bits import assert_no_neighbour_matters, assert_no_order_matters
from emulator import cupy as stand_in
from mixtures import KINDS, allowance, law, on_device

from refdiff import AffineProcess, ExactModel, FlowMatching, VEPower, VPLinear, backends, compiled
from refdiff.dynamics import flow
from refdiff.kernels.cuda import device
from refdiff.kernels.cuda import mixture as kernels
from refdiff.predictions import PREDICTIONS
from refdiff.samplers.ddim import ddim
from refdiff.samplers.running import run

# Covariances, axes, components, points, numbers, whether all axes have the same times. Tiles are of 128 components, and
# of 77 on 16 axes, of 121, 56 and 16 with bases on 5, 8 and 16 (33 in single precision); parts are of 256.
CASES = [
    ("isotropic", 1, 1, 1, "f8", True),
    ("isotropic", 3, 129, 300, "f8", True),
    ("isotropic", 16, 128, 129, "f8", True),
    ("isotropic", 3, 127, 128, "f4", True),
    ("isotropic", 2, 5, 127, "f8", False),
    ("one variance", 2, 257, 129, "f8", True),
    ("points", 5, 600, 3, "f4", True),
    ("points", 3, 300, 2, "f8", False),
    ("diagonal", 2, 128, 127, "f8", True),
    ("diagonal", 16, 78, 129, "f8", False),
    ("diagonal", 3, 130, 5, "f4", True),
    ("one diagonal", 3, 513, 3, "f8", True),
    ("one diagonal", 5, 12, 2, "f8", False),
    ("shared", 1, 3, 2, "f8", True),
    ("shared", 16, 76, 128, "f8", True),
    ("shared", 3, 300, 2, "f4", True),
    ("full", 2, 129, 300, "f8", True),
    ("full", 5, 121, 2, "f8", True),
    ("full", 8, 57, 2, "f8", True),
    ("full", 16, 15, 2, "f8", True),
    ("full", 16, 34, 2, "f4", True),
    ("diagonal", 17, 5, 2, "f8", True),  # the first that goes to kernels.cuda.wide
]


def processes(dim, still):
    """Three of one time for all axes, or one of two."""
    if still:
        return VPLinear(), FlowMatching(), VEPower()
    return (AffineProcess([VPLinear(0.1, 10.0 + j) if j % 2 else FlowMatching() for j in range(dim)]),)


def far(cupy, model, x, t, prediction, kind="f8", wrong=None):
    """The largest differences of output and log density from NumPy's, in allowances; `wrong` rows of the time moved."""
    when = compiled.at(model.process.coefficients(t), prediction)
    with backends.use("numpy"):
        expected, density = model.predict(x, t, prediction), model.marginal(t).logpdf(x)
    allowed, allowed_density = allowance(model.distribution, x, when)
    u = np.finfo(kind).eps / 2
    if wrong is not None:
        when[wrong] *= 1 + 1e-9
    found = kernels.predict(cupy.asarray(x.astype(kind)), on_device(cupy, model.distribution, kind), when)
    out, logp = (one.get() for one in found)
    assert (out.dtype, logp.dtype, out.shape, logp.shape) == (kind, kind, x.shape, (len(x),))
    pairs = ((out, expected, allowed), (logp, density, allowed_density))
    return [
        np.nan_to_num(np.abs(got - right) / (2 * u * bound + np.finfo(kind).tiny), nan=np.inf).max()
        for got, right, bound in pairs
    ]


@pytest.mark.parametrize(("storage", "dim", "count", "n", "kind", "still"), CASES)
def test_predictions_and_log_densities_are_those_of_numpy(cupy, storage, dim, count, n, kind, still):
    data = law(storage, dim, count)
    for i, process in enumerate(processes(dim, still)):
        model = ExactModel(data, process)
        for j, prediction in enumerate(PREDICTIONS):  # the processes take turns at the times
            t = (0.1 * process.T, 0.4 * process.T, process.T if still else 0.5)[(i + j) % 3]
            x = model.sample(n, t, 3).astype(kind).astype(float)
            assert max(far(cupy, model, x, t, prediction, kind)) < 1, (process, t, prediction)


@pytest.mark.parametrize("row", range(5))
@pytest.mark.parametrize("storage", ["isotropic", "one variance", "diagonal", "shared", "full"])
def test_a_number_that_is_a_little_wrong_is_seen(cupy, storage, row):
    model = ExactModel(law(storage, 3, 4), FlowMatching())
    x = model.sample(5, 0.4, 0)
    assert max(far(cupy, model, x, 0.4, "velocity")) < 1
    assert far(cupy, model, x, 0.4, "velocity", wrong=row)[0] > 100


# ---------------------------------------------------------------------- limits

EXTREMES = {
    "means far from 0": {"offset": 1e6},
    "huge variances": {"spread": 1e12},
    "tiny variances": {"spread": 1e-12},
    "huge scale": {"spread": 1e200, "offset": 1e100},
    "log weights from -690 to 0, and none": {"weights": [1.0, 0.0, 1e-300, 1e-20]},
    "one component left": {"weights": [0.0, 1.0, 0.0, 0.0]},
}


@pytest.mark.parametrize("storage", KINDS)
def test_predictions_of_extreme_laws_are_those_of_numpy(cupy, storage):
    for extreme, options in EXTREMES.items():
        data = law(storage, 3, 4, **options)
        for process, t in ((FlowMatching(), 0.3), (VEPower(), 1e-3), (VPLinear(), 1.0)):
            model = ExactModel(data, process)
            x = model.sample(3, t, 1)
            for prediction in PREDICTIONS:
                assert far(cupy, model, x, t, prediction)[0] < 1, (extreme, process, t, prediction)


@pytest.mark.parametrize("storage", KINDS)
def test_little_noise_and_no_signal_are_limits_that_work(cupy, storage):
    data = law(storage, 3, 4)
    between = 0.5 * (data.means[:1] + data.means[1:2])
    for process, times in ((VEPower(), (1e-3, 1e-5, 1e-8)), (FlowMatching(), (1e-8, 1 - 1e-9, 1.0))):
        model = ExactModel(data, process)
        for t in times:
            x = np.concatenate([model.sample(3, t, 1), between])
            for prediction in PREDICTIONS:
                assert max(far(cupy, model, x, t, prediction)) < 1, (process, t, prediction)


def test_parts_whose_largest_logits_are_beyond_all_powers_of_each_other_are_merged(cupy):
    model, t = ExactModel(law("isotropic", 2, 600, spread=1e-12), VEPower()), 1e-3  # three parts
    x = model.sample(12, t, 1)
    nearest = np.abs(x[:, None] - model.distribution.means).sum(axis=2).argmin(axis=1)
    assert set(nearest // kernels.PART) == {0, 1, 2}
    for prediction in PREDICTIONS:
        assert max(far(cupy, model, x, t, prediction)) < 1


@pytest.mark.parametrize("storage", KINDS)
def test_far_points_are_as_good_as_numpys_until_there_is_no_density(cupy, storage):
    model = ExactModel(law(storage, 3, 4), FlowMatching())
    directions = np.random.default_rng(0).standard_normal((3, 3))
    for distance in (1e3, 1e8, 1e100):
        assert max(far(cupy, model, distance * directions, 0.3, "velocity")) < 1, distance
    when, parts = compiled.at(FlowMatching().coefficients(0.3), "velocity"), on_device(cupy, model.distribution)
    near, near_density = (one.get() for one in kernels.predict(cupy.asarray(directions), parts, when))
    for beyond in (1e160, np.inf, -np.inf, np.nan):
        x = directions.copy()
        x[1, 2] = beyond
        out, logp = (one.get() for one in kernels.predict(cupy.asarray(x), parts, when))
        assert np.isnan(out[1]).all()
        assert np.isnan(logp[1]) if np.isnan(beyond) else logp[1] == -np.inf
        assert np.array_equal(out[[0, 2]], near[[0, 2]])
        assert np.array_equal(logp[[0, 2]], near_density[[0, 2]])


# ---------------------------------------------------------------------- 40 digits


def exact_answer(data, x, when):
    """The output and the log density at one point, in 40 digits."""
    a, q, mu, beta, gamma = (mp.mpf(float(row[0])) for row in when)
    weights, means, matrices = plain.parts(data)
    point, eye = mp.matrix(x.tolist()), mp.eye(data.dim)
    logits, outputs = [], []
    for w, m, s in zip(weights, means, matrices, strict=True):
        spread, mean = mp.matrix(s.tolist()), mp.matrix(m.tolist())
        total = a * a * spread + q * eye
        solved = mp.lu_solve(total, point - a * mean)
        logits.append(mp.log(w) - ((point - a * mean).T * solved)[0] / 2 - mp.log(mp.det(total)) / 2)
        outputs.append(mu * mean + (beta * spread + gamma * eye) * solved)
    top = max(logits)
    powers = [mp.exp(l - top) for l in logits]
    total = mp.fsum(powers)
    answer = sum((r / total * o for r, o in zip(powers, outputs, strict=True)), 0 * point)
    return answer, top + mp.log(total) - data.dim * mp.log(2 * mp.pi) / 2


@pytest.mark.parametrize("storage", KINDS)
def test_predictions_and_log_densities_are_the_exact_ones(cupy, storage):
    model = ExactModel(law(storage, 3, 4), VPLinear())
    data, u = model.distribution, np.finfo(float).eps / 2
    for t in (0.02, 0.5):
        x = model.sample(2, t, 5)
        for prediction in PREDICTIONS:
            when = compiled.at(model.process.coefficients(t), prediction)
            out, logp = (one.get() for one in kernels.predict(cupy.asarray(x), on_device(cupy, data), when))
            allowed, allowed_logp = allowance(data, x, when)
            with mp.workdps(40):
                for i in range(len(x)):
                    answer, density = exact_answer(data, x[i], when)
                    for value, right, bound in zip(out[i], answer, allowed[i], strict=True):
                        assert abs(mp.mpf(float(value)) - right) <= u * bound
                    assert abs(mp.mpf(float(logp[i])) - density) <= u * allowed_logp[i]


# ---------------------------------------------------------------------- the same bits

SAME_BITS = [("isotropic", 300), ("diagonal", 300), ("shared", 20), ("full", 300)]


def answers(cupy, data, x, when):
    return [one.get() for one in kernels.predict(cupy.asarray(x), on_device(cupy, data), when)]


@pytest.mark.parametrize(("storage", "count"), SAME_BITS)
def test_a_point_depends_bit_by_bit_on_neither_its_neighbours_nor_its_place(cupy, storage, count):
    assert_no_neighbour_matters(partial(answers, cupy), law(storage, 3, count))


def test_answers_that_depend_on_neighbours_or_on_orders_are_told_apart():
    data = law("isotropic", 3, 5)
    with pytest.raises(AssertionError):
        assert_no_neighbour_matters(lambda _, x, __: (x - 1e-15 * x.sum(axis=0), x[:, 0]), data)
    with pytest.raises(AssertionError):
        assert_no_order_matters(lambda cupy, _, x, __: [np.nextafter(x, cupy.state.order == "backward")], data, 0)


@pytest.mark.parametrize(("storage", "count"), SAME_BITS)
def test_orders_of_threads_and_less_memory_change_no_bit(storage, count):
    assert_no_order_matters(answers, law(storage, 3, count), 3 if count > kernels.PART else 0)


def test_memory_that_does_not_suffice_for_one_point_is_refused_with_what_it_needs():
    data, when = law("isotropic", 3, 300), compiled.at(FlowMatching().coefficients(0.3), "velocity")
    with stand_in.standing_in() as cupy:
        cupy.state.total = 100
        with pytest.raises(MemoryError, match="a mixture of 300 components needs 96 bytes on the GPU for one row"):
            answers(cupy, data, np.zeros((2, 3)), when)


def test_nothing_comes_back_to_the_host_and_nothing_is_waited_for():
    data, when = law("full", 3, 300), compiled.at(FlowMatching().coefficients(0.3), "velocity")
    with stand_in.standing_in() as cupy:
        parts, x = on_device(cupy, data), cupy.asarray(np.zeros((2, 3)))
        before = dict(cupy.state.copies)
        kernels.predict(x, parts, when)
        assert cupy.state.copies == {"to": before["to"] + 1, "from": before["from"]}  # the numbers of the time
        assert cupy.state.waits == 0


def test_a_kernel_is_looked_up_once_for_its_source_function_type_and_numbers():
    when, x = compiled.at(FlowMatching().coefficients(0.3), "velocity"), np.zeros((2, 3))
    with stand_in.standing_in() as cupy, pytest.MonkeyPatch.context() as patch:
        asked, get = [], cupy.RawModule.get_function
        patch.setattr(device, "_modules", {})
        patch.setattr(cupy.RawModule, "get_function", lambda module, name: (asked.append(name), get(module, name))[1])
        for count in (4, 260, 4, 260):
            answers(cupy, law("isotropic", 3, count), x, when)
        assert sorted(asked) == ["merge_parts", "predict", "sum_parts"]
        kernels.predict(cupy.asarray(x.astype("f4")), on_device(cupy, law("isotropic", 3, 4), "f4"), when)
        assert asked[3:] == ["predict"]


@pytest.mark.parametrize("storage", KINDS)
def test_blocks_ask_for_no_more_shared_memory_than_their_components_fill(storage):
    """And for a tile at most; one row less is found missing."""
    when = compiled.at(FlowMatching().coefficients(0.3), "velocity")
    with stand_in.standing_in() as cupy:
        for count, rows in ((1, 1), (3, 3), (128, 128), (129, 128)):
            data, x = law(storage, 3, count), np.zeros((2, 3))
            answers(cupy, data, x, when)
            asked = cupy.state.launches[-1][-1]
            defined = kernels.numbers(on_device(cupy, data), True, 8)
            row = kernels.shared_bytes(defined, 8, 2) - kernels.shared_bytes(defined, 8, 1)
            assert asked == kernels.shared_bytes(defined, 8, 0) + rows * row
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "shared_bytes", lambda *_: asked - row)
            with pytest.raises(RuntimeError):
                answers(cupy, data, x, when)


@pytest.mark.parametrize("storage", ["shared", "full"])
def test_all_threads_of_a_warp_take_turns_in_all_kernels(storage, monkeypatch):
    """Or those who came would wait for ever: of some and of many components."""
    told = device.options
    monkeypatch.setattr(device, "options", lambda dtype, **n: (*told(dtype, **n), "-DTURNS=__syncwarp()"))
    monkeypatch.setattr(device, "_modules", {})
    x = np.random.default_rng(0).standard_normal((35, 3))
    with stand_in.standing_in() as cupy, backends.use("numpy"):
        for count in (4, 260):
            model = ExactModel(law(storage, 3, count), VPLinear())
            for ask in (model.velocity, model.velocity_divergence):
                assert np.allclose(ask(cupy.asarray(x), 0.3).get(), ask(x, 0.3), rtol=1e-9)
        model = ExactModel(law("full", 3, 4), VPLinear())
        flow(model, cupy.asarray(x), 0.5, 0.45, rtol=1e-3, atol=1e-3, log_density=True)
        run(ddim(VPLinear(), np.linspace(1, 0.1, 3)), model, cupy.asarray(x))
        source = device.source("mixture").replace("if (i < n) {", "if (i < n) {\n TAKE_TURNS(0);")
        monkeypatch.setattr(device, "source", lambda _: source)
        device._modules.clear()
        with pytest.raises(RuntimeError, match="predict: "):
            model.velocity(cupy.asarray(x), 0.3)


def test_parts_are_of_the_law_alone_and_their_sums_never_many():
    assert kernels.parts(1) == (256, 1)
    assert kernels.parts(256) == (256, 1)
    assert kernels.parts(257) == (256, 2)
    for count in (2**18, 2**18 + 1, 10**9):
        size, many = kernels.parts(count)
        assert size * (many - 1) < count <= size * many
        assert many <= kernels.MOST_PARTS
