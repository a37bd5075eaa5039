r"""What a scheduler exposes beside its steps, against the levels (alpha_k, sigma_k) that its claim has at time k.

init_noise_sigma       the standard deviation of the start: sigma_0 of pure noise, or that of unit data with its noise,
                       sqrt(alpha_0^2 + sigma_0^2), in the sampler's own coordinate
scale_model_input      what the claim says that the network is shown
add_noise              alpha_k x_0 + sigma_k eps, also in batches of different times, and where a run begins later
get_velocity           alpha_k eps - sigma_k x_0
custom times, levels   set_timesteps given its own default times or levels makes the same grid
pred_original_sample   the point itself, where the data are one point and the network is exact
constants              those that follow from others: alphas, alpha_t, sigma_t, lambda_t, final_alpha_cumprod
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refdiff.arguments import Array
from refdiff.samplers import Tableau
from refdiff.schedules import Coefficients
from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.findings import Finding, Verdict, convention, judged
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch
from refdiff.validation.audits.protocols.diffusers.options import Build, raised
from refdiff.validation.audits.protocols.diffusers.playing import Made, constructed
from refdiff.validation.audits.subject import Claim, Subject

EPS = float(np.finfo(np.float32).eps)
STEPS = 10
OPERATIONS = 16  # of a number that is made of others, each half a unit off
BY_INDEX = frozenset({"ScoreSdeVeScheduler"})  # add_noise takes indices of its own table, not times
ONE_TIME = frozenset({"FlowMatchHeunDiscreteScheduler"})  # scale_noise takes one time for all points
PLAIN = frozenset({"CMStochasticIterativeScheduler"})  # has a sigma_data, and states in the unit of the data
RULE = "16 roundings of float32 in the terms of a number"


@dataclass(frozen=True)
class Read:
    """A scheduler at some steps, and what its claim has at each of its times: scales of x, and alpha and sigma."""

    made: Made
    claim: Claim
    table: Tableau
    at: NDArray[np.int_]

    def level(self, k: int) -> tuple[float, float]:
        """(alpha, sigma) at time k."""
        return self._of(self.table.coefficients, k)

    def scale(self, k: int) -> float:
        """What x is multiplied by in the sampler's coordinate at time k."""
        return 1 / float(self.table.scale[self.at[k]])

    @property
    def unit(self) -> float:
        """The standard deviation of data in which the claim measures states and levels, where the class has one."""
        scheduler = self.made.new()
        plain = hasattr(scheduler, "alphas_cumprod") or type(scheduler).__name__ in PLAIN
        return 1.0 if plain else float(getattr(scheduler.config, "sigma_data", 1.0))

    def _of(self, c: Coefficients, k: int) -> tuple[float, float]:
        return float(c.alpha[self.at[k]]), float(c.sigma[self.at[k]])

    @property
    def first(self) -> list[int]:
        """Times that begin a step."""
        stages = int(getattr(self.made.new(), "order", 1))
        return list(range(0, len(self.at), stages))


def read(subject: Subject, steps: int = STEPS) -> Read | None:
    """The subject with its claim, or None where nothing is claimed or a claim has other evaluations than times."""
    build = subject.source
    if not isinstance(build, Build):
        return None
    made = build.made(steps)
    try:
        scheduler, claim = made.new(), build(steps).claim
        table = None if claim is None else claim.table()
    except Exception:  # what does not run is told by robustness
        return None
    if claim is None or table is None:
        return None
    at = np.flatnonzero(table.evaluated)
    return Read(made, claim, table, at) if len(at) == len(scheduler.timesteps) else None


def exposed(subject: Subject, quick: bool) -> Iterator[Finding]:
    """All of it, at one number of steps; only with the default options where it is quick."""
    build = subject.source
    # nothing but step has arguments of step
    if not isinstance(build, Build) or build.at_step or (quick and not build.plain):
        return
    found = read(subject)
    parts: list[Callable[[Read], Iterator[Finding]]] = [initial, shown, noised, velocity, originals]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if found is not None:
            for part in parts:
                for one in part(found):
                    yield replace(one, subject=subject.name, script=one.script or found.made.script())
        for one in constants(build):
            yield replace(one, subject=subject.name)


def initial(read: Read) -> Iterator[Finding]:
    """The standard deviation of the start."""
    scheduler = read.made.new()
    if not hasattr(scheduler, "init_noise_sigma") or type(scheduler).__name__.endswith("InverseScheduler"):
        return
    found, (a, s) = float(scheduler.init_noise_sigma), read.level(0)
    right = np.array([s * read.unit, np.hypot(a, s * read.unit)]) * read.scale(0)
    gap = np.abs(found - right) / right
    if found == 1 and gap.min() > OPERATIONS * EPS and 0.99 < np.hypot(a, s) < 1 and a + s == 1:
        yield convention(
            "",
            "initial noise",
            "the start is that of level 1, and the first level is below it",
            place="init_noise_sigma",
            found=found,
            right=right,
        )
        return
    yield judged(
        "",
        "initial noise",
        gap.min(),
        OPERATIONS * EPS,
        f"init_noise_sigma is {found:.8g}, the start needs "
        f"{right[0]:.8g} (noise alone) or {right[1]:.8g} (with unit data)",
        rule=RULE,
        place="init_noise_sigma",
        script=f"{read.made.script()}\nprint(scheduler.init_noise_sigma, scheduler.timesteps[0])",
    )


