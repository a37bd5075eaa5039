"""Samplers on processes with matrices: the tables of scalar processes written so, turned, and exact on points."""

from functools import partial

import numpy as np
import pytest
from scipy.linalg import expm, null_space

from refdiff.distributions import Empirical, Gaussian, random_mixture
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess, LinearProcess, PrincipalAxes
from refdiff.samplers import propagate, run
from refdiff.samplers.consistency import flow_map
from refdiff.samplers.conversions import butcher, compose, to_coordinate, to_prediction, truncate
from refdiff.samplers.ddim import ddim, gddim
from refdiff.samplers.deis import deis
from refdiff.samplers.dpm_solver_pp import dpm_solver_pp
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.matrix_deis import matrix_deis
from refdiff.samplers.order import measure_order, reference_flow
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.reverse_sde import (
    ancestral,
    euler_maruyama,
    exponential_euler_maruyama,
    reverse_diffusion,
    stochastic_runge_kutta,
)
from refdiff.samplers.runge_kutta import runge_kutta
from refdiff.samplers.storage import load, save
from refdiff.schedules import FlowMatching, VPLinear

TIMES = [0.9, 0.62, 0.35, 0.2]
BETA = 3.0
BUILDS = {
    "ddim": ddim,
    "ddim, eta = 1": lambda p, t: ddim(p, t, eta=1.0),
    "gddim": lambda p, t: gddim(p, t, stochasticity=0.6),
    "gddim, noise frozen": lambda p, t: gddim(p, t, stochasticity=0.6, frozen="noise"),
    "euler-maruyama": euler_maruyama,
    "euler-maruyama, tweedie": lambda p, t: euler_maruyama(p, t, noise=0.5, final="tweedie"),
    "reverse diffusion": lambda p, t: reverse_diffusion(p, t, noise=0.7),
    "ancestral": ancestral,
    "ancestral, large": lambda p, t: ancestral(p, t, variance="large"),
    "exponential": lambda p, t: exponential_euler_maruyama(p, t, noise=0.7),
    "stochastic heun": stochastic_runge_kutta,
    "sra1": lambda p, t: stochastic_runge_kutta(p, t, method="sra1"),
    "rk4": runge_kutta,
    "deis in t": lambda p, t: matrix_deis(p, t, degree=2),
}


def langevin():
    """Critically damped Langevin noise on one position: noise reaches it through the velocity alone."""
    return LinearProcess(4 * np.array([[0.0, 4.0], [-1.0, -4.0]]), np.array([[0.0], [np.sqrt(8.0)]]))


def turning():
    """Drift and noise that do not commute with themselves at other times."""
    a, b, g, h = np.random.default_rng(5).standard_normal((4, 3, 3)) * np.array([0.5, 0.5, 0.6, 0.3])[:, None, None]
    return LinearProcess(lambda t: a + expm(t * a) @ b @ expm(-t * a), lambda t: g + np.sin(t) * h)


def as_matrices(table):
    """The unrolled weights of a table on two axes, as matrices."""
    rolled = table.unroll()
    if len(table.axes) == 2 and rolled.noise.shape[2:] in ((), (2, 2)):
        return rolled.start, rolled.outputs, rolled.noise
    return tuple(part[..., None, None] * np.eye(2) if part.ndim < 3 else part for part in rolled)


@pytest.mark.parametrize("name", BUILDS)
def test_scalar_noise_written_as_matrices_has_the_same_table(name):
    matrices = LinearProcess(-BETA / 2 * np.eye(2), np.sqrt(BETA) * np.eye(2))
    one, other = BUILDS[name](VPLinear(BETA, BETA), TIMES), BUILDS[name](matrices, TIMES)
    assert other.axes == ((2, 2) if name != "rk4" else ())  # whose weights are numbers for any process
    for mine, theirs in zip(as_matrices(one), as_matrices(other), strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-12 * np.abs(mine).max(initial=1.0))


