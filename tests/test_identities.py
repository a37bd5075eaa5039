"""Every registered identity holds and rejects its negative control; the machinery itself cannot be fooled."""

from dataclasses import replace

import numpy as np
import pytest

from refdiff.validation.cases import KINDS, LEVELS, Case
from refdiff.validation.identity import REGISTRY, REJECTION, ROUNDING, Identity, Sides, identity
from refdiff.validation.numeric import (
    derivative,
    divergence,
    extrapolate,
    hermite,
    integral,
    jacobian,
    laplacian,
    lattice,
    legendre,
    product_rule,
    products_after,
    runge_kutta,
    second_derivative,
)
from refdiff.validation.runner import registry, run

NAMES = sorted(registry())


@pytest.fixture(scope="module")
def quick():
    return {over: list(build("quick", 0)) for over, build in KINDS.items()}


@pytest.mark.parametrize("name", NAMES)
def test_identity_holds_and_rejects_its_control(name, quick):
    chosen = registry()[name]
    # level quick tries the control until a case rejects it, and halves `most`
    outcome = run(replace(chosen, most=chosen.most and 2 * chosen.most), quick[chosen.over], "quick")
    assert not outcome.raised, outcome.raised
    assert outcome.cases > 0, "no case of the quick level applies"
    assert outcome.error <= chosen.tolerance, f"{outcome.error:.3g} in {outcome.worst}"
    assert outcome.control >= REJECTION, (
        f"the control misses by only {outcome.control:.3g} tolerances: {chosen.control}"
    )
    assert np.isfinite(outcome.control), "a control that is not a number proves nothing"
    assert outcome.verdict == "ok"


def test_every_identity_is_described():
    for found in registry().values():
        assert found.over in KINDS, found.name
        assert found.formula, found.name
        assert found.control, found.name
        assert found.topic, found.name
        assert found.check.__doc__, found.name
        assert found.tolerance > 0, found.name


# ---------------------------------------------------------------------- Sides


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_side_that_is_not_finite_is_infinitely_wrong(bad):
    assert Sides([1.0, bad], [1.0, 2.0]).error() == np.inf
    assert Sides([1.0, 2.0], [1.0, bad]).error() == np.inf
    assert Sides([1.0, bad], [1.0, bad]).error() == np.inf


def test_nothing_compared_is_not_a_pass():
    assert Sides([], []).error() == np.inf
    assert Sides(np.zeros((0, 3)), np.zeros((0, 3))).error() == np.inf


def test_sides_of_shapes_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match="broadcast"):
        Sides(np.zeros(3), np.zeros(2)).error()


def test_equal_zeros_are_equal_and_a_zero_scale_forgives_nothing():
    assert Sides([0.0], [0.0]).error() == 0
    assert Sides([0.0], [0.0], scale=0.0).error() == 0
    assert Sides([1e-300], [0.0], scale=0.0).error() == np.inf


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0])
def test_a_scale_that_is_no_size_is_infinitely_wrong(scale):
    assert Sides([1.0], [2.0], scale=scale).error() == np.inf


def test_errors_are_relative_to_the_largest_entry_or_the_scale():
    assert Sides([1.0, 4.0], [1.0, 2.0]).error() == 0.5
    assert Sides([1.0, 4.0], [1.0, 2.0], scale=8.0).error() == 0.25
    assert Sides([1.0, 4.0], [2.0, 4.0], scale=[1.0, 100.0]).error() == 1.0


def test_complex_sides_are_not_cut_to_their_real_part():
    with pytest.raises((TypeError, ValueError, np.exceptions.ComplexWarning)):
        Sides([1.0 + 1.0j], [1.0]).error()


# ---------------------------------------------------------------------- Identity and runner


def made(check, **changes):
    parts = {
        "name": "made",
        "topic": "t",
        "formula": "f",
        "covers": (),
        "refutes": (),
        "over": "once",
        "evidence": ROUNDING,
        "tolerance": 1e-12,
        "control": "c",
        "needs": lambda _: True,
        "most": None,
        "check": check,
    }
    return Identity(**{**parts, **changes})


CASES = [Case("one", 0), Case("two", 1)]


def test_the_worst_of_several_sides_counts():
    assert made(lambda c, w: [Sides([1.0], [1.0]), Sides([2.0], [1.0])]).error(CASES[0]) == 0.5


def test_a_costly_check_runs_on_some_of_its_cases_and_on_all_when_thorough():
    seen = []

    def check(case, wrong):
        seen.append(case.name)
        return Sides(1.0, 2.0 if wrong else 1.0)

    cases = [Case(f"case {i}", i) for i in range(10)]
    one = made(check, most=3, needs=lambda case: case.name != "case 0")
    assert run(one, cases).cases == 3
    assert list(dict.fromkeys(seen)) == ["case 1", "case 4", "case 7"]
    assert run(one, cases, "thorough").cases == 9
    assert run(one, cases[:3]).cases == 2
    assert run(one, cases, "quick").cases == 2


def test_a_check_without_sides_does_not_pass():
    assert not run(made(lambda c, w: []), CASES).passed


