"""Functions of times, scores, EDM samplers, solvers with a noise schedule: right ones pass, broken ones are named."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from presented import broken, loop

from refdiff.samplers import Tableau, to_prediction
from refdiff.samplers.edm import edm_heun
from refdiff.samplers.families import families
from refdiff.schedules import VPLinear
from refdiff.validation.audits import targets
from refdiff.validation.audits.checks.coefficients import coefficients, told_level
from refdiff.validation.audits.findings import Finding, Verdict
from refdiff.validation.audits.levels import EXPLODING
from refdiff.validation.audits.protocols import callables, edm, log_snr, model_fn, plain, score
from refdiff.validation.audits.protocols.arrays import edge_of
from refdiff.validation.audits.protocols.protocol import Request
from refdiff.validation.audits.subject import Subject

DTYPES = ("float64", "float32")
PLAIN, SCORE, LOG_SNR = (module.PROTOCOLS[0].wrap for module in (plain, score, log_snr))
# a family of each kind of grid from each file of samplers: test_audits_steps reads every one of them
NAMES = list({(f.build.__module__, f.clock, f.ends_clean): name for name, f in sorted(families().items())}.values())


def verdicts(subject: Subject, steps: tuple[int, ...] = (1, 2, 5)) -> list[Finding]:
    from dataclasses import replace

    return list(coefficients(replace(subject, steps=subject.steps or steps), False))


def sampler(family: str, change=lambda table: table):  # type: ignore[no-untyped-def]
    """A family as f(model, x, times, normal)."""

    def mine(model, x, times, normal):  # type: ignore[no-untyped-def]
        return loop(change(families()[family](VPLinear(), times.astype(float))), model, x, normal)

    return mine


@pytest.mark.parametrize("name", NAMES)
def test_families_presented_as_functions_of_times_are_right(name: str) -> None:
    family = families()[name]
    try:
        family(VPLinear(), plain.grid_of(VPLinear(), family, 4))
    except ValueError as error:
        pytest.skip(f"not for this grid: {error}")
    dtype = DTYPES[NAMES.index(name) % 2]
    found = verdicts(PLAIN(sampler(name), Request(family=name, dtype=dtype)), (4,))
    assert [one.verdict for one in found] == [Verdict.OK], found[0].text


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "edm-heun", "ddpm", "lms4", "dpmpp-2m-sde"])
def test_a_weight_off_by_a_hundredth_is_found_at_its_step(name: str) -> None:
    for part in ("states", "outputs"):
        subject = PLAIN(sampler(name, partial(broken, part=part)), Request(family=name))
        found = verdicts(subject, (5,))
        assert [one.verdict for one in found] == [Verdict.WRONG]
        assert "1 of" in found[0].text


def multistep(model, x, times, power=1):  # type: ignore[no-untyped-def]
    """DPM-Solver++(2M) as its paper has it; the ratio of steps upside down with power -1."""
    before = None
    for s, t in pairwise(times.tolist()):
        a, b = VPLinear().coefficients(s), VPLinear().coefficients(t)
        now = model(x, s)
        with np.errstate(divide="ignore"):
            h = np.log(b.alpha / b.sigma) - np.log(a.alpha / a.sigma)
        blend = now
        if before is not None and np.isfinite(h):
            r = (before[1] / h) ** power
            blend = now + (now - before[0]) / (2 * r)
        before = now, h
        x = b.sigma / a.sigma * x - b.alpha * np.expm1(-h) * blend
    return x


def test_a_ratio_of_steps_upside_down_is_found() -> None:
    for power, verdict in ((1, Verdict.OK), (-1, Verdict.WRONG)):
        found = verdicts(PLAIN(partial(multistep, power=power), Request(family="dpmpp-2m")), (5,))
        assert [one.verdict for one in found] == [verdict], found[0].text


@pytest.mark.parametrize("name", ["ddim", "deis-tab2", "edm-heun", "dpmpp-2m", None])
def test_no_two_steps_of_a_grid_are_equal(name: str | None) -> None:
    family, ratio = name and families()[name], lambda t: float(np.exp(-VPLinear().log_snr(t)))
    clocks = {"t": float, "log_snr": VPLinear().log_snr, "rho": ratio, "angle": lambda t: np.arctan(ratio(t))}
    clock = clocks[family.clock if family else "t"]
    steps = np.abs(np.diff([clock(t) for t in plain.grid_of(VPLinear(), family, 6, clean=False).tolist()]))
    assert (np.diff(steps) < 0).all()
    assert 1.5 < steps[0] / steps[-1] < 2  # from 4/3 to 2/3, of which half a step is cut at both ends


def test_a_normal_of_another_size_is_found() -> None:
    subject = PLAIN(sampler("ddpm", partial(broken, part="noise", factor=2.0)), Request(family="ddpm"))
    assert "normal" in verdicts(subject, (5,))[0].text


def test_normals_of_numpy_come_from_outside() -> None:
    table = families()["ddpm"]

    def mine(model, x, times):  # type: ignore[no-untyped-def]
        rng = np.random.default_rng()
        return loop(table(VPLinear(), times), model, x, lambda: rng.standard_normal(x.shape))

    def old(model, x, times):  # type: ignore[no-untyped-def]
        return loop(table(VPLinear(), times), model, x, lambda: np.random.randn(*x.shape))  # noqa: NPY002

    def given(model, x, times, rng):  # type: ignore[no-untyped-def]
        return loop(table(VPLinear(), times), model, x, lambda: rng.normal(0.0, 1.0, x.shape))

    for function in (mine, old, given):
        assert all(f.verdict is Verdict.OK for f in verdicts(PLAIN(function, Request(family="ddpm"))))


def test_another_process_is_named_by_an_attribute_or_a_claim() -> None:
    def mine(model, x, times):  # type: ignore[no-untyped-def]
        for s, t in pairwise(times):
            x = x + (t - s) * model(x, s)
        return x

    request = Request(family="ab1-t", claimed={"process": "flow-matching", "prediction_type": "velocity"})
    assert all(f.verdict is Verdict.OK for f in verdicts(PLAIN(mine, request)))
    mine.process, mine.prediction = "flow-matching", "velocity"  # type: ignore[attr-defined]
    assert all(f.verdict is Verdict.OK for f in verdicts(PLAIN(mine, Request(family="ab1-t"))))
    with pytest.raises(ValueError, match="process must be"):
        PLAIN(mine, Request(claimed={"process": "sideways"}))


def test_a_family_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="family must be"):
        PLAIN(sampler("ddim"), Request(family="dream"))


@pytest.mark.parametrize("name", ["model", "times", "halves"])
def test_what_a_protocol_gives_is_nobodys_to_set_and_not_listed(name: str) -> None:
    def mine(model, x, times, half=1.0):  # type: ignore[no-untyped-def]  # noqa: ARG001
        return x

    with pytest.raises(targets.BadTarget, match="no option of mine") as told:
        targets.subject_of(mine, plain.PROTOCOLS[0], Request(options={name: 1.0}))
    assert str(told.value).endswith(": half" if name != "halves" else "did you mean half?")


def test_without_a_family_nothing_is_claimed() -> None:
    assert {f.verdict for f in verdicts(PLAIN(sampler("ddim"), Request()))} == {Verdict.NOT_APPLICABLE}


def test_a_score_sampler_is_read_in_the_score() -> None:
    def mine(answer, x, times, normal, table=lambda t: t):  # type: ignore[no-untyped-def]
        made = to_prediction(families()["euler-maruyama"](VPLinear(), times.astype(float)), "score")
        return loop(table(made), answer, x, normal)

    for dtype in DTYPES:
        subject = SCORE(mine, Request(family="euler-maruyama", dtype=dtype))
        assert all(f.verdict is Verdict.OK for f in verdicts(subject))
    wrong = SCORE(partial(mine, table=broken), Request(family="euler-maruyama"))
    assert all(f.verdict is Verdict.WRONG for f in verdicts(wrong, (5,)))


def test_a_network_that_is_told_the_log_snr_is_known_by_it() -> None:
    def mine(model, x, times, normal, factor=1.0):  # type: ignore[no-untyped-def]
        table = families()["ddim"](VPLinear(), times.astype(float))
        return loop(table, lambda y, t: model(y, factor * VPLinear().log_snr(t)), x, normal)

    for factor, verdict in ((1.0, Verdict.OK), (1.01, Verdict.WRONG)):
        subject = LOG_SNR(mine, Request(family="ddim", options={"factor": factor}))
        assert [f.verdict for f in told_level(subject, True)] == [verdict]
        assert [f.verdict for f in coefficients(subject, True)] == [Verdict.OK]


def test_the_impulse_form_has_its_own_times() -> None:
    times = np.linspace(0.9, 0.0, 6)

    def mine(model, x, normal):  # type: ignore[no-untyped-def]
        return loop(families()["ddim-eta1"](VPLinear(), times), model, x, normal)

    assert [f.verdict for f in verdicts(plain.wrap_impulse(mine, Request(family="ddim-eta1")))] == [Verdict.OK]
    mine.times = times  # type: ignore[attr-defined]
    assert [f.verdict for f in verdicts(plain.wrap_impulse(mine, Request(family="ddim-eta1")))] == [Verdict.OK]
    assert [f.verdict for f in verdicts(plain.wrap_impulse(mine, Request(family="ddim")))] == [Verdict.WRONG]


# ---------------------------------------------------------------------- EDM


def edm_sampler(net, latents, num_steps=18, sigma_min=0.002, sigma_max=80, rho=7, S_churn=0.0, S_min=0.0,
                S_max=float("inf"), S_noise=1.0, randn_like=None, change=lambda table: table):  # type: ignore[no-untyped-def]  # fmt: skip
    """The published sampler, through a table."""
    grid = callables.levels(num_steps, sigma_max, sigma_min, clean=True, rho=rho)
    churn = {"s_churn": S_churn, "s_tmin": S_min, "s_tmax": S_max, "s_noise": S_noise}
    table = change(edm_heun(EXPLODING, grid, **churn))
    return loop(table, net, latents * grid[0], lambda: randn_like(latents))


edm_sampler.arrays = "numpy"


@pytest.mark.parametrize("options", [{}, {"S_churn": 20.0, "S_min": 0.05, "S_max": 50.0, "S_noise": 1.003}])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_edm_sampler_is_read_on_the_grid_of_its_options(options: dict[str, float], dtype: str) -> None:
    assert all(f.verdict is Verdict.OK for f in verdicts(edm.wrap(edm_sampler, Request(options=options, dtype=dtype))))


def test_a_wrong_correction_of_an_edm_sampler_is_found() -> None:
    def mine(net, latents, num_steps=18, sigma_min=0.002, sigma_max=80, rho=7):  # type: ignore[no-untyped-def]
        return edm_sampler(net, latents, num_steps, sigma_min, sigma_max, rho, change=broken)

    assert [f.verdict for f in verdicts(edm.wrap(mine, Request()), (5,))] == [Verdict.WRONG]


# ---------------------------------------------------------------------- a noise schedule object


def ddim(model_fn, x, ns, times, half=1.0):  # type: ignore[no-untyped-def]
    """First-order DPM-Solver as its authors write it."""
    for s, t in pairwise(times):
        h = ns.marginal_lambda(t) - ns.marginal_lambda(s)
        eps = model_fn(x, s)
        x = ns.marginal_alpha(t) / ns.marginal_alpha(s) * x - half * ns.marginal_std(t) * np.expm1(h) * eps
    return x


class Solver:
    """The authors' class: schedule, model, and `sample`."""

    arrays = "numpy"

    def __init__(self, model_fn, noise_schedule):  # type: ignore[no-untyped-def]
        self.model_fn, self.ns = model_fn, noise_schedule

    def sample(self, x, steps=20, skip_type="time_uniform"):  # type: ignore[no-untyped-def]
        if skip_type == "logSNR":
            lam = np.linspace(self.ns.marginal_lambda(np.array(self.ns.T)), self.ns.marginal_lambda(np.array(1e-3)),
                              steps + 1)  # fmt: skip
            return ddim(self.model_fn, x, self.ns, self.ns.inverse_lambda(lam))
        return ddim(self.model_fn, x, self.ns, np.linspace(self.ns.T, 1e-3, steps + 1))


