r"""Elementary functions of kernels against 40 digits, at their special values, and in the code LLVM makes of them."""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import mpmath as mp
import numba
import numpy as np
import pytest

from refdiff.kernels.numba import vector_math as vm
from refdiff.kernels.numba.compiling import FAST, wide_vectors

KINDS = [np.float64, np.float32]
NAMES = ["exp", "exp_nonpositive", "exp2_nonpositive", "log", "sincos_turns"]
POINTS = 500 if numba.config.DISABLE_JIT else 2500
jitted = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="looks at compiled code")
EXACT: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "exp": lambda x: (mp.exp(x),),
    "exp_nonpositive": lambda x: (mp.exp(x),),
    "exp2_nonpositive": lambda x: (mp.mpf(2) ** x,),
    "log": lambda x: (mp.log(x),),
    "sincos_turns": lambda x: (mp.sinpi(2 * x), mp.cospi(2 * x)),
}


@cache
def loop(name: str, wide: bool = False) -> Any:
    """A compiled loop over an array, with one output or two."""
    function = getattr(vm, name)

    def one(x, out):  # type: ignore[no-untyped-def]
        for i in range(x.size):
            out[i] = function(x[i])

    def two(x, out, other):  # type: ignore[no-untyped-def]
        for i in range(x.size):
            out[i], other[i] = function(x[i])

    def full(x, out):  # type: ignore[no-untyped-def]
        wide_vectors()
        for i in range(x.size):
            out[i] = function(x[i])

    body = two if name.startswith("sincos") else full if wide else one
    return numba.njit(error_model="numpy", fastmath=FAST)(body)


def from_compiled(name: str, x: np.ndarray) -> tuple[np.ndarray, ...]:
    results = tuple(np.empty_like(x) for _ in EXACT[name](mp.mpf(0.5)))
    with np.errstate(all="ignore"):
        loop(name)(x, *results)
    return results


def from_python(name: str, x: np.ndarray) -> tuple[np.ndarray, ...]:
    results = getattr(vm, name)(x)
    return results if isinstance(results, tuple) else (results,)


ROUTES = [from_compiled, from_python]


def arguments(name: str, kind: type, n: int) -> np.ndarray:
    """4 n arguments: the whole range, and closer where the function is hard."""
    rng, wide = np.random.default_rng(20), kind is np.float64
    sign = rng.choice([-1, 1], n)
    tiny = sign * 10 ** rng.uniform(-30, 0, n)
    low, high = (-745.1, 709.78) if wide else (-103.9, 88.72)  # where e^x is a number other than 0
    least = {"exp_nonpositive": low + 36.72 if wide else -87.33, "exp2_nonpositive": -1022.0 if wide else -126.0}
    ends = (-323, 308) if wide else (-44, 38)
    parts: dict[str, list[Any]] = {
        "exp": [(low, high), (-1, 1), (low, low * 0.95), tiny],
        "exp_nonpositive": [(least.get(name, 0), 0), (-1, 0), (-40, 0), -abs(tiny)],
        "exp2_nonpositive": [(least.get(name, 0), 0), (-1, 0), (-40, 0), -abs(tiny)],
        "log": [(0.5, 2), 10 ** rng.uniform(*ends, n), 1 + tiny / 2, 10 ** rng.uniform(ends[0], ends[0] * 0.9, n)],
        "sincos_turns": [(0, 1), (-3, 3), rng.integers(0, 9, n) / 8 + 1e-6 * tiny, tiny],
    }
    x = np.concatenate([rng.uniform(*part, n) if isinstance(part, tuple) else part for part in parts[name]])
    x = x.astype(kind)
    return x[x > 0] if name == "log" else x


