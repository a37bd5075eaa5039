"""The house as text: modules, what they import, and the rules of their words. What test_house*.py check."""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# folders and the names that they are imported by
PACKAGES = {"refdiff": "refdiff", "kernels": "refdiff.kernels", "validation": "refdiff.validation"}
SPEC = re.compile(r"\b(?:RDX|DMI|PHY|PODA|PODB|PODC8|PODC9|PODC10|PODD|TOPA|TOPB)-\d+(?:\.\.\d+)?\b")
LETTERS = "[b-rA-Z]"  # of a dimension: not a point x, y, z nor a time s, t, u
DIMENSION = rf"(?:\.\.\.|\d+|(?:\d+ ?)?{LETTERS}\w*(?: ?[-+*/] ?\w+)*)"
SHAPE = re.compile(rf"(?<![\w\])])\({DIMENSION}(?:,|(?:, {DIMENSION})+)\)|\b(?:shapes?|scalars?)\b")
# what a parameter of these types is, the type says: they are the ideas of the house
IDEAS = re.compile(
    r"\b(?:\w*Case|\w*Process|Schedule|Gaussian|GaussianMixture|Empirical|ExactModel|Channel|Tableau|Recorder|State|Family"
    r"|Identity|Subject|Generator|Path|Console)\b"
)
PROGRAMMING = {"AssertionError", "NotImplementedError"}  # what cannot happen is no promise
ARRAYS = re.compile(r"\b(?:Array|ArrayLike|NDArray|ndarray)\b")


@dataclass(frozen=True)
class Module:
    """One file: the name it is imported by, and its text."""

    name: str
    text: str
    path: str = "text"

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def doc(self) -> str:
        return ast.get_docstring(self.tree) or ""


@dataclass(frozen=True)
class Public:
    """A public function, method or class of a module, and the class it stands in."""

    name: str
    node: ast.FunctionDef | ast.ClassDef
    owner: ast.ClassDef | None = None
    beside: dict[str, str] = field(default_factory=dict)

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def all_doc(self) -> str:
        """What may name its arguments, shapes and errors: its own docstring, its class's, and those that it quotes."""
        own = self.doc + "\n" + (ast.get_docstring(self.owner) or "" if self.owner else "")
        return "\n".join([own, *(self.beside.get(name, "") for name in re.findall(r"`(\w+)`", self.doc))])

    def decorated(self, *words: str) -> bool:
        return any(word in one for one in map(ast.unparse, self.node.decorator_list) for word in words)


def name_of(path: Path) -> str:
    """The name under which a file is imported."""
    folder, *parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([PACKAGES.get(folder, folder), *(part for part in parts if part != "__init__")])


