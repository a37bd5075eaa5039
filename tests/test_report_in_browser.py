"""The page of a run in a browser: it is quiet, shows what the run's JSON says is to be shown, and can be read.

What a filter must show is computed from the JSON of the same run, which no template has a part in.
"""

import inspect
import re

import pytest
from reported import NASTY, everything, outcome, run
from seen import GREYS, SCHEMES, assert_readable, assert_within

from refdiff.validation import ledger, page, report, tallies
from refdiff.validation.runner import registry

pytestmark = pytest.mark.browser
RUN = everything(every=15, word="Tweedie")  # a page of all takes a browser ten times as long
ENTRIES = report.as_json(RUN)["identities"]
NOWHERE = "no such words anywhere"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The page of the run, as a file."""
    target = tmp_path_factory.mktemp("page") / "report.html"
    target.write_text(page.page(RUN), encoding="utf-8")
    return target


def of(entry, field):
    """What an identity of the JSON is in a field that can be chosen."""
    if field == "source":
        prefixes = {item.partition("-")[0] for item in entry["covers"] + entry["refutes"]}
        return {name for name, known in ledger.SOURCES.items() if prefixes.intersection(known)}
    if field == "state":
        return {tallies.STATES[entry["verdict"]], *["refutes"] * bool(entry["refutes"] and entry["verdict"] == "ok")}
    return {entry[field]}


def expected(text="", **chosen):
    """The names that a filtered page shows, by the JSON."""

    def found(entry):
        said = " ".join([entry["name"], entry["topic"], entry["formula"], *entry["covers"], *entry["refutes"]])
        return all(word in said.lower() for word in text.lower().split())

    return {
        entry["name"]
        for entry in ENTRIES
        if found(entry) and all(value in of(entry, field) for field, value in chosen.items())
    }


def shown(seen):
    """The names that can be seen, those that one would have to scroll to included."""
    return set(
        seen.evaluate("""() => [...document.querySelectorAll("#identities article")]
        .filter((one) => one.checkVisibility()).map((one) => one.querySelector("h3").textContent)""")
    )


def assert_shows(seen, names):
    """The page shows these identities, says how many they are, and says so where there are none."""
    assert shown(seen) == names
    everyone = len(ENTRIES)
    said = f"{everyone} identities" if len(names) == everyone else f"{len(names)} of {everyone} identities"
    assert seen.inner_text("[data-filters=identities] output") == said
    assert seen.is_visible("#identities-none") == (not names)


def test_the_page_opens_offline_and_shows_everything(visits, file):
    seen = visits.open(file)
    assert_shows(seen, expected())
    assert seen.locator("script").count() == 1
    assert NASTY in seen.inner_text("#identities")


@pytest.mark.parametrize("field", ["source", "topic", "evidence", "state"])
def test_every_choice_shows_what_the_json_says(visits, file, field):
    seen = visits.open(file)
    choice = seen.locator(f"[data-filters=identities] [name={field}]")
    values = choice.evaluate("(one) => [...one.options].map((option) => option.value)")[1:]
    for value in values[:: 9 if field == "topic" else 1]:
        choice.select_option(value)
        assert_shows(seen, expected(**{field: value}))
    assert set().union(*(of(entry, field) for entry in ENTRIES)) == set(values)


def test_words_are_found_in_names_topics_items_and_formulas(visits, file):
    seen = visits.open(file)
    for text in ("tweedie", "TWEEDIE order", "PODA-318", r"\mathbb{E}", "  ddim   family ", "order 2", "a", NASTY[:9]):
        seen.fill("[name=text]", text)
        assert expected(text)
        assert_shows(seen, expected(text))


def test_choices_narrow_each_other_and_the_address_brings_them_back(visits, file):
    chosen = {"text": "order", "evidence": "rounding", "source": "principles", "state": "ok"}
    seen = visits.open(file)
    seen.fill("[name=text]", chosen["text"])
    for field in ("evidence", "source", "state"):
        seen.select_option(f"[data-filters=identities] [name={field}]", chosen[field])
    names = expected(**chosen)
    assert 0 < len(names) < min(len(expected(**{field: value})) for field, value in chosen.items())
    assert_shows(seen, names)
    hash = seen.url.partition("#")[2]
    again = visits.open(file, hash)
    assert_shows(again, names)
    assert {field: again.input_value(f"[data-filters=identities] [name={field}]") for field in chosen} == chosen
    again.evaluate("location.hash = 'state=blind'")
    again.wait_for_function("document.querySelector('[name=text]').value === ''")
    assert_shows(again, expected(state="blind"))


def test_what_nothing_matches_shows_nothing_and_says_so(visits, file):
    seen = visits.open(file)
    seen.fill("[name=text]", NOWHERE)
    assert expected(NOWHERE) == set()
    assert_shows(seen, set())
    assert not seen.locator("#identities details").first.is_visible()
    seen.click("[data-clear=identities]")
    assert_shows(seen, expected())


def test_slash_goes_to_the_search_and_escape_clears(visits, file):
    seen = visits.open(file)
    seen.keyboard.press("/")
    seen.keyboard.type("tweedie/")
    assert seen.input_value("[name=text]") == "tweedie/"
    assert "#text=tweedie" in seen.url
    seen.keyboard.press("Escape")
    assert_shows(seen, expected())
    assert "#" not in seen.url


def test_a_link_to_a_choice_begins_with_its_form_on_a_phone_too(visits, file):
    for width in (360, 1280):
        seen = visits.open(file, "text=tweedie", width=width, height=740)
        top = seen.locator("[name=text]").evaluate("(one) => one.getBoundingClientRect().top")
        assert 0 <= top < 200


def test_an_empty_run_does_not_say_that_nothing_matches(visits):
    seen = visits.open(page.page(run(asked=3)))
    assert not seen.is_visible("#identities-none")
    seen.fill("[name=text]", NOWHERE)
    assert seen.is_visible("#identities-none")


def test_counts_of_the_summary_are_links_to_what_they_count(visits, file):
    seen = visits.open(file)
    for tile in seen.locator(".tile[href*=state]").all():
        tile.click()
        assert len(shown(seen)) == int(tile.locator("b").inner_text()) > 0


def test_a_link_to_what_a_filter_hides_shows_it(visits, file):
    seen = visits.open(file, "state=refutes")
    name = next(entry["name"] for entry in ENTRIES if not entry["refutes"] and entry["verdict"] == "ok")
    assert name not in shown(seen)
    link = seen.locator("#items a", has_text=re.compile(f"^{re.escape(name)}$")).first
    link.click()
    seen.wait_for_function("(name) => document.querySelector(':target h3')?.textContent === name", arg=name)
    assert name in shown(seen)
    assert seen.locator(":target").evaluate("(one) => one.getBoundingClientRect().top < innerHeight")


def test_the_ledger_is_filtered_by_itself(visits, file):
    seen = visits.open(file, "item-state=refuted&item-source=physics")
    rows = seen.evaluate(
        "[...document.querySelectorAll('#items tr')].filter((e) => e.checkVisibility()).map((e) => e.id)"
    )
    assert rows == [row.id for row in ledger.rows() if (row.state, row.source) == ("refuted", "physics")]
    assert rows
    assert_shows(seen, expected())


def test_code_is_that_of_the_check_also_once_it_is_coloured(visits, file):
    name = "Tweedie, first order"
    seen = visits.open(file, "text=Tweedie,+first+order")
    article = seen.locator("article", has=seen.get_by_role("heading", name=name, exact=True))
    article.locator("summary").click()
    seen.wait_for_function("(one) => one.querySelectorAll('.code span').length > 3", arg=article.element_handle())
    source = inspect.getsource(registry()[name].check)
    assert article.locator(".code").inner_text().strip() == source[source.index("def ") :].strip()
    assert set(article.locator(".code .wrong").all_inner_texts()) == {"wrong"}


def test_without_javascript_everything_is_there_and_nothing_that_needs_it(visits, file):
    seen = visits.open(file, javascript=False)
    assert seen.locator("#identities article:visible").count() == len(ENTRIES)
    assert seen.locator("#items tr:visible").count() == len(ledger.rows())
    assert seen.locator("form:visible, button:visible").count() == 0


# ---------------------------------------------------------------------- looks


def test_the_button_changes_the_colours_and_they_are_remembered(visits, file):
    seen = visits.open(file, color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = seen.evaluate(ground)
    seen.click("[data-theme-toggle]")
    assert seen.evaluate(ground) == light
    seen.click("[data-theme-toggle]")
    dark = seen.evaluate(ground)
    assert dark != light
    seen.reload()
    assert seen.evaluate(ground) == dark
    seen.emulate_media(media="print")
    assert seen.evaluate(ground) == light  # ink is dark, and paper is not
    assert visits.open(file, color_scheme="dark").evaluate(ground) == dark


@pytest.mark.parametrize("scheme", SCHEMES)
def test_words_can_be_told_from_what_is_behind_them(visits, file, scheme):
    seen = visits.open(file, "text=Tweedie,+first", color_scheme=scheme)
    seen.locator("article:visible summary").first.click()
    seen.wait_for_selector(".code .wrong")
    assert_readable(seen)
    seen.add_style_tag(content=f".facts {{ color: {GREYS[scheme]}; }}")
    with pytest.raises(AssertionError, match="has a contrast of"):  # soft letters that are a little softer
        assert_readable(seen)


def test_no_window_has_to_be_moved_sideways(visits, file):
    seen = visits.open(file)
    for width in (1280, 768, 360):
        seen.set_viewport_size({"width": width, "height": 800})
        assert_within(seen)
    seen.add_style_tag(content=".formula { overflow: visible !important }")  # a box of their own to be moved in
    with pytest.raises(AssertionError):
        assert_within(seen)


def test_a_page_of_everything_is_no_wider_than_a_phone(visits):
    assert_within(visits.open(page.page(everything()), width=360, height=740))


BELOW = """() => [...document.querySelectorAll("#identities msub")].map((one) => {
  const [line, index] = [...one.children].map((each) => each.getBoundingClientRect());
  return (index.bottom - line.bottom) / line.height;
})"""


def test_indices_stand_below_their_line_also_where_the_font_does_not_lower_them(visits):
    text = page.page(run(outcome(formula=r"x_t = y_{t + 1}")))
    font = "msub > :nth-child(2) { position: relative; top: -0.5em }"
    for markup in (text, text.replace("<style>", f"<style>{font}", 1)):
        seen = visits.open(markup)
        assert min(seen.evaluate(BELOW)) > 0.1
    assert seen.evaluate("document.documentElement.classList.contains('no-math-font')")
    seen.evaluate("document.documentElement.classList.remove('no-math-font')")
    assert min(seen.evaluate(BELOW)) < 0.1