def test_an_identity_that_fails_on_one_case_fails_and_names_it():
    outcome = run(made(lambda c, w: Sides([1.0], [2.0 if c.seed or w else 1.0])), CASES)
    assert outcome.verdict == "FAILED"
    assert outcome.worst == "two"


def test_nan_fails_even_after_a_large_error_and_before_a_small_one():
    for order in (CASES, CASES[::-1]):
        outcome = run(made(lambda c, w: Sides([np.nan if c.seed else 1.0], [1.0])), order)
        assert outcome.verdict == "FAILED"


def test_a_control_that_is_not_rejected_is_blind():
    outcome = run(made(lambda c, w: Sides([1.0], [1.0 + (1e-11 if w else 0)])), CASES)
    assert outcome.verdict == "BLIND"
    assert not outcome.passed


def test_an_exception_is_a_failure_that_names_its_case():
    def broken(case, _):
        raise RuntimeError(f"no {case.name}")

    outcome = run(made(broken), CASES)
    assert outcome.verdict == "FAILED"
    assert "no one" in outcome.raised


def test_an_identity_that_meets_no_case_is_not_applicable():
    outcome = run(made(lambda c, w: Sides([1.0], [1.0]), needs=lambda _: False), CASES)
    assert (outcome.verdict, outcome.cases) == ("n/a", 0)


def test_names_are_unique():
    taken = next(iter(registry()))
    with pytest.raises(ValueError, match="name must be unique"):
        identity(taken, topic="t", formula="f", covers=[], control="c")(lambda c, w: Sides([1.0], [1.0]))
    assert REGISTRY is registry()


@pytest.mark.parametrize("over", KINDS)
@pytest.mark.parametrize("level", LEVELS)
def test_cases_are_named_once_and_repeat_with_their_seed(over, level):
    cases, again = list(KINDS[over](level, 0)), list(KINDS[over](level, 0))
    assert len({(case.name, case.seed) for case in cases}) == len(cases) > 0
    for one, other in zip(cases[:5], again[:5], strict=True):
        np.testing.assert_array_equal(one.rng.random(3), other.rng.random(3))


# ---------------------------------------------------------------------- numerical routes


def test_stencils_are_exact_on_polynomials_of_their_degree():
    np.testing.assert_allclose(derivative(lambda t: t**8, 1.0, 0.1), 8.0, rtol=1e-12)
    np.testing.assert_allclose(second_derivative(lambda t: t**9, 1.0, 0.1), 72.0, rtol=1e-11)
    x = np.array([[0.3, -0.2], [1.0, 2.0]])
    np.testing.assert_allclose(
        jacobian(lambda z: np.stack([z[:, 0] * z[:, 1], z[:, 1] ** 3], axis=1), x, 0.1)[1],
        [[2.0, 1.0], [0.0, 12.0]],
        atol=1e-11,
    )
    np.testing.assert_allclose(divergence(lambda z: z**2, x, 0.1), 2 * x.sum(axis=1), rtol=1e-11)
    np.testing.assert_allclose(laplacian(lambda z: (z**2).sum(axis=1), x, 0.1), 4.0, rtol=1e-11)


def test_quadrature_nodes_are_exact_on_polynomials_and_extrapolation_on_its_expansion():
    nodes, weights = hermite(10)
    np.testing.assert_allclose([weights @ nodes**k for k in (0, 1, 2, 4, 6)], [1, 0, 1, 3, 15], atol=1e-11)
    nodes, weights = legendre(10)
    np.testing.assert_allclose(weights @ nodes**7, 1 / 8, rtol=1e-13)
    values = [np.array(3.0 + 2 * h - h**2 + 5 * h**3) for h in (0.4, 0.2, 0.1, 0.05)]
    np.testing.assert_allclose(extrapolate(values), 3.0, rtol=1e-13)


def test_grids_and_rules_run_along_every_axis():
    points = lattice(np.arange(2.0), np.arange(3.0))
    np.testing.assert_array_equal(points, [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]])
    nodes, weights = product_rule(hermite(3), 2)
    np.testing.assert_allclose([weights @ (nodes**2).prod(axis=1), weights @ nodes[:, 0] ** 4], [1, 3], rtol=1e-13)


def test_what_comes_after_is_multiplied_and_the_last_one_stays():
    np.testing.assert_array_equal(products_after(np.array([2.0, 3.0, 5.0])), [15, 5, 1])


def test_an_integral_has_its_limits_and_a_runge_kutta_step_its_order():
    found = integral(lambda t: np.stack([t**3, np.exp(t)], axis=1), 1.0, 3.0, 20)
    np.testing.assert_allclose(found, [20, np.exp(3) - np.e], rtol=1e-13)
    # exact for x = 1 + t^4 - 1, whose rate 4 t^3 the weights (1, 4, 1) / 6 integrate; not for a rate t^4
    np.testing.assert_allclose(runge_kutta(lambda x, t: 4 * t**3 + 0 * x, np.ones(1), 1.0, 1.0), [16], rtol=1e-14)
    errors = [runge_kutta(lambda x, t: x * t, np.ones(1), 0.0, h)[0] - np.exp(h**2 / 2) for h in (0.2, 0.1)]
    assert errors[0] / errors[1] > 2**4.8
