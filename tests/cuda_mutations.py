"""Bugs to be sown in the kernels' sources, each with the test that finds it on the emulator."""

from __future__ import annotations

from typing import Any, NamedTuple


class Bug(NamedTuple):
    """A text of a source that occurs there once, what takes its place, and a test that fails with it."""

    name: str
    file: str
    was: str
    wrong: str
    test: str  # module and function, without what all have in common
    given: dict[str, Any] = {}  # noqa: RUF012 # parameters of the test beside fixtures


WORDS = "philox.words_are_those_of_the_reference_bit_by_bit"
UNIFORMS = "philox.uniforms_are_those_of_the_reference_bit_by_bit"
NORMALS = "philox.normals_are_those_of_the_reference_to_roundings"
EDGES = "philox.single_precision_loses_nothing_where_logarithm_sine_or_cosine_vanish"
PREDICTED = "mixture.predictions_and_log_densities_are_those_of_numpy"
DIVERGENCES = "second_order.divergences_and_their_outputs_are_those_of_numpy"
SAMPLES = "tableau.a_seed_gives_the_stages_of_the_numpy_loop"
STAGE = "tableau.a_stage_is_the_sum_of_its_terms"
STEPS = "adaptive.steps_are_those_of_the_cpu_and_points_to_rounding"
TEMPERED = "adaptive.errors_of_many_axes_are_mean_squares_tempered_by_the_third_orders"
MINIMA = "sinkhorn.minima_are_those_of_mpmath_and_scipy_to_roundings"
TILES = "sinkhorn.any_numbers_of_points_fill_tiles"
MEANS = "sinkhorn.means_powers_and_shares_are_those_of_all_pairs"
SUMS = "pair_sums.sums_are_those_of_long_double_to_roundings"
FIELDS = "pair_sums.fields_are_those_of_long_double_to_roundings"
WIDE = "wide.every_route_is_exact_to_roundings"


def law(storage: str, dim: int, count: int, n: int, kind: str = "f8", **other: Any) -> dict[str, Any]:
    """A case of the tests of mixtures."""
    return {"storage": storage, "dim": dim, "count": count, "n": n, "kind": kind, **other}


ROUND, OWN = law("isotropic", 2, 5, 3, still=True), law("full", 2, 17, 3, still=True)
AXES, PARTS = law("diagonal", 2, 130, 3, still=True), law("isotropic", 2, 300, 3, still=True)
FIVE = law("isotropic", 3, 5, 3)
FLOW = {"kind": "isotropic", "dim": 2, "n": 130, "method": "dop853", "log": True}
MANY = {"kind": "isotropic", "dim": 17, "n": 5, "method": "dopri5", "log": False}
NARROW, BROAD = {"dim": 3, "order": 1.0, "kind": "f8"}, {"dim": 17, "order": 2.0, "kind": "f8"}
ALL_3, ALL_17 = {"dim": 3, "order": 1.0}, {"dim": 17, "order": 2.0}
LAPLACE = {"name": "laplace-2", "sizes": (131, 133)}
COULOMB = {"name": "coulomb-17", "sizes": (131, 133)}

