"""Findings that no check made, and runs of them: what tests of reports of audits tell of."""

import math

from refdiff.validation.audits.audit import Result
from refdiff.validation.audits.baseline import Baseline
from refdiff.validation.audits.findings import Finding, Verdict
from refdiff.validation.audits.report import Run
from refdiff.validation.audits.sources import Source

W, C, OK, NA = Verdict.WRONG, Verdict.CONVENTION, Verdict.OK, Verdict.NOT_APPLICABLE
WEIGHTS = {
    "rows": ["evaluation 1", "output"],
    "columns": ["start", "answer 1", "own normal 1"],
    "found": [[1.0, 0.0, 0.0], [0.5, -0.25, 2e-3]],
    "claimed": [[1.0, 0.0, 0.0], [0.5, -0.5, 0.0]],
    "left_out": [1, 0],
}


def finding(subject, question, verdict, text="text", number=None, bound=None, place="", **details):
    return Finding(subject, question, verdict, text, number, bound, place, "a rule", "print(1 < 2)\n", details)


def result(name, *findings, member="A", steps=(1, 5), **more):
    return Result(name, member, "toy", "lib", "1.2", {}, tuple(findings), steps, 0.5, **more)


def some():
    """One class with something wrong, conventions and what is right, and one of which nothing is to be said."""
    return (
        result("A()", finding("A()", "order", OK, counts=[10, 20, 40], errors=[1e-2, 2.5e-3, 6e-4]),
               finding("A()", "law", NA, "no noise")),
        result("A(x=1)", finding("A(x=1)", "order", W, "falls <slowly>", 2.0, 1.0, "sweep", counts=[10, 20],
                                 errors=[1e-2, 5e-3], method=[1e-3, 1e-4], orders=[1.0, 3.32]),
               finding("A(x=1)", "coefficients", W, "1 steps: small", 1e-3, 1e-6, "1 steps", weights=WEIGHTS),
               finding("A(x=1)", "coefficients", W, "5 steps: large; a weight is 1", 1e-1, 1e-6, "5 steps",
                       steps=[[0, 0.0, 1e-6], [1, 1e-1, 1e-6], [2, math.nan, 1e-6]]),
               finding("A(x=1)", "coefficients", OK, "2 steps: right", 1e-9, 1e-6, "2 steps"),
               finding("A(x=1)", "coefficients", OK, "3 steps: right", 1e-8, 1e-6, "3 steps")),
        result("A(x=2)", finding("A(x=2)", "end", C, "no noise in the last step")),
        result("A(x=3)", finding("A(x=3)", "end", C, "no noise in the last step")),
        result("B()", finding("B()", "order", OK), member="B", steps=(), audited=Source("lib.b:B", "lib/b.py:7"),
               method=Source("refdiff.samplers.unipc:unipc", "refdiff/samplers/unipc.py:37")),
    )  # fmt: skip


def run(results=None, asked=None, baseline=None):
    results = some() if results is None else results
    return Run(results, len(results) if asked is None else asked, False, 2.5, baseline or Baseline())


def known(*findings):
    """A baseline that has these findings, as of one result."""
    return Baseline().updated([result(findings[0].subject, *findings)], False)
