"""What is installed: every package folder, under the names it is imported by, with types and no side effects."""

import ast
import configparser
import subprocess
import sys
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


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


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


def test_nothing_imports_kernels_or_validation_under_a_bare_name():
    for path in sources("refdiff", "kernels", "validation", "tests"):
        for name in imported(path):
            assert name.split(".")[0] not in ("kernels", "validation"), path


def test_the_package_is_typed_and_has_the_version_of_setup_cfg():
    assert (ROOT / "refdiff" / "py.typed").exists()
    assert refdiff.__version__ == config()["metadata"]["version"]


def test_every_public_name_exists_and_is_documented():
    for name in refdiff.__all__:
        assert getattr(refdiff, name).__doc__ or isinstance(getattr(refdiff, name), dict), name


def test_importing_refdiff_is_silent_and_loads_no_optional_dependency():
    optional = ["matplotlib", "hypothesis", "mpmath", "sklearn", "torch", "cupy", "pytest"]
    code = f"import sys, refdiff; print([m for m in {optional} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_without_hypothesis_the_testing_tools_say_what_to_install():
    code = "import sys; sys.modules['hypothesis'] = None\nimport refdiff.testing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "refdiff[test]" in done.stderr
