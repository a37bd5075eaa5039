"""Where the claimed method is exact the foreign sampler must be, whatever its coordinate and number type."""

from dataclasses import replace

import numpy as np
import pytest
from audit_tables import VE, VP, of_family, subject, with_weight

from refdiff import Gaussian
from refdiff.samplers.propagation import propagate
from refdiff.validation.audits.checks.exactness import exactness, summary
from refdiff.validation.audits.checks.laws import law
from refdiff.validation.audits.findings import Verdict, worst
from refdiff.validation.audits.reading import read
from refdiff.validation.audits.rows import claimed


def laws(name, process=VP, quick=True, **options):
    return {f.place.partition(", ")[2]: f for f in exactness(subject(name, process, **options), quick)}


@pytest.mark.parametrize(("coordinate", "dtype"), [("x", np.float32), ("x/alpha", np.float64)])
@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("ddim", ["a point mass"]),
        ("dpmpp-3m", ["a point mass"]),
        ("unipc", ["a point mass"]),
        ("ddpm", ["a point mass"]),
        ("ddpm-beta", ["N(0, 1)"]),
        ("lms4", ["a point mass"]),
        ("fm-euler", ["N(0, 1)"]),
        ("edm-heun", ["a point mass"]),
        ("euler-maruyama", [""]),
    ],
)
def test_the_laws_on_which_a_method_is_exact_are_found(name, exact, coordinate, dtype):
    found = laws(name, coordinate=coordinate, dtype=dtype)
    assert list(found) == exact
    assert worst(found.values()) in (Verdict.OK, Verdict.NOT_APPLICABLE)


@pytest.mark.parametrize("name", ["ddim", "edm-heun", "dpmpp-2m", "unipc", "ddim-eta1", "dpmpp-sde", "sa-solver"])
@pytest.mark.parametrize("process", [VP, VE], ids=["VP", "VE"])
def test_the_output_for_gaussian_data_is_that_of_propagation(name, process):
    table = of_family(name, process, steps=6).claim.table()
    found = propagate(table, Gaussian([0.7], 0.25))
    rows = claimed(of_family(name, process, steps=6, prediction="v_prediction").claim)
    output = rows.output(0.7, 0.25)
    channel = found.channel()
    np.testing.assert_allclose(output.gain, np.ravel(channel.gain)[0], rtol=1e-10)
    np.testing.assert_allclose(output.offset, channel.offset[0], rtol=1e-10)
    np.testing.assert_allclose(output.noise @ output.noise, np.ravel(channel.noise)[0], rtol=1e-10, atol=1e-20)
    if table.stochastic:
        law = found.law()
        size = summary(rows, 0.7, 0.25)
        np.testing.assert_allclose(size[0] / np.sqrt(size[1]), law.mean()[0] / np.sqrt(law.cov()[0, 0]), rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "ddpm"])
def test_a_wrong_weight_spoils_exactness(name, dtype):
    def changed(table):
        return with_weight(table, "outputs", table.stages - 1, 0, lambda w: 1.01 * w)

    found = laws(name, mutate=changed, dtype=dtype)["a point mass"]
    assert found.verdict is Verdict.WRONG
    assert "not exact on a point mass" in found.text


def test_noise_left_out_is_seen_in_the_variance():
    found = laws("ddpm", mutate=lambda table: with_weight(table, "noise", 3, 0, lambda w: 0 * w))["a point mass"]
    assert found.verdict is Verdict.WRONG
    assert "its variance" in found.text


def test_a_rounding_in_every_term_stays_within_the_bounds():
    found = read(subject("dpmpp-2m", dtype=np.float32), 5)

    def numbers(rows):
        return summary(rows, 0.7, 0.25)

    off = np.abs(numbers(found.theirs) - numbers(found.mine))
    assert (off <= found.allowed(numbers)).all()
    assert (found.allowed(numbers) < 1e-3).all()


def test_a_deterministic_method_that_adds_noise_is_rejected():
    right = subject("ddim")

    def build(steps):
        sampler = right.build(steps)
        return replace(sampler, play=lambda model, x, normal: sampler.play(model, x, normal) + 0.25 * normal())

    for check in (exactness, law):
        found = [f for f in check(replace(right, build=build), True) if f.verdict is not Verdict.NOT_APPLICABLE]
        assert found
        assert all(f.verdict is Verdict.WRONG and "noise" in f.text for f in found)
