"""What pages share: templates that escape, places for names, formulas as MathML."""

import re
from html import unescape
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reported import Page

from refdiff.validation import pages
from refdiff.validation.runner import registry


def test_names_have_places_of_their_own():
    names = ["A b", "a  B!", "a-b", "main", "σ", "λ", "A b"]
    found = pages.anchors(names, ["main"])
    assert found == {"A b": "a-b", "a  B!": "a-b-2", "a-b": "a-b-3", "main": "main-2", "σ": "x", "λ": "x-2"}


@given(st.lists(st.text(max_size=8)), st.sets(st.sampled_from(["a", "x", "0"])))
def test_places_are_words_of_an_address_and_never_shared(names, reserved):
    found = pages.anchors(names, reserved)
    assert set(found) == set(names)
    assert len({*found.values(), *reserved}) == len(found) + len(reserved)
    assert all(re.fullmatch("[a-z0-9-]+", one) for one in found.values())


def test_a_template_that_is_nowhere_is_an_error():
    with pytest.raises(Exception, match=r"nowhere\.html"):
        pages.rendered("nowhere.html", [], {})


def test_the_base_is_a_page():
    found = Page(pages.rendered("pages.html", [], {}))
    assert found.open == []
    assert {"style", "script", "main", "h1", "button"} <= {tag for tag, _ in found.tags}


# ---------------------------------------------------------------------- formulas


def test_a_formula_that_cannot_be_converted_is_shown_as_it_is():
    assert str(pages.formula(r"\left( <b>")).startswith("<code>")
    assert "<b>" not in str(pages.formula(r"\left( <b>"))


def test_every_formula_of_the_registry_becomes_mathml_without_unknown_commands():
    found = {one.name: pages.formula(one.formula) for one in registry().values()}
    assert [name for name, markup in found.items() if "\\" in markup or "<code" in markup] == []


def assert_well_formed(markup):
    """Every element has as many children as it can draw."""
    counts = {"msub": 2, "msup": 2, "munder": 2, "mover": 2, "mfrac": 2, "msubsup": 3, "munderover": 3}
    for one in ElementTree.fromstring(str(markup)).iter():
        assert len(one) == counts.get(one.tag, len(one)), ElementTree.tostring(one)


def test_no_script_or_fraction_has_parts_that_are_not_drawn():
    for one in registry().values():
        assert_well_formed(pages.formula(one.formula))
    with pytest.raises(AssertionError):
        assert_well_formed('<msub><mo>log</mo><mspace width="0.1667em"/><mn>2</mn></msub>')


@pytest.mark.parametrize(
    ("latex", "markup"),
    [
        (r"\log_2 x", '<msub><mo lspace="0" rspace="0.1667em">log</mo><mn>2</mn></msub><mi>x</mi>'),
        (r"\max_i x", '<msub><mo lspace="0" rspace="0.1667em">max</mo><mi>i</mi></msub>'),
        (r"\operatorname{Var}_p(x)", '<msub><mo lspace="0" rspace="0">Var</mo><mi>p</mi></msub><mo stretchy="false">('),
        (r"\log\left(x\right)", '<mo lspace="0" rspace="0">log</mo>'),
        ("x = -4", '<mo>=</mo><mo form="prefix">−</mo><mn>4</mn>'),
        ("(x) - |y| - 4", '<mo stretchy="false">)</mo><mo>−</mo>'),
        (r"|x|-4", "<mo>−</mo>"),
        ("= -|x|^2", '<mo form="prefix">−</mo><mo stretchy="false" lspace="0" rspace="0">|</mo><mi>x</mi>'),
        (r"L \to \infty - 4", "<mo>→</mo><mi>∞</mi><mo>−</mo>"),
        (r"x \sim y; a \pm b", "<mo>∼</mo><mi>y</mi><mo>;</mo><mi>a</mi><mo>±</mo>"),
        (r"a \iff b \succeq c", "<mo>⟺</mo><mi>b</mi><mo>⪰</mo>"),
        (r"\mathrm{I} + A^{\mathsf T} x", "<mtext>I</mtext>"),
        (r"A^{\mathsf T} x", "\N{MATHEMATICAL SANS-SERIF CAPITAL T}"),
        (r"\|x\|", '<mi mathvariant="normal">‖</mi><mi>x</mi><mi mathvariant="normal">‖</mi>'),
    ],
)
def test_names_signs_and_norms_have_the_room_that_tex_gives_them(latex, markup):
    assert markup in pages.formula(latex)
    assert 'display="inline"' in pages.formula(latex, inline=True)


@pytest.mark.parametrize("latex", ["a < b", "a & b", "a > \\alpha", r"\bar x \leq \text{\"no\"}"])
def test_shorter_markup_says_the_same(latex):
    from latex2mathml.converter import convert

    shorter, full = str(pages.formula(latex)), convert(latex, display="block")
    assert len(shorter) < len(full)
    assert Page(shorter).words == Page(full).words
    assert unescape(re.sub(' xmlns="[^"]*"', "", full)) == unescape(shorter)
