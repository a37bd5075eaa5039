"""Pages in a headless Chromium without a network: what tests marked browser look through.

The environment variable REFDIFF_CHROMIUM names the executable; without it, a Chromium or Chrome on the PATH is taken,
or else the one that `playwright install chromium` has put where playwright finds it.
"""

import importlib.util
import os
import shutil
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@cache
def executable():
    """The Chromium to run, or nothing."""
    if asked := os.environ.get("REFDIFF_CHROMIUM"):
        return shutil.which(asked)
    if found := next(filter(None, map(shutil.which, NAMES)), None):
        return found
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return shutil.which(playwright.chromium.executable_path)


@cache
def no_browser():
    """Why no page can be opened here, or nothing."""
    if importlib.util.find_spec("playwright") is None:
        return "no browser: playwright is not installed"
    if executable() is None:
        asked = os.environ.get("REFDIFF_CHROMIUM")
        return f"no browser: REFDIFF_CHROMIUM is {asked!r}" if asked else "no browser: Chromium is not installed"
    return None


@dataclass
class Visits:
    """Pages that were opened, and what none of them may do: complain, throw, ask for anything but itself."""

    chromium: Any
    folder: Path
    complaints: list[str] = field(default_factory=list)

    def open(self, page, hash="", *, width=1280, height=800, javascript=True, **options):
        """A playwright page that shows this file or HTML text, in a fresh context.

        Args:
            page: Path of a file, or text, which is written to one.
            hash: what follows # in the address.
            options: of the context, such as color_scheme="dark", reduced_motion="reduce".
        """
        if not isinstance(page, Path):
            text, page = page, self.folder / f"page_{len([*self.folder.iterdir()])}.html"
            page.write_text(text, encoding="utf-8")
        size = {"width": width, "height": height}
        context = self.chromium.new_context(viewport=size, offline=True, java_script_enabled=javascript, **options)
        shown, address = context.new_page(), page.resolve().as_uri()
        shown.on("console", lambda said: said.type in ("error", "warning") and self.complain(said.text))
        shown.on("pageerror", lambda error: self.complain(str(error)))
        shown.on("request", lambda asked: asked.url.split("#")[0] == address or self.complain(f"asks for {asked.url}"))
        shown.goto(address + (f"#{hash}" if hash else ""))
        return shown

    def complain(self, text):
        """Keep what a page must not have done."""
        self.complaints.append(text)


@pytest.fixture(scope="module")
def chromium():
    """One Chromium a file of tests (and worker): playwright's event loop, while it is there, lets no other run."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # a container's root has no sandbox; memory is shared through files, as /dev/shm may be small
        flags = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = playwright.chromium.launch(executable_path=executable(), args=flags)
        yield browser
        browser.close()


@pytest.fixture
def visits(chromium, tmp_path):
    """Pages can be opened; at the end none may have complained."""
    found = Visits(chromium, tmp_path)
    yield found
    for context in chromium.contexts:
        context.close()
    assert found.complaints == []
