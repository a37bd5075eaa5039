r"""EDM's and k-diffusion's samplers as tables, and which of them are one sampler.

With y = x / alpha and rho = sigma / alpha the probability flow is dy / d rho = eps*, whatever alpha and sigma are. So

    DDIM      = Euler in rho for y          = Euler in alpha / sigma for x / sigma with the denoiser
    EDM Heun  = Heun in rho for y           DPM-Solver-2 = midpoint in rho, node at the geometric mean of the ends

and a sampler written in y and rho is the same map under every schedule. Noise added from rho to rho_hat is the
process's own kernel; Euler ancestral with eta = 1 is the DDPM posterior with x* put in place of x_0.
A table is one side; the other is Bayes' rule, a rule's numbers, or the published loop under another process.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.model import ExactModel
from refdiff.samplers.conversions import butcher, to_coordinate, to_prediction
from refdiff.samplers.ddim import ddim
from refdiff.samplers.edm import edm_euler, edm_heun
from refdiff.samplers.kdiffusion import dpm2, euler_ancestral
from refdiff.samplers.propagation import propagate
from refdiff.samplers.running import run
from refdiff.samplers.tableau import Tableau
from refdiff.samplers.times import uniform_log_snr
from refdiff.schedules import FlowMatching, VEPower
from refdiff.validation.cases import ModelCase, ProcessCase
from refdiff.validation.conditions import scalar
from refdiff.validation.identity import Sides, identity

TOPIC = "Samplers as tables"


def increments(table: Tableau) -> Array:
    """The weights of the start and of the n outputs in the last stage of a table, shape (1 + n,)."""
    rolled = table.unroll()
    return np.concatenate([rolled.start[-1:], rolled.outputs[-1][table.evaluated]])


@identity(
    "DDIM's table is Euler's in three coordinates",
    topic=TOPIC,
    formula=r"\Delta\frac{x}{\alpha} = \epsilon^*\,\Delta\frac{\sigma}{\alpha},\qquad \Delta\frac{x}{\sigma} ="
    r" x^*\,\Delta\frac{\alpha}{\sigma},\qquad \Delta\frac{x}{\alpha+\sigma} ="
    r" v_{\mathrm{FM}}\,\Delta\frac{\sigma}{\alpha+\sigma},\qquad \Delta x = v^*\Delta t\ \text{only for affine}\ "
    r"\alpha, \sigma",
    covers=["DMI-76", "PODC9-09", "PODC9-55", "PODB-66", "TOPA-51"],
    refutes=["PODB-66", "PODC9-09"],
    over="processes",
    control="plain Euler on the velocity in the schedule's own time",
    most=12,
)
def three_coordinates(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Weights of DDIM's table in each coordinate against differences of the clock."""
    times = uniform_log_snr(case.schedule, 4, start=case.t, end=case.s)
    c, table = case.schedule.coefficients(times), ddim(case.process, times)
    rho, inverse, straight = c.sigma / c.alpha, c.alpha / c.sigma, c.sigma / (c.alpha + c.sigma)
    fm = ddim(FlowMatching(), straight)
    rows = [
        (to_coordinate(to_prediction(table, "noise"), "x/alpha"), np.diff(rho), rho.max()),
        (to_coordinate(table, "x/sigma"), np.diff(inverse), inverse.max()),
        (to_prediction(fm, "velocity"), np.diff(straight), 1.0),
    ]
    if wrong:
        rows = [(to_prediction(table, "velocity"), np.diff(times), np.abs(times).max())]
    return [Sides(increments(one), np.append(1.0, steps), np.append(1.0, [size] * 4)) for one, steps, size in rows]


