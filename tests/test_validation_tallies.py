"""Tallies: every outcome is counted once where it belongs, and the worst are named."""

import dataclasses
from collections import Counter

import pytest
from reported import BLIND, BROKEN, ENDLESS, EVERY_KIND, FAILED, GOOD, IDLE, everything, outcome, run

from refdiff.validation import ledger, report, tallies
from refdiff.validation.runner import registry


@pytest.fixture(scope="module")
def made():
    return everything()


def test_failing_topics_and_outcomes_come_first_and_nothing_is_lost():
    calm = [outcome("c1", topic="calm"), outcome("c2", topic="calm")]
    mixed = [outcome("m1", topic="mixed"), outcome("m2", topic="mixed", error=1.0)]
    found = tallies.ordered(run(*calm, *mixed))
    assert list(found) == ["mixed", "calm"]
    assert [one.identity.name for one in found["mixed"]] == ["m2", "m1"]
    assert [one.identity.name for one in found["calm"]] == ["c1", "c2"]


def test_sources_are_those_of_the_items(made):
    for one, entry in zip(made.outcomes, report.as_json(made)["identities"], strict=True):
        prefixes = {item.partition("-")[0] for item in entry["covers"] + entry["refutes"]}
        assert set(tallies.sources_of(one)) == {
            n for n, known in ledger.SOURCES.items() for p in known if p in prefixes
        }


def test_kinds_count_every_outcome_once(made):
    found = tallies.kinds(made.outcomes)
    entries = report.as_json(made)["identities"]
    assert {kind.evidence.name: kind.count for kind in found} == Counter(entry["evidence"] for entry in entries)
    assert sum(kind.failed for kind in found) == len(made.failures)


def test_kinds_name_the_worst_error_and_the_weakest_control():
    (kind,) = tallies.kinds([GOOD, FAILED, BLIND, IDLE])
    assert (kind.count, kind.failed) == (4, 2)
    assert kind.error == pytest.approx(3e-9 / 1e-12)
    assert kind.control == 3.0  # not the 0 of what did not run
    (nothing,) = tallies.kinds([IDLE])
    assert nothing.error is None
    assert nothing.control is None


def test_texts_add_up_to_the_ledger(made):
    rows = ledger.rows()
    found = tallies.texts(made.outcomes, rows)
    assert sum(text.total for text in found) == len(rows)
    for text in found:
        assert sum(count for *_, count in text.shares) == text.total
        assert text.checked == sum(row.state in ("checked", "refuted") for row in rows if row.source == text.name)


def test_a_run_checks_the_items_of_what_ran_and_refutes_those_of_what_held():
    rows = ledger.rows()
    held = [dataclasses.replace(GOOD, identity=one) for one in registry().values()]
    for text in tallies.texts(held, rows):  # everything held: as the ledger has it
        assert text.here == {state: text.items[state] for state in ("checked", "refuted")}
    for one, said in [(GOOD, "refuted"), (FAILED, "checked"), (IDLE, None)]:
        here = {text.name: text.here for text in tallies.texts([one], rows)}
        assert here["mathintro"] == ({said: 1} if said else {})  # DMI-02, whose print it refutes
        assert here["ddim-redux"] == ({"checked": 1} if said else {})  # RDX-01, which it covers


def test_the_nearest_are_the_worst_of_what_holds():
    many = [outcome(f"n{k}", error=1e-13 * k, control=200.0 + k) for k in range(8, 0, -1)]
    tight, weak = tallies.nearest([*EVERY_KIND, *many])
    assert [one.identity.name for one in tight] == ["n8", "n7", "n6", "n5", "n4"]
    assert [one.identity.name for one in weak] == ["n1", "n2", "n3", "n4", "n5"]


def test_items_know_the_identities_that_speak_of_them():
    plain = dataclasses.replace(GOOD.identity, name="plain", covers=("RDX-01", "DMI-02"), refutes=())
    found = tallies.checks([GOOD.identity, plain])
    assert found == {"DMI-02": [("a = b", True), ("plain", False)], "RDX-01": [("a = b", False), ("plain", False)]}


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (FAILED, ("3e-9 apart, 3e3 tolerances", "the two sides at most 1e-12 apart")),
        (BLIND, ("the negative control misses by 3 tolerances", "at least 100 tolerances")),
        (BROKEN, ("ValueError('no')", "two sides that can be compared")),
        (ENDLESS, ("a value that is not a finite number", "the two sides at most 1e-12 apart")),
    ],
)
def test_a_failure_says_what_was_found_and_what_was_expected(one, said):
    assert tallies.found_and_expected(one) == said


def test_filters_offer_every_value_with_its_number(made):
    found = {key: options for key, _, options in tallies.fields(made.outcomes)}
    entries = report.as_json(made)["identities"]
    assert {value: count for value, _, count in found["topic"]} == Counter(entry["topic"] for entry in entries)
    states = {value: count for value, _, count in found["state"]}
    assert states.pop("refutes") == sum(entry["verdict"] == "ok" and bool(entry["refutes"]) for entry in entries)
    assert {words: count for value, words, count in found["state"] if value in states} == Counter(
        entry["verdict"] for entry in entries
    )
    items = {key: options for key, _, options in tallies.item_fields(ledger.rows())}
    assert {value: count for value, _, count in items["state"]} == {
        state: sum(row.state == state for row in ledger.rows()) for state in ledger.STATES
    }
