r"""Mutation testing: changes one sign, factor or index of a module at a time and asks whether a test fails.

    python tests/mutants.py refdiff/channels.py [more files] [--tests FILE ...] [--jobs 2] [--only LINE]
                            [--sample N --seed S] [--json FILE] [--fresh]

A survivor is a change (`mutations.py` lists them) that no chosen test notices: a test is missing, or the code is
superfluous, or the two programs are equal. Without --tests those test files are chosen whose names contain the
module's or its package's.

The tree is copied to a folder of its own, and tests are collected there once. A first child runs them under coverage:
which tests reach which line, and what they cost. Then a child for each mutant gets the changed code objects and runs
the tests of the changed line, the cheapest first. What only an import runs, and everything with --fresh, is examined
by a child that has imported nothing yet. A change that hangs is stopped, and counts as noticed. What tests start as
processes of their own sees no change. Needs coverage.py, beside what tests need.
"""

from __future__ import annotations

import argparse
import ast
import gc
import importlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from glob import glob
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from mutant_runs import Changed, Listener, ask, awaited, child, guarded, ordered, run
from mutations import Mutant, changes

HERE = Path(__file__).resolve().parent.parent
PLACES = {"refdiff": "refdiff", "kernels": "refdiff/kernels", "validation": "refdiff/validation", "tests": "tests"}
LIBRARIES = (
    "numpy scipy.special scipy.stats scipy.integrate scipy.optimize.elementwise scipy.differentiate scipy.linalg "
    "scipy.spatial.distance mpmath hypothesis.extra.numpy numba click rich jinja2"
)


@dataclass
class Pass:
    """One pass over mutants: what is changed, by which tests it may be noticed, what becomes of it."""

    mutants: list[Mutant]
    trees: dict[str, ast.Module]
    tests: list[str]
    jobs: int
    seconds: dict[str, float] = field(default_factory=dict)
    functions: list[FunctionType] = field(default_factory=list)
    out: Any = field(default_factory=lambda: os.fdopen(os.dup(1), "w"))  # where survivors are told of, also by children

    def measure(self, items: list[Any], listener: Listener) -> int:
        """Which tests reach the line of each mutant, and their cost, from one run of all; whether one fails."""
        import coverage

        watch = coverage.Coverage(
            data_file=None, include=[str(Path(f).resolve()) for f in self.trees], config_file=False
        )
        listener.watch = watch
        watch.start()
        ask(items)
        watch.stop()
        users: dict[str, set[str]] = {}
        for item in items:
            for context in (item.nodeid, *(f"fixture {name}" for name in item.fixturenames)):
                users.setdefault(context, set()).add(item.nodeid)
        reach: dict[str, dict[int, set[str]]] = {}
        for file in self.trees:
            found = watch.get_data().contexts_by_lineno(str(Path(file).resolve()))
            reach[file] = {line: set[str]().union(*(users.get(c, ()) for c in cs)) for line, cs in found.items()}
        chosen = []
        for mutant in self.mutants:
            lines = reach[mutant.file]
            own, around = lines.get(mutant.line, set()), set[str]().union(*(lines.get(n, ()) for n in mutant.span))
            concerned = around or set[str]().union(*lines.values())
            chosen.append(sorted(concerned, key=lambda test: (test not in own, listener.seconds[test])))
        Path("reached.json").write_text(json.dumps([chosen, listener.seconds]))
        print(f"fails without any change: {listener.failed}")
        return bool(listener.failed)

    def code(self, mutant: Mutant, apply: bool = True) -> CodeType:
        """The module's code, with the change, which is undone no more: for a child."""
        if apply:
            mutant.apply()
        tree = ast.fix_missing_locations(self.trees[mutant.file])
        return compile(tree, str(Path(mutant.file).resolve()), "exec", dont_inherit=True)

    def fast(self, items: list[Any], mutant: Mutant) -> int:
        """Gives functions their changed code and runs the mutant's tests; 2 where the change is in no function."""
        old, new = (list(nested(self.code(mutant, apply))) for apply in (False, True))
        instead = {place(one): other for one, other in zip(old, new, strict=True) if one != other}
        if any("<lambda>" in name and [place(one) for one in old].count((name, line)) > 1 for name, line in instead):
            return 2
        changed = [function for function in self.functions if place(function.__code__) in instead]
        if not changed:
            return 2
        for function in changed:
            function.__code__ = instead[place(function.__code__)]
        chosen = ordered(items, mutant.tests)
        for item in chosen:
            if hasattr(item.obj, "hypothesis"):
                item.obj.hypothesis.inner_test = guarded(item.nodeid, item.obj.hypothesis.inner_test)
        return ask(chosen)

    def fresh(self, mutant: Mutant) -> int:
        """Imports everything anew with the changed module and runs the mutant's tests."""
        name = ".".join(Path(mutant.file).with_suffix("").parts)
        sys.meta_path.insert(0, Changed(name, str(Path(mutant.file).resolve()), self.code(mutant)))
        listener = Listener(mutant.tests)
        files = [file for file in self.tests if any(test.startswith(file) for test in mutant.tests)]
        return 3 * bool(run(files, listener))

    def all(self, examine: Callable[[Mutant], int], todo: list[int]) -> list[int]:
        """A child for each of these mutants; the numbers of those that are to be examined in another way."""
        running: dict[int, int] = {}
        left, todo = [], todo[::-1]
        while todo or running:
            while todo and len(running) < self.jobs:
                i = todo.pop()
                limit = 60 + 10 * sum(self.seconds[test] for test in self.mutants[i].tests)
                running[child(partial(examine, self.mutants[i]), limit)] = i
            pid, status = os.wait()
            i, note = running.pop(pid), Path(f"noticed-{pid}")
            if os.waitstatus_to_exitcode(status) in (2, 99) and not note.exists():
                left.append(i)
            elif status:
                self.mutants[i].outcome = "stopped" if os.WIFSIGNALED(status) else "killed"
                self.mutants[i].by = note.read_text() if note.exists() else ""
            else:
                print(self.mutants[i], file=self.out, flush=True)
            for file in (note, Path(f"said-{pid}")):
                file.unlink(missing_ok=True)
        return left

    def collected(self, items: list[Any], listener: Listener) -> None:
        """What is done with collected tests: the measurement, then a child for each mutant."""
        awaited(child(partial(self.measure, items, listener), 3600))
        self.recall("reached.json")
        paths = {str(Path(file).resolve()) for file in self.trees}
        gc.unfreeze()  # what is frozen is not listed
        functions = (thing for thing in gc.get_objects() if isinstance(thing, FunctionType))
        self.functions = [function for function in functions if function.__code__.co_filename in paths]
        assert self.functions, "nothing of these files was found to change"
        gc.freeze()
        left = self.all(partial(self.fast, items), list(range(len(self.mutants))))
        Path("examined.json").write_text(json.dumps([left, [(m.outcome, m.by) for m in self.mutants]]))

    def recall(self, answer: str) -> None:
        """Which tests concern each mutant, and their cost."""
        chosen, self.seconds = json.loads(Path(answer).read_text())
        for mutant, tests in zip(self.mutants, chosen, strict=True):
            mutant.tests = tests

    def collect(self) -> int:
        """Collects the tests and examines in one process what can be examined so."""
        listener = Listener()
        listener.instead = partial(self.collected, listener=listener)
        return run(self.tests, listener)

    def examine(self, fresh: bool) -> None:
        """The whole pass."""
        awaited(child(self.collect, 36000))
        self.recall("reached.json")
        left, outcomes = json.loads(Path("examined.json").read_text())
        for mutant, (outcome, by) in zip(self.mutants, outcomes, strict=True):
            mutant.outcome, mutant.by = outcome, by
        # what is built when a test module is imported may hold results of unchanged code
        doubtful = [i for i, mutant in enumerate(self.mutants) if fresh and mutant.outcome == "survived"]
        self.all(self.fresh, sorted({*left, *doubtful}))


