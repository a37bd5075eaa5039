r"""Vector instructions of this machine, written out: what an intrinsic of Numba with tiles of vectors is made of.

LLVM does not find the form of a tile, rows times vectors that stay in registers while a sum runs, by itself, and
prefers half of the vector length that this machine may have. An `Emitter` writes such code for the arrays that are
the arguments of a call, and `intrinsic_of` makes of a function that emits it one that compiled code can call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

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


class Emitter:
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
        """The length of an array along an axis."""
        return cgutils.unpack_tuple(self.builder, array.shape)[axis]

    def plus(self, a: Any, b: int) -> Any:
        """a + b of whole numbers."""
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
        """A vector to where these places begin."""
        self.builder.store(value, self._pointer(self.vector, array, places), align=self.item)

    def spread(self, array: Any, *places: Any) -> Any:
        """One number in all lanes of a vector."""
        value = self.builder.load(self._pointer(self.real, array, places), align=self.item, typ=self.real)
        nothing, first = ir.Constant(self.vector, ir.Undefined), ir.IntType(32)(0)
        order = ir.Constant(ir.VectorType(ir.IntType(32), self.width), [0] * self.width)
        return self.builder.shuffle_vector(self.builder.insert_element(nothing, value, first), nothing, order)

    def constant(self, value: float) -> Any:
        """One known number in all lanes of a vector."""
        return ir.Constant(self.vector, [float(self.kind(value))] * self.width)

    def variable(self, start: Any) -> Any:
        """A sum in a register."""
        slot = cgutils.alloca_once(self.builder, self.vector)
        self.builder.store(start, slot)
        return slot

    def value(self, slot: Any) -> Any:
        """What a sum in a register has come to."""
        return self.builder.load(slot, typ=self.vector)

    def sub(self, a: Any, b: Any) -> Any:
        """a - b, which may fuse with a product."""
        return self.builder.fsub(a, b, flags=CONTRACT)

    def add(self, a: Any, b: Any) -> Any:
        """a + b, which may fuse with a product."""
        return self.builder.fadd(a, b, flags=CONTRACT)

    def mul(self, a: Any, b: Any) -> Any:
        """a b, which may fuse with a sum."""
        return self.builder.fmul(a, b, flags=CONTRACT)

    def add_product(self, slot: Any, a: Any, b: Any) -> None:
        """A sum in a register grows by a b."""
        self.builder.store(self.add(self.value(slot), self.mul(a, b)), slot)

    def maximum(self, a: Any, b: Any) -> Any:
        """The larger of a and b in each lane, b where one is not a number."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def add_products(self, sums: Sequence[Sequence[Any]], x: Any, lanes: Sequence[Any], entry: Any) -> None:
        """The sums (rows, lanes) grow by sum_s entry(s, row) x[s, lane], over the rows s of x."""
        with cgutils.for_range(self.builder, self.size(x, 0)) as step:
            xs = [self.load(x, step.index, lane) for lane in lanes]
            for row, line in enumerate(sums):
                factor = entry(step.index, row)
                for value, slot in zip(xs, line, strict=True):
                    self.add_product(slot, value, factor)

    def entries(self, c: Any, ks: Sequence[Any], across: bool) -> Any:
        """What `add_products` multiplies with: (s, row) -> c[k, s], or c[s, k] where not across, for k = ks[row]."""
        return lambda s, row: self.spread(c, ks[row], s) if across else self.spread(c, s, ks[row])

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


def intrinsic_of(emit: Callable[[Emitter], None], count: int) -> Any:
    """The intrinsic with this many arguments whose code `emit` writes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit(Emitter(context, builder, signature, arguments))
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
