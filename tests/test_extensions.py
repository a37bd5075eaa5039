"""What is added tomorrow is one new file: a process, a family of samplers, an identity and a protocol, each found by
its package, and met by everything that goes through all of its kind."""

import importlib
import sys
from itertools import pairwise

import numpy as np
import pytest

import refdiff.processes
import refdiff.samplers
import refdiff.validation.audits.protocols as protocol_package
import refdiff.validation.identities as identity_package
from refdiff import AffineProcess, ExactModel
from refdiff.distributions import Gaussian, ring
from refdiff.processes import catalogue
from refdiff.samplers import families, run
from refdiff.testing import assert_sampler
from refdiff.validation import cases, runner
from refdiff.validation.audits.protocols.callables import process_named
from refdiff.validation.audits.protocols.protocol import protocols
from refdiff.validation.identity import REGISTRY

CACHES = (catalogue, families, protocols)


@pytest.fixture
def added(tmp_path, monkeypatch):
    """(package, name, text) -> the package with one more file."""

    def forget():
        for kept in CACHES:
            kept.cache_clear()

    made = []

    def add(package, name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        made.append(f"{package.__name__}.{name}")
        importlib.invalidate_caches()
        forget()

    yield add
    monkeypatch.undo()
    for module in made:
        sys.modules.pop(module, None)
    forget()


PROCESS = """
import numpy as np
from refdiff.processes.affine import AffineProcess
from refdiff.schedules import VPLinear

def returning(theta=1.3, mean=2.0):
    def offset(t):
        left = np.exp(-theta * t)
        return -np.expm1(-theta * t) * mean, theta * left * mean, -(theta**2) * left * mean
    return AffineProcess(VPLinear(2 * theta, 2 * theta), offset)

def slow():
    return VPLinear(0.2, 0.2, T=20.0)

PROCESSES = {"returning": returning, "slow": slow}
"""


def test_a_process_is_one_file(added):
    added(refdiff.processes, "returning_processes", PROCESS)
    process = catalogue()["returning"]()
    model = ExactModel(ring(), process)
    x = model.sample(4, 1.0, 0)
    end = run(families()["dpmpp-2m"](process, np.geomspace(1, 0.01, 40)), model, x)
    assert np.linalg.norm(end - ring().means[:, None], axis=-1).min(axis=0).max() < 1.0  # near a point of the ring
    # one without an offset is a case of every identity about processes
    assert isinstance(cases.processes()["slow"], AffineProcess)
    assert "returning" not in cases.processes()
    assert any(case.name.startswith("slow") for case in cases.process_cases("default", 0))
    assert process_named("slow").T == 20.0
    with pytest.raises(ValueError, match="one schedule without an offset, which 'returning' is not"):
        process_named("returning")


FAMILY = """
from functools import partial
from refdiff.samplers.families import Family
from refdiff.samplers.runge_kutta import Method, runge_kutta

METHOD = Method([[0, 0, 0], [1 / 2, 0, 0], [0, 3 / 4, 0]], [2 / 9, {middle}, {last}])
FAMILIES = (
    Family("fm-ralston3", partial(runge_kutta, method=METHOD), 3, "3n", "Ralston 1962", clock="t", starts_pure=True),
)
"""


@pytest.mark.parametrize("right", [True, False])
def test_a_family_is_one_file(added, right):
    weights = {"middle": "1 / 3", "last": "4 / 9"} if right else {"middle": "4 / 9", "last": "1 / 3"}
    added(refdiff.samplers, "ralston", FAMILY.format(**weights))
    family = families()["fm-ralston3"]
    order = family.measured(Gaussian([0.7], 0.25)).order
    # exchanged weights have b . c = 17 / 36 in place of 1 / 2, which leaves order 1: what is measured is off by less
    assert (abs(order - family.order) < 0.25) == right
    assert family(AffineProcess(refdiff.VPLinear()), np.linspace(0.9, 0.1, 5)).nfe == family.evaluations(4)


IDENTITY = """
import numpy as np
from refdiff.validation.cases import Case
from refdiff.validation.identity import Sides, identity

@identity("Stein of second order for a cubic", topic="Stein", formula="E x^2 f = E f + E f''", covers=["PODA-318"],
          over="once", control="without f''")
def second_order(case, wrong):
    a, b, c = case.rng.standard_normal(3)
    x, w = np.polynomial.hermite_e.hermegauss(8)
    w = w / w.sum()
    f, bend = a * x**3 + b * x**2 + c, 6 * a * x + 2 * b
    return Sides(w @ (x**2 * f), w @ f + (0 if wrong else w @ bend), scale=np.abs([a, b, c]).max())
"""


def test_an_identity_is_one_file(added):
    added(identity_package, "second_stein", IDENTITY)
    try:
        chosen = runner.registry()["Stein of second order for a cubic"]
        assert runner.run(chosen, cases.once("default", 0)).verdict == "ok"
    finally:
        REGISTRY.pop("Stein of second order for a cubic", None)


PROTOCOL = """
import math
from refdiff.validation.audits.protocols.plain import of_times

PROTOCOLS = (
    of_times(
        "snr",
        "f(model, x, times), model(x, alpha^2 / sigma^2)",
        told=lambda process, snr: float(process.time_of_log_snr({log} / 2)),
    ),
)
"""


def euler(model, x, times):
    """Euler's method on the probability flow of VP-linear, with a network of the signal-to-noise ratio."""
    schedule = refdiff.VPLinear()
    for s, t in pairwise(times):
        x = x + (t - s) * model(x, np.exp(2 * schedule.log_snr(s)))
    return x


@pytest.mark.parametrize("right", [True, False])
def test_a_protocol_is_one_file(added, right):
    added(protocol_package, "snr", PROTOCOL.format(log="math.log(snr)" if right else "math.log(2 * snr)"))
    if right:
        assert_sampler(euler, protocol="snr", family="fm-euler", quick=True)
    else:
        with pytest.raises(AssertionError, match="told"):
            assert_sampler(euler, protocol="snr", family="fm-euler", quick=True)