def test_a_solver_with_a_noise_schedule_is_read() -> None:
    ddim.arrays = "numpy"  # type: ignore[attr-defined]
    for function in (ddim, Solver):
        subject = model_fn.wrap(function, Request(family="dpm-solver-1"))
        assert all(f.verdict is Verdict.OK for f in verdicts(subject)), [f.text for f in verdicts(subject)]
    found = verdicts(model_fn.wrap(ddim, Request(family="dpm-solver-1", options={"half": 0.5})), (5,))
    assert found[0].verdict is Verdict.WRONG
    assert "half of it" in found[0].text


def test_a_grid_of_equal_lambdas_is_the_class_own() -> None:
    subject = model_fn.wrap(Solver, Request(family="dpm-solver-1", options={"skip_type": "logSNR"}))
    assert all(f.verdict is Verdict.OK for f in verdicts(subject, (5,))), [f.text for f in verdicts(subject, (5,))]
    with pytest.raises(ValueError, match="skip_type"):
        model_fn.wrap(Solver, Request(options={"skip_type": "sideways"}))


# ---------------------------------------------------------------------- arrays


def test_the_library_of_a_function_is_what_it_says_or_imports() -> None:
    assert edge_of(Solver).name == "numpy"
    assert edge_of(verdicts).name == "numpy"
    assert edge_of(len, "torch").name == "torch"
    with pytest.raises(ValueError, match="arrays must be"):
        edge_of(type("Odd", (), {"arrays": "abacus"}))


