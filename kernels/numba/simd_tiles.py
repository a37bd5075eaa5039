r"""Register tiles in the vector instructions of this machine; `tiles` says what they compute.

A tile of ROWS results times COLUMNS vectors of lanes stays in registers while a sum runs, so that a number loaded once
serves several times. LLVM does not find this form by itself, and prefers half of the vector length that this machine
may have, so the code is written in its vector instructions. Sums run in the order of their index, and may fuse a
product with a sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from refdiff.kernels.numba.compiling import shared
from refdiff.kernels.numba.vector_coefficients import EXP2
from refdiff.kernels.numba.vector_math import SHIFT

COLUMNS = 4  # vectors of lanes in a tile


def _machine() -> tuple[int, int]:
    """Bytes of a vector, and rows of a tile: as many as leave registers for what the sums need."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f", False):
        return 64, 4  # of 32 registers 16 hold sums
    if features.get("avx", False):
        return 32, 2  # of 16 registers 8 hold sums
    return 16, 4 if llvm.get_process_triple().startswith(("aarch64", "arm64")) else 2


VECTOR_BYTES, ROWS = _machine()

# What is smaller than 2^LEAST of the largest term of a sum becomes 0: products with it would be subnormal numbers, at
# which processors take a hundred times as long.
LEAST = {np.float64: -500.0, np.float32: -60.0}
CONTRACT = ("contract",)


class _Emitter:
    """Vector instructions of one tile, for the arrays that are its arguments."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.builder = builder
        self.arrays = [
            context.make_array(kind)(context, builder, value) if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, arguments, strict=True)
        ]
        dtype = signature.args[0].dtype
        self.kind = np.float64 if dtype == types.float64 else np.float32
        self.real = context.get_value_type(dtype)
        self.item = np.dtype(self.kind).itemsize
        self.width = VECTOR_BYTES // self.item
        self.vector = ir.VectorType(self.real, self.width)
        self.integer = context.get_value_type(types.intp)

    def size(self, array: Any, axis: int) -> Any:
        return cgutils.unpack_tuple(self.builder, array.shape)[axis]

    def plus(self, a: Any, b: int) -> Any:
        return self.builder.add(a, self.integer(b))

    def _pointer(self, kind: Any, array: Any, places: tuple[Any, ...]) -> Any:
        # from the array's own pointer on: LLVM does not see stores that go through a pointer made of a whole number
        offset = self.builder.mul(places[-1], self.integer(self.item))  # the last axis is contiguous
        for place, stride in zip(places[:-1], cgutils.unpack_tuple(self.builder, array.strides), strict=False):
            offset = self.builder.add(offset, self.builder.mul(place, stride))
        byte = ir.IntType(8)
        begin = self.builder.bitcast(array.data, byte.as_pointer())
        return self.builder.bitcast(self.builder.gep(begin, [offset], source_etype=byte), kind.as_pointer())

    def load(self, array: Any, *places: Any) -> Any:
        """The vector that begins at these places."""
        return self.builder.load(self._pointer(self.vector, array, places), align=self.item, typ=self.vector)

    def store(self, value: Any, array: Any, *places: Any) -> None:
        self.builder.store(value, self._pointer(self.vector, array, places), align=self.item)

    def spread(self, array: Any, *places: Any) -> Any:
        """One number in all lanes of a vector."""
        value = self.builder.load(self._pointer(self.real, array, places), align=self.item, typ=self.real)
        nothing, first = ir.Constant(self.vector, ir.Undefined), ir.IntType(32)(0)
        order = ir.Constant(ir.VectorType(ir.IntType(32), self.width), [0] * self.width)
        return self.builder.shuffle_vector(self.builder.insert_element(nothing, value, first), nothing, order)

    def constant(self, value: float) -> Any:
        return ir.Constant(self.vector, [float(self.kind(value))] * self.width)

    def variable(self, start: Any) -> Any:
        """A sum in a register."""
        slot = cgutils.alloca_once(self.builder, self.vector)
        self.builder.store(start, slot)
        return slot

    def value(self, slot: Any) -> Any:
        return self.builder.load(slot, typ=self.vector)

    def sub(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b, flags=CONTRACT)

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=CONTRACT)

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=CONTRACT)

    def add_product(self, slot: Any, a: Any, b: Any) -> None:
        self.builder.store(self.add(self.value(slot), self.mul(a, b)), slot)

    def maximum(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def exp2_nonpositive(self, x: Any) -> Any:
        """2^x for x <= 0, and 0 for x below LEAST, -inf included."""
        whole, digits = (ir.IntType(64), 52) if self.kind is np.float64 else (ir.IntType(32), 23)
        wholes = ir.VectorType(whole, self.width)
        shift = self.constant(SHIFT[self.kind])
        shifted = self.add(x, shift)
        r = self.sub(x, self.sub(shifted, shift))  # exact: x is split into its integer and the rest
        value = self.constant(EXP2[self.kind][-1])
        for c in (*EXP2[self.kind][-2::-1], 1.0):
            value = self.add(self.mul(value, r), self.constant(c))
        power = self.builder.shl(self.builder.bitcast(shifted, wholes), ir.Constant(wholes, [digits] * self.width))
        result = self.builder.bitcast(self.builder.add(power, self.builder.bitcast(value, wholes)), self.vector)
        # unordered: what is not a number stays so
        kept = self.builder.fcmp_unordered(">=", x, self.constant(LEAST[self.kind]))
        return self.builder.select(kept, result, self.constant(0.0))

    def lane_groups(self, lanes: Any, columns: int = COLUMNS) -> Any:
        """A loop over groups of lanes, and a function from its index to the lanes where vectors begin."""
        group = self.integer(columns * self.width)
        loop = cgutils.for_range(self.builder, self.builder.sdiv(lanes, group))

        def begins(index: Any) -> list[Any]:
            start = self.builder.mul(index, group)
            return [self.plus(start, v * self.width) for v in range(columns)]

        return loop, begins


def _intrinsic(emit: Callable[[_Emitter], None], count: int) -> Any:
    """The intrinsic with this many arguments whose code `emit` writes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit(_Emitter(context, builder, signature, arguments))
        return context.get_dummy_value()

    def tile(*arguments: Any) -> Any:
        arrays = [a for a in arguments if isinstance(a, types.Array)]
        if any(a.dtype != arrays[0].dtype or a.layout == "F" for a in arrays):
            raise TypingError(f"tiles take arrays of one type with a contiguous last axis, got {arguments}")
        return types.void(*(types.intp if isinstance(a, types.Integer) else a for a in arguments)), generate

    # Numba reads the number of arguments from the signature
    names = [f"a{i}" for i in range(count)]
    scope: dict[str, Any] = {"tile": tile}
    exec(f"def typed(typingctx, {', '.join(names)}): return tile({', '.join(names)})", scope)
    return intrinsic(scope["typed"])


