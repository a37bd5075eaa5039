"""Work in worker processes: every task is answered once, and who ends a worker is told from who worked beside it."""

import operator
import os
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

from refdiff.validation.audits import audit
from refdiff.validation.audits.targets import Target
from refdiff.validation.parallel import spread


def test_a_task_that_ends_its_worker_takes_no_other_with_it():
    tasks = [(abs, -1), (os._exit, 1), (abs, -2), (operator.truediv, 1, 0), (os._exit, 0), (abs, -3), (abs, -4)]
    found = list(spread(operator.call, tasks, 2))
    assert sorted(place for place, _ in found) == list(range(len(tasks)))
    errors = {place: future.exception() for place, future in found}
    assert [place for place in errors if isinstance(errors[place], BrokenProcessPool)] == [1, 4]
    assert isinstance(errors[3], ZeroDivisionError)
    assert {place: future.result() for place, future in found if not errors[place]} == {0: 1, 2: 2, 5: 3, 6: 4}


def test_who_ended_a_worker_is_blamed_for_it():
    future = Future()
    future.set_exception(BrokenProcessPool())
    result = audit._received(audit.Unit(Target("plain", "f", "mine.py"), 0, "f"), future)
    assert [one.text for one in result.findings] == ["a worker process ended early: killed, or out of memory"]
    assert result.findings[0].key == "plain, mine.py | f | subject | exception"
