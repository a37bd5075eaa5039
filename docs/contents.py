"""What the pages are of: packages in README's order, their modules, and their public names, read without importing.

A name of a package's `__all__` is shown where it is defined and called as it is imported: `refdiff.samplers.run`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# as setup.cfg's package_dir has them
ROOMS = {"refdiff": "refdiff", "kernels": "refdiff.kernels", "validation": "refdiff.validation"}
# whose checks have a page of their own, and files that are data
APART = ("refdiff.validation.identities.",)
LARGE = 60  # names; a package of more has a page for each of its modules


@dataclass(frozen=True)
class Module:
    """A file, by the name it is imported by.

    Attributes:
        name: dotted.   path: of the file.
        listed: its `__all__`; None where it has none.
        defined: names of public functions, classes and constants with a docstring, in the order of the file.
        imported: name by name, where what it imports from refdiff comes from: a dotted path.
    """

    name: str
    path: Path
    listed: tuple[str, ...] | None
    defined: tuple[str, ...]
    imported: dict[str, str] = field(default_factory=dict)

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    named = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"]
    for node in named:
        if not any("identity(" in ast.unparse(one) for one in node.decorator_list):
            yield node.name


def _listed(body: list[ast.stmt]) -> tuple[str, ...] | None:
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return tuple(ast.literal_eval(node.value))
    return None


def _read(path: Path) -> Module:
    room, *parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join([ROOMS[room], *(part for part in parts if part != "__init__")])
    body = ast.parse(path.read_text(encoding="utf-8")).body
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    typed = [node for node in body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports += [one for node in typed for one in node.body if isinstance(one, ast.ImportFrom)]
    imported = {alias.asname or alias.name: f"{node.module}.{alias.name}" for node in imports for alias in node.names
                if (node.module or "").startswith("refdiff")}  # fmt: skip
    return Module(name, path, _listed(body), tuple(dict.fromkeys(_defined(body))), imported)


@cache
def modules() -> dict[str, Module]:
    """All modules by name, packages before what is in them."""
    paths = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return {module.name: module for module in sorted(map(_read, paths), key=lambda module: module.name)}


def home(dotted: str) -> str:
    """Where something is defined that may have been imported by the way of a package."""
    package, _, name = dotted.rpartition(".")
    module = modules().get(package)
    if dotted in modules() or module is None or name in module.defined or name not in module.imported:
        return dotted
    return home(module.imported[name])


def order() -> list[str]:
    """The packages and modules of README's table "What is inside", in its order."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("## What is inside")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(refdiff[\w.]*)` \|", table, re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """A module on a page, and the dotted paths that its names are shown by."""

    module: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """A page: of a package or module, `sections` first those of its `__all__`, then `further` ones."""

    name: str
    sections: tuple[Section, ...]
    further: tuple[Section, ...] = ()

    @property
    def names(self) -> list[str]:
        return [name for section in (*self.sections, *self.further) for name in section.names]


def _inside(package: Module) -> list[Module]:
    """The modules of a package, without those of packages in it."""
    inner = [one for one in modules().values() if not one.is_package]
    return [one for one in inner if one.name.rpartition(".")[0] == package.name]


def page(name: str) -> Page:
    """What the page of a package or module shows."""
    package = modules()[name]
    if not package.is_package:
        return Page(name, (Section(name, tuple(f"{name}.{one}" for one in _public(package))),))
    public: dict[str, list[str]] = {}
    for one in package.listed or ():
        found = home(f"{name}.{one}")
        where = found if found in modules() else found.rpartition(".")[0]
        public.setdefault(where, [])
        if found not in modules():
            public[where].append(f"{name}.{one}")
    shown = {home(path) for paths in public.values() for path in paths}
    sections, further = [], []
    for module in [*_inside(package), *(modules()[one] for one in public if not one.startswith(name + "."))]:
        rest = tuple(path for path in (f"{module.name}.{one}" for one in _public(module)) if path not in shown)
        if module.name in public:
            sections.append(Section(module.name, (*public[module.name], *rest)))
        elif module.name != name:
            further.append(Section(module.name, rest))
    own = tuple(public.get(name, ())) if package.listed else tuple(f"{name}.{one}" for one in package.defined)
    if own:
        sections.insert(0, Section(name, own))
    return Page(name, tuple(sections), tuple(further))


def _public(module: Module) -> tuple[str, ...]:
    """Functions and classes of a module, and constants that a package hands on."""
    constants = [
        name for place, _, name in (one.rpartition(".") for one in sorted(_exported())) if place == module.name
    ]
    if module.listed:
        return tuple(one for one in module.listed if one in module.defined)
    return (*(one for one in constants if one not in module.defined), *module.defined)


@cache
def _exported() -> frozenset[str]:
    """What the `__all__` of some package has, by where it is defined; no modules."""
    lists = [(one.name, one.listed) for one in modules().values() if one.listed and one.is_package]
    return frozenset(home(f"{place}.{name}") for place, names in lists for name in names) - modules().keys()


@cache
def pages() -> dict[str, Page]:
    """The pages by the names of their packages: README's, and after each the packages and, if large, modules in it."""
    found: dict[str, Page] = {}
    for name in order():
        inner = [one.name for one in modules().values() if one.is_package and one.name.startswith(name + ".")]
        for one in [name, *inner]:
            if not one.startswith(APART) and one + "." not in APART:
                found |= {part.name: part for part in _parts(page(one))}
    return found


def _parts(whole: Page) -> list[Page]:
    """A page, or that of a large package and those of its modules, public ones first."""
    sections = [*whole.sections, *whole.further]
    if len(whole.names) <= LARGE or len(sections) == 1:
        return [whole]
    own = tuple(one for one in sections if not one.module.startswith(whole.name + "."))  # and what comes from elsewhere
    return [Page(whole.name, own), *(Page(one.module, (one,)) for one in sections if one not in own)]


def within(name: str) -> list[str]:
    """The pages of what is in a package."""
    return [one for one in pages() if one.startswith(name + ".")]


@cache
def anchors() -> dict[str, str]:
    """Of everything that is shown, by where it is defined, the path that is its anchor."""
    shown = {home(name): name for one in pages().values() for name in one.names}
    return {one: one for one in modules()} | shown


def resolve(name: str, scope: str = "") -> str | None:
    """The anchor of what a name in a docstring names: in its module, the packages above, or all that is public.

    Args:
        name: as it stands in backticks, dotted or not.
        scope: the dotted path of the object that the docstring is of; "" for a page.
    """
    head, *tail = name.split(".")
    places = [scope.rsplit(".", i)[0] if i else scope for i in range(scope.count(".") + 1)] if scope else []
    for place in [*places, "refdiff"]:
        found = home(f"{place}.{head}")
        if found in anchors():
            return _member(found, tail)
    if name in modules() or home(name) in anchors():
        return anchors()[home(name)]
    return _member(_unique()[head], tail) if head in _unique() else None


def _member(found: str, tail: list[str]) -> str | None:
    for i, one in enumerate(tail):
        inner = home(f"{found}.{one}")
        if inner in anchors():
            found = inner
        else:
            return ".".join([anchors()[found], *tail[i:]])
    return anchors()[found]


@cache
def _unique() -> dict[str, str]:
    """What has a name that nothing else has."""
    by_name: dict[str, set[str]] = {}
    for found, anchor in anchors().items():
        by_name.setdefault(anchor.rpartition(".")[2], set()).add(found)
    return {name: next(iter(found)) for name, found in by_name.items() if len(found) == 1 and len(name) > 2}
