r"""What a scheduler exposes beside its steps, against the levels (alpha_k, sigma_k) that its claim has at time k.

init_noise_sigma       the standard deviation of the start: sigma_0 of pure noise, or that of unit data with its noise,
                       sqrt(alpha_0^2 + sigma_0^2), in the sampler's own coordinate
scale_model_input      what the claim says that the network is shown
add_noise              alpha_k x_0 + sigma_k eps, also in batches of different times, and where a run begins later
get_velocity           alpha_k eps - sigma_k x_0
pred_original_sample   the point itself, where the data are one point and the network is exact
constants              those that follow from others: alphas, alpha_t, sigma_t, lambda_t, final_alpha_cumprod
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.findings import Finding, convention, judged
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch
from refdiff.validation.audits.protocols.diffusers.claimed import Read, answer, read
from refdiff.validation.audits.protocols.diffusers.noising import noised, velocity
from refdiff.validation.audits.protocols.diffusers.normals import drawn
from refdiff.validation.audits.protocols.diffusers.options import Build
from refdiff.validation.audits.protocols.diffusers.playing import constructed, shown, taken
from refdiff.validation.audits.protocols.diffusers.precision import EPS
from refdiff.validation.audits.protocols.diffusers.precision import OF_A_NUMBER as RULE
from refdiff.validation.audits.rounding import OPERATIONS
from refdiff.validation.audits.subject import Subject


def exposed(subject: Subject, quick: bool) -> Iterator[Finding]:
    """All of it, at one number of steps; only with the default options where it is quick."""
    build = subject.source
    # nothing but step has arguments of step
    if not isinstance(build, Build) or build.at_step or (quick and not build.plain):
        return
    found = read(subject)
    parts: list[Callable[[Read], Iterator[Finding]]] = [initial, inputs, noised, velocity, originals]
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
    scheduler = read.scheduler
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


def inputs(read: Read) -> Iterator[Finding]:
    """scale_model_input where a run begins at each step."""
    import torch

    if not hasattr(read.scheduler, "scale_model_input"):
        return
    right = read.claim.scales(read.table) / read.unit
    for k in read.first:
        scheduler = read.made.again()
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(k)
        found = float(scheduler.scale_model_input(torch.ones(1, 1, dtype=torch.float64), scheduler.timesteps[k]))
        if not abs(found - right[k]) <= OPERATIONS * EPS * right[k] or k == read.first[-1]:
            text = f"at time {k} a state is multiplied by {found:.8g}, should be by {right[k]:.8g}"
            yield judged("", "scale_model_input", abs(found / right[k] - 1), OPERATIONS * EPS, text, rule=RULE)
            return


# ---------------------------------------------------------------------- pred_original_sample


def originals(read: Read) -> Iterator[Finding]:
    """pred_original_sample of every step, where the data are one point."""
    scheduler = read.made.again()
    # an inverse scheduler asks about states at a time that they do not have; in other units answers are not these
    if type(scheduler).__name__.endswith("InverseScheduler") or not hasattr(scheduler, "step"):
        return
    if hasattr(scheduler.config, "sigma_data"):
        return
    point, worst, text = np.array([[0.75, -0.5]]), -np.inf, ""
    a, s = read.level(0)
    state = to_torch((a * point + s * np.array([[0.5, 1.5]])) * read.scale(0))
    names = taken(scheduler, "step")
    bound, rng = 0.0, np.random.default_rng(5)
    for k, t in enumerate(scheduler.timesteps):
        a, s = read.level(k)
        if a == 0 or s == 0:
            return
        x = to_numpy(state).astype(float) / read.scale(k)
        network = answer(read.claim.prediction, x, point, a, s)
        if network is None:
            return
        shown(scheduler, state, t)
        try:
            with drawn(scheduler, lambda: rng.standard_normal((1, 2)), state):
                out = scheduler.step(
                    to_torch(network), t, state, **{k: v for k, v in read.made.at_step.items() if k in names}
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
