"""Predicted limits of kernels: counts against the sources run with numbers that count, rates against what is stated."""

import re
from pathlib import Path

import numpy as np
import pytest
from cuda_registers import nvrtc
from emulator.building import COMPILER
from emulator.counting import counting
from emulator.cupy import standing_in

from refdiff.kernels.cuda import device, mixture, pair_sums, second_order, sinkhorn
from refdiff.validation.benchmarks import gpu, gpu_limits
from refdiff.validation.benchmarks.gpu_limits import CARDS, KERNELS, Counts, Kernel
from refdiff.validation.benchmarks.makers import make

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
ARITHMETIC = ("add", "multiply", "fused", "select")
POINTS = 128  # one block
# What a block does for a component beside its threads, who share it: a dozen operations, a row of shared memory
BESIDE = 16


@pytest.fixture
def emulated():
    """The stand-in for CuPy, whose kernels count, and what asks them."""
    if COMPILER is None:
        pytest.skip("no emulator: neither g++ nor clang++ is installed")
    with standing_in() as cupy, counting() as asked:
        yield cupy, asked


def beside(cupy):
    """The threads' shares of that, in the launches so far."""
    return BESIDE / min(threads for _, _, (threads, *_), _ in cupy.state.launches)


def assert_counts(cupy, asked, run, sizes, counts, fields):
    """What `run` takes for one more of its size is what was counted; where logits rise, sums are scaled once more."""
    run(sizes[0])  # tables that are made once
    asked()
    found = []
    for size in sizes:
        run(size)
        found.append(asked())
    one = {name: (found[1][name] - found[0][name]) / (sizes[1] - sizes[0]) / POINTS for name in found[0]}
    rises = one["exp2"] - counts.exponentials
    assert 0 <= rises < 0.2, one
    done = sum(one[name] for name in ARITHMETIC) - rises * (2 + fields)  # a difference, and products with all sums
    assert abs(done - counts.arithmetic) < beside(cupy), (one, counts)
    assert beside(cupy) <= 0.5  # an operation more would be noticed


def law(cupy, components, dim):
    """A mixture of components that differ in everything."""
    rng = np.random.default_rng(components)
    means, variances = rng.standard_normal((components, dim)), rng.uniform(0.5, 1.5, (components, 1))
    parts = means, variances, np.full(components, -np.log(components)), np.empty((0, dim, dim))
    return mixture.Mixture(*(cupy.asarray(part) for part in parts))


AT = np.array([[0.8], [0.36], [1.0], [0.8], [0.0]])


@pytest.mark.parametrize("dim", [1, 2, 16])
def test_a_component_of_a_mixture_takes_the_operations_that_are_counted(emulated, dim):
    cupy, asked = emulated
    x = cupy.asarray(np.random.default_rng(0).standard_normal((POINTS, dim)))
    counts = gpu_limits.mixture(dim)
    assert_counts(cupy, asked, lambda K: mixture.predict(x, law(cupy, K, dim), AT), (128, 256), counts, dim + 1)


@pytest.mark.parametrize("dim", [1, 2, 16])
def test_a_component_of_a_divergence_takes_the_operations_that_are_counted(emulated, dim):
    cupy, asked = emulated
    x = cupy.asarray(np.random.default_rng(0).standard_normal((POINTS, dim)))
    counts = gpu_limits.divergence(dim)

    def run(components):
        second_order.divergence(x, law(cupy, components, dim), AT)

    run(128)
    asked()
    run(256)
    two = asked()
    run(128)
    one = asked()
    done = {name: (two[name] - one[name]) / 128 / POINTS for name in one}
    rises = done["exp2"] - counts.exponentials
    arithmetic = sum(done[name] for name in ARITHMETIC) - rises * (2 + 2 * dim)
    assert 0 <= rises < 0.1
    assert abs(arithmetic - counts.arithmetic) < 2 * beside(cupy)  # tiles are made twice


def test_a_point_is_read_once_and_its_answers_written_once(emulated):
    cupy, asked = emulated
    points, components, dim = 512, 8, 3
    x = cupy.asarray(np.random.default_rng(0).standard_normal((points, dim)))
    mixture.predict(x, law(cupy, components, dim), AT)
    done = asked()
    threads = cupy.state.launches[-1][2][0]
    # each block reads the components, d + 2 numbers each, and the five numbers of the time
    blocks = (components * (dim + 2) + 5) / threads
    assert (done["read"] + done["written"]) / 8 / points - blocks == pytest.approx(gpu_limits.mixture(dim).point)


