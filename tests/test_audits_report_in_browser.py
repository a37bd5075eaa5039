"""The page of an audit in a browser: a choice leaves what the JSON of the same run says, and people can read it."""

from collections import Counter
from dataclasses import replace

import pytest
from audit_runs import NA, OK, W, finding, known, result, run, some
from seen import GREYS, SCHEMES, assert_readable, assert_within

from refdiff.validation.audits import page
from refdiff.validation.audits.report import as_json
from refdiff.validation.audits.sources import Source

pytestmark = pytest.mark.browser
SHORT = {"wrong": "wrong", "differs by convention": "convention", "ok": "ok", "not applicable": "n/a"}
# (set, question, verdict, state, how many) of the rows that can be seen once all that is folded is open
SEEN = """() => {
  for (const one of document.querySelectorAll("#findings details")) one.open = true;
  const said = (row, field) => row.closest(`[data-${field}]`)?.dataset[field] ?? "";
  return [...document.querySelectorAll("#findings [data-row]")].filter((row) => row.checkVisibility())
    .map((row) => [said(row, "set"), said(row, "question"), said(row, "verdict"), row.dataset.state ?? "",
                   Number(row.dataset.weight ?? 1)]);
}"""


def one_known():
    return run(baseline=known(some()[1].findings[2]))


def told(found, **choice):
    """The findings that the JSON has, those of a choice."""
    state = {True: "known", False: "new"}
    listed = []
    for subject in as_json(found)["subjects"]:
        for one in subject["findings"]:
            verdict = SHORT[one["verdict"]]
            facts = {
                "name": subject["member"], "set": subject["name"], "question": one["question"], "verdict": verdict,
                "state": state[one["known"]] if verdict == "wrong" else "",
            }  # fmt: skip
            if all(facts[field] == value for field, value in choice.items()):
                listed.append((facts["set"], facts["question"], verdict, facts["state"]))
    return Counter(listed)


def seen(shown):
    found = Counter()
    for *facts, count in shown.evaluate(SEEN):
        found[tuple(facts)] += count
    return found


def choices(shown, field):
    return [value for value in shown.eval_on_selector_all(
        f"select[data-field={field}] option", "options => options.map((one) => one.value)") if value]  # fmt: skip


def assert_choices_show_what_json_says(shown, found, field):
    offered = choices(shown, field)
    assert len(offered) > 1
    for value in offered:
        shown.select_option(f"select[data-field={field}]", value)
        assert seen(shown) == told(found, **{field: value}), value
        (said,) = shown.locator("output[data-count]").all_inner_texts()
        assert said.startswith(f"{told(found, **{field: value}).total()} of {len(found.findings)} ")


@pytest.mark.parametrize("field", ["name", "question", "verdict", "state", "set"])
def test_a_choice_shows_exactly_what_json_says(visits, field):
    assert_choices_show_what_json_says(visits.open(page.page(one_known())), one_known(), field)


def test_a_row_that_is_misnamed_is_noticed(visits):
    html = page.page(one_known())
    misnamed = html.replace('data-row data-question="law"', 'data-row data-question="order"')
    assert misnamed != html
    with pytest.raises(AssertionError):
        assert_choices_show_what_json_says(visits.open(misnamed), one_known(), "question")


def test_words_find_the_findings_that_say_them(visits):
    shown = visits.open(page.page(run()))
    shown.fill("input[type=search]", "NO noise last")
    assert seen(shown) == told(run(), question="end")
    shown.fill("input[type=search]", "nothing says this")
    assert seen(shown) == Counter()
    assert shown.is_visible("#findings-none")
    shown.click("#findings-none button")
    assert seen(shown) == told(run())


def test_the_address_keeps_and_restores_what_is_chosen(visits):
    shown = visits.open(page.page(run()), "question=coefficients&verdict=wrong")
    assert shown.input_value("select[data-field=question]") == "coefficients"
    assert seen(shown) == told(run(), question="coefficients", verdict="wrong")
    shown.select_option("select[data-field=verdict]", "n/a")
    assert shown.evaluate("location.hash") == "#question=coefficients&verdict=n%2Fa"
    shown.select_option("select[data-field=question]", "")
    shown.reload()
    assert seen(shown) == told(run(), verdict="n/a")
    shown.keyboard.press("Escape")
    assert shown.evaluate("location.hash") == ""
    assert seen(shown) == told(run())