def test_torch_and_jax_functions_are_played_in_their_own_numbers() -> None:
    def table(times) -> Tableau:  # type: ignore[no-untyped-def]
        return families()["ddim-eta1"](VPLinear(), np.asarray(times, dtype=float))

    def in_torch(model, x, times):  # type: ignore[no-untyped-def]
        import torch

        assert x.dtype is torch.float32
        return loop(table(times), lambda y, t: model(y, torch.tensor(t)), x, lambda: torch.randn_like(x))

    def in_jax(model, x, times):  # type: ignore[no-untyped-def]
        import jax

        return loop(table(times), model, x, lambda: jax.random.normal(jax.random.key(0), x.shape))

    for function, name in ((in_torch, "torch"), (in_jax, "jax")):
        pytest.importorskip(name)
        function.arrays = name  # type: ignore[attr-defined]
        found = verdicts(PLAIN(function, Request(family="ddim-eta1", dtype="float32")), (5,))
        assert [f.verdict for f in found] == [Verdict.OK], found[0].text


def test_increments_of_a_path_add_up() -> None:
    rng = np.random.default_rng(0)
    path = callables.Path(lambda: rng.standard_normal(5))
    part, whole = path(4.0, 3.0), path(4.0, 1.0)
    rest, inner = path(3.0, 1.0), path(2.0, 1.0)
    np.testing.assert_allclose(np.sqrt(3) * whole, part + np.sqrt(2) * rest)
    np.testing.assert_allclose(np.sqrt(2) * rest, path(3.0, 2.0) + inner)
    other = callables.Path(lambda: rng.standard_normal(200_000))
    middle = [other(2.0, 0.0), other(1.0, 0.0)][1]  # a bridge: unit variance, correlation sqrt(1/2) with the whole
    assert abs(np.var(middle) - 1) < 0.02
    assert abs(np.mean(middle * other(2.0, 0.0)) - np.sqrt(0.5)) < 0.02


