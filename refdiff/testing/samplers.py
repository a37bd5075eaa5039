r"""An assertion about a sampler of one's own: it is the family that it claims to be, step by step.

Impulses show every weight of a sampler that is linear in its states, outputs and normals; each must be that of the
family's table on the sampler's own grid, up to the roundings of its number type. The other questions of `refdiff audit`
that apply to the protocol are put as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from refdiff.arguments import one_of, whole_number


def assert_sampler(
    sampler: Callable[..., Any],
    *,
    protocol: str,
    family: str | None = None,
    options: Mapping[str, Any] | None = None,
    claim: Mapping[str, Any] | None = None,
    dtype: str = "float64",
    steps: Sequence[int] = (),
    quick: bool = False,
) -> None:
    """Assert that a sampler is what it claims to be.

    Args:
        sampler: a function or a class, called as the protocol calls it.
        protocol: the name of a calling convention; `refdiff audit --list` has them.
        family: the name of a family; `refdiff samplers` has them. None where its own name says what the sampler is.
        options: passed on to the sampler.
        claim: options of the family.
        dtype: number type of the points.
        steps: numbers of steps to try, the checks' own where it is empty.
        quick: fewer of them.

    Raises:
        AssertionError: something is wrong; the message has every finding as a sentence.
        ValueError: no such protocol, family or option, the sampler cannot be called like this, or nothing about it
            could be examined.

    Examples:
        >>> from refdiff.testing import assert_sampler
        >>> def euler(model, x, sigmas):
        ...     for s, t in zip(sigmas[:-1], sigmas[1:]):
        ...         x = x + (t - s) * (x - model(x, s)) / s
        ...     return x
        >>> claims = {"protocol": "plain", "family": "edm-euler", "claim": {"process": "ve-levels"}, "steps": [3]}
        >>> assert_sampler(euler, **claims)
        >>> def late(model, x, sigmas):  # tells its model half of the level
        ...     return euler(lambda x, s: model(x, s / 2), x, sigmas)
        >>> try:
        ...     assert_sampler(late, **claims)
        ... except AssertionError as error:
        ...     print("told level" in str(error))
        True
    """
    # the audits stand on the library, so only a call may reach up to them, never an import of it
    from refdiff.validation.audits.audit import examine, silence
    from refdiff.validation.audits.findings import Verdict
    from refdiff.validation.audits.protocols.protocol import Request, protocols
    from refdiff.validation.audits.targets import subject_of

    one_of("dtype", dtype, ("float64", "float32"))
    numbers = tuple(whole_number("steps", one, low=1) for one in steps)
    known = protocols()
    if protocol not in known:
        close = get_close_matches(protocol, known, 1) or sorted(known)
        raise ValueError(f"protocol must be one such as {', '.join(close)}; got {protocol!r}")
    request = Request(family, dict(options or {}), dict(claim or {}), dtype)
    with silence():
        subject = subject_of(sampler, known[protocol], request)
        subject = replace(subject, steps=numbers) if numbers else subject
        found = list(examine([subject], known[protocol], quick=quick))
    wrong = [one for one in found if one.verdict is Verdict.WRONG]
    if wrong:
        listed = "".join(f"\n  {one.question}: {one.text}" for one in wrong)
        raise AssertionError(f"{subject.name} is wrong{f', as {family}' if family else ''}:{listed}")
    if all(one.verdict is Verdict.NOT_APPLICABLE for one in found):
        why = "; ".join(dict.fromkeys(f"{one.question}: {one.text}" for one in found))
        raise ValueError(f"nothing about {subject.name} could be examined: {why}")