def nested(code: CodeType) -> Iterator[CodeType]:
    """The code objects in a code object, from the outermost on."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from nested(inner)


def place(code: CodeType) -> tuple[str, int]:
    """Where a code object stands in its file: one that has run often is equal to no other, for the interpreter."""
    return code.co_qualname, code.co_firstlineno


def near(file: str) -> list[str]:
    """The test files whose names contain the name of the module, then those with the name of its package."""
    words = [word for word in (Path(file).stem, Path(file).parent.name) if word not in PLACES]
    return [test for word in words for test in sorted(glob(f"tests/test_*{word}*.py"))]


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="+", help="modules, named from the root of the repository")
    parser.add_argument("--tests", nargs="+", default=[], help="test files, in the order in which they are asked")
    parser.add_argument("--jobs", type=int, default=2, help="children at a time")
    parser.add_argument("--only", type=int, nargs="+", help="the changes of these lines")
    parser.add_argument("--sample", type=int, help="so many changes of each file, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--json", type=Path, help="all mutants and what became of them")
    parser.add_argument("--fresh", action="store_true", help="survivors once more, with everything imported anew")
    return parser.parse_args()


def drawn(given: argparse.Namespace, file: str, tree: ast.Module) -> list[Mutant]:
    """The changes of a file that are asked for."""
    found = [mutant for mutant in changes(file, tree) if (not given.only or mutant.line in given.only)]
    if given.sample and given.sample < len(found):
        found = [found[i] for i in sorted(random.Random(given.seed).sample(range(len(found)), given.sample))]
    return found


def main() -> None:
    """Copies the tree, examines the mutants there, prints survivors and figures."""
    given = arguments()
    report = given.json and given.json.resolve()
    os.environ |= {"CI": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / "refdiff-mutants-numba"))
    with tempfile.TemporaryDirectory(prefix="refdiff-mutants-") as room:
        for source, place in PLACES.items():
            shutil.copytree(HERE / source, Path(room, place), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(HERE / "pyproject.toml", room)
        os.chdir(room)
        sys.path[0] = room
        for library in LIBRARIES.split():
            with suppress(ImportError):
                importlib.import_module(library)
        trees = {file: ast.parse(Path(file).read_text()) for file in given.files}
        mutants = [mutant for file, tree in trees.items() for mutant in drawn(given, file, tree)]
        tests = list(dict.fromkeys(given.tests or (test for file in given.files for test in near(file))))
        Pass(mutants, trees, tests, given.jobs).examine(given.fresh)
    for file in given.files:
        outcomes = Counter(mutant.outcome for mutant in mutants if mutant.file == file)
        print(
            f"{file}: {outcomes.total()} mutants, " + ", ".join(f"{count} {what}" for what, count in outcomes.items())
        )
    if report:
        keys = ("file", "line", "change", "outcome", "by")
        report.write_text(json.dumps([{key: getattr(mutant, key) for key in keys} for mutant in mutants], indent=0))


if __name__ == "__main__":
    main()
