"""What a browser shows of a page: contrasts of letters with what is behind them, and whether all fits the window."""

import re

SCHEMES = ("light", "dark")
READABLE = 4.5  # WCAG 2, level AA: of letters of the usual size
# the colours of the letters of the first element that is seen, and of the grounds behind it, innermost first
COLOURS = """(name) => {
  const one = [...document.querySelectorAll(name)].find((each) => each.checkVisibility());
  const grounds = [];
  for (let each = one; each; each = each.parentElement) grounds.push(getComputedStyle(each).backgroundColor);
  return one && [getComputedStyle(one).color, grounds];
}"""


def rgba(text):
    """Red, green and blue of 0 to 255 and opacity of a computed colour."""
    red, green, blue, *opacity = map(float, re.findall(r"[\d.]+", text))
    return red, green, blue, opacity[0] if opacity else 1.0


def luminance(colour):
    """The relative luminance of WCAG 2, from 0 of black to 1 of white."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour[:3])]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """The contrast ratio of two colours, from 1 to 21."""
    low, high = sorted([luminance(rgba(one)), luminance(rgba(other))])
    return (high + 0.05) / (low + 0.05)


def contrasts(page, *names):
    """By selector, the contrast of the first element that is seen with the first opaque ground behind it."""
    found = {}
    for name in names:
        seen = page.evaluate(COLOURS, name)
        assert seen, f"{name} is not on the page"
        ground = next(one for one in seen[1] if rgba(one)[3] == 1)
        found[name] = contrast(seen[0], ground)
    return found


def assert_readable(found):
    """No contrast is below READABLE."""
    assert {name: value for name, value in found.items() if value < READABLE} == {}


def assert_within(page):
    """Nothing is wider than the window, parts that are drawn only when they come into sight included."""
    page.add_style_tag(content="* { content-visibility: visible !important }")
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1], f"{widths[0]} pixels in a window of {widths[1]}"
