"""Steps of the build that MkDocs calls: the source as it is imported, pages that are generated, what is navigated."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))

import chapters
import contents
from markup import Markup

SOURCE = contents.ROOT / "build" / "source"  # mkdocs.yml names it to mkdocstrings


@event_priority(100)
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lay out the packages as they are imported, and add what Markdown does not have."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for room, name in contents.ROOMS.items():
        target = SOURCE.joinpath(*name.split("."))
        shutil.copytree(contents.ROOT / room, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    config.markdown_extensions.append(Markup(contents.resolve))  # type: ignore[arg-type]
    config.nav = navigation()
    return config


def navigation() -> list[Any]:
    """Home, notebooks, reference, identities, command line, audits."""
    reference: list[Any] = ["reference/index.md"]
    for name in contents.order():
        inner = [{one.removeprefix(name + "."): f"reference/{one}.md"} for one in contents.within(name)]
        reference.append({name: [f"reference/{name}.md", *inner] if inner else f"reference/{name}.md"})
    topics = [{topic: f"identities/{chapters.slug(topic)}.md"} for topic in chapters.topics()]
    found: list[Any] = [{"Home": "index.md"}]
    if chapters.notebooks():
        found.append({"Notebooks": [{chapters.title(one): f"notebooks/{one.stem}.md"} for one in chapters.notebooks()]})
    return [
        *found,
        {"Reference": reference},
        {"Identities": ["identities/index.md", {"Items of the source texts": "identities/items.md"}, *topics]},
        {"Command line": "commands.md"},
        {"Audits": [{"What was found": "findings.md"}, {"Writing an adapter": "adapters.md"}]},
    ]


def generated() -> dict[str, str | bytes]:
    """All pages and pictures by their places."""
    made: dict[str, str | bytes] = {"index.md": chapters.readme(), "commands.md": chapters.commands()}
    for file, place in chapters.BECOMES.items():
        made[place] = (contents.ROOT / file).read_text(encoding="utf-8")
    for path in chapters.pictures(chapters.readme()):
        made[path] = (contents.ROOT / path).read_bytes()
    made["reference/index.md"] = chapters.package_list()
    made |= {f"reference/{name}.md": chapters.reference(name) for name in contents.pages()}
    made["identities/index.md"] = chapters.identities_index()
    made["identities/items.md"] = chapters.items_page()
    made |= {f"identities/{chapters.slug(topic)}.md": chapters.identities_page(topic) for topic in chapters.topics()}
    for path in chapters.notebooks():
        text, files = chapters.notebook(path)
        made[f"notebooks/{path.stem}.md"] = text
        made |= {f"notebooks/{name}": content for name, content in files.items()}
    return made


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated."""
    for place, content in generated().items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """Name files as the repository has them."""
    if page.file.src_uri.startswith("reference/"):
        for room, name in contents.ROOMS.items():
            if room != name:
                html = html.replace(f"build/source/{name.replace('.', '/')}/", f"{room}/")
        html = html.replace("build/source/", "")
    # programs are there to be read, not to be searched
    return re.sub(r'<details class="(mkdocstrings-source|example)"', r'<details data-search-exclude class="\1"', html)
