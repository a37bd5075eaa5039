"""The arrows of the house: who imports whom, and which names are public."""

import ast
import re
import sys
from importlib import import_module

import pytest
from house import ROOT, Module, functions, imports, read, statements, within

import refdiff

HOUSE = read("refdiff", "kernels", "validation")
ARROWS = {name: within(module, HOUSE) for name, module in HOUSE.items()}

# The floors of refdiff: what stands on one imports only from floors below, or from its own package.
FLOORS = (
    ("arguments", "files", "backends"),
    ("operators", "random", "schedules"),
    ("distributions",),
    ("channels", "expectations"),
    ("metrics", "processes"),
    ("moving", "predictions", "transport"),
    ("model",),
    ("dynamics", "normalizing", "objectives", "samplers"),
    ("stochastic",),
    ("fokker_planck", "langevin"),
    ("interpolants", "path_measures", "physics"),
    ("schroedinger",),
    ("plotting",),
)
# what kernels ask of a law, asked by laws themselves and by all above
PART_OF = {"compiled": "distributions", "cuda": "distributions"}
MATHEMATICS = tuple(f"refdiff.{room}" for floor in FLOORS for room in floor) + tuple(
    f"refdiff.{room}" for room in PART_OF
)
DOORS = ("refdiff.__main__", "refdiff.cli", "refdiff.testing")
# What kernels may import beside the standard library; a compiled loop needs no more.
OF_KERNELS = ("llvmlite", "numba", "numpy", "refdiff.kernels")
# What more modules import than this is an idea of the house; another one that gets there is a habit to break.
MANY, FEWER = 40, 25  # an idea with fewer friends is none any more
IDEAS = {
    "refdiff.arguments",
    "refdiff.channels",
    "refdiff.distributions",
    "refdiff.distributions.covariances",
    "refdiff.expectations",
    "refdiff.model",
    "refdiff.operators",
    "refdiff.processes",
    "refdiff.samplers.recorder",
    "refdiff.samplers.tableau",
    "refdiff.schedules",
    "refdiff.transport",
    "refdiff.validation.audits.subject",
    "refdiff.validation.cases",
    "refdiff.validation.conditions",
    "refdiff.validation.identity",
    "refdiff.validation.laws",
    "refdiff.validation.numeric",
}


def inside(name: str, *rooms: str) -> bool:
    """Whether a module is one of these rooms or stands in one."""
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def room_of(name: str) -> str:
    room = name.split(".")[1]
    return PART_OF.get(room, room)


def floor(name: str) -> int:
    return next(place for place, rooms in enumerate(FLOORS) if room_of(name) in rooms)


def ring(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring, or none: what is left when all that stands on nothing left is away."""
    left = {name: set(targets) for name, targets in arrows.items()}
    while leaves := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in leaves}
    path = list(left)[:1]
    while path and path[-1] not in path[:-1]:
        path.append(min(left[path[-1]] & left.keys()))
    return path[path.index(path[-1]) :] if path else []


def test_no_modules_import_each_other_in_a_ring():
    assert not ring(ARROWS), " -> ".join(ring(ARROWS))


def test_a_ring_is_found_also_behind_others():
    assert ring({"a": {"b"}, "b": {"c", "d"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]
    assert not ring({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_imports_inside_functions_count_and_those_for_types_do_not():
    for_types = "import a\nif TYPE_CHECKING:\n    import b\nelse:\n    import x\n"
    inside = "def f():\n    try:\n        from c import d\n    except E:\n        import e\n"
    assert set(imports(Module("m", for_types + inside))) == {"a", "x", "c.d", "e"}


def above(name: str, imported: set[str]) -> set[str]:
    """What a module imports that it must not know."""
    if inside(name, "refdiff.kernels"):
        return {one for one in imported if not inside(one, *OF_KERNELS, *sys.stdlib_module_names)}
    ours = {one for one in imported if inside(one, "refdiff") and not inside(one, "refdiff.kernels")}
    if inside(name, "refdiff.validation"):
        return {one for one in ours if inside(one, *DOORS)}
    if inside(name, *DOORS) or name == "refdiff":
        return set()
    others = {one for one in ours if one == "refdiff" or room_of(one) != room_of(name)}
    return {one for one in others if not inside(one, *MATHEMATICS) or floor(one) >= floor(name)}


@pytest.mark.parametrize("name", HOUSE)
def test_arrows_point_down(name):
    known = ("refdiff.kernels", "refdiff.validation", *DOORS, *MATHEMATICS)
    assert name == "refdiff" or inside(name, *known), f"{name} has no floor: FLOORS says which rooms refdiff has"
    imported = ARROWS[name] | {one for one in imports(HOUSE[name]) if not inside(one, "refdiff")}
    assert not above(name, imported), f"{name} must not import {', '.join(sorted(above(name, imported)))}"


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("refdiff.kernels.numba.tiles", "refdiff.arguments"),
        ("refdiff.kernels.numba.tiles", "scipy.special"),
        ("refdiff.channels", "refdiff.model"),
        ("refdiff.schedules.base", "refdiff.random"),
        ("refdiff.schedules.base", "refdiff"),
        ("refdiff.samplers.ddim", "refdiff.dynamics.flow"),
        ("refdiff.model", "refdiff.validation.cases"),
        ("refdiff.model", "refdiff.testing"),
        ("refdiff.distributions.mixture", "refdiff.processes"),
        ("refdiff.validation.runner", "refdiff.cli.audit"),
    ],
)
def test_an_arrow_that_points_up_or_aside_is_refused(name, other):
    assert above(name, {other, "math", "numpy", "refdiff.kernels.numba.tiles"}) == {other}


def test_folders_are_imported_as_parts_of_refdiff():
    """`kernels` is the name of another package."""
    bare = re.compile(r"^\s*(?:from|import) (?:kernels|validation)\b", re.MULTILINE)
    assert not [name for name, module in (HOUSE | read("tests")).items() if bare.search(module.text)]
    assert bare.search("import x\n  from kernels.numba import tiles\n")


def test_what_many_modules_import_is_an_idea_of_the_house():
    friends = {name: sum(name in targets for targets in ARROWS.values()) for name in HOUSE}
    assert not {name: count for name, count in friends.items() if count > MANY and name not in IDEAS}
    assert not {name: friends.get(name, 0) for name in IDEAS if friends.get(name, 0) < FEWER}


# ---------------------------------------------------------------------- public names

PACKAGES = [name for name, module in HOUSE.items() if module.path.endswith("__init__.py")]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_of_others_names_lists_them_in_all(name):
    module, package = HOUSE[name], import_module(name)
    found = [node for node in statements(module.tree.body) if isinstance(node, ast.ImportFrom)]
    taken = [alias for node in found if inside(node.module, "refdiff") for alias in node.names]
    if taken and not [*functions(module)]:
        assert not [alias.name for alias in taken if alias.asname], "names that __all__ lists are imported plainly"
        assert sorted(package.__all__) == sorted({alias.name for alias in taken})  # in the order that ruff keeps
    assert all(hasattr(package, one) for one in getattr(package, "__all__", ()))


def test_the_names_of_refdiff_fit_a_page():
    assert len(refdiff.__all__) <= 40


def test_what_readme_lists_as_inside_exists():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(refdiff[\w.]*)` \| (.*) \|$", readme, re.MULTILINE)
    assert len(rows) > 10
    for room, words in rows:
        for name in re.findall(r"`(\w+)`", words):
            assert hasattr(import_module(room), name) or f"{room}.{name}" in HOUSE, f"{room}: {name}"
