"""What a browser shows of a page: contrasts of letters with what is behind them, and whether all fits the window."""

import re

SCHEMES = ("light", "dark")
READABLE = 4.5  # WCAG 2, level AA: of letters of the usual size
GREYS = {"light": "#888", "dark": "#666"}  # a little too soft
# every text that can be seen: the colour of its letters, those of the grounds behind it from the innermost, some of it
PAIRS = """() => {
  const found = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const text = node.data.trim(), own = node.parentElement;
    if (!text || !own.checkVisibility() || /^(STYLE|SCRIPT|OPTION)$/.test(own.tagName)) continue;
    const style = getComputedStyle(own), under = [];
    for (let one = own; one; one = one.parentElement) under.push(getComputedStyle(one).backgroundColor);
    found.set(JSON.stringify([own.closest("svg") ? style.fill : style.color, under]), text.slice(0, 40));
  }
  return [...found].map(([key, text]) => [...JSON.parse(key), text]);
}"""


def rgba(text):
    """Red, green and blue of 0 to 255 and opacity of a computed colour; mixed ones are color(srgb ...) of 0 to 1."""
    red, green, blue, *opacity = map(float, re.findall(r"[\d.]+(?:e-?\d+)?", text))
    full = 255.0 if text.startswith("color(srgb ") else 1.0
    return full * red, full * green, full * blue, opacity[0] if opacity else 1.0


def luminance(colour):
    """The relative luminance of WCAG 2, from 0 of black to 1 of white."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour[:3])]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """The contrast ratio of two colours, from 1 to 21."""
    low, high = sorted([luminance(rgba(one)), luminance(rgba(other))])
    return (high + 0.05) / (low + 0.05)


def weakest(page):
    """The smallest contrast of any text on a page with the first ground behind it, and the text; grounds are opaque."""
    found = []
    for colour, grounds, text in page.evaluate(PAIRS):
        ground = next((one for one in grounds if rgba(one)[3] > 0), "rgb(255, 255, 255)")
        assert rgba(ground)[3] == 1, f"{ground} behind {text!r} is not opaque"
        found.append((contrast(colour, ground), text))
    return min(found)


def assert_readable(page):
    """No text that can be seen has a contrast below READABLE."""
    least, text = weakest(page)
    assert least >= READABLE, f"{text!r} has a contrast of {least:.2f}"


def assert_within(page):
    """Nothing is wider than the window, parts that are drawn only when they come into sight included."""
    page.add_style_tag(content="* { content-visibility: visible !important }")
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1], f"{widths[0]} pixels in a window of {widths[1]}"