@identity(
    "DDIM, k-diffusion's Euler and flow matching's Euler are one map",
    topic=TOPIC,
    formula=r"x_s = \alpha_s\,\mathrm{Euler}^{\mathrm{EDM}}_{\sigma/\alpha}(x_t/\alpha_t) ="
    r" (\alpha_s+\sigma_s)\,\mathrm{Euler}^{\mathrm{FM}}_{\sigma/(\alpha+\sigma)}"
    r"\Big(\frac{x_t}{\alpha_t+\sigma_t}\Big)",
    covers=["DMI-76", "PODC9-09", "PODB-66"],
    refutes=["PODB-66"],
    control="plain Euler on the velocity in the schedule's own time",
    needs=lambda case: scalar(case) and case.law.count < 100,
    most=12,
)
def one_map(case: ModelCase, wrong: bool) -> list[Sides]:
    """DDIM's table run on the case's process, against loops on the exact models of EDM and of flow matching."""
    schedule, x = case.process.schedules[0], case.x
    times = uniform_log_snr(schedule, 2, start=case.t, end=case.s)
    c = schedule.coefficients(times)
    stages = run(ddim(case.process, times), case.model, x, trajectory=True)
    if wrong:
        for s, t in pairwise(times):
            x = x + (t - s) * case.model.velocity(x, s)
        return [Sides(stages[-1], x, np.abs(stages).max())]
    rho, straight = c.sigma / c.alpha, c.sigma / (c.alpha + c.sigma)
    edm, fm = ExactModel(case.law, VEPower(T=2 * rho[0])), ExactModel(case.law, FlowMatching())
    y, u = x / c.alpha[0], x / (c.alpha + c.sigma)[0]
    for a, b in pairwise(rho):
        y = y + (b - a) * (y - edm.denoiser(y, a)) / a
    for a, b in pairwise(straight):
        u = u + (b - a) * fm.velocity(u, a)
    # what a step adds up is x / alpha and the clock times the prediction, each of the size of the states
    size = c.alpha[-1] * (np.abs(stages) / c.alpha[:, None, None]).max()
    return [Sides(stages[-1], c.alpha[-1] * y, size), Sides(stages[-1], (c.alpha + c.sigma)[-1] * u, size)]


@identity(
    "EDM's Euler step in every prediction",
    topic=TOPIC,
    formula=r"\alpha = 1:\quad x_t = \tfrac{t}{s}x_s + \big(1 - \tfrac{t}{s}\big)x^* = x_s - (s - t)\epsilon^* = x_s +"
    r" (s - t)s\,\nabla\log p = x_s + (t - s)v^*",
    covers=["PODC9-10", "PODC9-09"],
    refutes=["PODC9-10"],
    over="processes",
    control="v* = -eps*",
    most=12,
)
def edm_step(case: ProcessCase, wrong: bool) -> list[Sides]:
    """The converted tables of one step between the case's ratios sigma / alpha, against the four printed steps."""
    s, t = (float(np.exp(-case.schedule.log_snr(when))) for when in (case.t, case.s))
    table = edm_euler(VEPower(T=2 * s), [s, t])
    weights = {
        "denoiser": (t / s, 1 - t / s),
        "noise": (1.0, t - s),
        "score": (1.0, s * (s - t)),
        "velocity": (1.0, s - t if wrong else t - s),
    }
    sizes = {"denoiser": 1.0, "noise": s, "score": s * s, "velocity": s}
    return [
        Sides(increments(to_prediction(table, head)), pair, np.array([1.0, sizes[head]]))
        for head, pair in weights.items()
    ]


# ---------------------------------------------------------------------- second order


@identity(
    "EDM's second-order steps are Runge-Kutta rules in sigma / alpha",
    topic=TOPIC,
    formula=r"\frac{d(x/\alpha)}{d(\sigma/\alpha)} = \epsilon^*:\quad c = (0, \gamma),\ A_{21} = \gamma,\ b = \Big(1 -"
    r" \frac{1}{2\gamma}, \frac{1}{2\gamma}\Big),\qquad \gamma = 1: \text{Heun}",
    covers=["PODC9-55"],
    over="processes",
    control="the weights of Heun with the node in the middle",
    most=10,
)
def runge_kutta(case: ProcessCase, wrong: bool) -> list[Sides]:
    """One step's table read as a Butcher tableau against Heun's, the midpoint rule's and Ralston's."""
    rules = {1.0: (0.5, 0.5), 0.5: (0.5, 0.5) if wrong else (0.0, 1.0), 2 / 3: (0.25, 0.75)}
    rho = np.exp(-case.schedule.log_snr([case.t, case.s]))
    # A and b are weights of the size of rho over their difference
    size = rho[0] / (rho[0] - rho[1])
    sides = []
    for node, b in rules.items():
        found = butcher(edm_heun(case.process, [case.t, case.s], node=node))
        sides += [
            Sides(found.A, [[0.0, 0.0], [node, 0.0]], size),
            Sides(found.b, b, size),
            Sides(found.c, [0.0, node], size),
        ]
    return sides


