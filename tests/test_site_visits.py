"""Visits to the built site complain about pages that ask for more, say that something failed, or are too wide."""

import pytest
from site_visits import unfound, visit

pytestmark = pytest.mark.browser

GOOD = "<!doctype html><title>A page</title><a href='other.html'>and another</a>"
BAD = [
    ("<script src='https://example.org/x.js'></script>", "asks for https://example.org/x.js"),
    ("<script>console.error('this failed')</script>", "this failed"),
    ("<script>undefined_name()</script>", "undefined_name"),
    ("<div style='width: 900px'>wide</div>", "pixels wide"),
]


def test_a_quiet_page_gives_no_complaint(chromium, tmp_path):
    page = tmp_path / "index.html"
    page.write_text(GOOD)
    assert visit(chromium, [page], tmp_path) == []


@pytest.mark.parametrize(("more", "said"), BAD)
def test_a_page_that_does_what_none_may_is_told(chromium, tmp_path, more, said):
    page = tmp_path / "index.html"
    page.write_text(GOOD + more)
    assert said in "".join(visit(chromium, [page], tmp_path))


def test_a_site_without_a_search_is_told(chromium, tmp_path):
    (tmp_path / "index.html").write_text(GOOD)
    assert len(unfound(chromium, tmp_path, timeout=500)) == 1
