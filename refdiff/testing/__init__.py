r"""Property tests of foreign implementations: hypothesis strategies and assertions.

A denoiser f(x, t) is right when f = E[x_0 | x_t = x], a score when f = grad log p_t(x). Both have closed forms here,
so a foreign implementation is tested on data it has never seen, with no network and no stored numbers:

    from hypothesis import given, strategies as st
    from refdiff import testing

    @given(testing.models(), st.integers(0, 2**32))
    def test_score(model, seed):
        testing.assert_score(lambda x, t: mine(model, x, t), model, times=0.5 * model.process.T, seed=seed)

Points are drawn from p_t with the seed given. An error is measured against the largest entry of the exact answer at
that time (for the denoiser also the spread of the data). A failure names the worst time and point, and every
known slip that would have produced exactly these numbers.

A sampler is right when every weight of every step is that of the family it claims to be: `assert_sampler`. `audit` puts
it, or a class of a library, to all questions of `refdiff audit`, and returns what was found with its error curves.

Strategies are imported when they are first used: only they need hypothesis.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from refdiff.testing.assertions import assert_denoiser, assert_identity, assert_score
from refdiff.testing.audits import Audit, ErrorCurve, audit
from refdiff.testing.samplers import assert_sampler

if TYPE_CHECKING:
    from refdiff.testing.strategies import (
        KINDS,
        WITH_DENSITY,
        beta_tables,
        covariances,
        distributions,
        matrix_processes,
        models,
        points,
        processes,
        schedules,
        times,
    )

__all__ = [
    "KINDS",
    "WITH_DENSITY",
    "Audit",
    "ErrorCurve",
    "assert_denoiser",
    "assert_identity",
    "assert_sampler",
    "assert_score",
    "audit",
    "beta_tables",
    "covariances",
    "distributions",
    "matrix_processes",
    "models",
    "points",
    "processes",
    "schedules",
    "times",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("refdiff.testing.strategies"), name)
    raise AttributeError(f"module 'refdiff.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