def _logits(rows: int, weighted: bool) -> Any:
    """(x, c, p, offsets, first, l, top): logits of the components first .. first + rows - 1."""

    def emit(e: _Emitter) -> None:
        x, c, p, offsets, first, l, top = e.arrays
        ks = [e.plus(first, r) for r in range(rows)]
        groups, begins = e.lane_groups(e.size(x, 1))
        with groups as group:
            lanes = begins(group.index)
            sums = [[e.variable(e.constant(0.0)) for _ in lanes] for _ in ks]
            with cgutils.for_range(e.builder, e.size(x, 0)) as axis:
                xs = [e.load(x, axis.index, lane) for lane in lanes]
                for k, line in zip(ks, sums, strict=True):
                    centre = e.spread(c, k, axis.index)
                    weight = e.spread(p, k, axis.index) if weighted else None
                    for value, total in zip(xs, line, strict=True):
                        t = e.sub(value, centre)
                        e.add_product(total, t if weight is None else e.mul(t, weight), t)
            tops = [e.load(top, lane) for lane in lanes]
            zero = e.integer(0)
            for k, line in zip(ks, sums, strict=True):
                offset = e.spread(offsets, k)
                scale = None if weighted else e.spread(p, k, zero)
                for v, lane in enumerate(lanes):
                    total = e.value(line[v])
                    logit = e.add(total if scale is None else e.mul(total, scale), offset)
                    tops[v] = e.maximum(logit, tops[v])
                    e.store(logit, l, k, lane)
            for value, lane in zip(tops, lanes, strict=True):
                e.store(value, top, lane)

    return _intrinsic(emit, 7)