@identity(
    "Second-order samplers in sigma / alpha are the same maps under every schedule",
    topic=TOPIC,
    formula=r"x_s = \alpha_s\,\Phi^{\mathrm{EDM}}_{\sigma_t/\alpha_t\to\sigma_s/\alpha_s}(x_t/\alpha_t)\quad\text{for"
    r" Heun and for Algorithm 5: DDIM to the midpoint of } \lambda\text{, then all the way with }"
    r" \epsilon^*_{\mathrm{mid}}",
    covers=["PODC9-26", "PODC9-55"],
    control="the second slope at the denoiser of the first",
    needs=lambda case: scalar(case) and case.law.count < 100,
    most=12,
)
def schedule_free(case: ModelCase, wrong: bool) -> list[Sides]:
    """Tables run on the case's process against the steps on numbers under EDM's schedule."""
    x, (a, b) = case.x, (case.process.coefficients(when) for when in (case.t, case.s))
    s, t = float(a.sigma / a.alpha), float(b.sigma / b.alpha)
    edm, y = ExactModel(case.law, VEPower(T=2 * s)), x / a.alpha
    first = (y - edm.denoiser(y, s)) / s
    sides = []
    for build, end in ((edm_heun, t), (dpm2, np.sqrt(s * t))):
        stages = run(build(case.process, [case.t, case.s]), case.model, x, trajectory=True)
        inside = y + (end - s) * first
        second = (inside - edm.denoiser(y if wrong else inside, s if wrong else end)) / end
        slope = (first + second) / 2 if build is edm_heun else second
        # eps at the lower level is the difference of two states over end, times s - t
        size = np.abs(y).max() + s / end * (np.abs(inside).max() + np.abs(edm.denoiser(inside, end)).max())
        sides.append(Sides(stages[-1], b.alpha * (y + (t - s) * slope), b.alpha * size))
    return sides


# ---------------------------------------------------------------------- noise


@identity(
    "Euler ancestral at eta = 1 is the DDPM posterior",
    topic=TOPIC,
    formula=r"\sigma_{\mathrm{up}}^2 = \frac{\rho_t^2(\rho_s^2 - \rho_t^2)}{\rho_s^2} ="
    r" \frac{1}{\alpha_t^2}\mathrm{Var}[x_t\mid x_s, x_0],\qquad"
    r" x_s\frac{\rho_t^2}{\rho_s^2}\frac{\alpha_t}{\alpha_s} +"
    r" \alpha_t\Big(1 - \frac{\rho_t^2}{\rho_s^2}\Big)x_0 = \mathbb{E}[x_t\mid x_s, x_0]",
    covers=["PODC9-15", "TOPA-44"],
    over="processes",
    control="the noise of the forward step, rho_s^2 - rho_t^2, without its factor",
)
def ancestral_posterior(case: ProcessCase, wrong: bool) -> list[Sides]:
    """One step's table against Bayes' rule for the process's channels, and k-diffusion's formula for sigma_up."""
    a, b = (case.process.coefficients(when) for when in (case.t, case.s))
    states, outputs, noise = euler_ancestral(case.process, [case.t, case.s]).row(1)
    (gain,), (clean,), (std,) = ([float(weight) for _, weight in part] for part in (states, outputs, noise))
    forward = case.process.channel(case.s, case.t)
    backward = [forward.reverse(Gaussian([b.alpha * x0], b.sigma**2)) for x0 in (0.0, 1.0)]
    s, t = float(a.sigma / a.alpha), float(b.sigma / b.alpha)
    up = np.sqrt(s**2 - t**2 if wrong else t**2 * (s - t) * (s + t) / s**2)
    return [
        Sides(std**2, np.ravel(backward[0].noise)),
        Sides(std, b.alpha * up),
        Sides(gain, np.ravel(backward[0].gain)),
        Sides(clean, np.ravel(backward[1].offset) - np.ravel(backward[0].offset), b.alpha),
    ]