def test_what_a_choice_has_opened_is_closed_with_it(visits):
    shown = visits.open(page.page(run()))
    folded = "details.rest:not([open])"
    before = shown.locator(folded).count()
    assert before > 0
    shown.select_option("select[data-field=verdict]", "ok")
    assert shown.locator(folded + ":not([hidden])").count() < before
    shown.click("button[type=reset]")
    assert shown.locator(folded).count() == before


def test_every_tile_leads_to_as_many_findings_as_it_says(visits):
    shown = visits.open(page.page(one_known()))
    tiles = shown.locator(".tile")
    counts = {}
    for i in range(tiles.count()):
        tiles.nth(i).click()
        number, word = tiles.nth(i).inner_text().split(maxsplit=1)
        counts[word] = int(number)
        assert seen(shown).total() == int(number)
    expected = {"wrong and new": 2, "wrong and known": 1, "by convention": 2, "ok": 4, "not applicable": 1}
    assert counts == expected


def test_a_symbol_of_the_matrix_leads_to_its_place_also_where_it_is_filtered_out(visits):
    shown = visits.open(page.page(run()), "question=law")
    assert not shown.is_visible("#a-coefficients")
    shown.click("[href='#a-coefficients']")
    assert shown.is_visible("#a-coefficients .said")
    assert shown.evaluate("document.getElementById('a-coefficients').getBoundingClientRect().top < innerHeight")
    shown.click("[href='#a-law']")  # folded until then
    assert shown.is_visible("#a-law")


def test_a_symbol_leads_to_its_place_every_time_it_is_followed(visits):
    shown = visits.open(page.page(run()))
    shown.evaluate("addEventListener('hashchange', (event) => event.stopImmediatePropagation(), true)")  # nor later
    for _ in range(2):  # the address changes the first time only
        shown.click("[href='#a-coefficients']")
        assert shown.is_visible("#a-coefficients .said")
        shown.click("#a-coefficients > summary")
        assert not shown.is_visible("#a-coefficients .said")


@pytest.mark.parametrize("width", [1280, 800, 360])  # filters in one row, in two, and left behind
def test_what_a_symbol_leads_to_has_its_name_above_it(visits, width):
    several = result("A()", *(finding("A()", f"question {n}", W, place="2 steps") for n in range(40)))
    shown = visits.open(page.page(run((several, *some()))), width=width, height=700)
    tops = """(id) => ["form.bar", "#a h2", id].map((one) => document.querySelector(one).getBoundingClientRect())"""
    for n in (3, 20, 36):
        shown.click(f"[href='#a-question-{n}']")
        bar, name, line = shown.evaluate(tops, f"#a-question-{n} > summary")
        assert name["top"] >= (bar["bottom"] if width > 640 else 0) - 1
        assert name["bottom"] <= line["top"] + 1
        assert line["bottom"] < 700
    shown.add_style_tag(content=".member > h2 { position: static !important; }")
    assert shown.evaluate(tops, "#a-question-36 > summary")[1]["bottom"] < 0  # as it was: the name is out of sight


def test_a_program_goes_to_the_clipboard_or_is_selected(visits):
    script = "print('a')  # <b> & \"c\"\nprint(2)\n"
    found = finding("A()", "order", W, "wrong")
    html = page.page(run((result("A()", replace(found, script=script)),)))
    shown = visits.open(html, permissions=["clipboard-read", "clipboard-write"])
    shown.click("details.line > summary")
    shown.click(".script > summary")
    shown.click(".copy")
    shown.wait_for_selector("[data-done=Copied]")
    assert shown.evaluate("navigator.clipboard.readText()") == script
    shown.evaluate("Object.defineProperty(navigator, 'clipboard', {value: {writeText: () => Promise.reject()}})")
    shown.click(".copy")
    shown.wait_for_selector("[data-done=Selected]")
    assert shown.evaluate("getSelection().toString()").strip() == script.strip()


