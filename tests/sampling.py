"""What the tests of samplers share: measured orders, plain algorithms as samplers, algorithms written in sigma."""

from functools import cache

import numpy as np

from refdiff import AffineProcess, ExactModel, FlowMatching, Gaussian, GaussianMixture, VEPower, VPLinear
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.order import fit, measure_order, reference_flow
from refdiff.samplers.running import run
from refdiff.samplers.times import uniform_log_snr

GAUSSIAN = Gaussian([0.7], 0.25)
LINE = GaussianMixture.isotropic([[-1.0], [1.2]], [0.25, 0.36], [0.4, 0.6])


# ---------------------------------------------------------------------- orders


def in_log_snr(process, start, end):
    """n -> n equal steps of lambda between two times."""
    return lambda n: uniform_log_snr(process, n, start=start, end=end)


def order_of(build, process, grid, *, law=GAUSSIAN, counts=(16, 32, 64), **more):
    """The measured order of build(process, times) on the grids of so many steps."""
    return measure_order(lambda times: build(process, times), law, process, grid, counts=counts, **more).order


@cache
def carried(law, process, start, end):
    """The model of a law, points at one time, and where the probability flow takes them: once for all that ask."""
    model = ExactModel(law, process)
    x = model.sample(8, start, 0)
    return model, x, reference_flow(model, x, start, end)


def flow_order(build, process, grid, *, law=LINE, counts=(16, 32, 64)):
    """The order of a deterministic sampler on a mixture, against the flow between the ends that the grids share."""
    errors = []
    for times in map(grid, counts):
        model, x, exact = carried(law, process, float(times[0]), float(times[-1]))
        errors.append(np.abs(run(build(process, times), model, x) - exact).max())
    return fit(counts, errors, 1e-11, len(counts)).order


# ---------------------------------------------------------------------- plain algorithms (model, x, normal) -> x


def against(plain, table, model, *, count=5, seed=0, rtol=1e-12, atol=0.0):
    """The run of a table on a model is the plain algorithm on numbers, with the same start and normals."""
    rng = np.random.default_rng(seed)
    x = model.sample(count, float(table.times[0]), rng)
    normals = rng.standard_normal((table.draws, *x.shape))
    drawn = iter(normals)
    expected = plain(lambda y, t: model.predict(y, float(t), table.prediction), x, lambda: next(drawn))
    assert next(drawn, None) is None
    np.testing.assert_allclose(run(table, model, x, normals=normals), expected, rtol=rtol, atol=atol)


def sampled_alone(build, schedules, times):
    """A process with one schedule for each axis has, on each, the outputs' weights of that schedule alone."""
    together = build(AffineProcess(schedules), times).unroll().outputs
    for axis, schedule in enumerate(schedules):
        alone = build(schedule, times).unroll().outputs
        np.testing.assert_allclose(together[..., axis], alone, rtol=0, atol=1e-13 * np.abs(alone).max())


# ---------------------------------------------------------------------- deterministic algorithms (model, x) -> x


MODES = GaussianMixture.isotropic([[-1.5, 0.3], [1.0, 1.2], [0.4, -1.0]], [0.09, 0.25, 0.5], [0.5, 0.3, 0.2])
FAR = GaussianMixture.isotropic([[-1.0], [1.5]], [0.2, 0.4], [0.4, 0.6])
GRIDS = {
    "flow matching": (FlowMatching(), np.array([0.95, 0.8, 0.66, 0.5, 0.31, 0.2, 0.08])),
    "VP linear": (VPLinear(), np.array([0.9, 0.72, 0.55, 0.35, 0.2, 0.1, 0.03])),
    "EDM": (VEPower(T=80.0), np.array([20.0, 9.0, 3.5, 1.2, 0.5, 0.2, 0.05])),
}


def agree(schedule, ts, table, plain):
    """The table and a plain algorithm: on a mixture, and weight by weight."""
    model = ExactModel(MODES, schedule)
    x = model.sample(5, float(ts[0]), 1)
    found, expected = run(table, model, x), plain(lambda y, t: model.predict(y, float(t), table.prediction), x)
    one = table.unroll()
    # predictions of noise are of order one; in this form large multiples of them cancel
    terms = abs(one.start[-1]) * np.abs(x).max() + np.abs(one.outputs[-1]).sum()
    size = terms if table.prediction == "noise" else max(1.0, np.abs(expected).max())
    assert np.abs(found - expected).max() <= 1e-13 * size
    heard = impulse_response(
        lambda f, y, _: plain(f, y), schedule, prediction=table.prediction, start_time=ts[0], end_time=ts[-1]
    )
    assert table.nfe == heard.nfe
    np.testing.assert_allclose(table.times[table.evaluated], heard.times[heard.evaluated], rtol=1e-12)
    two = heard.unroll()
    mine, theirs = one.outputs[-1][table.evaluated], two.outputs[-1][heard.evaluated]
    assert np.abs(mine - theirs).max() <= 1e-12 * np.abs(mine).max()
    assert abs(one.start[-1] - two.start[-1]) <= 1e-12 * max(1.0 * (table.prediction != "noise"), abs(one.start[-1]))


# ---------------------------------------------------------------------- algorithms that are written in sigma


SIGMA_LAW = GaussianMixture.isotropic([[-1.0], [0.8]], [0.25, 0.36], [0.4, 0.6])
SCHEDULES = [VEPower(T=100.0), VPLinear(), FlowMatching()]
ENDS = {VEPower: (60.0, 0.02), VPLinear: (0.9, 0.02), FlowMatching: (0.98, 0.02)}


def sigma_grid(schedule, n, clean=False):
    """n equal steps of lambda between the schedule's `ENDS`, and one more to t = 0 if `clean`."""
    times = in_log_snr(schedule, *ENDS[type(schedule)])(n)
    return np.append(times, 0.0) if clean else times


def levels(schedule, times):
    """sigma / alpha at the times."""
    return np.array([float(schedule.sigma(t) / schedule.alpha(t)) for t in times])


def seen_through_alpha(plain, table, schedule, times):
    """The run of a table is an algorithm (denoiser, y, sigmas, normal) with alpha = 1, through x = alpha y."""
    alpha, rng, sigmas = float(schedule.alpha(times[0])), np.random.default_rng(1), levels(schedule, times)
    y, normals = 2 * sigmas[0] * rng.standard_normal((5, 1)), rng.standard_normal((table.draws, 5, 1))
    edm = ExactModel(SIGMA_LAW, VEPower(T=1e4))
    expected = plain(edm.denoiser, y, sigmas, iter(normals).__next__)
    found = run(table, ExactModel(SIGMA_LAW, schedule), alpha * y, normals=normals)
    assert np.abs(found - expected).max() < 1e-13 * (np.abs(y).max() + np.abs(normals).max(initial=0.0))


def heard_in_sigma(plain, schedule, times):
    """The table of such an algorithm on another schedule, from impulses."""

    def time(sigma):
        return float(schedule.time_of_log_snr(-np.log(sigma)))

    def sampler(model, x, normal):
        def denoiser(y, sigma):
            return model(float(schedule.alpha(time(sigma))) * y, time(sigma))

        y = plain(denoiser, x / float(schedule.alpha(times[0])), levels(schedule, times), normal)
        return float(schedule.alpha(times[-1])) * y

    return impulse_response(sampler, schedule, start_time=times[0], end_time=times[-1])
