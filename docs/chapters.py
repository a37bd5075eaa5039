"""Pages that are made of what refdiff says about itself, as Markdown: identities, items, commands, home, notebooks."""

from __future__ import annotations

import ast
import base64
import json
import re
from collections.abc import Iterator
from inspect import cleandoc, getsource
from pathlib import Path
from typing import Any

from contents import ROOT, home, modules, order, pages, within

# where README and others point to, and the page that it becomes
BECOMES = {"validation/audits/FINDINGS.md": "findings.md", "validation/audits/ADAPTERS.md": "adapters.md"}
IMAGES = {"image/png": "png", "image/svg+xml": "svg"}


def slug(text: str) -> str:
    """A heading as the name of a file or an anchor."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace("+", "-plus")).strip("-")


def plain(text: str) -> str:
    """A text in which Markdown finds nothing."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)


def readme() -> str:
    """README with its links to files that are pages turned into links to the pages."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for file, becomes in BECOMES.items():
        text = text.replace(f"]({file})", f"]({becomes})")
    text = re.sub(r"\]\((notebooks/\w+)\.ipynb\)", r"](\1.md)", text)
    return "---\nhide: [navigation]\n---\n\n" + text


def pictures(text: str) -> list[str]:
    """The files of the repository that a text shows as pictures."""
    return sorted({path for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text) if (ROOT / path).is_file()})


# ---------------------------------------------------------------------- reference


def reference(name: str) -> str:
    """The page of a package: its docstring, the list of what has a page in it, then its modules and their names."""
    one = pages()[name]
    alone = not modules()[name].is_package
    out = [f"# `{name}` {{ #{name} }}", "", *_directive(name, level=1, heading=False)]
    if within(name):
        out += [_contents(name)]
    for section in one.sections:
        out += [] if section.module == name else _module(section.module)
        out += [text for path in section.names for text in _directive(path, level=2 if alone else 3)]
    if one.further and one.sections:
        out += [
            "## Further modules",
            "",
            "What the names above are made of, and what is called by its module's name.",
            "",
        ]
    for section in one.further:
        out += _module(section.module)
        out += [text for path in section.names for text in _directive(path, level=3)]
    return "\n".join(out)


def _module(name: str) -> list[str]:
    return _directive(name, level=2)


def _directive(path: str, level: int, heading: bool = True) -> list[str]:
    """What mkdocstrings sets here: a module's docstring, or a name with all that it has."""
    module = path in modules() and home(path) == path
    options = {"heading_level": level, "show_root_heading": heading}
    if module:
        options |= {"members": False, "show_root_full_path": True, "show_root_toc_entry": heading}
    lines = [f"        {key}: {json.dumps(value)}" for key, value in options.items()]
    return [f"::: {path}", "    options:", *lines, ""]


def package_list() -> str:
    """The list of README's packages, with the first lines of their docstrings."""
    head = "# Reference\n\nEvery package and module, in the order of README's table.\n\n"
    rows = [(name, str(sum(len(pages()[one].names) for one in (name, *within(name))))) for name in order()]
    return head + "| module | what it is | names |\n|---|---|---:|\n" + _table(rows)


def _contents(package: str) -> str:
    """What has a page of its own in a package, with links to all names."""
    rows = []
    for one in within(package):
        names = [f"[`{name.rpartition('.')[2]}`][{name}]" for name in pages()[one].names]
        rows.append((one, ", ".join(names)))
    return "| module | what it is | names |\n|---|---|---|\n" + _table(rows, inside=package + ".")


def _table(rows: list[tuple[str, str]], inside: str = "") -> str:
    """Modules, the first sentences of their docstrings, and what else is said of them."""
    out = []
    for name, more in rows:
        doc = ast.get_docstring(ast.parse(modules()[name].path.read_text(encoding="utf-8"))) or ""
        summary = re.split(r"(?<=[.])\s|\n\n|:\n", doc)[0].replace("\n", " ").replace("|", "\\|")
        out.append(f"| [`{name.removeprefix(inside)}`]({name}.md) | {summary} | {more} |\n")
    return "".join(out)


# ---------------------------------------------------------------------- identities


def topics() -> dict[str, list[Any]]:
    """The registered identities by topic, topics in alphabetical order."""
    from refdiff.validation.runner import registry

    found: dict[str, list[Any]] = {}
    for one in registry().values():
        found.setdefault(one.topic, []).append(one)
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def identities_index() -> str:
    """The list of topics, and what kinds of evidence there are."""
    from refdiff.validation import identity

    kinds = [one for one in vars(identity).values() if isinstance(one, identity.Evidence)]
    groups = topics()
    count = sum(map(len, groups.values()))
    out = [
        "# Identities",
        "",
        f"{count} identities on {len(groups)} topics. Each compares two sides that are computed by two routes,",
        "and must reject a corrupted version of itself, the control, by a hundred tolerances.",
        "`refdiff validate` runs them.",
        "",
        "| evidence | tolerance | identities | rule |",
        "|---|---|---:|---|",
    ]
    for kind in kinds:
        used = sum(one.evidence is kind for group in groups.values() for one in group)
        out.append(f"| {kind.name} | {kind.tolerance:g} | {used} | {_ascii(kind.rule)} |")
    out += ["", "| topic | identities |", "|---|---:|"]
    out += [f"| [{plain(topic)}]({slug(topic)}.md) | {len(group)} |" for topic, group in groups.items()]
    return "\n".join(out) + "\n"


