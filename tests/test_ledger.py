"""The ledger is true: against the index of items, the registry of checks, and the functions it names."""

import importlib

from refdiff.validation import ledger
from refdiff.validation.runner import registry

IDS = [item["id"] for item in ledger.index()]


def test_the_ledger_has_one_row_for_each_of_the_835_items():
    assert len(IDS) == len(set(IDS)) == 835
    assert [row.id for row in ledger.rows()] == IDS


def test_every_state_is_a_known_one_and_says_by_what():
    for row in ledger.rows():
        assert row.state in ledger.STATES
        assert bool(row.by) == (row.state != "open"), row
        assert row.source in ledger.SOURCES


def test_every_identity_names_items_of_the_index():
    for one in registry().values():
        assert one.covers, f"{one.name!r} must cover an item"
        assert set(one.covers) | set(one.refutes) <= set(IDS), one.name


def test_hand_written_rows_are_of_two_states_name_items_once_and_are_not_covered_by_a_check():
    covered = {item for one in registry().values() for item in (*one.covers, *one.refutes)}
    names = [note["id"] for note in ledger.notes()]
    assert len(names) == len(set(names))
    assert set(names) <= set(IDS)
    assert not set(names) & covered, "the registry already says what these are"
    assert {note["state"] for note in ledger.notes()} <= {"implemented", "not computable"}


def test_what_is_said_to_implement_an_item_can_be_imported():
    for note in ledger.notes():
        if note["state"] == "implemented":
            module, _, name = note["by"].rpartition(".")
            assert callable(getattr(importlib.import_module(module), name)), note


def test_at_least_sixty_identities_cover_at_least_two_hundred_items():
    covered = {item for one in registry().values() for item in (*one.covers, *one.refutes)}
    assert len(registry()) >= 60
    assert len(covered) >= 200
