"""The pages of the reference: formulas say what docstrings say, and nothing public is left out."""

import ast
import json
import re
import sys

import pytest
from house import ROOT, read
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(ROOT / "docs"))
import chapters
import contents
import recognise
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


HAT = '<span class="hat">\u0302</span>'


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
        ("s^ - rho^_c", f"<i>s{HAT}</i> − <i>ρ{HAT}</i><sub><i>c</i></sub>"),
        ("int theta' dw, sum dx", "∫ <i>θ</i>′ <i>d</i><i>w</i>, ∑ <i>d</i><i>x</i>"),
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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from p_t to sigma, at x_0 = x", ["p_t", "sigma", "x_0", "x"]),
        ("(a / b)^2 - e^(-h) and eps* -> x*", ["a", "b", "^2", "-", "e^(-h)", "eps*", "->", "x*"]),
        ("a well-known name_of_it, two_moons, W2, *said* or C++", []),
        ("with noise -R' s and A' D, (sigma^2)'", ["-", "R'", "s", "A'", "D", "sigma^2", "'"]),
        ("an e.g. of x's, --n and k-diffusion: a 'b' of dt-steps do", []),
        ("dx/dt = A x + b, a + dw", ["dx/dt", "A", "x", "b", "a", "dw"]),
        ("-P^-1 int g^2 (a)^((1 + k)/2), self-x_t", ["P^-1", "int", "g^2", "^((1 + k)/2)"]),
        ("shape (*cells, d) or (*cells)", ["*cells", "d", "*cells"]),
        ("`x_t`, alphas, beta_table.linear", []),
    ],
)
def test_formulas_are_found_amid_prose_and_names_of_programs_are_none(text, found):
    assert recognise.FORMULA.findall(text) == found


def test_a_power_of_a_bracket_and_an_unpacked_tuple_are_set_as_what_they_are():
    assert recognise.amid_prose("^2") == "<sup>2</sup>"
    assert recognise.amid_prose("*cells") == "*cells"
    assert [recognise.amid_prose(sign) for sign in ("'", "-")] == ["′", "−"]


@pytest.mark.parametrize(
    "text", [">>> x\n1", "pip install x", "f(\n    x,\n    y=1,\n)", "for t in times:\n    x = t", "@given(x)"]
)
def test_programs_are_no_formulas(text):
    assert recognise.is_program(text)


@pytest.mark.parametrize(
    "text", ["x_t = a + b", "N(m, S) -> N(A m, S)", "S = 1\nT = f(x)", "numpy    NumPy everywhere"]
)
def test_formulas_and_lists_are_no_programs(text):
    assert not recognise.is_program(text)


def test_paragraphs_with_columns_are_lists_and_others_are_prose():
    assert recognise.in_columns("flow maps    `flow` and\n             `path`\nclosed       others")
    assert not recognise.in_columns("Two spaces.  They end\na sentence here.")
    assert not recognise.in_columns("one line    alone")


def test_sections_have_a_row_for_each_name():
    text = "Sum.\n\nArgs:\n    a, b: two\n        sets.\n    d: x.   e: y.\n\nReturns:\n    p, q: as they are."
    rows = ["    a: two", "        sets.", "    b: two", "        sets.", "    d: x.", "    e: y."]
    assert recognise.rows(text).split("\n")[3:9] == rows
    assert recognise.rows(text).endswith("p, q: as they are.")


def test_formulas_of_notebooks_are_marked_and_what_is_code_stays():
    text = "At $x_t$, `$HOME` and\n$$\na\n= b\n$$\ncosts $5 or 6$ more.\n```\n$y$\n```"
    said = "At `tex:x_t`, `$HOME` and\n`display:a = b`\ncosts `tex:5 or 6` more.\n```\n$y$\n```"
    assert chapters.marked(text) == said


def test_a_notebook_shows_its_cells_outputs_and_pictures(tmp_path):
    picture = {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo=", "text/plain": ["<Figure>"]}}
    cells = [
        {"cell_type": "markdown", "source": ["# A title\n", "of $x$"]},
        {"cell_type": "code", "source": ["f(x)"], "outputs": [{"output_type": "stream", "text": ["1\n"]}, picture]},
        {"cell_type": "code", "source": ["answer"], "metadata": {"tags": ["solution"]}, "outputs": []},
    ]
    path = tmp_path / "01_a.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    text, files = chapters.notebook(path)
    assert chapters.title(path) == "A title"
    for piece in ("of `tex:x`", "```python\nf(x)\n```", "\n1\n", "(01_a-1-1.png)", '??? note "Solution"'):
        assert piece in text
    assert files == {"01_a-1-1.png": bytes.fromhex("89504e470d0a1a0a")}


def test_every_identity_and_every_item_is_on_a_page():
    topics = chapters.topics()
    pages = {topic: chapters.identities_page(topic) for topic in topics}
    assert len({chapters.slug(topic) for topic in topics}) == len(topics)
    items = chapters.items_page()
    for topic, group in topics.items():
        anchors = {f"{{ #{chapters.slug(one.name)} }}" for one in group}
        assert len(anchors) == len(group)
        assert all(anchor in pages[topic] for anchor in anchors)
        assert all(f'id="{item.lower()}"' in items for one in group for item in one.covers)


def test_every_command_and_option_is_on_the_page_of_commands():
    from refdiff.cli import main

    text = chapters.commands()
    for name, command in main.commands.items():
        assert f"### refdiff {name}\n" in text
        assert all(one.opts[0] in text for one in command.params if one.opts[0].startswith("--") and not one.hidden)


def test_every_public_name_is_on_a_page():
    shown = {contents.home(name) for page in contents.pages().values() for name in page.names}
    packages = [name for name in contents.pages() if contents.modules()[name].is_package or name in contents.order()]
    for package in packages:
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


def test_pages_are_of_a_size_to_be_read_and_a_package_lists_what_has_a_page_in_it():
    sizes = {name: len(page.names) for name, page in contents.pages().items()}
    assert {name: size for name, size in sizes.items() if size > contents.LARGE} == {}
    text = chapters.reference("refdiff.samplers")
    inside = contents.within("refdiff.samplers")
    assert "refdiff.samplers.tableau" in inside
    assert text.startswith("# `refdiff.samplers` { #refdiff.samplers }\n")  # what `resolve` points to
    assert all(f"({name}.md)" in text for name in inside)
    assert all(f"[{name}]" in text for module in inside for name in contents.pages()[module].names)


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
