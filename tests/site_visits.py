"""Opens every page of the built site in a headless Chromium, from the disk and without a network.

    mkdocs build --strict && python tests/site_visits.py build/site

No page may ask for anything outside the site, complain, or be wider than a phone; the search must find what is there.
Status 1 says that something did; status 2 that there is no browser or no site.
"""

import sys
from pathlib import Path

from browser import executable, no_browser

PHONE = {"width": 390, "height": 844}
ASKED = "tweedie"  # a word that titles have


def visit(chromium, pages, folder):
    """What is wrong with pages, one line each."""
    context = chromium.new_context(viewport=PHONE, offline=True)
    shown, found = context.new_page(), []
    inside = folder.as_uri()
    shown.on("console", lambda said: said.type in ("error", "warning") and found.append(f"{shown.url}: {said.text}"))
    shown.on("pageerror", lambda error: found.append(f"{shown.url}: {error}"))
    shown.on("request", lambda asked: asked.url.startswith(inside) or found.append(f"{shown.url} asks for {asked.url}"))
    for page in pages:
        shown.goto(page.as_uri(), wait_until="load")
        if (width := shown.evaluate("document.documentElement.scrollWidth")) > PHONE["width"]:
            found.append(f"{page}: {width} pixels wide")
    context.close()
    return found


def unfound(chromium, folder, timeout=60_000):
    """A line when the search does not find a page by its title, within a time in milliseconds."""
    shown = chromium.new_context(offline=True).new_page()
    shown.set_default_timeout(timeout)
    shown.goto((folder / "index.html").as_uri())
    try:
        shown.click("input.md-search__input")
        shown.locator("input.md-search__input").press_sequentially(ASKED)  # it listens to keys
        shown.locator(".md-search-result__item", has_text=ASKED.title()).first.wait_for()
    except Exception as error:  # what playwright raises has no name without it
        return [f"the search finds no {ASKED}: {type(error).__name__}"]
    return []


def main(folder):
    """Visit a site; the status of the program."""
    # 404.html is for a server, which says where the site's root is
    pages = [page for page in sorted(folder.rglob("*.html")) if page.name != "404.html"]
    if no_browser() or not pages:
        print(no_browser() or f"no pages in {folder}")
        return 2
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
        found = visit(chromium, pages, folder) + unfound(chromium, folder)
        chromium.close()
    print("\n".join([*found, f"{len(pages)} pages, {len(found)} complaints"]))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
