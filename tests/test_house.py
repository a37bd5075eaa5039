"""The rooms and the words of the house: sizes of files and functions, and what every docstring says."""

import csv

import pytest
from house import (
    EVERYWHERE,
    OF_THE_LIBRARY,
    ROOT,
    Module,
    functions,
    length,
    no_docstring,
    no_module_docstring,
    no_source,
    no_summary,
    read,
    unknown_items,
    unnamed_parameters,
    unstated_errors,
    unstated_shapes,
)

LINES, FUNCTION_LINES = 350, 60  # of a file; of a function without its docstring
COLUMNS = 120
SOURCES = sorted(path for room in ("kernels", "tests") for kind in ("cu", "cuh", "h", "cpp")
                 for path in (ROOT / room).rglob(f"*.{kind}"))  # fmt: skip
HOUSE = read("refdiff", "kernels", "validation")
WITH_TESTS = HOUSE | read("tests")
with (ROOT / "validation/ledger/index.tsv").open(encoding="utf-8") as file:
    ITEMS = frozenset(row["id"] for row in csv.DictReader(file, delimiter="\t"))

# rooms of mathematics, and what in them is none
MATHEMATICS = (
    "refdiff.channels",
    "refdiff.distributions.",
    "refdiff.dynamics.",
    "refdiff.expectations",
    "refdiff.fokker_planck.",
    "refdiff.interpolants.",
    "refdiff.langevin.",
    "refdiff.metrics.",
    "refdiff.model",
    "refdiff.normalizing.",
    "refdiff.objectives.",
    "refdiff.path_measures.",
    "refdiff.physics.",
    "refdiff.predictions",
    "refdiff.processes.",
    "refdiff.random",
    "refdiff.samplers.",
    "refdiff.schedules.",
    "refdiff.schroedinger.",
    "refdiff.stochastic.",
    "refdiff.transport.",
)
PLUMBING = {
    "refdiff.distributions.parts",
    "refdiff.processes.catalogue",
    "refdiff.samplers.compare",
    "refdiff.samplers.families",
    "refdiff.samplers.storage",
}
# rooms whose public names are called by the house itself: what they are given is in the docstrings of their packages
INNER = ("refdiff.cli", "refdiff.kernels", "refdiff.validation.audits", "refdiff.validation.benchmarks")


def complaints(module: Module) -> list[str]:
    found = [line for rule in EVERYWHERE for line in rule(module)]
    if not module.name.startswith(INNER):
        found += [line for rule in OF_THE_LIBRARY for line in rule(module)]
    elif module.name.startswith("refdiff.kernels"):
        found += unstated_shapes(module)
    if module.name.startswith(MATHEMATICS) and module.name not in PLUMBING:
        found += no_source(module)
    return [*found, *unknown_items(module, ITEMS)]


@pytest.mark.parametrize("name", HOUSE)
def test_every_public_name_says_what_it_is(name):
    module = HOUSE[name]
    found = complaints(module)
    assert not found, "\n".join([f"{module.path}:", *found])


@pytest.mark.parametrize("name", WITH_TESTS)
def test_files_and_functions_fit_their_rooms(name):
    module = WITH_TESTS[name]
    lines = module.text.count("\n")
    found = [f"{lines} lines, more than {LINES}"] * (lines > LINES)
    found += [
        f"{one.name} has {length(one)} lines, more than {FUNCTION_LINES}"
        for one in functions(module)
        if length(one) > FUNCTION_LINES
    ]
    assert not found, "\n".join([f"{module.path}:", *found])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_sources_in_other_languages_fit_their_rooms_too(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS


# ---------------------------------------------------------------------- the rules themselves

GOOD = '''"""Tweedie. Sources: PODA-318."""

@dataclass
class Law:
    """A law in d dimensions with a mean (d,).

    Raises:
        ValueError: the mean is no array.
    """
    mean: Array

    def __post_init__(self):
        raise ValueError

    def score(self, x: ArrayLike) -> Array:
        """Its score at points x, shape (n, d)."""

    def _private(self, y): ...

@identity("a registered check")
def check(case, wrong): ...

def density(law: Law, x: float) -> float:
    """The density of the law at x.

    Raises:
        TypeError: the law is none.
    """
    def inner(z):
        raise KeyError
    raise TypeError
'''
BAD = [
    (no_module_docstring, '"""Tweedie. Sources: PODA-318."""', ""),
    (no_source, "Sources: PODA-318.", "A formula."),
    (no_docstring, '"""Its score at points x, shape (n, d)."""', "pass"),
    (no_docstring, "def _private", "def private"),
    (no_docstring, '@identity("a registered check")', "@cache"),
    (no_summary, "The density of the law at x.\n", "The density of the law at x,\nwhich is one.\n"),
    (unnamed_parameters, "points x", "points"),
    (unnamed_parameters, "The density of the law at x.", "The density of the law."),
    (unnamed_parameters, "    mean: Array", "    mean: Array\n    std: float"),
    (unstated_shapes, "(d,)", "(one row)"),
    (unstated_errors, "ValueError: the mean", "the mean"),
    (unstated_errors, "Raises:\n        TypeError", "Note:\n        TypeError"),
    (unstated_errors, "def inner(z):", "if law:"),
]


@pytest.mark.parametrize(("rule", "old", "new"), BAD)
def test_every_rule_accepts_the_good_module_and_refuses_it_with_one_mistake(rule, old, new):
    assert not list(rule(Module("refdiff.law", GOOD)))
    bad = GOOD.replace(old, new)
    assert bad != GOOD
    assert list(rule(Module("refdiff.law", bad)))


def test_items_are_cited_by_ids_that_exist_also_at_the_end_of_a_range():
    known = frozenset({"PODA-1", "PODA-2"})
    assert not list(unknown_items(Module("m", "PODA-1..2, UTF-8"), known))
    assert len(list(unknown_items(Module("m", "PODA-1..3 and PODB-1"), known))) == 2


def test_shapes_are_no_times_and_no_arguments():
    module = '"""M."""\ndef f(x: Array):\n    """At {} x."""\n'
    for said in ("(n, d)", "(..., d)", "(m,)", "(k + 1, d)", "a scalar", "the shape of t"):
        assert not list(unstated_shapes(Module("m", module.format(said)))), said
    for said in ("(x, t)", "(s, t)", "f(n, d)", "(x)", "arrays", "a(d)"):
        assert list(unstated_shapes(Module("m", module.format(said)))), said
