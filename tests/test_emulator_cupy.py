"""The stand-in is CuPy where it is anything: what it has CuPy has, by the same names; what CuPy refuses it refuses."""

import inspect
import re
import warnings

import numpy as np
import pytest
from emulator import cupy as stand_in

OWN = {"state", "standing_in", "FUNCTIONS", "OPTIONS", "LACKING"}
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@pytest.fixture(scope="module")
def real():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of CuPy, about what it does not find
        return pytest.importorskip("cupy", exc_type=ImportError)


@pytest.fixture
def cp():
    with stand_in.standing_in() as module:
        yield module


def names(place, kept=OWN):
    """What a place has for everybody, but for modules that it uses itself and names of the language."""
    found = {name: one for name, one in vars(place).items() if not name.startswith("_") and name not in kept}
    language = {
        "annotations",
        "Any",
        "Callable",
        "Iterator",
        "ModuleType",
        "Block",
        "contextmanager",
        "np",
        "sys",
        "events",
    }
    return {name: one for name, one in found.items() if name not in language}


def parameters(function):
    """Names of a function's parameters as it, or the first line of what it says of itself, has them; or nothing."""
    try:
        found = inspect.signature(function)
    except ValueError:
        said = re.match(r"[\w.]+\((.*?)\)( ->|\n|$)", function.__doc__ or "")
        return said and [re.sub(r"=.*", "", one).strip().lstrip("*") for one in said[1].split(",")]
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, one in found.parameters.items() if one.kind not in variable]


def assert_taken(mine, theirs, where):
    """What a function of the stand-in takes, CuPy's takes in the same places or by the same names."""
    there = parameters(theirs)
    if there is not None:
        for place, (name, one) in enumerate(inspect.signature(mine).parameters.items()):
            if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
                assert name in there, f"{where}: CuPy's takes {there}, and no {name}"
                assert one.kind not in POSITIONAL or there.index(name) == place, f"{where}: {name}"


def test_whatever_the_stand_in_has_cupy_has(real):
    for name in [*names(stand_in), *stand_in.FUNCTIONS]:
        assert hasattr(real, name), name
    for place in ("cuda", "cuda.runtime", "cuda.Device", "random", "ndarray"):
        mine, theirs = stand_in, real
        for part in place.split("."):
            mine, theirs = getattr(mine, part), getattr(theirs, part)
        for name in names(mine, {"id"}):
            assert hasattr(theirs, name), f"{place}.{name}"
    assert not hasattr(real, "no_such_name")


def test_functions_and_methods_take_what_those_of_cupy_take(real):
    for name, one in names(stand_in).items():
        if inspect.isfunction(one):
            assert_taken(one, getattr(real, name), name)
    for name, one in names(stand_in.ndarray).items():
        if inspect.isfunction(one) and one.__name__ != "method":
            method = list(inspect.signature(one).parameters)[1:]
            there = parameters(getattr(real.ndarray, name))
            assert there is None or set(method) <= set(there), (name, there)


@pytest.mark.parametrize("name", stand_in.FUNCTIONS)
def test_functions_of_numpy_take_the_same_in_cupy(real, name):
    """Arguments come in NumPy's order, and each option that the stand-in lets through is one of CuPy's too."""
    if isinstance(getattr(np, name), np.ufunc):  # which say nothing of themselves
        assert type(getattr(real, name)).__name__ == "ufunc" or name == "matmul"
        return
    theirs, mine = parameters(getattr(real, name)), parameters(getattr(np, name))
    # CuPy has no `out`, or other last parameters: those before them come in one order, whatever they are called
    both = [one for one in mine if one in theirs]
    assert both == [one for one in theirs if one in mine], (mine, theirs)
    for option in stand_in.OPTIONS & set(mine) - stand_in.LACKING.get(name, set()):
        assert option in theirs or name == "einsum", f"{name} of CuPy takes {theirs}"