BUGS = (
    # ------------------------------------------------------------------ normals
    Bug("a round too few", "philox.cuh", "round < 10", "round < 9", WORDS),
    Bug("another half of the key", "philox.cuh", "high0 ^ c3 ^ k1", "high0 ^ c3 ^ k0", WORDS),
    Bug("uniforms that may be 0", "philox.cuh", "low) >> 11) + 1;", "low) >> 11);", UNIFORMS, {"dim": 3}),
    Bug("the group of another axis", "philox.cu", "draw, axis / 2, first", "draw, axis, first", NORMALS,
        {"dim": 5, "backend": "numpy"}),
    Bug("no guard of the last axis", "philox.cu", "if (axis + 1 < dim) out[row * dim + axis + 1] = second",
        "out[row * dim + axis + 1] = second", NORMALS, {"dim": 1, "backend": "numpy"}),
    Bug("a power of two too many", "philox.cuh", "__clzll(u) - 11", "__clzll(u) - 10", EDGES),
    Bug("the other way at half a turn", "philox.cuh", "quarter == 2 || quarter == 3", "quarter == 3", EDGES),
    # ------------------------------------------------------------------ mixtures
    Bug("no barrier before the times", "laws.cuh", "at) {\n    __syncthreads();\n    for", "at) {\n    for", SAMPLES,
        {"name": "ddpm"}),
    Bug("no barrier before a tile", "laws.cuh", "real* table) {\n    __syncthreads();\n#if KIND == 2",
        "real* table) {\n#if KIND == 2", PREDICTED, AXES),
    Bug("no barrier between a basis and its logarithms", "laws.cuh",
        "    __syncthreads();\n#if KIND == 2\n    for (int i = threadIdx.x; i < size * (DIM * DIM)",
        "#if KIND == 2\n    for (int i = threadIdx.x; i < size * (DIM * DIM)", PREDICTED, OWN),
    Bug("a tile that is always full", "mixture.cuh", "int size = int(min(int64(TILE), last - place))",
        "int size = TILE", PREDICTED, ROUND),
    Bug("a total that is not rescaled", "mixture.cuh", "sums.total *= fall;", "sums.total += 0 * fall;", PREDICTED,
        AXES),
    Bug("parts that are merged as they are", "mixture.cuh", "real fall = exp2(from[0] - sums.top)", "real fall = 1",
        PREDICTED, PARTS),
    Bug("parts but the first are asked for the largest", "mixture.cuh", "p = 0; p < count; ++p) sums.top",
        "p = 1; p < count; ++p) sums.top",
        "mixture.parts_whose_largest_logits_are_beyond_all_powers_of_each_other_are_merged"),
    Bug("no last point for threads without one", "mixture.cuh", "points + min(i, n - 1) * DIM", "points + i * DIM",
        PREDICTED, ROUND),
    Bug("a point too many is stored", "mixture.cu", "if (i < n)", "if (i <= n)", PREDICTED, ROUND),
    Bug("densities of others", "mixture.cu", "logp[i] = log", "logp[base] = log", PREDICTED, ROUND),
    Bug("a part that goes on to the end", "mixture_parts.cu", "last = min(first + size, count)", "last = count",
        PREDICTED, PARTS),
    Bug("sums of points that are not there", "mixture_parts.cu", "merge(parts, many, n, min(i, n - 1), sums)",
        "merge(parts, many, n, i, sums)", PREDICTED, PARTS),
    # ------------------------------------------------------------------ divergences
    Bug("a constant of single precision", "second_order.cuh", "real(1.386294361119890618834464242916353)",
        "real(1.3862943611f)", DIVERGENCES, law("isotropic", 3, 129, 130)),
    Bug("sums in place of averages", "second_order.cuh", "sums.of[j] /= sums.total", "sums.of[j] /= 1", DIVERGENCES,
        law("diagonal", 2, 300, 127)),
    Bug("the trace of one axis", "second_order.cuh", "trace = DIM * row[DIM + 3]", "trace = row[DIM + 3]", DIVERGENCES,
        law("isotropic", 3, 129, 130)),
    Bug("a divergence too many", "second_order.cu", "if (i < n)", "if (i <= n)", DIVERGENCES, FIVE),
    Bug("divergences of others", "second_order.cu", "divs[i] = div", "divs[n - 1 - i] = div", DIVERGENCES, FIVE),
    Bug("totals where sums are", "second_order_parts.cu", "sum += parts[(2 * p + 1) * n + own]",
        "sum += parts[2 * p * n + own]", DIVERGENCES, law("one variance", 2, 300, 3)),
    Bug("the first part again", "second_order_parts.cu", "real* to = parts + 2 * blockIdx.y * n + i",
        "real* to = parts + i", DIVERGENCES, law("one variance", 2, 300, 3)),
    # ------------------------------------------------------------------ samplers
    Bug("the same normals for all points", "tableau.cu", "add_normals(key, particle + row, place",
        "add_normals(key, particle, place", SAMPLES, {"name": "ddpm"}),
    Bug("a slot too far", "tableau.cu", "os.put(k % outputs, found)", "os.put((k + 1) % outputs, found)", SAMPLES,
        {"name": "unipc, one basis"}),
    Bug("slots of all threads in one place", "tableau.cu", "to[j * all()] = y[j]", "to[j] = y[j]", SAMPLES,
        {"name": "lms"}),
    Bug("the scale of the first axis", "tableau.cu", "y[j] *= table.scale[k * WIDTH + (WIDE ? j : 0)]",
        "y[j] *= table.scale[k * WIDTH]", SAMPLES, {"name": "each axis over its sigma"}),
    Bug("the weight of the first axis", "combine.cu", "weights[s * width + next]", "weights[s * width + w]", STAGE,
        {"sources": 1, "draws": 1, "axes": "each"}),
    Bug("no guard of a lone axis", "combine.cu", "if (both) out[at + 1] = second", "out[at + 1] = second", STAGE,
        {"sources": 1, "draws": 1, "axes": "one"}),
    # ------------------------------------------------------------------ adaptive steps
    Bug("no barrier behind a decision", "adaptive.cu", "    }\n        }\n        __syncthreads();\n",
        "    }\n        }\n", STEPS, FLOW),
    Bug("no barrier behind what warps found", "adaptive.cu", "scratch[threadIdx.x / 32] = v;\n    __syncthreads();",
        "scratch[threadIdx.x / 32] = v;", STEPS, FLOW),
    Bug("slopes of the step that was refused", "adaptive.cu", "if (first <= 1)", "if (first <= 2)", STEPS, FLOW),
    Bug("the new point in place of y", "stepping.cu", "slots[(slopes + 1) * size + i] = ",
        "slots[slopes * size + i] = ", STEPS, MANY),
    Bug("axes of half a warp", "stepping.cu", "for (int bits = 16; bits > 0", "for (int bits = 8; bits > 0", STEPS,
        MANY | {"dim": 40}),
    Bug("the last axes of a thread for all", "stepping.cu", "third += square", "third = square", TEMPERED),
    Bug("a sum in place of a mean", "stepping.cu", " : fifth / dim", " : fifth", STEPS, MANY),
    # ------------------------------------------------------------------ soft minima
    Bug("a sum that is not rescaled", "sinkhorn.cuh", "tile *= less, sum *= less", "tile *= less", MINIMA, NARROW),
    Bug("parts as if of one size", "sinkhorn.cuh", "other_sum * exp2(other_most - top)", "other_sum", MINIMA, NARROW),
    Bug("no barrier before a tile of points", "sinkhorn.cu", "            __syncthreads();\n            bool sound",
        "            bool sound", MINIMA, NARROW),
    Bug("points that are not there are felt", "sinkhorn_narrow.cuh", "h[begin + k] : -real(1) / real(0)",
        "h[begin + k] : real(0)", TILES, {"n": 1, "m": 129, "dim": 3}),
    Bug("rows of the table behind its end", "sinkhorn_means.cu", "row < last ? values", "true ? values", MEANS, ALL_3),
    Bug("weights that are not added", "sinkhorn_sums.cu", "c <= VALUES; ++c) sum[c] += partial",
        "c < VALUES; ++c) sum[c] += partial", MEANS, ALL_3),
    Bug("axes that are not there", "sinkhorn_wide.cu", "axis + a < d ? points", "true ? points", MINIMA, BROAD),
    Bug("a stride without its padding", "sinkhorn_wide.cu", "columns[a * COLUMN_STRIDE", "columns[a * COLUMNS", MINIMA,
        BROAD),
    # ------------------------------------------------------------------ pair sums
    Bug("what rounding took is lost", "pair_sums.cuh", "sum.low += (sum.high", "sum.low = 0 * (sum.high",
        "pair_sums.many_terms_of_single_precision_lose_nothing", {"dim": 2}),
    Bug("chunks half as far apart", "pair_sums.cuh", "stride = 2 * int64(channels) * n", "stride = int64(channels) * n",
        SUMS, {"name": "laplace-2", "sizes": (1, 4129)}),
    Bug("no barrier before a tile of pairs", "pair_sums.cu", "real* tile) {\n    __syncthreads();", "real* tile) {",
        SUMS, LAPLACE),
    Bug("a run that goes beyond the tile", "pair_sums.cu", "int to = min(from + RUN, size);\n#pragma unroll 4",
        "int to = from + RUN;\n#pragma unroll 4", SUMS, LAPLACE),
    Bug("an axis behind the last", "pair_sums_wide.cu", "axis + j < dim ? points", "axis + j <= dim ? points", SUMS,
        {"name": "laplace-17", "sizes": (131, 133)}),
    Bug("no barrier before pulls", "pair_sums_wide.cu", "end - begin));\n            __syncthreads();",
        "end - begin));", FIELDS, COULOMB),
    Bug("every second tile of pairs", "pair_sums_wide.cu", "first += int64(gridDim.x) * SIDE",
        "first += int64(gridDim.x) * 2 * SIDE", "pair_sums.blocks_that_take_several_tiles_in_turn_leave_none_out",
        {"name": "wide"}),
    # ------------------------------------------------------------------ many axes
    Bug("the sum of all but a warp", "wide.cuh", "++w) value += room[w]", "++w) value += w > 1 ? room[w] : 0", WIDE,
        law("isotropic", 17, 65, 3)),
    Bug("no barrier before a tile of axes", "wide.cu", "axis += STEP) {\n            __syncthreads();",
        "axis += STEP) {", WIDE, law("isotropic", 40, 65, 3)),
    Bug("older totals that do not fall", "wide.cu", "fma(totals[i], fall, total)", "totals[i] + total",
        "wide.orders_of_threads_change_no_bit_and_less_memory_takes_more_tiles", {"storage": "isotropic"}),
    Bug("more than few components", "wide.cu", "<= FEW;", "<= FEW + 1;",
        "wide.a_component_that_is_far_off_takes_no_digits_from_others", {"storage": "isotropic", "kind": "f8"}),
    Bug("components that begin a point late", "wide_full.cu", "found[k * height * dim + place] = fma",
        "found[k * n * dim + place] = fma", WIDE, law("full", 17, 5, 3)),
    Bug("the first group again", "wide_full.cu", "first ? real(0) : sums[e] * falls[i]", "sums[e] * falls[i]", WIDE,
        law("full", 17, 5, 3)),
)  # fmt: skip
