"""What is installed: every package folder, under the names it is imported by, with types and no side effects."""

import ast
import configparser
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import refdiff

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"refdiff": "refdiff", "kernels": "refdiff.kernels", "validation": "refdiff.validation"}


def config():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def sources(*rooms):
    return [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]


def test_setup_cfg_lists_every_package_folder_once():
    listed = config()["options"]["packages"].split()
    found = {
        ".".join([ROOMS[room], *init.parent.relative_to(ROOT / room).parts])
        for room in ROOMS
        for init in (ROOT / room).rglob("__init__.py")
    }
    assert sorted(listed) == sorted(found)


def test_every_folder_of_python_files_is_a_package():
    folders = {path.parent for path in sources(*ROOMS)}
    assert all((folder / "__init__.py").exists() for folder in folders)


def test_package_data_patterns_find_files():
    for package, patterns in config()["options.package_data"].items():
        folder = ROOT / package.replace("refdiff.validation", "validation").replace(
            "refdiff.kernels", "kernels"
        ).replace(".", "/")
        for pattern in patterns.split():
            assert [*folder.glob(pattern)], f"{package}: {pattern}"


def test_the_package_is_typed_and_has_the_version_of_setup_cfg():
    assert (ROOT / "refdiff" / "py.typed").exists()
    assert refdiff.__version__ == config()["metadata"]["version"]


def test_every_public_name_exists_and_is_documented():
    for name in refdiff.__all__:
        assert getattr(refdiff, name).__doc__ or isinstance(getattr(refdiff, name), dict), name


def test_every_public_name_is_the_one_that_type_checkers_see():
    tree = ast.parse((ROOT / "refdiff" / "__init__.py").read_text(encoding="utf-8"))
    (typing,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in typing.body for alias in node.names}
    assert sorted(seen) == sorted(refdiff.__all__)
    for name, module in seen.items():
        assert getattr(refdiff, name) is getattr(import_module(module), name), name


def test_importing_refdiff_is_silent_and_loads_no_optional_dependency():
    optional = ["matplotlib", "hypothesis", "mpmath", "sklearn", "torch", "cupy", "pytest"]
    code = f"import sys, refdiff; print([m for m in {optional} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""