def test_options_that_cupy_may_not_have_are_refused(cp):
    x = cp.zeros((3, 4))
    assert cp.sum(x, axis=1, keepdims=True).shape == (3, 1)
    for option in ({"where": True}, {"initial": 1.0}):
        with pytest.raises(TypeError, match="knows no option"):
            cp.sum(x, **option)
        with pytest.raises(TypeError, match="knows no option"):
            x.sum(**option)
    with pytest.raises(TypeError, match="knows no option keepdims of count_nonzero"):
        cp.count_nonzero(x, keepdims=True)
    with pytest.raises(AttributeError, match="no tensordot"):
        cp.tensordot(x, x)


def test_arrays_of_numpy_are_refused_as_cupy_refuses_them(cp):
    x, host = cp.ones(5), np.ones(5)
    for refused in (
        lambda: x + host,
        lambda: host + x,
        lambda: host @ x,
        lambda: cp.maximum(x, host),
        lambda: cp.concatenate([x, host]),
        lambda: x[host > 0],
    ):
        with pytest.raises(TypeError):
            refused()
    for refused in (lambda: np.asarray(x), lambda: np.array(x), lambda: np.linalg.norm(x), lambda: [*map(np.array, x)]):
        with pytest.raises(TypeError, match=r"Implicit conversion to a NumPy array is not allowed. Please use `\.get"):
            refused()
    assert (np.float64(2) * x + np.float64(1)).get().tolist() == [3] * 5  # numbers are taken
    assert isinstance(np.float64(2) * x, cp.ndarray)


def test_what_is_a_view_there_is_a_view_here_and_kernels_do_not_get_it_unasked(cp):
    x = cp.asarray(np.arange(12.0).reshape(3, 4))
    views = [x.T, x[:, 1:], x[::2], cp.transpose(x), x.transpose(), cp.moveaxis(x, 0, 1), cp.broadcast_to(x[0], (2, 4))]
    copies = [x.copy(), x + 0, x.astype("f4"), cp.array(x), x[cp.asarray([0, 1])], cp.stack([x, x])]
    for one in views:
        assert cp.shares_memory(one, x)
        assert not one.flags.c_contiguous
        assert cp.ascontiguousarray(one).flags.c_contiguous
    for one in copies:
        assert not cp.shares_memory(one, x)
    assert not (x.T + 1).flags.c_contiguous  # axes keep their order, as CuPy keeps it
    assert cp.array(x, copy=False) is x
    assert cp.asarray(x) is x


def test_a_type_that_is_asked_for_is_given(cp):
    x = cp.asarray(np.ones(3, "f4"))
    for asked in (float, np.float64, np.dtype("f8"), "f8", None, "f4", np.dtype("f4"), int):
        for taken in (cp.asarray, cp.array, cp.ascontiguousarray):
            assert taken(x, dtype=asked).dtype == (np.dtype("f4") if asked is None else np.dtype(asked))
    assert cp.asarray(x, dtype="f4") is x


def test_copies_and_waits_are_counted(cp):
    x = cp.asarray(np.ones(3))
    assert cp.state.copies == {"to": 1, "from": 0}
    x.get()
    assert cp.state.copies == {"to": 1, "from": 1}
    assert (float(x[0]), int(x[0]), bool(x.sum() > 2), x[1].item()) == (1.0, 1, True, 1.0)
    assert (cp.state.copies["from"], cp.state.waits) == (1, 4)


def test_memory_ends_when_the_device_is_small(cp):
    assert cp.cuda.runtime.memGetInfo() == (8 * 2**30, 8 * 2**30)
    cp.state.total = 100
    assert cp.cuda.runtime.memGetInfo()[0] == 100
    with stand_in.standing_in() as inner:  # has a state of its own
        assert inner.cuda.runtime.memGetInfo()[0] == 8 * 2**30
    assert cp.cuda.runtime.memGetInfo()[0] == 100