def test_names_and_sentences_are_text(visits):
    bad = """<script>document.title = "run"</script>"><img src=x onerror="document.title='run'">' & "a|b" #1=2"""
    other = finding("A()", "law", OK, bad)
    found = run((result(bad, finding(bad, bad, W, bad, 1.0, 0.5, bad), member=bad), result("A()", other)))
    shown = visits.open(page.page(found))
    assert shown.title().startswith("refdiff audit")
    assert shown.locator("#findings h2").first.inner_text().endswith(bad)
    for field in ("name", "question"):
        shown.select_option(f"select[data-field={field}]", bad)
        assert seen(shown) == told(found, **{field: bad})
        shown.click("button[type=reset]")
    assert shown.locator("img").count() == 0


def test_without_javascript_all_can_be_read(visits):
    shown = visits.open(page.page(run()), javascript=False)
    assert not shown.is_visible(".bar")
    assert not shown.is_visible(".copy")
    assert shown.locator("svg polyline").count() > 0
    for i in range(shown.locator("#findings details > summary").count()):
        summary = shown.locator("#findings details > summary").nth(i)
        if summary.locator("xpath=..").get_attribute("open") is None:
            summary.click()
    rows = shown.locator("#findings [data-row]")
    assert rows.count() == 9
    assert all(rows.nth(i).is_visible() for i in range(9))


def test_printed_what_is_wrong_is_open(visits):
    shown = visits.open(page.page(run()))
    shown.emulate_media(media="print")
    assert not shown.is_visible("#a-coefficients .said")
    shown.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert shown.is_visible("#a-coefficients .said")
    assert not shown.is_visible("form.bar")


WIDE = {
    "rows": ["evaluation 1", "output"],
    "columns": [f"answer {n}" for n in range(1, 31)],
    "found": [[1.0] * 30] * 2,
    "claimed": [[0.5] * 30] * 2,
    "left_out": [0, 0],
}
LONG = Source(f"m{'.m' * 45}:f", f"{'m/' * 45}m.py:1")
PHONE = {
    "of all kinds": run(),
    "of what is ok": run(some()[:1]),
    "of nothing": run((result("A()", finding("A()", "law", NA)),)),
    "interrupted at once": run((), 2),
    "of many weights": run((result("A()", finding("A()", "coefficients", W, weights=WIDE)),)),
    "of long words": run(
        (result("x" * 90, finding("x" * 90, "y" * 90, W, "z" * 90), member="x" * 90, audited=LONG, method=LONG),)
    ),
}


@pytest.mark.parametrize("found", PHONE.values(), ids=PHONE)
def test_a_phone_scrolls_no_page_sideways(visits, found):
    shown = visits.open(page.page(found), width=360, height=700)
    shown.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert_within(shown)
    shown.add_style_tag(content=".lead { width: 361px; }")
    with pytest.raises(AssertionError):
        assert_within(shown)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_can_be_told_from_its_ground(visits, scheme):
    html = page.page(one_known())
    shown = visits.open(html, color_scheme=scheme)
    shown.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert_readable(shown)
    shown.add_style_tag(content=f".facts {{ color: {GREYS[scheme]}; }}")
    with pytest.raises(AssertionError, match="has a contrast of"):  # soft letters that are a little softer
        assert_readable(shown)


def test_nothing_is_shown_of_what_nothing_is(visits):
    found = run(some()[:1])
    shown = visits.open(page.page(found), "verdict=wrong")
    assert seen(shown) == Counter()
    shown.locator(".tile").nth(2).click()
    assert seen(shown) == told(found, verdict="ok")


@pytest.mark.parametrize("where", ["on paper", "without JavaScript"])
def test_pictures_are_drawn_everywhere(visits, where):
    told = some()[1].findings
    html = page.page(run((result("A(x=1)", told[0], told[2]),)))
    shown = visits.open(html, javascript=where == "on paper")
    shown.emulate_media(media="print" if where == "on paper" else None)
    for i in range(2):
        shown.locator(".line > summary").nth(i).click()
    # an error of 0 is no bar
    for kind, drawn in {
        "rect.stage": [False, True, True],
        ".line polyline": [True] * 2,
        ".line polygon": [True],
    }.items():
        parts = shown.locator(kind)
        assert [parts.nth(i).is_visible() for i in range(parts.count())] == drawn