def stated(name: str, kind: type) -> float:
    """The larger of the errors stated in the docstring, with and without fused operations."""
    found = re.search(
        r"Error at most ([\d.]+) ulps \(float32: ([\d.]+)\), without fusing ([\d.]+) \(([\d.]+)\)",
        " ".join(getattr(vm, name).__doc__.split()),
    )
    assert found is not None
    numbers = [float(number) for number in found.groups()]
    return max(numbers[0], numbers[2]) if kind is np.float64 else max(numbers[1], numbers[3])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_error_is_what_the_docstring_states(name: str, kind: type) -> None:
    # the docstring's number is the largest of 10^6 arguments; 0.05 is for other arguments than those
    x = arguments(name, kind, POINTS if kind is np.float64 else POINTS // 4)
    answers = [route(name, x) for route in ROUTES]
    with mp.workdps(40):
        for k, true in enumerate(zip(*(EXACT[name](mp.mpf(float(value))) for value in x), strict=True)):
            # the float64 nearest to `true` and what is left of it, both in ulps
            near = np.array([float(value) for value in true])
            ulp = np.spacing(np.abs(near).astype(kind)).astype(np.float64)
            pairs = zip(true, near, ulp, strict=True)
            rest = np.array([float((value - float(n)) / float(u)) for value, n, u in pairs])
            for computed in (answer[k] for answer in answers):
                assert computed.dtype == kind
                ulps = np.abs((computed.astype(np.float64) - near) / ulp - rest)
                assert np.max(ulps) <= stated(name, kind) + 0.05, x[np.argmax(ulps)]


INF, NAN = np.inf, np.nan
SPECIAL: dict[str, list[tuple[float, tuple[float, ...]]]] = {
    "exp": [(INF, (INF,)), (-INF, (0.0,)), (NAN, (NAN,)), (0.0, (1.0,)), (-0.0, (1.0,)), (1e30, (INF,))],
    "exp_nonpositive": [(0.0, (1.0,)), (-0.0, (1.0,)), (-INF, (0.0,)), (-1e30, (0.0,)), (-800.0, (0.0,))],
    "exp2_nonpositive": [(0.0, (1.0,)), (-1.0, (0.5,)), (-126.0, (2.0**-126,)), (-INF, (0.0,)), (-1e30, (0.0,))],
    "log": [(INF, (INF,)), (0.0, (-INF,)), (-0.0, (-INF,)), (-1.0, (NAN,)), (-INF, (NAN,)), (1.0, (0.0,))],
    "sincos_turns": [(0.0, (0.0, 1.0)), (0.25, (1.0, 0.0)), (0.5, (0.0, -1.0)), (0.75, (-1.0, 0.0)), (1.0, (0.0, 1.0))],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_special_values(name: str, kind: type) -> None:
    x = np.array([value for value, _ in SPECIAL[name]], dtype=kind)
    for route in ROUTES:
        for k, computed in enumerate(route(name, x)):
            expected = np.array([entries[k] for _, entries in SPECIAL[name]], dtype=kind)
            np.testing.assert_array_equal(computed, expected)


@pytest.mark.parametrize("route", ROUTES)
def test_exp_goes_through_subnormals_to_zero_and_through_the_largest_number_to_infinity(route: Any) -> None:
    x = np.array([-745.1332191019411, -745.1332191019412, -710.0, 709.782712893384, 709.7827128933841])
    (y,) = route("exp", x)
    # log(2^-1075) is between the first two; log(2^1024) lies above the fourth and below the fifth
    assert y[0] == 5e-324
    assert y[1] == 0
    assert 0 < y[2] < np.finfo(np.float64).tiny
    assert np.finfo(np.float64).max * 0.999 < y[3] < np.inf
    assert y[4] == np.inf
    (y,) = route("exp", np.array([-103.97, -103.98, 88.7228, 88.723], dtype=np.float32))
    assert y[0] == np.float32(1e-45)
    assert y[1] == 0
    assert np.isfinite(y[2])
    assert y[3] == np.inf


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("kind", "least"), [(np.float64, -708.39), (np.float32, -87.33)])
def test_exp_of_what_is_at_most_zero_ends_in_normal_numbers(route: Any, kind: Any, least: float) -> None:
    edge = kind(least)
    (y,) = route("exp_nonpositive", np.array([edge, np.nextafter(edge, kind(-np.inf))], dtype=kind))
    assert np.finfo(kind).tiny <= y[0] < 1.1 * np.finfo(kind).tiny
    assert y[1] == 0


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", KINDS)
def test_logarithm_of_subnormals_and_of_powers_of_two(route: Any, kind: Any) -> None:
    powers = np.arange(-1074, 1024) if kind is np.float64 else np.arange(-149, 128)
    (y,) = route("log", np.ldexp(kind(1), powers).astype(kind))
    exact = powers * np.log(np.longdouble(2)) if kind is np.float32 else powers * np.log(2)
    # the product has one rounding, and ln 2 another: two ulps at most beside the function's own
    np.testing.assert_allclose(y, exact.astype(kind), rtol=2 * np.finfo(kind).eps)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", KINDS)
def test_eighths_of_a_turn(route: Any, kind: Any) -> None:
    # an odd eighth lies half way between two quarters: sine and cosine must agree on which
    eighths = np.arange(-16, 17)
    sine, cosine = route("sincos_turns", (eighths / 8).astype(kind))
    half = 0.5**0.5
    circle = np.array([0, half, 1, half, 0, -half, -1, -half])
    # the nearest number to sqrt(1/2) is within an ulp; zeros and ones are exact
    np.testing.assert_allclose(sine, circle[eighths % 8], rtol=2 * np.finfo(kind).eps, atol=0)
    np.testing.assert_allclose(cosine, circle[(eighths + 2) % 8], rtol=2 * np.finfo(kind).eps, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_and_whole_numbers_are_taken(name: str) -> None:
    x = {"exp_nonpositive": -1, "exp2_nonpositive": -1}.get(name, 1)
    function = getattr(vm, name)
    np.testing.assert_array_equal(function(x), function(float(x)))
    call = numba.njit(lambda y: function(y))
    np.testing.assert_allclose(call(x), function(x), rtol=2 * np.finfo(float).eps, atol=0)


# ---------------------------------------------------------------------- compiled code


def _code(kernel: Any, kind: type) -> str:
    """What LLVM has made of a kernel for arrays of this kind."""
    (signature,) = [one for one in kernel.signatures if one[0].dtype == numba.from_dtype(kind)]
    return str(kernel.inspect_llvm(signature))


def _widths(kernel: Any, kind: type) -> set[int]:
    """How many numbers the sums and products of a compiled kernel have."""
    code = _code(kernel, kind)
    name = "double" if kind is np.float64 else "float"
    return {int(width) for width in re.findall(rf"f(?:mul|add) (?:[a-z]+ )*<(\d+) x {name}>", code)}


@cache
def _machine_vectorises() -> bool:
    @numba.njit(fastmath=FAST)
    def plain(x, out):  # type: ignore[no-untyped-def]
        for i in range(x.size):
            out[i] = x[i] * 2.5 + 1.0

    plain(np.ones(4), np.ones(4))
    return bool(_widths(plain, np.float64))


@jitted
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_loops_become_vector_code_without_calls(name: str, kind: type) -> None:
    if not _machine_vectorises():
        pytest.skip("not even a product and a sum become vector code here")
    kernel = loop(name)
    kernel(*(np.full(4, -0.5, kind) for _ in range(3 if name.startswith("sincos") else 2)))
    assert max(_widths(kernel, kind), default=1) > 1
    assert not re.search(r"call [^\n]*@(llvm\.)?(exp|log|sin|cos|pow|ldexp)", _code(kernel, kind))


@jitted
def test_a_kernel_that_asks_for_it_uses_the_wide_vectors() -> None:
    if not llvm.get_host_cpu_features().get("avx512f", False):
        pytest.skip("no registers of 512 bits")
    kernel = loop("exp_nonpositive", wide=True)
    kernel(np.full(4, -0.5), np.empty(4))
    assert max(_widths(kernel, np.float64)) == 8


def test_asking_for_the_full_width_changes_no_result() -> None:
    x = np.linspace(-50, 0, 1001)
    wide, narrow = np.empty_like(x), np.empty_like(x)
    loop("exp_nonpositive", wide=True)(x, wide)
    loop("exp_nonpositive")(x, narrow)
    np.testing.assert_array_equal(wide, narrow)
