"""Examples of docstrings, run as they stand: what a reader pastes is what a test runs, and every package has some.

Docstrings are read from the sources, so that to collect them imports nothing. They run without the names of their
module: an example imports what it takes.
"""

import ast
import doctest
import re
from dataclasses import dataclass
from importlib import import_module

import pytest
from house import ROOT, Module, read

HOUSE = read("refdiff", "kernels", "validation")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
# what machines agree on: sums in another order change the last digits, of which float64 has 16
DIGITS = re.compile(r"\d*\.?\d{10,}|\d{10,}\.?\d*")


@dataclass(frozen=True)
class Docstring:
    """A docstring with its dotted name, and the file and line that it stands in."""

    name: str
    text: str
    path: str = "text"
    line: int = 0

    @property
    def examples(self):
        return doctest.DocTestParser().get_examples(self.text)


def docstrings(module: Module):
    """All docstrings of a module: its own, and those of its functions, classes and methods."""

    def of(node, name):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            yield Docstring(name, ast.get_docstring(node), module.path, node.body[0].lineno - 1)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, DOCUMENTED[1:]):
                yield from of(child, f"{name}.{child.name}")

    return of(module.tree, module.name)


def report(one: Docstring):
    """What doctest says against the examples of a docstring: nothing where they print what they say."""
    said: list[str] = []
    test = doctest.DocTestParser().get_doctest(one.text, {"__name__": "__main__"}, one.name, one.path, one.line)
    result = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert bool(result.failed) == bool(said)
    return "".join(said)


def complaints(one: Docstring):
    """What is wrong with how the examples of a docstring stand there."""
    section, _, rest = one.text.partition("\nExamples:\n")
    if ">>>" in section or not rest:
        yield "examples stand under `Examples:`, the last section"
    if any(line and not line.startswith("    ") for line in rest.splitlines()):
        yield "what stands under `Examples:` is indented, and nothing comes after it"
    lines = [line for example in one.examples for line in example.source.splitlines()]
    if one.name not in HOUSE and not any(re.search(rf"\b{one.name.rpartition('.')[2]}\b", line) for line in lines):
        yield "its own name is in none of them"
    if not any(example.want for example in one.examples):
        yield "none of them prints anything"
    if any(DIGITS.search(example.want) for example in one.examples):
        yield "a number is printed to more digits than all machines agree on"
    if "doctest:" in one.text:
        yield "an option of doctest is nothing that a reader pastes"


SHOWN = {one.name: one for name in HOUSE for one in docstrings(HOUSE[name]) if one.examples}


@pytest.mark.parametrize("name", SHOWN)
def test_examples_print_what_they_say(name):
    found = report(SHOWN[name])
    assert not found, found


@pytest.mark.parametrize("name", SHOWN)
def test_examples_stand_where_pages_find_them_and_show_what_they_stand_under(name):
    found = [*complaints(SHOWN[name])]
    assert not found, "\n".join([name, *found])


# ---------------------------------------------------------------------- every package has some


def packages(readme):
    """The packages of README's table of what is inside, each with the names that are said to be in it."""
    table = readme.partition("\n## What is inside\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \|(.*)", table, re.MULTILINE)
    return {name: re.findall(r"`(\w+)`", said) for name, said in rows}


def without(names, shown):
    """Packages of these names under which no docstring has an example."""
    return [name for name in names if not any(f"{one}.".startswith(f"{name}.") for one in shown)]


def unused(names, shown):
    """Those of the names that no example uses."""
    sources = "\n".join(example.source for one in shown for example in one.examples)
    return [name for name in names if not re.search(rf"\b{name}\b", sources)]


README = packages((ROOT / "README.md").read_text(encoding="utf-8"))


def test_every_package_that_readme_lists_has_examples():
    assert len(README) > 20
    assert not without(README, SHOWN)


@pytest.mark.parametrize("name", README)
def test_what_readme_names_in_a_package_is_used_in_examples(name):
    package = import_module(name)
    assert not unused([one for one in README[name] if callable(getattr(package, one, None))], SHOWN.values())


# ---------------------------------------------------------------------- the tests themselves

GOOD = '''"""A module."""

def double(x):
    """Twice x.

    Examples:
        >>> double = lambda x: 2 * x
        >>> print(double(0.5))
        1.0
    """

class Empty:
    """Nothing."""
'''
BAD = [
    ("1.0", "1.5"),
    ("print(double(0.5))", "print(doubled(0.5))"),
    ("    Examples:", "    Note:"),
    ('        1.0\n    """', '        1.0\n\n    See there.\n    """'),
    ("double = lambda", "twice = lambda"),
    ("        1.0\n", ""),
    ("1.0", "1.00000000001"),
    ("(0.5))", "(0.5))  # doctest: +SKIP"),
]


def found_in(text):
    shown = [one for one in docstrings(Module("module", text)) if one.examples]
    return [line for one in shown for line in (report(one), *complaints(one)) if line]


def test_good_examples_are_found_and_nothing_is_said():
    names = [one.name for one in docstrings(Module("module", GOOD)) if one.examples]
    assert names == ["module.double"]  # and not module.Empty, which shows nothing
    assert not found_in(GOOD)


@pytest.mark.parametrize(("old", "new"), BAD)
def test_one_mistake_in_an_example_is_refused(old, new):
    assert old in GOOD
    assert found_in(GOOD.replace(old, new))


def test_a_wrong_number_is_shown_beside_the_right_one():
    (said,) = found_in(GOOD.replace("1.0", "1.5"))
    assert re.search(r"Expected:\s+1\.5\s+Got:\s+1\.0", said)


def test_a_package_without_examples_is_named():
    readme = "\n## What is inside\n\n| where | what |\n|---|---|\n| `a.b` | x |\n| `a.c` | `d` |\n\n## More\n`a.e`"
    assert packages(readme) == {"a.b": [], "a.c": ["d"]}
    assert without(["a.b", "a.c"], {"a.b.f", "a.cc.g"}) == ["a.c"]
    assert not without(["a.b", "a.c"], {"a.b.f", "a.c"})


def test_a_name_that_no_example_uses_is_named():
    shown = [one for one in docstrings(Module("module", GOOD)) if one.examples]
    assert unused(["double", "doubled"], shown) == ["doubled"]


def test_examples_take_no_names_from_their_module():
    assert "NameError" in report(Docstring("module.f", ">>> Module\n1\n"))
