r"""The changes of mutation testing: one sign, factor or index of a syntax tree at a time.

    a + b, a * b, a and b     the opposite operator             -a, not a        a
    a ** n                    a ** (n + 1)                      a < b            a <= b, a > b
    2.5, 0, 2                 3.5 and 5.0, 1, 1 and 3           x[1:], axis=0    x[0:] and x[2:], axis=1
    exp, sin, max, sum        expm1, cos, min, mean             sqrt(a), A.T     a, A
    a if c else b, where      the other way round               True             False

Left out: strings, annotations, decorators, raise statements, __repr__ and __str__, and the keywords of HARMLESS.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

OPERATORS: dict[type, type] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And},
}
COMPARISONS: dict[type, tuple[type, ...]] = {
    **{ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.GtE), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.LtE)},
    **{ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,)},
    **{ast.In: (ast.NotIn,), ast.NotIn: (ast.In,)},
}
_PAIRS = (
    "exp expm1, log log1p, sin cos, cosh sinh, arcsin arccos, min max, maximum minimum, fmax fmin, any all, "
    "floor ceil, argmax argmin, zeros ones, zeros_like ones_like, cumsum cumprod, isfinite isnan, isneginf isposinf"
)
CALLS = {a: b for pair in _PAIRS.split(", ") for a, b in (pair.split(), pair.split()[::-1])} | {"sum": "mean"}
HARMLESS = ("repr", "strict")  # keywords whose truth values change no result


@dataclass
class Mutant:
    """One change: `new` stands where `parent.name` (or its item `place`) stood."""

    file: str
    line: int
    change: str
    span: range
    parent: ast.AST
    name: str
    place: int | None
    new: ast.AST
    outcome: str = "survived"
    by: str = ""
    tests: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Where the change is, what it is, and how many tests concern it."""
        return f"{self.file}:{self.line}: {self.change}  ({len(self.tests)} tests)"

    def apply(self) -> None:
        """Puts the change into the syntax tree."""
        if self.place is None:
            setattr(self.parent, self.name, self.new)
        else:
            getattr(self.parent, self.name)[self.place] = self.new


def numbers(value: float, index: bool, axis: bool) -> set[float]:
    """What a constant becomes."""
    if axis:
        return {1 - value}
    if index and value:
        return {value - 1, value + 1}
    return {0: {1}, 2: {1, 3}}.get(value, {value + 1, 2 * value})


def variants(node: ast.AST, index: bool, axis: bool) -> Iterator[ast.AST]:
    """The changed forms of one node; those of what is inside come by themselves."""
    match node:
        case ast.BinOp(left, ast.Pow(), right) if not isinstance(right, ast.Constant):
            yield ast.BinOp(left, ast.Pow(), ast.BinOp(right, ast.Add(), ast.Constant(1)))
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            yield ast.BinOp(left, OPERATORS[type(op)](), right)
        case ast.AugAssign(target, op, value) if type(op) in OPERATORS:
            yield ast.AugAssign(target, OPERATORS[type(op)](), value)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(OPERATORS[type(op)](), values)
        case ast.UnaryOp(ast.USub() | ast.Not() | ast.Invert(), operand):
            yield operand
        case ast.Compare(left, ops, right):
            for i, op in enumerate(ops):
                for other in COMPARISONS[type(op)]:
                    yield ast.Compare(left, [*ops[:i], other(), *ops[i + 1 :]], right)
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield from (ast.Constant(other) for other in sorted(numbers(value, index, axis)))
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.If(test, body, orelse) if isinstance(test, ast.Call | ast.Name | ast.Attribute):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Attribute(value, "T") if not (isinstance(value, ast.Name) and value.id in ("self", "schedule")):
            yield value
        case ast.Call(ast.Attribute(value, name), [first, *more] as given, keywords):
            if name in ("sqrt", "abs") and not more:
                yield first
            if name == "where" and len(more) == 2:
                yield ast.Call(node.func, [first, *more[::-1]], keywords)
            if name in CALLS:
                yield ast.Call(ast.Attribute(value, CALLS[name], ast.Load()), given, keywords)
        case ast.Call(ast.Attribute(value, name), [], keywords) if name in CALLS:
            yield ast.Call(ast.Attribute(value, CALLS[name], ast.Load()), [], keywords)
        case ast.Call(ast.Name("min" | "max" | "any" | "all" as name), given, keywords):
            yield ast.Call(ast.Name(CALLS[name], ast.Load()), given, keywords)


def changes(
    file: str, node: ast.AST, span: range = range(0), index: bool = False, axis: bool = False
) -> Iterator[Mutant]:
    """Every change of what is below a node; `span` is the lines of the statement around it."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for place, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            match child:
                case ast.Raise() | ast.JoinedStr() | ast.FunctionDef(name="__repr__" | "__str__"):
                    continue
                case ast.If(test=ast.Name(id="TYPE_CHECKING")) | ast.AnnAssign(annotation=ast.Name(id="TypeAlias")):
                    continue
                case ast.keyword(arg=word) if word in HARMLESS:
                    continue
                case ast.stmt():
                    body = getattr(child, "body", None)
                    last = body[0].lineno - 1 if body else child.end_lineno or child.lineno
                    around = range(child.lineno, max(last, child.lineno) + 1)
                case ast.AST():
                    around = span
                case _:
                    continue
            inside, over = index or name == "slice", axis or (isinstance(child, ast.keyword) and child.arg == "axis")
            for new in variants(child, inside, over):
                ast.copy_location(new, child)
                shown = [ast.unparse(form).split("\n")[0] for form in (child, new)]
                yield Mutant(file, child.lineno, f"{shown[0]}  ->  {shown[1]}", around, node, name, place, new)
            yield from changes(file, child, around, inside, over)
