r"""What limits kernels on GPUs that are not here: predictions from counts of operations and published peak rates.

For one particle, component and step (a pair of points, where pairs are summed) a kernel needs a number of operations of
each kind, and a card does so many of a kind in a second. The least quotient binds:

    predicted = min over kinds of  rate of the card / operations of the kernel

    arithmetic   additions, products, fused multiply-adds and selections, and those of exp2: a polynomial in float64; a
                 comparison and two products for what is no normal number in float32
    exp2         in float32, by the special function units
    shared       loads from shared memory, of one number or of some neighbours, as NVRTC makes them: a warp's each clock
    issue        instructions of all kinds as NVRTC makes them, of which a multiprocessor begins 4 x 32 a clock
    memory       bytes of points, read and written, over the components that share them

No card was measured. Nothing here knows of latencies, of what the assembler makes of NVRTC's PTX (moves and branches
are not counted), of tensor cores, which cuBLAS may use for products in float64, nor of clocks under load. Counts are
checked in tests against the sources, run with numbers that count, and against PTX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

ISSUED = 128  # a clock of a multiprocessor: instructions of threads
# Arithmetic that exp2 is made of, with an argument in range: the polynomial of CUDA's library; in float32, which is one
# instruction of PTX, what the assembler adds to it
EXP2_ARITHMETIC = MappingProxyType({"float64": 16, "float32": 3})
NORMAL_ARITHMETIC = 57 / 2  # float64's, of a unit normal in float64: Box and Muller's of two, beside a root
# All instructions of a unit normal but moves and branches, as NVRTC 12.9 writes PTX: most are Philox's whole numbers
NORMAL_ISSUED = MappingProxyType({"float64": 252 / 2, "float32": 266 / 2})


@dataclass(frozen=True)
class Card:
    """A card's published rates.

    Attributes:
        name, source: which card, and where the numbers stand.
        multiprocessors, clock: how many, and the boost clock in Hz.
        lanes: results a clock of a multiprocessor, for float64 and float32, of special functions, and loads from shared
            memory: as many as load and store units are drawn.
        bandwidth: bytes of memory per second.
        stated: TFLOP/s of float64 and float32 as stated, two a multiply-add, without tensor cores.
    """

    name: str
    source: str
    multiprocessors: int
    clock: float
    lanes: Mapping[str, int]
    bandwidth: float
    stated: Mapping[str, float]

    def rate(self, kind: str) -> float:
        """Results per second of a kind of lanes."""
        return self.multiprocessors * self.clock * self.lanes[kind]


LANES = ("float64", "float32", "special", "shared")


def _card(
    name: str,
    source: str,
    multiprocessors: int,
    clock: float,
    lanes: tuple[int, int, int, int],
    bandwidth: float,
    stated: tuple[float, float],
) -> Card:
    kinds = dict(zip(LANES, lanes, strict=True)) | {"issue": ISSUED}
    said = dict(zip(("float64", "float32"), stated, strict=True))
    return Card(name, source, multiprocessors, clock, MappingProxyType(kinds), bandwidth, MappingProxyType(said))


CARDS: Sequence[Card] = (
    _card("A100 SXM 80GB", "A100 datasheet and whitepaper", 108, 1.41e9, (32, 64, 16, 32), 2039e9, (9.7, 19.5)),
    _card("H100 SXM", "H100 datasheet, Hopper whitepaper", 132, 1.98e9, (64, 128, 16, 32), 3350e9, (33.5, 66.9)),
    _card("RTX 4090", "Ada whitepaper", 128, 2.52e9, (2, 128, 16, 16), 1008e9, (1.29, 82.6)),
)
GUIDE = "CUDA C++ Programming Guide, throughput of native arithmetic instructions (8.0, 9.0, 8.9)"


class Counts(NamedTuple):
    """Of one particle, component and step.

    Attributes:
        arithmetic: additions, products, multiply-adds and selections.
        exponentials: of base 2.
        point: numbers read and written in global memory for a point, which its components share.
    """

    arithmetic: float
    exponentials: float
    point: float


def mixture(d: int) -> Counts:
    """Output and log density: 2 d + 1 multiply-adds of a logit, d + 1 of the sums, and five operations more."""
    return Counts(3 * d + 6, 1, 2 * d + 1)


def divergence(d: int) -> Counts:
    """Two sweeps, sums of two fields, and of products of their distances to averages."""
    return Counts(16 * d + 10, 2, 2 * d + 1)


def gaussian_pairs(d: int) -> Counts:
    """Sums of a Gaussian kernel and of its square, runs of 32 added without loss: 14 additions of two sums a run."""
    return Counts(2 * d + 4 + 14 / 32, 1, d + 4)


def soft_minima(d: int) -> Counts:
    """One half of Sinkhorn's turn: squares, a height, a sum of exponentials, and one addition for eight of them."""
    return Counts(2 * d + 3 + 1 / 8, 1, d + 2)


def products(d: int) -> Counts:
    """Two products of matrices; logits are written, read, and written as weights, which is small beside them."""
    return Counts(2 * d, 1, 2 * d + 1)