@cache
def read(*folders: str) -> dict[str, Module]:
    """The modules of these folders by name."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {name_of(p): Module(name_of(p), p.read_text(encoding="utf-8"), str(p.relative_to(ROOT))) for p in paths}


BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")


def statements(nodes: list[ast.AST], types: bool = True) -> Iterator[ast.stmt]:
    """All statements under these, those of functions and classes too; those for types only where they are wanted."""
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.stmt):
            yield node
        typing = not types and isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for block in BLOCKS[typing:]:
            stack += getattr(node, block, ())


def imports(module: Module) -> Iterator[str]:
    """What a module imports, also inside functions, but for types only; `from a import b` is a.b, b a module or not."""
    for node in statements(module.tree.body, types=False):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name}: imports are absolute, got a relative one in line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(module: Module, known: dict[str, Module]) -> set[str]:
    """The modules among the known ones that a module imports."""
    found = {name if name in known else name.rpartition(".")[0] for name in imports(module)}
    return {name for name in found if name in known} - {module.name}


def functions(module: Module) -> Iterator[ast.FunctionDef]:
    return (node for node in statements(module.tree.body) if isinstance(node, ast.FunctionDef))


def length(node: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    doc = node.body[0] if ast.get_docstring(node) is not None else None
    return node.end_lineno - node.lineno + 1 - (doc.end_lineno - doc.lineno + 1 if doc else 0)


# ---------------------------------------------------------------------- the rules of words


def public(module: Module) -> Iterator[Public]:
    """Functions, classes and methods without an underscore; checks that a decorator registers have their formula."""

    defined = [node for node in module.tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    beside = {node.name: ast.get_docstring(node) or "" for node in defined}

    def of(body: list[ast.stmt], owner: ast.ClassDef | None) -> Iterator[Public]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                one = Public(f"{owner.name}.{node.name}" if owner else node.name, node, owner, beside)
                if not one.decorated("overload", "identity(", ".setter"):
                    yield one
                if isinstance(node, ast.ClassDef):
                    yield from of(node.body, node)

    return of(module.tree.body, None)


def parameters(one: Public) -> list[ast.arg]:
    """What a caller gives: the arguments of a function, of a class's __init__, or the fields of a dataclass."""
    if isinstance(one.node, ast.FunctionDef):
        a = one.node.args
        given = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        own = ("self", "cls", "draw") if one.decorated("composite") else ("self", "cls")
        return [arg for arg in given if arg.arg not in own and not arg.arg.startswith("_")]
    made = [node for node in one.node.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    if made:
        return parameters(Public(one.name, made[0], one.node))
    if not one.decorated("dataclass") and "NamedTuple" not in [ast.unparse(base) for base in one.node.bases]:
        return []
    fields = [node for node in one.node.body if isinstance(node, ast.AnnAssign)]
    given = [one for one in fields if one.value is None or "init=False" not in ast.unparse(one.value)]
    return [ast.arg(one.target.id, one.annotation) for one in given if not one.target.id.startswith("_")]


def names(text: str, word: str) -> bool:
    """Whether a text names a word, also as the letter of a formula: x_s names x."""
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", text) is not None


def raised(one: Public) -> set[str]:
    """The exceptions that the body itself raises; for a class, its making."""
    roots = [one.node]
    if isinstance(one.node, ast.ClassDef):
        making = ("__init__", "__new__", "__post_init__")
        roots = [node for node in one.node.body if isinstance(node, ast.FunctionDef) and node.name in making]
    inner = {
        id(s) for r in roots for f in statements(r.body) if isinstance(f, ast.FunctionDef) for s in statements(f.body)
    }
    raises = [
        node.exc
        for root in roots
        for node in statements(root.body)
        if isinstance(node, ast.Raise) and node.exc is not None and id(node) not in inner
    ]
    found = {ast.unparse(exc.func if isinstance(exc, ast.Call) else exc) for exc in raises}
    named = {name.rpartition(".")[2] for name in found if not name.startswith("click.")}  # those are exit statuses
    return {name for name in named - PROGRAMMING if name[:1].isupper()}


def no_module_docstring(module: Module) -> Iterator[str]:
    if not module.doc:
        yield "the module has no docstring"


def no_source(module: Module) -> Iterator[str]:
    if not SPEC.search(module.doc) and not re.search(r"\bSources?:", module.doc):
        yield "the module holds mathematics, and its docstring names no source: an item's id or 'Source: ...'"


def no_docstring(module: Module) -> Iterator[str]:
    for one in public(module):
        if not one.doc:
            yield f"{one.name} has no docstring"


def no_summary(module: Module) -> Iterator[str]:
    for one in public(module):
        if one.doc and one.doc.partition("\n")[2].strip() and one.doc.splitlines()[1].strip():
            yield f"{one.name} begins with no summary of one line"


def unnamed_parameters(module: Module) -> Iterator[str]:
    for one in public(module):
        if not one.decorated(".command("):  # whose options have help
            # what several functions are given alike, and the letters of a formula, may stand in the module's docstring
            unsaid = [arg for arg in parameters(one) if not names(one.all_doc + module.doc, arg.arg)]
            missing = [arg.arg for arg in unsaid if not IDEAS.search(ast.unparse(arg.annotation or arg))]
            if missing:
                yield f"{one.name} does not say what {', '.join(missing)} is"


def unstated_shapes(module: Module) -> Iterator[str]:
    for one in public(module):
        notes = [arg.annotation for arg in parameters(one)] + [getattr(one.node, "returns", None)]
        if any(note is not None and ARRAYS.search(ast.unparse(note)) for note in notes):
            said = one.all_doc + (module.doc if module.name.startswith("refdiff.kernels") else "")
            if not SHAPE.search(said):
                yield f"{one.name} takes or returns arrays and states no shape: (n, d), (..., d), scalar, shape of t"


def unstated_errors(module: Module) -> Iterator[str]:
    for one in public(module):
        said = "".join(re.findall(r"Raises\b.*", one.all_doc, re.DOTALL))
        missing = sorted(name for name in raised(one) if not names(said, name))
        if missing:
            yield f"{one.name} raises {', '.join(missing)}, which no Raises section of it names"


def unknown_items(module: Module, known: frozenset[str]) -> Iterator[str]:
    for cited in SPEC.findall(module.text):
        first, _, last = cited.partition("..")
        ends = [first, *([f"{first.rpartition('-')[0]}-{last}"] if last else [])]
        yield from (f"the item {end} that it cites does not exist" for end in ends if end not in known)


Rule = Callable[[Module], Iterator[str]]
EVERYWHERE: tuple[Rule, ...] = (no_module_docstring, no_docstring, no_summary, unstated_errors)
OF_THE_LIBRARY: tuple[Rule, ...] = (unnamed_parameters, unstated_shapes)
