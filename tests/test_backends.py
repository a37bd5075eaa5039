"""Which backend is asked for, and by what: the variable, the block of code, the size of the work."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from refdiff import ExactModel, GaussianMixture, VPLinear, backends, compiled, random
from refdiff.kernels.numba import philox
from refdiff.samplers.ddim import ddim
from refdiff.samplers.running import run

LAW = GaussianMixture.isotropic([[-1.0, 0.5], [1.2, 0.0]], [0.09, 0.25])
MODEL = ExactModel(LAW, VPLinear())


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    monkeypatch.delenv("REFDIFF_BACKEND", raising=False)
    monkeypatch.delenv("NUMBA_DISABLE_JIT", raising=False)


def test_auto_unless_a_variable_or_a_block_says_otherwise(monkeypatch):
    assert backends.current() == "auto"
    monkeypatch.setenv("REFDIFF_BACKEND", "")
    assert backends.current() == "auto"
    monkeypatch.setenv("REFDIFF_BACKEND", "numba")
    assert backends.current() == "numba"
    with backends.use("numpy"):
        assert backends.current() == "numpy"
        with backends.use("auto"):
            assert backends.current() == "auto"
        assert backends.current() == "numpy"
    assert backends.current() == "numba"


def test_an_exception_leaves_the_backend_as_it_was():
    with backends.use("numpy"):
        with pytest.raises(RuntimeError, match="inside"), backends.use("numba"):
            raise RuntimeError("inside")
        assert backends.current() == "numpy"
    assert backends.current() == "auto"


def test_a_block_speaks_for_its_own_thread():
    seen = []
    with backends.use("numba"):
        other = threading.Thread(target=lambda: seen.append(backends.current()))
        other.start()
        other.join()
    assert seen == ["auto"]


def test_other_names_are_refused(monkeypatch):
    for name in ("cuda", "", "NUMPY", None, 3):
        with pytest.raises(ValueError, match="name must be"), backends.use(name):
            pass
    monkeypatch.setenv("REFDIFF_BACKEND", "fortran")
    for question in (backends.current, lambda: MODEL.score([0.0, 0.0], 0.5)):
        with pytest.raises(ValueError, match=r"REFDIFF_BACKEND must be .*fortran"):
            question()
    with backends.use("numpy"):
        assert backends.current() == "numpy"


def test_numba_pays_where_the_work_is_a_second_of_numpys(monkeypatch):
    least = int(backends.WORTH) // (2 + backends.EXPONENTIAL)
    assert backends.numba_pays(least, 1, 2)
    assert not backends.numba_pays(least - 1, 1, 2)
    assert backends.numba_pays(1, least, 2)
    assert backends.numba_pays(1, 1, 2, least)
    assert not backends.numba_pays(0, 10**9, 2)
    assert backends.numba_pays(2**40, 2**40, 2**40, 2**40)  # no overflow
    for name in ("numba", "numpy"):
        with backends.use(name):
            assert backends.numba_pays(0, 1, 1) == (name == "numba")
            assert backends.numba_pays(10**9, 10**9, 3) == (name == "numba")
    # where nothing is compiled, auto means NumPy
    for value, pays in (("", True), ("0", True), ("1", False)):
        monkeypatch.setenv("NUMBA_DISABLE_JIT", value)
        assert backends.numba_pays(10**9, 1, 1) == pays
        with backends.use("numba"):
            assert backends.numba_pays(1, 1, 1)


@pytest.fixture
def kernels(monkeypatch):
    """The names of the kernels that are asked."""
    found, blocks = [], compiled.blocks

    def note(kernel, *arguments, **options):
        found.append(kernel.__name__)
        return blocks(kernel, *arguments, **options)

    for module in (compiled, philox):
        monkeypatch.setattr(module, "blocks", note)
    return found


TABLEAU = ddim(VPLinear(), [0.9, 0.5, 0.1], eta=1.0)
X = np.zeros((2, 2))
QUESTIONS = {
    "velocity": ("predict", lambda: MODEL.velocity(X, 0.5)),
    "score": ("predict", lambda: LAW.score(X)),
    "log density": ("predict", lambda: MODEL.log_density(X, 0.5)),
    "normals": ("fill_normals", lambda: random.normals(0, 3, 0, 2)),
    "run": ("run", lambda: run(TABLEAU, MODEL, X, 3)),
}


@pytest.mark.parametrize("asked", QUESTIONS)
def test_the_backend_decides_who_answers(asked, kernels, monkeypatch):
    kernel, question = QUESTIONS[asked]
    for backend in ("numpy", "auto", "numba"):
        with backends.use(backend):
            question()
        assert kernels == ([kernel] if backend == "numba" else [])
    kernels.clear()
    monkeypatch.setenv("REFDIFF_BACKEND", "numba")
    question()
    assert kernels == [kernel]
    # where there is work for a second auto asks kernels too; a table's normals alone are no such work
    kernels.clear()
    monkeypatch.delenv("REFDIFF_BACKEND")
    monkeypatch.setattr(backends, "WORTH", 1.0)
    question()
    assert kernels == [kernel] * (asked != "normals")


INTERPRETED = """
import numpy as np
from refdiff import Empirical, ExactModel, GaussianMixture, VPLinear, backends, random
from refdiff.kernels.numba import philox
from refdiff.samplers.ddim import ddim
from refdiff.samplers.running import run

backends.WORTH = 0.0
assert not backends.numba_pays(10**9, 10**9, 10**9)
tableau = ddim(VPLinear(), [0.9, 0.5, 0.1], eta=1.0)
rng = np.random.default_rng(0)
means = rng.standard_normal((3, 2))
laws = [
    GaussianMixture.isotropic(means, [0.1, 0.2, 0.3]),
    GaussianMixture.diagonal(means, [0.1, 0.2]),
    GaussianMixture.shared(means, [[0.5, 0.2], [0.2, 0.3]]),
    GaussianMixture.full(means, [[[0.5, 0.2], [0.2, 0.3]]] * 3),
    Empirical(means),
]
for law in laws:
    model, x = ExactModel(law, VPLinear()), rng.standard_normal((3, 2))
    answers = []
    for name in ("numpy", "auto", "numba"):
        with backends.use(name):
            answers.append(
                (model.denoiser(x, 0.4), model.velocity(x, 0.4), model.log_density(x, 0.4),
                 random.normals(3, 4, 1, 3), run(tableau, model, x, 5))
            )
    for plain, auto, kernel in zip(*answers):
        assert np.array_equal(plain, auto)
        np.testing.assert_allclose(kernel, plain, rtol=1e-12, atol=1e-13)
    assert not all(np.array_equal(plain, kernel) for plain, _, kernel in zip(*answers))
print("agreed")
"""


def test_without_numbas_compiler_auto_is_numpy_and_kernels_run_as_python():
    variables = {**os.environ, "NUMBA_DISABLE_JIT": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", INTERPRETED], env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "agreed\n"
    assert done.stderr == ""


LAZY = """
import sys
import refdiff
from refdiff import ExactModel, GaussianMixture, VPLinear, backends
model = ExactModel(GaussianMixture.isotropic([[0.0]], 1.0), VPLinear())
model.score([0.3], 0.5)
with backends.use("numpy"):
    model.score([0.3], 0.5)
print([name for name in ("numba", "llvmlite") if name in sys.modules])
"""


def test_numba_is_imported_only_when_it_is_used():
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