def _inner(rows: int) -> Any:
    """(x, c, p, offsets, squares, first, l, top): logits of the components first .. first + rows - 1 by products."""

    def emit(e: _Emitter) -> None:
        x, c, p, offsets, squares, first, l, top = e.arrays
        ks, zero = [e.plus(first, r) for r in range(rows)], e.integer(0)
        groups, begins = e.lane_groups(e.size(x, 1))
        with groups as group:
            lanes = begins(group.index)
            lengths = [e.load(squares, lane) for lane in lanes]
            sums = []
            for k in ks:
                offset, scale = e.spread(offsets, k), e.spread(p, k, zero)
                sums.append([e.variable(e.add(e.mul(scale, length), offset)) for length in lengths])
            with cgutils.for_range(e.builder, e.size(x, 0)) as axis:
                xs = [e.load(x, axis.index, lane) for lane in lanes]
                for k, line in zip(ks, sums, strict=True):
                    entry = e.spread(c, k, axis.index)
                    for value, slot in zip(xs, line, strict=True):
                        e.add_product(slot, value, entry)
            tops = [e.load(top, lane) for lane in lanes]
            for k, line in zip(ks, sums, strict=True):
                for v, lane in enumerate(lanes):
                    logit = e.value(line[v])
                    tops[v] = e.maximum(logit, tops[v])
                    e.store(logit, l, k, lane)
            for value, lane in zip(tops, lanes, strict=True):
                e.store(value, top, lane)

    return _intrinsic(emit, 8)


def _absorption(axes: int, sloped: bool) -> Any:
    """(l, top, slopes, m, total, shrink, out): all rows of l, the first axes of out; shrink only where sloped."""

    def emit(e: _Emitter) -> None:
        l, top, slopes, m, total, shrink, out = e.arrays
        places = [e.integer(j) for j in range(axes)]
        groups, begins = e.lane_groups(e.size(l, 1), ABSORBED)
        with groups as group:
            lanes = begins(group.index)
            tops = [e.load(top, lane) for lane in lanes]
            sums = [(total, ())] + [(shrink, ())] * sloped + [(out, (j,)) for j in places]
            held = [[e.variable(e.load(array, *where, lane)) for lane in lanes] for array, where in sums]
            with cgutils.for_range(e.builder, e.size(l, 0)) as component:
                k = component.index
                rs = [
                    e.exp2_nonpositive(e.sub(e.load(l, k, lane), most)) for lane, most in zip(lanes, tops, strict=True)
                ]
                for r, lane, slot in zip(rs, lanes, held[0], strict=True):
                    e.builder.store(e.add(e.value(slot), r), slot)
                    e.store(r, l, k, lane)
                factors = [e.spread(slopes, k, e.integer(0))] * sloped + [e.spread(m, k, j) for j in places]
                for factor, line in zip(factors, held[1:], strict=True):
                    for r, slot in zip(rs, line, strict=True):
                        e.add_product(slot, r, factor)
            for (array, where), line in zip(sums, held, strict=True):
                for slot, lane in zip(line, lanes, strict=True):
                    e.store(e.value(slot), array, *where, lane)

    return _intrinsic(emit, 7)


def _product(rows: int, across: bool) -> Any:
    """(x, c, first, out): out[first + r] += sum_s c[first + r, s] x[s], or c[s, first + r] x[s]."""

    def emit(e: _Emitter) -> None:
        x, c, first, out = e.arrays
        ks = [e.plus(first, r) for r in range(rows)]
        groups, begins = e.lane_groups(e.size(x, 1))
        with groups as group:
            lanes = begins(group.index)
            sums = [[e.variable(e.load(out, k, lane)) for lane in lanes] for k in ks]
            with cgutils.for_range(e.builder, e.size(x, 0)) as step:
                xs = [e.load(x, step.index, lane) for lane in lanes]
                for k, line in zip(ks, sums, strict=True):
                    entry = e.spread(c, k, step.index) if across else e.spread(c, step.index, k)
                    for value, slot in zip(xs, line, strict=True):
                        e.add_product(slot, value, entry)
            for k, line in zip(ks, sums, strict=True):
                for slot, lane in zip(line, lanes, strict=True):
                    e.store(e.value(slot), out, k, lane)

    return _intrinsic(emit, 4)