def identities_page(topic: str) -> str:
    """The identities of a topic: formula, evidence, control, items, and where the check stands."""
    out = [f"# {plain(topic)}", ""]
    for one in topics()[topic]:
        where = f"{one.check.__module__}.{one.check.__name__}"
        out += [f"## {plain(one.name)} {{ #{slug(one.name)} }}", "", f"`display:{one.formula}`", ""]
        out += [f"evidence\n:   {one.evidence.name}, tolerance {one.tolerance:g}, over {one.over}", ""]
        out += [f"control\n:   {_ascii(one.control)}", ""]
        if one.covers:
            out += [f"covers\n:   {_items(one.covers)}", ""]
        if one.refutes:
            out += [f"refutes as printed\n:   {_items(one.refutes)}", ""]
        source = _indented(f"```python\n{getsource(one.check).rstrip()}\n```")
        out += [f'??? example "`{where}`"', "", source, ""]
    return "\n".join(out)


def _ascii(text: str) -> str:
    return f"`ascii:{text}`" if "`" not in text else text


def _items(names: tuple[str, ...]) -> str:
    return ", ".join(f"[{name}](items.md#{name.lower()})" for name in names)


def items_page() -> str:
    """The ledger: every item of the source texts, and what refdiff says about it."""
    from refdiff.validation import ledger

    where = {one.name: topic for topic, group in topics().items() for one in group}

    links = {one: f"[{plain(one)}]({slug(topic)}.md#{slug(one)})" for one, topic in where.items()}

    def by(row: Any) -> str:
        return "; ".join(links.get(one, plain(one)) for one in row.by.split("; "))

    rows = ledger.rows()
    out = ["# Items of the source texts", "", f"{len(rows)} numbered items, and what refdiff says about each.", ""]
    out += ["| item | | state | by |", "|---|---|---|---|"]
    for row in rows:
        out.append(f'| <span id="{row.id.lower()}">{row.id}</span> | {plain(row.name)} | {row.state} | {by(row)} |')
    return "\n".join(out) + "\n"


# ---------------------------------------------------------------------- the command line


def commands() -> str:
    """Every command with its arguments and options, as its help has them."""
    import click

    from refdiff.cli import main

    return "# Command line\n\n" + "\n".join(_command(main, click.Context(main, info_name="refdiff"), 2))


def _command(command: Any, context: Any, level: int) -> Iterator[str]:
    import click

    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"{'#' * level} {context.command_path}\n\n```text\n{usage}\n```\n"
    for paragraph in re.split(r"\n\s*\n", re.sub(r"^[ ]+$", "", cleandoc(command.help or ""), flags=re.MULTILINE)):
        if paragraph.startswith("\b"):
            yield f"```text\n{paragraph[1:].strip(chr(10))}\n```\n"
        else:
            yield f"{paragraph}\n"
    records = [one.get_help_record(context) for one in command.get_params(context) if isinstance(one, click.Option)]
    if any(records):
        yield "| option | |\n|---|---|"
        yield from (f"| <code>{_cell(name)}</code> | {_cell(text)} |" for name, text in filter(None, records))
        yield ""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            yield from _command(inner, click.Context(inner, info_name=name, parent=context), level + 1)


def _cell(text: str) -> str:
    return text.replace("|", "&#124;").replace("<", "&lt;").replace("\n", " ")


# ---------------------------------------------------------------------- notebooks


def notebooks() -> list[Path]:
    """The executed notebooks, in their order."""
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and the pictures that it shows, by their names."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    out, files = [], {}
    for number, cell in enumerate(cells):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            out.append(marked(text))
        elif cell["cell_type"] == "code" and text.strip():
            tags = cell.get("metadata", {}).get("tags", [])
            code = f"```python\n{text.rstrip()}\n```"
            if "solution" in tags:
                code = '??? note "Solution"\n\n' + _indented(code)
            out.append(code)
            for place, output in enumerate(cell.get("outputs", [])):
                shown, made = _output(output, f"{path.stem}-{number}-{place}")
                out.append(shown)
                files |= made
    return "\n\n".join(one for one in out if one) + "\n", files


def title(path: Path) -> str:
    """The first heading of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    found = re.search(r"^# (.+)$", "\n".join("".join(cell["source"]) for cell in cells), re.MULTILINE)
    return found[1] if found else path.stem


def marked(text: str) -> str:
    """LaTeX between dollars as code that `markup` makes MathML of; what is code already stays as it is."""
    parts = re.split(r"(```.*?```|`[^`\n]+`)", text, flags=re.DOTALL)
    for i in range(0, len(parts), 2):
        one = re.sub(r"\$\$(.+?)\$\$", lambda m: f"`display:{_one_line(m[1])}`", parts[i], flags=re.DOTALL)
        parts[i] = re.sub(r"(?<![\\$`])\$(?!\s)([^$`]+?)(?<!\s)\$", lambda m: f"`tex:{_one_line(m[1])}`", one)
    return "".join(parts)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _indented(text: str) -> str:
    return "\n".join("    " + row if row else "" for row in text.split("\n"))


def _output(output: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """What a cell put out: pictures as files, else HTML, else text."""
    if "text" in output:
        return _printed("".join(output["text"])), {}
    data = output.get("data", {})
    for kind, ending in IMAGES.items():
        if kind in data:
            content = "".join(data[kind])
            raw = content.encode() if ending == "svg" else base64.b64decode(content)
            file = f"{name}.{ending}"
            return f"![output]({file}){{ .figure }}", {file: raw}
    if "text/html" in data:
        return f'<div class="output">{"".join(data["text/html"])}</div>'.replace("\n\n", "\n"), {}
    return _printed("".join(data.get("text/plain", "")) or "\n".join(output.get("traceback", []))), {}


def _printed(text: str) -> str:
    return f"```{{ .text .printed }}\n{text.rstrip()}\n```" if text.strip() else ""
