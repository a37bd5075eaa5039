"""The pages of the reference: formulas say what docstrings say, and nothing public is left out."""

import ast
import re
import sys

import pytest
from house import ROOT, read
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(ROOT / "docs"))
import contents
import typeset

HOUSE = read("refdiff", "kernels")
PIECES = [
    *typeset.WORDS,
    *typeset.SIGNS,
    *typeset.BACK,
    *" abcdxyzABN019_^{}()[]|+/=<>&;:.,`'\"#",
    "  ",
    "x_t",
    "^-1",
    "law",
]
TEXTS = st.lists(st.sampled_from(PIECES)).map("".join) | st.text()


def assert_reads_back(text, setting=typeset.line):
    assert typeset.source(setting(text)) == text


def docstrings():
    for module in HOUSE.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
                yield ast.get_docstring(node)


@given(TEXTS)
def test_what_is_set_says_what_was_written(text):
    assert_reads_back(text)


@given(st.lists(TEXTS.map(lambda text: "".join(text.splitlines()).replace("\r", "")), min_size=1))
def test_columns_say_what_was_written_too(rows):
    assert_reads_back("\n".join(rows), typeset.block)


def test_every_line_of_every_docstring_says_what_was_written():
    texts = list(docstrings())
    assert len(texts) > 2000
    for text in texts:
        assert_reads_back(text, typeset.block)


WRONG = [
    ("sub", "sup"),
    ("−", "+"),
    ("<i>α</i>", "<i>β</i>"),
    ("<sub><i>t</i></sub>", "<i>t</i>"),
    ("2</sup>", "</sup>"),
]


@pytest.mark.parametrize(("place", "wrong"), WRONG)
def test_a_formula_that_is_set_wrongly_reads_otherwise(place, wrong):
    text = "alpha_t x_t - sigma_t^2 s"
    html = typeset.line(text)
    assert place in html
    assert typeset.source(html.replace(place, wrong)) != text
    with pytest.raises(ValueError, match="closed by"):
        typeset.source(html.replace("</i></sub>", "</sub></i>"))


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("x_t", "<i>x</i><sub><i>t</i></sub>"),
        ("M_k^-1", "<i>M</i><sub><i>k</i></sub><sup>−1</sup>"),
        ("sum_{j<m} h^j", '∑<sub class="braced"><i>j</i>&lt;<i>m</i></sub> <i>h</i><sup><i>j</i></sup>'),
        ("the sum of blocks", "the sum of blocks"),
        ("2^l_ij", "2<sup><i>l</i><sub><i>ij</i></sub></sup>"),
        ("sqrt(a) -> ||x||", "√(<i>a</i>) → ‖<i>x</i>‖"),
        ("A' a's, the kernels' own", "<i>A</i>′ <i>a</i>′<i>s</i>, the kernels' own"),
        ("a well-known law", "a well-known law"),
        ("a - b, a-b", "<i>a</i> − <i>b</i>, <i>a</i>−<i>b</i>"),
        ("f^(2)", "<i>f</i><sup>(2)</sup>"),
        ("dx/dt", "<i>d</i><i>x</i>/<i>d</i><i>t</i>"),
        ("see `run` in running.py", "see <code>run</code> in <tt>running.py</tt>"),
    ],
)
def test_signs_are_those_of_the_field_and_prose_stays_prose(text, html):
    assert typeset.line(text) == html


def test_columns_stand_under_each_other():
    html = typeset.block("f(t)  = a / b\ng2(t) = c\n\nrest    of it")
    rows = [re.findall(r'colspan="(\d+)"', row) for row in html.split("</tr>")[:-1]]
    assert [sum(map(int, row)) for row in rows] == [4, 4, 4, 4]  # a gap, and cells from columns 0, 6 and 8
    assert rows[0] == rows[1] == ["1", "1", "2"]


def test_every_public_name_is_on_a_page():
    shown = {contents.home(name) for page in contents.pages().values() for name in page.names}
    for package in contents.pages():
        module = contents.modules()[package]
        for name in module.listed or module.defined:
            found = contents.home(f"{package}.{name}")
            assert found in shown | contents.modules().keys(), f"{package}.{name} is on no page"
    assert {contents.home(f"refdiff.{name}") for name in contents.modules()["refdiff"].listed} <= (
        shown | contents.modules().keys()
    )


def test_pages_show_names_once_and_by_the_paths_that_they_are_imported_by():
    from importlib import import_module

    names = [name for page in contents.pages().values() for name in page.names]
    assert len(names) == len(set(names))
    for name in names:
        module, _, attribute = name.rpartition(".")
        if not module.startswith(("refdiff.validation.", "refdiff.kernels.")):  # which import what may not be here
            assert hasattr(import_module(module), attribute), name


def test_packages_are_in_the_order_of_the_table_in_readme_and_none_is_left_out():
    order = contents.order()
    top = {name for name in contents.modules() if name.count(".") == 1 and contents.modules()[name].is_package}
    assert top - set(order) == {"refdiff.cli"}  # which has a page of its own
    assert [name for name in contents.pages() if name in order] == order


def test_names_resolve_where_they_are_written():
    assert contents.resolve("run", "refdiff.samplers.tableau.Tableau") == "refdiff.samplers.run"
    assert contents.resolve("ExactModel.denoiser") == "refdiff.model.ExactModel.denoiser"
    assert contents.resolve("refdiff.samplers") == "refdiff.samplers"
    assert contents.resolve("alpha") is None
    assert contents.resolve("True", "refdiff.samplers.run") is None


def test_links_and_pictures_of_readme_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    headings = {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
    links = re.findall(r"\]\((?!https?://)([^)\s]+)\)|(?:src|href)=\"(?!https?://)([^\"]+)\"", text)
    assert links
    for link in map("".join, links):
        file, _, anchor = link.partition("#")
        assert not file or (ROOT / file).exists(), link
        assert file or anchor in headings, link