@pytest.mark.parametrize("name", BUILDS)
def test_turned_axes_turn_the_sampler(name):
    along = AffineProcess([VPLinear(), FlowMatching()])
    basis = expm(0.4 * np.array([[0.0, -1.0], [1.0, 0.0]]))
    x = np.random.default_rng(1).standard_normal((4, 2))
    one, other = BUILDS[name](along, TIMES), BUILDS[name](PrincipalAxes(along, basis), TIMES)
    law = random_mixture(2, 3, 2, "full")
    normals = np.random.default_rng(2).standard_normal((one.draws, 4, 2)) if one.draws else None
    # a symmetric root of the noise turns with the axes, and so do normals
    straight = run(
        one, ExactModel(law.affine(basis.T), along), x @ basis, normals=None if normals is None else normals @ basis
    )
    turned = run(other, ExactModel(law, PrincipalAxes(along, basis)), x, normals=normals)
    np.testing.assert_allclose(turned, straight @ basis.T, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_numbers_have_the_multistep_table_of_deis(degree):
    schedule = VPLinear()
    assert matrix_deis(schedule, TIMES, degree=degree).close(deis(schedule, TIMES, degree=degree), 1e-10)


@pytest.mark.parametrize("process", [VPLinear(), AffineProcess([VPLinear(), FlowMatching()])], ids=["one", "axes"])
def test_numbers_turn_no_frame(process):
    one, other = (matrix_deis(process, TIMES, degree=2, frame=frame) for frame in ("turning", "cholesky"))
    assert one.axes == other.axes == np.shape(other.scalars.alpha)[1:]
    assert one.close(other, 1e-10)


@pytest.mark.parametrize("process", [langevin(), turning()], ids=["langevin", "turning"])
@pytest.mark.parametrize("options", [{}, {"degree": 2, "clock": "log t"}], ids=["gddim", "multistep"])
def test_a_point_is_reached_in_any_steps(process, options):
    model = ExactModel(Empirical(np.ones((1, process.axes))), process)
    x = model.sample(3, 0.9, 0)
    found = run(matrix_deis(process, [0.9, 0.4, 0.2], **options), model, x)
    np.testing.assert_allclose(found, reference_flow(model, x, 0.9, 0.2), rtol=1e-10, atol=1e-10)
    end = run(matrix_deis(process, [0.9, 0.2, 0.0], **options), model, x)
    np.testing.assert_allclose(end, np.ones_like(x), rtol=0, atol=1e-13)


def test_higher_degrees_have_higher_order():
    """Ratios of W2 on Gaussian data when steps are halved: 2^(degree + 1), up to terms of one order more."""
    process, law = langevin(), Gaussian([0.5, -1.0], [[1.0, 0.3], [0.3, 0.6]])
    for degree in (0, 2):
        grids = (np.geomspace(0.9, 0.3, n + 1) for n in (8, 16))
        tables = [matrix_deis(process, grid, degree=degree, clock="log t") for grid in grids]
        coarse, fine = (propagate(table, law).wasserstein() for table in tables)
        assert 0.7 < coarse / fine / 2 ** (degree + 1) < 1.3


def test_cholesky_frames_converge_to_the_same_flow_with_larger_errors():
    process = langevin()
    model = ExactModel(Empirical([[-1.0, 0.3], [0.5, -0.2], [1.2, 0.0], [0.1, 0.6]]), process)
    x = model.sample(4, 1.0, 3)
    exact, found = reference_flow(model, x, 1.0, 0.5), {}
    for frame in ("turning", "cholesky"):
        tables = [matrix_deis(process, np.geomspace(1.0, 0.5, n + 1), frame=frame) for n in (8, 16)]
        found[frame] = [np.abs(run(table, model, x) - exact).max() for table in tables]
        assert 1.5 < found[frame][0] / found[frame][1] < 3.5
    assert found["cholesky"][1] > 100 * found["turning"][1]


@pytest.mark.parametrize("name", [name for name in BUILDS if name != "deis in t"])
@pytest.mark.parametrize("process", [langevin(), turning()], ids=["langevin", "turning"])
def test_the_law_that_is_propagated_is_that_of_runs(name, process):
    """A run on Gaussian data is affine in its start and its normals: its columns are the law."""
    dim = process.axes
    table, law = BUILDS[name](process, TIMES), Gaussian(np.arange(dim) / 2, 0.5 * np.eye(dim) + 0.1)
    found, model = propagate(table, law), ExactModel(law, process)
    count = 1 + dim * (1 + table.draws)  # nothing, a unit of x, a unit of a normal on an axis
    x, normals = np.zeros((count, dim)), np.zeros((table.draws, count, dim))
    x[1 : 1 + dim] = np.eye(dim)
    for m in range(table.draws):
        normals[m, 1 + dim * (1 + m) : 1 + dim * (2 + m)] = np.eye(dim)
    ends = run(table, model, x, normals=normals if table.draws else None)
    columns = ends[1:] - ends[0]
    channel = found.channel()
    size = np.abs(columns).max() + np.abs(ends[0]).max()
    np.testing.assert_allclose(channel.offset, ends[0], atol=1e-11 * size)
    np.testing.assert_allclose(channel.gain, columns[:dim].T, atol=1e-11 * size)
    spread = (
        np.zeros((dim, dim)) + channel.noise if np.ndim(channel.noise) == 2 else np.diag(channel.noise * np.ones(dim))
    )
    np.testing.assert_allclose(spread, columns[dim:].T @ columns[dim:], atol=1e-11 * size**2)
    np.testing.assert_allclose(found.target().cov(), model.marginal(table.times[-1]).cov(), rtol=1e-12)


def test_a_force_only_moves_the_points():
    drift, noise, force = -np.eye(2) + 0.3 * np.array([[0, 1], [-1, 0]]), np.diag([1.0, 0.5]), np.array([1.0, -2.0])
    law = random_mixture(2, 3, 1, "full")
    still, pushed = LinearProcess(drift, noise), LinearProcess(drift, noise, force=force)
    table = ddim(pushed, TIMES)
    x = ExactModel(law, still).sample(3, TIMES[0], 1)
    start, end = (pushed.offset(t).value for t in (TIMES[0], TIMES[-1]))
    found = run(table, ExactModel(law, pushed), x + start)
    np.testing.assert_allclose(found, run(ddim(still, TIMES), ExactModel(law, still), x) + end, rtol=1e-12)
    assert np.abs(end).min() > 0.05


def test_a_block_without_data_noise_is_sampled():
    """Positions have the data, velocities start at rest: p_t has a density for t > 0, its limit has none."""
    process = langevin()
    law = Gaussian([0.7, 0.0], [[0.5, 0.0], [0.0, 0.0]])
    errors = [propagate(ddim(process, np.geomspace(1.0, 1e-2, n + 1)), law).wasserstein() for n in (20, 40)]
    assert 1.7 < errors[0] / errors[1] < 2.3
    end = propagate(ddim(process, [*np.geomspace(1.0, 1e-2, 21), 0.0]), law).output
    np.testing.assert_allclose(end.mean()[1], 0.0, atol=1e-12)
    np.testing.assert_allclose(end.cov()[1], 0.0, atol=1e-12)


@pytest.mark.parametrize("prediction", ["noise", "score", "velocity"])
def test_another_prediction_is_the_same_sampler(prediction):
    process = turning()
    table, model = ddim(process, TIMES), ExactModel(random_mixture(3, 3, 1, "full"), process)
    x = model.sample(3, TIMES[0], 1)
    other = to_prediction(table, prediction)
    np.testing.assert_allclose(run(other, model, x), run(table, model, x), rtol=1e-10)
    assert to_prediction(other, "denoiser").close(table, 1e-11)


@pytest.mark.parametrize("prediction", ["noise", "score", "velocity"])
def test_the_law_does_not_depend_on_what_the_model_is_asked(prediction):
    table, law = ddim(turning(), TIMES), Gaussian([0.5, -1.0, 0.2], [[1.0, 0.3, 0.0], [0.3, 0.6, 0.1], [0.0, 0.1, 0.8]])
    one, other = (propagate(t, law).output for t in (table, to_prediction(table, prediction)))
    np.testing.assert_allclose(other.mean(), one.mean(), rtol=1e-11)
    np.testing.assert_allclose(other.cov(), one.cov(), rtol=1e-11)


def test_a_table_written_out_multiplies_matrices_in_their_order():
    """The part of the start is what is left when the model answers nothing."""
    process = turning()
    x = np.random.default_rng(0).standard_normal((2, 3))
    table = matrix_deis(process, TIMES, degree=1)
    np.testing.assert_allclose(run(table, lambda x, t: 0 * x, x), x @ table.unroll().start[-1].T, rtol=1e-12)


def test_a_velocity_that_noise_does_not_reach_says_nothing_of_the_score():
    with pytest.raises(ValueError, match="velocity and denoiser equivalent"):
        to_prediction(ddim(langevin(), TIMES), "velocity")


@pytest.mark.parametrize("ending", [".json", ".npz"])
def test_tables_of_matrices_come_back_from_disk(tmp_path, ending):
    table = gddim(turning(), TIMES)
    save(table, tmp_path / f"table{ending}")
    back = load(tmp_path / f"table{ending}")
    assert back.close(table, 0.0)
    law = Gaussian(np.ones(3), 0.5)
    np.testing.assert_array_equal(propagate(back, law).output.cov(), propagate(table, law).output.cov())


def test_tables_are_joined_and_cut():
    process, law = turning(), Gaussian(np.ones(3), 0.5)
    whole = gddim(process, TIMES)
    joined = compose(gddim(process, TIMES[:3]), gddim(process, TIMES[2:]))
    assert joined.close(whole, 1e-13)
    tail = truncate(whole, 2)
    assert tail.close(gddim(process, TIMES[2:]), 1e-13)
    np.testing.assert_allclose(propagate(joined, law).output.cov(), propagate(whole, law).output.cov(), rtol=1e-12)


ALONG, BASIS = AffineProcess([VPLinear(), FlowMatching()]), expm(0.4 * np.array([[0.0, -1.0], [1.0, 0.0]]))
ALIKE = {
    "numbers": VPLinear(),
    "numbers, turned": PrincipalAxes(AffineProcess(VPLinear()), BASIS),
    "two axes": AffineProcess([VPLinear(), VPLinear()]),
    "two axes, turned": PrincipalAxes(AffineProcess([VPLinear(), VPLinear()]), BASIS),
}


@pytest.mark.parametrize("one", ALIKE)
@pytest.mark.parametrize("other", ALIKE)
def test_one_sampler_is_the_same_in_every_storage(one, other):
    mine, theirs = (gddim(ALIKE[name], TIMES) for name in (one, other))
    assert mine.close(theirs, 1e-13)
    # half of one and half of the other is the whole of either
    joined = compose(gddim(ALIKE[one], TIMES[:3]), gddim(ALIKE[other], TIMES[2:]))
    assert joined.close(mine, 1e-13)
    law = Gaussian(np.ones(2), [[1.0, 0.4], [0.4, 0.7]])
    np.testing.assert_allclose(propagate(joined, law).output.cov(), propagate(mine, law).output.cov(), rtol=1e-12)
    np.testing.assert_allclose(propagate(joined, law).target().cov(), propagate(mine, law).target().cov(), rtol=1e-12)
    for prediction in ("noise", "score", "velocity"):
        assert to_prediction(mine, prediction).close(to_prediction(theirs, prediction), 1e-12)


def test_samplers_that_differ_on_an_axis_or_in_their_number_differ():
    turned, straight = ddim(PrincipalAxes(ALONG, BASIS), TIMES), ddim(ALONG, TIMES)
    for table in (turned, straight):
        assert table.difference(ddim(VPLinear(), TIMES)) > 0.01
        assert ddim(VPLinear(), TIMES).difference(table) == table.difference(ddim(VPLinear(), TIMES))
        assert table.difference(ddim(turning(), TIMES)) == np.inf
    assert turned.difference(straight) > 0.01
    with pytest.raises(ValueError, match="second must act on 2 axes like first, got 3"):
        compose(ddim(langevin(), TIMES[:2]), ddim(turning(), TIMES[1:]))


@pytest.mark.parametrize(("kind", "order"), [("global", 1), ("local", 2)])
def test_orders_are_measured_under_any_process(kind, order):
    law, grids = Gaussian([1.0, 2.0], [[1.0, 0.3], [0.3, 0.5]]), partial(np.geomspace, 0.9, 0.4)
    for process in (langevin(), PrincipalAxes(ALONG, BASIS), ALONG)[: 3 if kind == "global" else 1]:
        found = measure_order(
            partial(ddim, process), law, process, lambda n, grids=grids: grids(n + 1), kind=kind, counts=(12, 24)
        )
        assert abs(found.order - order) < 0.25  # terms of one order more, some 4 / n
    with pytest.raises(ValueError, match="process must be the same on all axes to read a sampler"):
        impulse_response(lambda model, x, normal: model(x, 0.9), langevin())


def test_a_table_is_read_with_all_its_weights():
    text = str(ddim(langevin(), TIMES[:2])).splitlines()[-1]
    weights = ddim(langevin(), TIMES[:2]).unroll().start[-1]
    assert all(f"{number:.5f}".rstrip("0") in text for number in weights.ravel())
    assert str(ddim(LinearProcess(-np.eye(2), np.eye(2)), TIMES[:2])).splitlines()[-1].count("[") <= 2
    assert "[0." in str(ddim(AffineProcess([VPLinear(), FlowMatching()]), TIMES[:2]))
    assert "[" not in str(ddim(AffineProcess([VPLinear(), VPLinear()]), TIMES[:2])).splitlines()[-1]


def test_a_start_without_a_signal_on_one_axis_is_refused_where_it_is_divided_by():
    """Turning leaves a rounding of alpha = 0, which is no signal either."""
    process, grid = PrincipalAxes(ALONG, BASIS), [1.0, 0.6, 0.3]
    builds = [BUILDS[name] for name in ("gddim, noise frozen", "ancestral", "exponential")]
    for build in [*builds, lambda p, t: matrix_deis(p, t, frame="cholesky")]:
        with pytest.raises(ValueError, match="times must start where alpha > 0"):
            build(process, grid)
    law = Gaussian(np.ones(2), 0.5)
    for build in (ddim, BUILDS["gddim"], BUILDS["ddim, eta = 1"], BUILDS["deis in t"], reverse_diffusion, runge_kutta):
        straight, turned = propagate(build(ALONG, grid), law.affine(BASIS.T)), propagate(build(process, grid), law)
        np.testing.assert_allclose(turned.output.cov(), BASIS @ straight.output.cov() @ BASIS.T, atol=1e-11)


def test_a_signal_that_is_lost_twice_over_is_found_again():
    """|F| T = 2000: the gain is 0 at the first two times, and the end is the data."""
    process = LinearProcess(-2e3 * np.array([[1.0, 0.01], [-0.01, 1.0]]), 60.0 * np.eye(2))
    law = Gaussian([1.0, 2.0], [[1.0, 0.4], [0.4, 0.7]])
    assert not process.kernel(0.5).gain.any()
    found = propagate(ddim(process, [1.0, 0.5, *np.geomspace(0.002, 1e-5, 12), 0.0]), law)
    assert found.wasserstein() < 0.2


def test_what_has_no_meaning_with_matrices_is_refused():
    process = turning()
    with pytest.raises(ValueError, match="process must have one alpha and sigma"):
        dpm_solver_pp(process, TIMES)
    with pytest.raises(ValueError, match="eta must be 0 or 1"):
        ddim(process, TIMES, eta=0.5)
    with pytest.raises(ValueError, match="coordinate must be x"):
        to_coordinate(ddim(process, TIMES), "x/alpha")
    with pytest.raises(ValueError, match="process must be an AffineProcess here"):
        ExactModel(Gaussian(np.zeros(3), 1.0), process).v_prediction(np.zeros(3), 0.5)
    with pytest.raises(ValueError, match="process must be an AffineProcess here"):
        flow_map(ExactModel(Gaussian(np.zeros(3), 1.0), process))
    with pytest.raises(ValueError, match="tableau must be of a process with one alpha and sigma"):
        butcher(runge_kutta(process, TIMES[:2]), "x")
    with pytest.raises(ValueError, match="frame"):
        matrix_deis(process, TIMES, frame="symmetric")
    with pytest.raises(ValueError, match="axes like the tableau"):
        propagate(ddim(process, TIMES), Gaussian(np.zeros(2), 1.0))
    with pytest.raises(ValueError, match="noise must reach every direction"):
        ddim(LinearProcess(-np.eye(2), np.array([[1.0], [0.0]])), TIMES)


def test_states_with_matrices_and_diagonals_are_multiplied_in_order():
    """A (diag(v) x) / B is B^-1 A diag(v) x."""
    rec = Recorder("any", turning(), TIMES[:2])
    a, b, v = np.random.default_rng(0).standard_normal((2, 3, 3)) + 2 * np.eye(3), np.eye(3) + 0.1, np.arange(1.0, 4.0)
    state = a[0] * (v * rec.start) / b
    np.testing.assert_allclose(state.terms["state", 0], np.linalg.inv(b) @ a[0] @ np.diag(v), rtol=1e-13)
    assert null_space(b).size == 0