def shown(read: Read) -> Iterator[Finding]:
    """scale_model_input where a run begins at each step."""
    import torch

    scheduler = read.made.new()
    if not hasattr(scheduler, "scale_model_input"):
        return
    right = read.claim.scales(read.table) / read.unit
    for k in read.first:
        scheduler = read.made.new()
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(k)
        found = float(scheduler.scale_model_input(torch.ones(1, 1, dtype=torch.float64), scheduler.timesteps[k]))
        if not abs(found - right[k]) <= OPERATIONS * EPS * right[k] or k == read.first[-1]:
            text = f"at time {k} a state is multiplied by {found:.8g}, should be by {right[k]:.8g}"
            yield judged("", "scale_model_input", abs(found / right[k] - 1), OPERATIONS * EPS, text, rule=RULE)
            return


# ---------------------------------------------------------------------- add_noise, get_velocity


def noised(read: Read) -> Iterator[Finding]:
    """add_noise (scale_noise of flows) at the scheduler's times, one by one, in a batch, and for a later beginning."""
    yield from _compared(read, "add_noise", ("add_noise", "scale_noise"), lambda a, s: (a, s))


def velocity(read: Read) -> Iterator[Finding]:
    """get_velocity at the scheduler's times, on the variance-preserving scale."""

    def weights(a: float, s: float) -> tuple[float, float]:
        size = float(np.hypot(a, s))
        return -s / size, a / size

    yield from _compared(read, "get_velocity", ("get_velocity",), weights, scaled=False)


def _compared(
    read: Read,
    question: str,
    names: tuple[str, ...],
    weights: Callable[[float, float], tuple[float, float]],
    scaled: bool = True,
) -> Iterator[Finding]:
    scheduler = read.made.new()
    name = next((n for n in names if hasattr(scheduler, n)), None)
    if name is None or type(scheduler).__name__ in BY_INDEX:
        return
    x, e = np.array([0.75, -1.25]), np.array([0.5, 2.0])
    unit = np.array([1.0, read.unit])
    right = {k: np.array(weights(*read.level(k))) * (unit * read.scale(k) if scaled else 1.0) for k in read.first}
    ways: list[tuple[str, list[int], bool]] = [("one by one", [k], False) for k in right]
    if type(scheduler).__name__ not in ONE_TIME:
        ways.append(("in a batch", list(right), False))
    if scaled and hasattr(scheduler, "set_begin_index"):
        ways += [("begin index", [k], True) for k in right]
    worst: dict[str, tuple[float, str, int, Array]] = {}
    for way, which, begin in ways:
        scheduler = read.made.new()
        if begin:
            scheduler.set_begin_index(which[0])
        try:
            out = _call(scheduler, name, x, e, which)
        except Exception as error:  # whatever foreign code raises
            if not raised(error):
                yield Finding("", question, Verdict.WRONG, f"{way}: {type(error).__name__}: {error}", place=way)
            return
        for row, k in zip(out, which, strict=True):
            terms = np.abs(right[k][0] * x) + np.abs(right[k][1] * e)
            gap = float((np.abs(row - right[k][0] * x - right[k][1] * e) / terms).max())
            if way not in worst or not gap <= worst[way][0]:
                found = np.linalg.solve(np.stack([x, e], axis=1), row)
                text = (
                    f"{way}, time {k}: {found[0]:.7g} x_0 + {found[1]:.7g} eps, should be {right[k][0]:.7g} x_0 + "
                    f"{right[k][1]:.7g} eps"
                )
                worst[way] = (gap, text, k, row)
    for way, (gap, text, k, row) in worst.items():
        if scaled and gap > OPERATIONS * EPS and _of_the_time(read, row, x, e, k):
            said = "add_noise takes the level that the rounded time has in training, not the run's own"
            yield convention("", question, said, place=way)
            continue
        later = f"scheduler.set_begin_index({k})\n" if way == "begin index" else ""
        t = f"scheduler.timesteps[{k}:{k + 1}]"
        order = f"x, {t}, e" if name == "scale_noise" else f"x, e, {t}"
        script = (
            f"import torch\n{read.made.script()}\n{later}"
            "x, e = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])\n"
            f"print(scheduler.{name}({order}))"
        )
        yield judged("", question, gap, OPERATIONS * EPS, text, rule=RULE, place=way, script=script)


