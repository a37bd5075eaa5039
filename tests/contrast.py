"""The weakest contrast of all text that a browser shows of a page."""

from seen import contrast

# every text that can be seen: its colour, the colours under it from the innermost, and some of it
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


def plain(colour):
    """A computed colour as rgb(...), with opacity where it has one; mixed ones are color(srgb ...) of 0 to 1."""
    if not colour.startswith("color(srgb "):
        return colour
    parts = [float(one) for one in colour.removeprefix("color(srgb ").rstrip(")").replace("/", " ").split()]
    return f"rgb({', '.join(str(255 * one) for one in parts[:3])}{''.join(f', {one}' for one in parts[3:])})"


def weakest(shown):
    """The smallest contrast ratio on a page and the text that has it; grounds are opaque or nothing."""
    found = []
    for colour, under, text in shown.evaluate(PAIRS):
        ground = next(one for one in [*map(plain, under), "rgb(255, 255, 255)"] if one != "rgba(0, 0, 0, 0)")
        assert ground.startswith("rgb("), ground
        assert ground.count(",") == 2, f"{ground} is not opaque"
        found.append((contrast(plain(colour), ground), text))
    return min(found)