ABSORBED = 2

_logit_tiles = {weighted: (_logits(ROWS, weighted), _logits(1, weighted)) for weighted in (False, True)}
_product_tiles = {across: (_product(ROWS, across), _product(1, across)) for across in (False, True)}

_logit_4, _logit_1 = _logit_tiles[False]
_inner_4, _inner_1 = _inner(ROWS), _inner(1)
_weighted_4, _weighted_1 = _logit_tiles[True]
_across_4, _across_1 = _product_tiles[True]
_along_4, _along_1 = _product_tiles[False]
_absorb_1, _absorb_2, _absorb_3, _absorb_4 = (_absorption(axes, False) for axes in range(1, 5))
_sloped_1, _sloped_2, _sloped_3, _sloped_4 = (_absorption(axes, True) for axes in range(1, 5))


@shared
def logits(x: Any, c: Any, p: Any, offsets: Any, count: int, l: Any, top: Any) -> None:
    """l[k] = offset_k + p_k |x - c_k|^2 for k < count, and the largest so far in each lane into top."""
    whole = count - count % ROWS
    for first in range(0, whole, ROWS):
        _logit_4(x, c, p, offsets, first, l, top)
    for first in range(whole, count):
        _logit_1(x, c, p, offsets, first, l, top)


@shared
def inner_logits(x: Any, c: Any, p: Any, offsets: Any, squares: Any, count: int, l: Any, top: Any) -> None:
    """l[k] = offset_k + p_k squares + c_k . x for k < count, and the largest so far in each lane into top."""
    whole = count - count % ROWS
    for first in range(0, whole, ROWS):
        _inner_4(x, c, p, offsets, squares, first, l, top)
    for first in range(whole, count):
        _inner_1(x, c, p, offsets, squares, first, l, top)


@shared
def weighted_logits(x: Any, c: Any, p: Any, offsets: Any, count: int, l: Any, top: Any) -> None:
    """l[k] = offset_k + sum_j p_kj (x_j - c_kj)^2 for k < count, and the largest so far in each lane into top."""
    whole = count - count % ROWS
    for first in range(0, whole, ROWS):
        _weighted_4(x, c, p, offsets, first, l, top)
    for first in range(whole, count):
        _weighted_1(x, c, p, offsets, first, l, top)


@shared
def products(x: Any, c: Any, count: int, out: Any) -> None:
    """out[k] += sum_j c[k, j] x[j] for k < count."""
    whole = count - count % ROWS
    for first in range(0, whole, ROWS):
        _across_4(x, c, first, out)
    for first in range(whole, count):
        _across_1(x, c, first, out)


@shared
def accumulate(l: Any, m: Any, begin: int, count: int, out: Any) -> None:
    """out[j] += sum_k m[k, j] l[k] for begin <= j < count, over the rows k of l."""
    whole = count - (count - begin) % ROWS
    for first in range(begin, whole, ROWS):
        _along_4(l, m, first, out)
    for first in range(whole, count):
        _along_1(l, m, first, out)


@shared
def absorb(l: Any, top: Any, m: Any, total: Any, out: Any) -> None:
    """Rows l become 2^(l - top), and are summed: into total, and with the rows of m into out."""
    axes = out.shape[0]
    if axes == 1:
        _absorb_1(l, top, m, m, total, total, out)
    elif axes == 2:
        _absorb_2(l, top, m, m, total, total, out)
    elif axes == 3:
        _absorb_3(l, top, m, m, total, total, out)
    else:
        _absorb_4(l, top, m, m, total, total, out)
        accumulate(l, m, 4, axes, out)


@shared
def absorb_sloped(l: Any, top: Any, slopes: Any, m: Any, total: Any, shrink: Any, out: Any) -> None:
    """The same, and with the slopes into shrink."""
    axes = out.shape[0]
    if axes == 1:
        _sloped_1(l, top, slopes, m, total, shrink, out)
    elif axes == 2:
        _sloped_2(l, top, slopes, m, total, shrink, out)
    elif axes == 3:
        _sloped_3(l, top, slopes, m, total, shrink, out)
    else:
        _sloped_4(l, top, slopes, m, total, shrink, out)
        accumulate(l, m, 4, axes, out)