@dataclass(frozen=True)
class Kernel:
    """A line of the table: words, counts by d, d, how many components share a point; loads from shared memory; all.

    Loads and all instructions are those of float64 and of float32 for one component, as NVRTC 12.9 joins and makes
    them, without moves and branches; cuBLAS has its own, of which only arithmetic is known.
    """

    name: str
    counts: Callable[[int], Counts]
    dim: int
    components: int
    loads: tuple[float, float] = (0.0, 0.0)
    issued: tuple[float, float] = (0.0, 0.0)


KERNELS: Sequence[Kernel] = (
    Kernel("mixture, samplers, adaptive flow", mixture, 2, 256, (24 / 8, 16 / 8), (57.6, 16.5)),
    Kernel("mixture, samplers, adaptive flow", mixture, 16, 256, (152 / 8, 88 / 8), (122, 74)),
    Kernel("divergence", divergence, 2, 256, (64 / 8 + 3, 40 / 8 + 2), (149, 68.4)),
    Kernel("divergence", divergence, 16, 256, (176 / 8 + 10, 111 / 8 + 6), (393, 309)),
    Kernel("Gaussian pair sums (MMD)", gaussian_pairs, 2, 4096, (8 / 4, 4 / 4), (48.8, 12.5)),
    Kernel("Sinkhorn's soft minima", soft_minima, 2, 4096, (12 / 8, 6 / 8), (53.8, 12.3)),
    Kernel("point set, by products", products, 3072, 50_000),
)
BYTES = MappingProxyType({"float64": 8, "float32": 4})


def limits(card: Card, dtype: str, kernel: Kernel) -> dict[str, float]:
    """Particle-component-steps per second that each kind of operations allows."""
    c, double = kernel.counts(kernel.dim), dtype == "float64"
    of_exp2 = EXP2_ARITHMETIC[dtype] * c.exponentials
    arithmetic, loads, issued = c.arithmetic + of_exp2, *(kind[not double] for kind in (kernel.loads, kernel.issued))
    known = arithmetic + loads + (0 if double else c.exponentials)
    needs = {
        "arithmetic": (card.rate(dtype), arithmetic),
        "exp2": (card.rate("special"), 0 if double else c.exponentials),
        "shared": (card.rate("shared"), loads),
        "issue": (card.rate("issue"), max(known, issued + (0 if double else of_exp2))),
        "memory": (card.bandwidth, c.point * BYTES[dtype] / kernel.components),
    }
    return {name: rate / needed for name, (rate, needed) in needs.items() if needed}


def predicted(card: Card, dtype: str, kernel: Kernel) -> tuple[float, str]:
    """Particle-component-steps per second, and the kind that binds."""
    found = limits(card, dtype, kernel)
    binding = min(found, key=found.__getitem__)
    return found[binding], binding


def normals(card: Card, dtype: str) -> tuple[float, str]:
    """Unit normals per second of a kernel that draws them, and the kind that binds."""
    issue = card.rate("issue") / NORMAL_ISSUED[dtype], "issue"
    return min(issue, (card.rate("float64") / NORMAL_ARITHMETIC, "arithmetic")) if dtype == "float64" else issue


# ---------------------------------------------------------------------- as tables


def table() -> str:
    """The predictions in Markdown."""
    columns = [f"{card.name}, {dtype}" for card in CARDS for dtype in ("64", "32")]
    head = ["kernel", "d", "arithmetic", "exp2", "loads, 64 / 32", "all, 64 / 32", "global", *columns]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for one in KERNELS:
        c = one.counts(one.dim)
        made = [" / ".join(f"{n:g}" for n in kind) if any(kind) else "" for kind in (one.loads, one.issued)]
        cells = [_brief(predicted(card, dtype, one)) for card in CARDS for dtype in BYTES]
        lines.append(
            [one.name, str(one.dim), f"{c.arithmetic:.4g}", f"{c.exponentials:g}", *made, f"{c.point:g}", *cells]
        )
    drawn = [_brief(normals(card, dtype)) for card in CARDS for dtype in BYTES]
    issued = " / ".join(f"{NORMAL_ISSUED[dtype]:g}" for dtype in BYTES)
    lines.append(["unit normals, each", "", f"{NORMAL_ARITHMETIC:g}*", "", "", issued, "", *drawn])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _brief(found: tuple[float, str]) -> str:
    return f"{_three(found[0] / 1e9)} {found[1]}"


def _three(value: float) -> str:
    """Three digits."""
    return f"{float(f'{value:.3g}'):g}"


def sources() -> str:
    """Which rates are taken from where, in Markdown."""
    head = ["card", "multiprocessors x GHz", "lanes float64 / float32 / special / loads", "GB/s", "TFLOP/s", "source"]
    lines = [head, ["---"] * len(head)]
    for card in CARDS:
        lanes = " / ".join(str(card.lanes[kind]) for kind in LANES)
        stated = " / ".join(f"{card.stated[dtype]:g}" for dtype in BYTES)
        size = f"{card.multiprocessors} x {card.clock / 1e9:g}"
        lines.append([card.name, size, lanes, f"{card.bandwidth / 1e9:g}", stated, card.source])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