@pytest.mark.parametrize("dim", [1, 3])
def test_a_pair_of_points_takes_the_operations_that_are_counted(emulated, dim):
    cupy, asked = emulated
    rng = np.random.default_rng(0)
    x = cupy.asarray(rng.standard_normal((POINTS, dim)))

    def points(count):
        return cupy.asarray(rng.standard_normal((count, dim)))

    def gaussian(count):
        weights = cupy.asarray(np.full(count, 1 / count))
        pair_sums.row_sums(pair_sums.GAUSSIAN, -0.5, 0.0, x, points(count), weights)

    def soft(count):
        sinkhorn.soft_minima(x, points(count), cupy.zeros(count), 1.0, 2.0)

    assert_counts(cupy, asked, gaussian, (128, 256), gpu_limits.gaussian_pairs(dim), 0)
    assert_counts(cupy, asked, soft, (1024, 2048), gpu_limits.soft_minima(dim), 0)


@pytest.mark.parametrize("kind", ["probability_flow", "reverse_diffusion"])
def test_a_step_of_a_sampler_takes_for_a_component_what_the_mixture_takes(emulated, kind):
    cupy, asked = emulated

    def run(components):
        problem = make(kind, n=POINTS, K=components, d=2, steps=2)
        (one,) = gpu.candidates(problem, 1)
        one.run(POINTS)

    evaluations = {"probability_flow": 3, "reverse_diffusion": 2}[kind]
    found = []
    for components in (64, 128):
        run(components)
        found.append(asked())
    done = {name: (found[1][name] - found[0][name]) / 64 / POINTS / evaluations for name in found[0]}
    counts = gpu_limits.mixture(2)
    arithmetic = sum(done[name] for name in ARITHMETIC) - 5 * (done["exp2"] - counts.exponentials)
    assert abs(arithmetic - counts.arithmetic) < beside(cupy) <= 0.5


def test_an_adaptive_flow_takes_for_a_component_what_the_mixture_takes(emulated):
    _, asked = emulated
    problem = make("flow_map", n=32, K=256, d=2, rtol=0.1)
    (one,) = gpu.candidates(problem, 1)
    one.run(32)
    done = asked()
    # of many components, beside which a step's own operations are few; multiply-adds tell of them by the exponential
    assert abs(done["fused"] / done["exp2"] - 8) < 0.2


def test_products_of_matrices_take_a_multiply_add_for_an_axis_twice(emulated, monkeypatch):
    cupy, _ = emulated
    taken, true = [], cupy.matmul

    def matmul(a, b, **options):
        taken.append(a.shape[0] * a.shape[1] * b.shape[1])
        return true(a, b, **options)

    monkeypatch.setattr(cupy, "matmul", matmul, raising=False)
    for components in (128, 256):
        (one,) = gpu.candidates(make("point_set_score", n=64, K=components, d=64, sigma=1.0), 1)
        one.run(64)
    first, back, *second = taken  # for logits, and of weights
    assert first == back
    assert second == [2 * first, 2 * first]
    rows = first // (128 * 64)  # points are padded to products of one height
    assert first == rows * 128 * 64
    assert gpu_limits.products(64).arithmetic == (first + back) / (rows * 128)


# ---------------------------------------------------------------------- what the compiler makes


def assembly(source, dtype="float64", **defined):
    """PTX of kernels."""
    try:
        compiler = nvrtc()
    except ImportError as error:
        pytest.skip(f"no NVRTC: {error}")
    program = compiler.createProgram(source, "kernels.cu", [], [])
    compiler.compileProgram(program, ["-arch=compute_80", *device.options(dtype, **defined)])
    found = compiler.getPTX(program)
    return found.decode() if isinstance(found, bytes) else found


# where a line of the table is compiled: source, kernel, numbers; components in a turn of its loop, sweeps after it
PLACES = {
    "mixture, samplers, adaptive flow": ("mixture", "predict", None, 8),
    "divergence": ("second_order", "divergence", None, 8),
    "Gaussian pair sums (MMD)": ("pair_sums", "row_sums", {"KIND": 0, "HALVES": 0, "DIM": 2}, 4),
    "Sinkhorn's soft minima": ("sinkhorn", "minima", {"DIM": 2, "ORDER": 2}, 8),
}


def inner_loops(body):
    """Loops of a kernel in PTX that have none inside, in order."""
    lines, places, found = body.splitlines(), {}, []
    for i, line in enumerate(lines):
        if label := re.match(r"(\$L__BB\w+):", line):
            places[label[1]] = i
        if (jump := re.search(r"bra(?:\.uni)?\s+(\$L__BB\w+)", line)) and jump[1] in places:
            found.append((places[jump[1]], i))
    alone = [(a, b) for a, b in found if not any((c, d) != (a, b) and a <= c and d <= b for c, d in found)]
    return ["\n".join(lines[a : b + 1]) for a, b in alone]


def numbers(dim, itemsize):
    """What a mixture is compiled for."""
    empty = mixture.Mixture(np.empty((9, dim)), np.empty((9, 1)), np.empty(9), np.empty((0, dim, dim)))
    return mixture.numbers(empty, True, itemsize)