@identity(
    "Euler ancestral is DDIM, from eta = 0, Euler, on",
    topic=TOPIC,
    formula=r"\sqrt{\sigma_t^2 - c^2}\,\epsilon^* + \alpha_t x^* + c z,\quad c = \eta\,\alpha_t\sigma_{\mathrm{up}}:"
    r"\qquad \eta = 0 \Rightarrow x_t = \alpha_t\Big(\frac{x_s}{\alpha_s} + (\rho_t - \rho_s)\epsilon^*\Big)",
    covers=["PODC9-15"],
    over="processes",
    control="eta^2 in place of eta",
    most=12,
)
def ancestral_family(case: ProcessCase, wrong: bool) -> list[Sides]:
    """k-diffusion's steps in y and rho, by numbers, against the tables of DDIM and of Euler ancestral."""
    a, b = (case.process.coefficients(when) for when in (case.t, case.s))
    s, t = float(a.sigma / a.alpha), float(b.sigma / b.alpha)
    sides = []
    for eta in (0.0, 0.3, 1.0):
        up = (eta**2 if wrong else eta) * np.sqrt(t**2 * (s - t) * (s + t) / s**2)
        down = np.sqrt(t**2 - up**2)
        # y + (y - D) / s (down - s) + up z
        weights = [b.alpha / a.alpha * down / s, b.alpha * (1 - down / s), b.alpha * up]
        for build in (ddim, euler_ancestral):
            rolled = build(case.process, [case.t, case.s], eta=eta).unroll()
            found = [rolled.start[-1], rolled.outputs[-1, 0], rolled.noise[-1, 0] if eta else 0.0]
            sides.append(Sides(found, weights, [b.alpha / a.alpha, b.alpha, b.alpha * t]))
    return sides


@identity(
    "Churn is the process's own kernel, and keeps its marginals",
    topic=TOPIC,
    formula=r"\hat\rho = (1 + \gamma)\rho:\quad \hat y = y + \sqrt{\hat\rho^2 - \rho^2}\,z\ \Leftrightarrow\ \hat x"
    r" \sim \mathcal{N}\Big(\frac{\hat\alpha}{\alpha}x, \hat\sigma^2 - \frac{\hat\alpha^2}{\alpha^2}\sigma^2\Big),"
    r"\qquad x\sim p_s \Rightarrow \hat x\sim p_{\hat s}",
    covers=["PODB-06"],
    over="processes",
    control="noise of standard deviation rho_hat - rho",
    most=12,
)
def churn(case: ProcessCase, wrong: bool) -> list[Sides]:
    """The churned stage of a table against the channel of the process, and the law of it for Gaussian data."""
    gamma, data = 0.2, Gaussian([0.7, -1.0], [0.25, 3.0])
    table = edm_euler(case.process, [case.s, case.s / 2], s_churn=gamma)
    raised = float(table.times[1])
    states, _, noise = table.row(1)
    gain, std = float(states[0][1]), float(noise[0][1])
    a, hat = (case.process.coefficients(when) for when in (case.s, raised))
    if wrong:
        std = float(hat.alpha * gamma * a.sigma / a.alpha)
    forward, law = case.process.channel(case.s, raised), propagate(table, data)
    return [
        Sides(gain, forward.gain),
        Sides(std**2, forward.noise),
        Sides(law.law(1).cov(), law.target(1).cov()),
        Sides(law.law(1).mean(), law.target(1).mean()),
        Sides(hat.sigma / hat.alpha, (1 + gamma) * a.sigma / a.alpha),
    ]
