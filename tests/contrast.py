"""How well text can be told from what it stands on, in a browser: WCAG 2's contrast ratio."""

# every text that can be seen: its colour, the colours under it from the innermost, and some of it
PAIRS = """() => {
  const found = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const text = node.data.trim(), own = node.parentElement;
    if (!text || !own.checkVisibility() || /^(STYLE|SCRIPT|OPTION)$/.test(own.tagName)) continue;
    const style = getComputedStyle(own), under = [];
    for (let one = own; one; one = one.parentElement) under.push(getComputedStyle(one).backgroundColor);
    const colour = own.closest("svg") ? style.fill : style.color;
    found.set(JSON.stringify([colour, under]), text.slice(0, 40));
  }
  return [...found].map(([key, text]) => [...JSON.parse(key), text]);
}"""


def rgba(colour):
    """(red, green, blue, opacity) in 0 to 1, of rgb(...) and color(srgb ...)."""
    kind, _, inside = colour.partition("(")
    parts = [float(one) for one in inside.rstrip(")").replace("srgb", "").replace(",", " ").replace("/", " ").split()]
    scale = 1.0 if kind == "color" else 255.0
    return [*(part / scale for part in parts[:3]), parts[3] if len(parts) > 3 else 1.0]


def luminance(colour):
    """WCAG's relative luminance of (red, green, blue)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ratio(one, other):
    """From 1 (the same) to 21 (black and white)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def weakest(shown):
    """The smallest ratio on a page, and the text that has it; grounds are opaque or nothing."""
    found = []
    for colour, under, text in shown.evaluate(PAIRS):
        grounds = [rgba(one) for one in under]
        assert all(ground[3] in (0.0, 1.0) for ground in grounds), under
        ground = next((one for one in grounds if one[3] == 1.0), [1.0, 1.0, 1.0])
        found.append((ratio(rgba(colour), ground), text))
    return min(found)