def test_options_reach_an_impulse_sampler() -> None:
    def mine(model, x, normal, share=1.0):  # type: ignore[no-untyped-def]
        grid = plain.grid_of(VPLinear(), families()["ddim"], 4)
        return share * loop(families()["ddim"](VPLinear(), grid), model, x, normal)

    for share, verdict in ((1.0, Verdict.OK), (0.9, Verdict.WRONG)):
        subject = plain.wrap_impulse(mine, Request(family="ddim", options={"share": share}))
        assert [one.verdict for one in verdicts(subject)] == [verdict]
        assert dict(subject.options) == {"share": share}


def test_a_reversed_interval_of_a_brownian_path_has_the_other_sign() -> None:
    rng = np.random.default_rng(1)
    path = callables.Path(lambda: rng.standard_normal(3))
    there = path(4.0, 2.0)
    assert np.array_equal(path(2.0, 4.0), -there)
    # increments add up: W(4) - W(1) = W(4) - W(2) + W(2) - W(1), each divided by the root of its length
    np.testing.assert_allclose(3**0.5 * path(4.0, 1.0), 2**0.5 * there + path(2.0, 1.0), rtol=1e-12)


@pytest.mark.parametrize("style", ["randn", "randn of a size", "normal", "normal of a size", "randn_like"])
def test_normals_of_torch_have_the_shape_mean_and_deviation_that_are_asked_for(style: str) -> None:
    torch = pytest.importorskip("torch")

    def draw() -> None:
        zeros = torch.zeros(6, 1, 1)
        found = {
            "randn": lambda: torch.randn(6, 1, 1),
            "randn of a size": lambda: torch.randn((6, 1, 1)),
            "normal": lambda: (torch.normal(zeros + 1, 0.5 * torch.ones(6, 1, 1)) - 1) * 2,
            "normal of a size": lambda: (torch.normal(1.0, 0.5, size=(6, 1, 1)) - 1) * 2,
            "randn_like": lambda: torch.randn_like(zeros),
        }[style]()
        assert found.shape == (6, 1, 1)
        np.testing.assert_allclose(found.numpy().ravel(), np.arange(6), atol=1e-6)

    with callables.drawn(draw, lambda: np.arange(6.0)[:, None], edge_of(draw, "torch"), torch.zeros(6, 1)):
        draw()
