"""Tables of betas against cumulative products and the DDPM posterior in high precision."""

import mpmath as mp
import numpy as np
import plain
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import BetaTable, Channel, beta_table, testing

TABLES = testing.beta_tables(20)
NAMED = sorted(beta_table.TABLES)


def products(table):
    """1 - beta_i multiplied up in 60 digits: alpha_bar_0..alpha_bar_N."""
    found = [mp.mpf(1)]
    for beta in table.betas:
        found.append(found[-1] * (1 - mp.mpf(float(beta))))
    return found


@given(TABLES)
def test_alpha_and_sigma_at_the_indices_are_those_of_the_product(table):
    with mp.workdps(60):
        bars = products(table)
        alpha, sigma = [float(mp.sqrt(b)) for b in bars], [float(mp.sqrt(1 - b)) for b in bars]
    t = np.arange(table.steps + 1.0)
    total = -2 * np.log(np.maximum(alpha, 1e-300))
    rtol = 4 * plain.EPS * (1 + total.max() + table.steps)  # N roundings of a sum, of size B
    np.testing.assert_allclose(table.alpha(t), alpha, rtol=rtol)
    np.testing.assert_allclose(table.sigma(t), sigma, rtol=rtol)
    np.testing.assert_allclose(table.alpha_bar, np.square(alpha[1:]), rtol=rtol)


@given(TABLES)
def test_posterior_coefficients_are_ddpms_in_high_precision(table):
    found = table.posterior()
    with mp.workdps(60):
        bars = products(table)
        for i, beta in enumerate(map(mp.mpf, map(float, table.betas))):
            before, after = bars[i], bars[i + 1]
            expected = (
                mp.sqrt(before) * beta / (1 - after),
                mp.sqrt(1 - beta) * (1 - before) / (1 - after),
                beta * (1 - before) / (1 - after),
            )
            for got, want in zip(found, expected, strict=True):
                rtol = plain.EPS * 16 * (1 + table.steps + table.steps * 5)
                assert abs(got[i] - float(want)) <= rtol * float(want)


@given(testing.beta_tables(10, zero_terminal=False), st.data())
def test_the_posterior_of_a_step_is_bayes_rule_of_two_channels(table, data):
    i = data.draw(st.integers(1, table.steps))
    x0, xt = 0.7, data.draw(st.floats(-2, 2))
    alpha, sigma, beta = table.alpha(i - 1.0), table.sigma(i - 1.0), table.betas[i - 1]
    of_x0, of_xt, variance = (part[i - 1] for part in table.posterior())
    if i == 1:
        np.testing.assert_allclose([of_x0, of_xt, variance], [1, 0, 0], atol=1e-13)
        return
    prior = Channel(alpha, 0.0, sigma**2).at([x0])
    posterior = Channel(np.sqrt(1 - beta), 0.0, beta).posterior(prior, [xt])
    np.testing.assert_allclose(of_x0 * x0 + of_xt * xt, posterior.mean()[0], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(variance, posterior.cov()[0, 0], rtol=1e-11)


@given(TABLES)
def test_posterior_mean_of_the_noiseless_point_stays_on_the_path(table):
    # x_i = alpha_i x_0 must go to x_{i-1} = alpha_{i-1} x_0
    post, alpha = table.posterior(), table.alpha(np.arange(table.steps + 1.0))
    np.testing.assert_allclose(post.of_x0 + post.of_xt * alpha[1:], alpha[:-1], rtol=1e-11)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_named_tables_of_any_length_noise_more_and_more(name, steps):
    table = beta_table.TABLES[name](steps)
    assert table.steps == steps
    assert (np.diff(table.alpha_bar) < 0).all()
    assert 0 < table.alpha_bar[0] < 1


def test_ddpm_and_stable_diffusion_tables_have_their_published_ends():
    # products of the published betas with plain floats: eight digits survive a thousand factors
    linear = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(beta_table.linear().alpha_bar, linear, rtol=1e-11)
    np.testing.assert_allclose(linear[-1], 4.0358e-5, rtol=1e-4)
    scaled = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    np.testing.assert_allclose(beta_table.scaled_linear().alpha_bar, scaled, rtol=1e-11)
    cosine = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1 - cosine[1:] / cosine[:-1], 0.999)
    np.testing.assert_allclose(beta_table.squared_cosine().betas, betas, rtol=1e-9)
    np.testing.assert_allclose(beta_table.su().betas[[0, -1]], [0.02 / 1000, 0.02], rtol=1e-15)


