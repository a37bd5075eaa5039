"""Outcomes that no check made, and runs of them: what tests of the report tell of; and the tags of a page."""

import random
from html.parser import HTMLParser

import numpy as np

from refdiff.validation import report
from refdiff.validation.identity import ROUNDING, Identity, Sides
from refdiff.validation.runner import Outcome, registry


def outcome(name="a = b", error=1e-15, control=1e12, cases=3, raised="", topic="letters", formula="a = b"):
    """An outcome of an identity that was never run."""
    one = Identity(
        name,
        topic,
        formula,
        ("RDX-01",),
        ("DMI-02",),
        "once",
        ROUNDING,
        1e-12,
        "b + 1",
        lambda _: True,
        None,
        lambda *_: Sides(1, 1),
    )
    return Outcome(one, error, "draw <0>", control, cases, 0.25, raised)


def run(*outcomes, asked=None, data=""):
    """A run with these outcomes."""
    return report.Run(outcomes, asked or len(outcomes), "quick", 5, data, 1.5)


GOOD = outcome()
FAILED = outcome("fails", error=3e-9)
BLIND = outcome("sees nothing", control=3.0)
BROKEN = outcome("breaks", error=np.inf, raised="ValueError('no')")
ENDLESS = outcome("is not a number", error=np.inf)
IDLE = outcome("applies nowhere", error=0.0, control=0.0, cases=0)
OVERSHOT = outcome("control is infinite", control=np.inf)
EVERY_KIND = (GOOD, FAILED, BLIND, BROKEN, ENDLESS, IDLE, OVERSHOT)


def everything(every=1, word=""):
    """A made-up run of the registry, where one in twenty fails, is blind, breaks or applies nowhere; and one more.

    Args:
        every: of so many identities that hold only one is in it,
        word: and those that have this word in their name.
    """
    draw = random.Random(0)

    def one(known):
        kind = draw.random()
        error, control = known.tolerance * 10 ** -draw.uniform(0.2, 5), 10 ** draw.uniform(2.1, 14)
        if kind < 0.01:
            return Outcome(known, 50 * known.tolerance, "draw <b>3</b>", control, 4, 0.1)
        if kind < 0.02:
            return Outcome(known, error, "draw 3", 7.0, 4, 0.1)
        if kind < 0.03:
            return Outcome(known, np.inf, "draw 3", 0.0, 4, 0.1, "ValueError('x must be <finite>')")
        if kind < 0.05:
            return Outcome(known, 0.0, "", 0.0, 0, 0.0)
        return Outcome(known, error, "draw 3", control, 4, 0.1)

    made = [
        found
        for k, found in enumerate(map(one, registry().values()))
        if found.verdict != "ok" or k % every == 0 or (word and word in found.identity.name)
    ]
    return run(*made, outcome(NASTY, topic=f"of {NASTY}"), data=f"{NASTY}.npy: 3 points")


NASTY = "</script><script>alert('&amp; \"x\"')</script>"


class Page(HTMLParser):
    """Tags with their attributes, and whether they close in the order they opened."""

    EMPTY = frozenset(("meta", "br", "wbr", "input"))  # others close, or end in />

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]