# instructions but moves and branches
BEGUN = re.compile(r"^\s*(?:@!?%p\d+ )?(?!mov|bra|ret|cvta|ld\.param)[a-z][\w.]*\s[^;\n]*;", re.MULTILINE)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "kernel", [one for one in KERNELS if one.name in PLACES], ids=lambda one: f"{one.name} {one.dim}"
)
def test_a_component_takes_the_loads_of_shared_memory_and_the_instructions_that_are_counted(kernel, dtype):
    source, entry, defined, turn = PLACES[kernel.name]
    defined = numbers(kernel.dim, np.dtype(dtype).itemsize) if defined is None else defined
    parts = re.split(r"\.entry (\w+)", assembly(device.source(source), dtype, **defined))
    loops = inner_loops(dict(zip(parts[1::2], parts[2::2], strict=True))[entry])
    main = max(loops, key=lambda loop: loop.count("fma.rn"))
    loads, made = main.count("ld.shared") / turn, len(BEGUN.findall(main)) / turn
    if kernel.name == "divergence":  # its second sweep takes one component a turn
        assert loops[-1] is not main
        loads, made = loads + loops[-1].count("ld.shared"), made + len(BEGUN.findall(loops[-1]))
    # which neighbours are read at once is a compiler's choice: another version's may differ somewhat
    assert loads == pytest.approx(kernel.loads[dtype == "float32"], rel=0.2)
    assert made == pytest.approx(kernel.issued[dtype == "float32"], rel=0.1)
    assert made > kernel.counts(kernel.dim).arithmetic + loads  # of which they are some


DOUBLE = re.compile(r"^\s*(?:add|sub|mul|fma)\S*\.f64", re.MULTILINE)


def test_an_exponential_is_a_polynomial_in_double_and_one_instruction_in_single():
    text = 'extern "C" __global__ void f(const {0}* x, {0}* y) {{ y[threadIdx.x] = exp2(x[threadIdx.x]); }}'
    usual = assembly(text.format("double")).split("bra")[0]  # of an argument in range
    assert len(DOUBLE.findall(usual)) == gpu_limits.EXP2_ARITHMETIC["float64"]
    assert assembly(text.format("float")).count("ex2.approx") == 1


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_normals_are_computed_in_their_type(dtype):
    text = assembly(device.source("philox"), dtype)
    body = text[text.index(".entry normals") :]
    body = body[: body.index("\n}")]
    double = dtype == "float64"
    assert len(DOUBLE.findall(body)) / 2 == (gpu_limits.NORMAL_ARITHMETIC if double else 0)
    assert (".f64" in body) == double
    # which instructions make it is a compiler's choice: another version's may be some more or less
    assert len(BEGUN.findall(body)) / 2 == pytest.approx(gpu_limits.NORMAL_ISSUED[dtype], rel=0.1)


# ---------------------------------------------------------------------- predictions


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_lanes_and_clocks_give_the_operations_that_are_stated(card, dtype):
    assert 2 * card.rate(dtype) / 1e12 == pytest.approx(card.stated[dtype], rel=6e-3)  # two or three digits


def test_the_least_of_all_limits_is_predicted_and_names_what_binds():
    card = CARDS[0]

    def kernel(**changes):
        loads = changes.pop("loads", 1.0)
        return Kernel("", lambda _: Counts(64.0, 1.0, 1.0)._replace(**changes), 1, 100, (loads, loads))

    rate, binds = gpu_limits.predicted(card, "float64", kernel())
    assert binds == "arithmetic"
    assert rate == pytest.approx(card.rate("float64") / (64 + gpu_limits.EXP2_ARITHMETIC["float64"]))
    few = {"arithmetic": 1.0}
    assert gpu_limits.predicted(card, "float32", kernel(**few, exponentials=9.0))[1] == "exp2"
    assert gpu_limits.predicted(card, "float32", kernel(**few, loads=90.0))[1] == "shared"
    rate, binds = gpu_limits.predicted(card, "float32", kernel(**few, point=1e5))
    assert binds == "memory"
    assert rate == pytest.approx(card.bandwidth / (4 * 1e5 / 100))
    assert gpu_limits.predicted(CARDS[1], "float32", kernel(arithmetic=120.0, loads=29.0))[1] == "issue"


def test_the_readme_has_the_tables_of_the_code_and_says_that_they_are_predictions():
    section = README[README.index("\n## On a GPU") :]
    section = section[: section.index("\n## ", 4)]
    assert gpu_limits.table() in section
    assert gpu_limits.sources() in section
    assert gpu_limits.GUIDE in " ".join(section.split())
    assert "predictions, not measurements" in section
    assert len(gpu_limits.table().splitlines()) == len(KERNELS) + 3