@given(testing.beta_tables(20, zero_terminal=False))
def test_from_alpha_bar_is_the_way_back(table):
    again = beta_table.from_alpha_bar(table.alpha_bar)
    # beta is a difference of neighbouring products
    np.testing.assert_allclose(again.betas, table.betas, rtol=0, atol=64 * table.steps * plain.EPS)


@given(testing.beta_tables(20, zero_terminal=False).filter(lambda t: t.steps > 1))
def test_zero_terminal_snr_shifts_and_scales_the_root_of_alpha_bar(table):
    root = np.sqrt(table.alpha_bar)
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    found = table.zero_terminal_snr()
    assert found.alpha(found.T) == 0
    np.testing.assert_allclose(np.sqrt(found.alpha_bar), expected, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(found.betas[0], table.betas[0], rtol=1e-13)


def test_a_table_of_one_step_cannot_end_in_zero_snr():
    with pytest.raises(ValueError, match="betas must have at least two steps"):
        BetaTable([0.4]).zero_terminal_snr()


@given(TABLES, st.floats(0, 1))
def test_between_indices_the_log_signal_is_linear(table, fraction):
    i = int(fraction * (table.steps - 1))
    ends, middle = np.log(table.alpha([float(i), i + 1.0])) if table.betas[i] < 1 else (0, 0), table.alpha(i + 0.25)
    if table.betas[i] < 1:
        np.testing.assert_allclose(np.log(middle), 0.75 * ends[0] + 0.25 * ends[1], rtol=1e-12, atol=1e-14)
    else:
        assert middle == 0


def test_betas_are_copied_so_that_the_table_cannot_change():
    betas = np.array([0.1, 0.2])
    table = BetaTable(betas)
    betas[0] = 0.9
    assert table.betas[0] == 0.1


def test_sigmoid_betas_follow_the_logistic_function():
    u = np.linspace(-6, 6, 1000)
    np.testing.assert_allclose(beta_table.sigmoid().betas, 1e-4 + (0.02 - 1e-4) / (1 + np.exp(-u)), rtol=1e-13)
    found = beta_table.sigmoid(3, 0.1, 0.5, 2.0).betas
    np.testing.assert_allclose(found, 0.1 + 0.4 / (1 + np.exp([2.0, 0.0, -2.0])), rtol=1e-14)
    np.testing.assert_allclose(beta_table.sigmoid(3, 0.1, 0.5, 0.0).betas, 0.3, rtol=1e-14)


@pytest.mark.parametrize(
    ("betas", "allowed"),
    [
        ([0.1, 1.0], True),
        ([0.1, 0.0], True),
        ([0.1, 1.1], False),
        ([0.1, -0.1], False),
        ([1.0, 0.1], False),
        ([0.0, 0.1], False),
        ([1.0], True),
        ([], False),
    ],
)
def test_betas_lie_between_none_and_all_of_the_noise(betas, allowed):
    if allowed:
        np.testing.assert_array_equal(BetaTable(betas).betas, betas)
    else:
        with pytest.raises(ValueError, match="betas must"):
            BetaTable(betas)


@pytest.mark.parametrize(
    ("alpha_bar", "allowed"),
    [
        ([0.5, 0.0], True),
        ([0.5, 0.5], True),
        ([0.5, 0.6], False),
        ([0.5, -0.1], False),
        ([1.0, 0.5], False),
        ([0.5, 0.0, 0.0], False),
        ([], False),
    ],
)
def test_products_fall_from_below_one_and_vanish_only_at_the_end(alpha_bar, allowed):
    if allowed:
        np.testing.assert_allclose(beta_table.from_alpha_bar(alpha_bar).alpha_bar, alpha_bar, rtol=1e-15)
    else:
        with pytest.raises(ValueError, match="alpha_bar"):
            beta_table.from_alpha_bar(alpha_bar)


@pytest.mark.parametrize("make", [beta_table.linear, beta_table.scaled_linear, beta_table.sigmoid])
@pytest.mark.parametrize(
    ("start", "end", "name"),
    [(0.0, 0.1, "beta_start"), (1.1, 0.1, "beta_start"), (0.1, 0.0, "beta_end"), (0.1, 1.1, "beta_end")],
)
def test_the_ends_of_a_table_are_betas(make, start, end, name):
    with pytest.raises(ValueError, match=rf"^{name} must lie in \(0, 1"):
        make(10, start, end)
