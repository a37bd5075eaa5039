"""The rig of browser tests: a page that does what no page may is noticed, one that does not is left alone."""

import pytest
from browser import Visits
from seen import assert_readable, contrast, weakest

pytestmark = pytest.mark.browser
QUIET = "<!DOCTYPE html><html lang='en'><title>quiet</title><p>nothing</p></html>"
NOISY = {
    "an error in the console": ("<script>console.error('seen')</script>", "seen"),
    "an exception": ("<script>throw new Error('thrown')</script>", "thrown"),
    "an image from the network": ("<img src='https://example.org/a.png' alt=''>", "example.org/a.png"),
    "a neighbouring file": ("<script src='other.js'></script>", "other.js"),
    "a fetch": ("<script>fetch('https://example.org/b').catch(() => 0)</script>", "example.org/b"),
}


def test_a_quiet_page_is_shown_and_has_no_complaints(visits):
    assert visits.open(QUIET).inner_text("p") == "nothing"


@pytest.mark.parametrize("what", NOISY)
def test_what_no_page_may_do_is_noticed(chromium, tmp_path, what):
    markup, said = NOISY[what]
    visits = Visits(chromium, tmp_path)
    visits.open(QUIET.replace("<p>", f"{markup}<p>")).wait_for_load_state("networkidle")
    assert any(said in one for one in visits.complaints), visits.complaints


def test_contrasts_are_those_of_the_standard(visits):
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)") == pytest.approx(4.48, abs=0.005)  # the known near miss
    page = visits.open(QUIET.replace("<p>", "<style>body { background: #fff }</style><p style='color: #777'>"))
    assert weakest(page)[0] == pytest.approx(4.48, abs=0.005)
    with pytest.raises(AssertionError, match=r"has a contrast of 4\.48"):
        assert_readable(page)
    page.add_style_tag(content="p { background: color(srgb 0 0 0) }")
    assert weakest(page)[0] == pytest.approx(21 / 4.48, abs=0.01)  # contrasts on black and white multiply to 21