def _of_the_time(read: Read, row: Array, x: Array, e: Array, k: int) -> bool:
    """Whether what differs from the run's own level at time k is that of the whole time in alphas_cumprod."""
    scheduler = read.made.new()
    bars, config = getattr(scheduler, "alphas_cumprod", None), scheduler.config
    if bars is None or getattr(config, "use_flow_sigmas", False) or scheduler.timesteps.is_floating_point():
        return False
    bar = float(bars[scheduler.timesteps[k]])
    terms = np.sqrt(bar) * x, np.sqrt(1 - bar) * e
    close = np.abs(row - terms[0] - terms[1]) <= OPERATIONS * EPS * (np.abs(terms[0]) + np.abs(terms[1]))
    return read.scale(0) == 1 and bool(close.all())


def _call(scheduler: Any, name: str, x: Array, e: Array, which: list[int]) -> Array:
    """Rows for the same x and noise at several times."""
    rows = len(which)
    points, noise = to_torch(np.tile(x, (rows, 1))), to_torch(np.tile(e, (rows, 1)))
    times = scheduler.timesteps[which]
    given = (points, times, noise) if name == "scale_noise" else (points, noise, times)
    return to_numpy(getattr(scheduler, name)(*given)).astype(float)


# ---------------------------------------------------------------------- pred_original_sample


def answer(prediction: str, x: Array, point: Array, a: float, s: float) -> Array | None:
    """What an exact network answers where the data are one point, or None for a prediction of another kind."""
    noise = (x - a * point) / s
    answers = {"denoiser": point, "noise": noise, "v_prediction": a * noise - s * point, "velocity": noise - point}
    return answers.get(prediction)


def originals(read: Read) -> Iterator[Finding]:
    """pred_original_sample of every step, where the data are one point."""
    scheduler = read.made.new()
    # an inverse scheduler asks about states at a time that they do not have; in other units answers are not these
    if type(scheduler).__name__.endswith("InverseScheduler") or not hasattr(scheduler, "step"):
        return
    if hasattr(scheduler.config, "sigma_data"):
        return
    point, worst, text = np.array([[0.75, -0.5]]), -np.inf, ""
    a, s = read.level(0)
    state = to_torch((a * point + s * np.array([[0.5, 1.5]])) * read.scale(0))
    taken = inspect.signature(scheduler.step).parameters
    bound = 0.0
    for k, t in enumerate(scheduler.timesteps):
        a, s = read.level(k)
        if a == 0 or s == 0:
            return
        x = to_numpy(state).astype(float) / read.scale(k)
        network = answer(read.claim.prediction, x, point, a, s)
        if network is None:
            return
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(state, t)
        try:
            out = scheduler.step(
                to_torch(network), t, state, **{k: v for k, v in read.made.at_step.items() if k in taken}
            )
        except Exception:  # what does not run is told by robustness
            return
        found = getattr(out, "pred_original_sample", None)
        if found is None:
            return
        gap = float(np.abs(to_numpy(found).astype(float) - point).max())
        allowed = OPERATIONS * EPS * float((np.abs(x) / a + np.abs(point) + s / a * np.abs(network)).max())
        if gap / allowed > worst:
            worst, bound = gap / allowed, allowed
            text = f"step {k} says {np.ravel(to_numpy(found))[0]:.7g} where the data are all at {point[0, 0]}"
        state = out.prev_sample
    yield judged("", "pred_original_sample", worst * bound, bound, text, rule=RULE, place="pred_original_sample")


# ---------------------------------------------------------------------- constants


def constants(build: Build) -> Iterator[Finding]:
    """Tables and numbers that follow from alphas_cumprod and betas."""
    try:
        scheduler = constructed(build.kind, build.options)
    except Exception:  # robustness tells what raises
        return
    bars, betas = getattr(scheduler, "alphas_cumprod", None), getattr(scheduler, "betas", None)
    if bars is None or betas is None:
        return
    bar, beta = to_numpy(bars).astype(float), to_numpy(betas).astype(float)
    with np.errstate(divide="ignore"):
        made = {
            "alphas": 1 - beta,
            "alpha_t": np.sqrt(bar),
            "sigma_t": np.sqrt(1 - bar),
            "lambda_t": (np.log(bar) - np.log1p(-bar)) / 2,
        }
    for name, right in made.items():
        found = getattr(scheduler, name, None)
        if found is None or np.shape(found) != right.shape:
            continue
        value = to_numpy(found).astype(float)
        with np.errstate(invalid="ignore"):
            gap = np.where(value == right, 0.0, np.abs(value - right) / np.maximum(np.abs(right), 1.0))
        k = int(np.argmax(gap))
        yield judged(
            "",
            "constants",
            float(gap[k]),
            OPERATIONS * EPS,
            f"{name}[{k}] is {value[k]:.8g}, should be {right[k]:.8g}",
            rule=RULE,
            place=name,
        )
    final, to_one = getattr(scheduler, "final_alpha_cumprod", None), getattr(scheduler.config, "set_alpha_to_one", None)
    if final is not None and to_one is not None:
        want = 1.0 if to_one else bar[0]
        yield judged(
            "",
            "constants",
            abs(float(final) - want),
            OPERATIONS * EPS,
            f"final_alpha_cumprod is {float(final):.8g}, should be {want:.8g}",
            rule=RULE,
            place="final_alpha_cumprod",
        )


CHECKS: tuple[Check, ...] = (exposed,)
