"""Samplers written by hand in plain NumPy, and the tables that they claim; slips in them are in audit_slips.

Each loop has the signature (model, x, grid, normal). On levels, model(x, sigma) answers the denoised x of
x = x_0 + sigma eps; on alpha_bars, noise first, model(x, i) answers the noise; on times of the straight path from data
at 0 to noise at 1, model(x, t) answers the velocity.
"""

# ruff: noqa: ARG001
from dataclasses import dataclass
from math import exp, expm1, log, sqrt

import numpy as np

from refdiff.samplers.adams import lms
from refdiff.samplers.ancestral import ddpm
from refdiff.samplers.ddim import ddim
from refdiff.samplers.dpm_sde import dpmpp_2s_ancestral, sde_dpm_solver_pp
from refdiff.samplers.dpm_solver_pp import dpm_solver_pp, dpm_solver_pp_multistep
from refdiff.samplers.edm import edm_euler, edm_heun
from refdiff.samplers.kdiffusion import dpm2, euler_ancestral
from refdiff.samplers.runge_kutta import runge_kutta
from refdiff.samplers.unipc import unipc
from refdiff.validation.audits.levels import EXPLODING, FLOW, PRESERVING
from refdiff.validation.audits.subject import Claim, Sampler, Subject

# ---------------------------------------------------------------------- on levels


def euler(model, x, sigmas, normal):
    for i in range(len(sigmas) - 1):
        d = (x - model(x, sigmas[i])) / sigmas[i]
        x = x + d * (sigmas[i + 1] - sigmas[i])
    return x


def churned_euler(model, x, sigmas, normal):
    gamma = min(4.0 / (len(sigmas) - 1), sqrt(2) - 1)
    for i in range(len(sigmas) - 1):
        hat = sigmas[i] * (1 + gamma)
        x = x + normal() * sqrt(hat**2 - sigmas[i] ** 2)
        d = (x - model(x, hat)) / hat
        x = x + d * (sigmas[i + 1] - hat)
    return x


def heun(model, x, sigmas, normal):
    for i in range(len(sigmas) - 1):
        d = (x - model(x, sigmas[i])) / sigmas[i]
        dt = sigmas[i + 1] - sigmas[i]
        if sigmas[i + 1] == 0:
            return x + d * dt
        x_2 = x + d * dt
        d_2 = (x_2 - model(x_2, sigmas[i + 1])) / sigmas[i + 1]
        x = x + (d + d_2) / 2 * dt
    return x


def dpm_2(model, x, sigmas, normal):
    for i in range(len(sigmas) - 1):
        d = (x - model(x, sigmas[i])) / sigmas[i]
        if sigmas[i + 1] == 0:
            return x + d * (sigmas[i + 1] - sigmas[i])
        mid = exp((log(sigmas[i]) + log(sigmas[i + 1])) / 2)
        x_2 = x + d * (mid - sigmas[i])
        d_2 = (x_2 - model(x_2, mid)) / mid
        x = x + d_2 * (sigmas[i + 1] - sigmas[i])
    return x


def ancestral(model, x, sigmas, normal):
    for i in range(len(sigmas) - 1):
        s, t = sigmas[i], sigmas[i + 1]
        denoised = model(x, s)
        up = sqrt(t**2 * (s**2 - t**2) / s**2)
        down = sqrt(t**2 - up**2)
        x = x + (x - denoised) / s * (down - s)
        if t > 0:
            x = x + normal() * up
    return x


def dpmpp_2m(model, x, sigmas, normal):
    old = None
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i])
        if sigmas[i + 1] == 0:
            return denoised
        h = log(sigmas[i] / sigmas[i + 1])
        d = denoised
        if old is not None:
            r = log(sigmas[i - 1] / sigmas[i]) / h
            d = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * old
        x = sigmas[i + 1] / sigmas[i] * x - expm1(-h) * d
        old = denoised
    return x


def dpmpp_2s(model, x, sigmas, normal):
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i])
        if sigmas[i + 1] == 0:
            return denoised
        h = log(sigmas[i] / sigmas[i + 1])
        mid = sigmas[i] * exp(-h / 2)
        x_2 = mid / sigmas[i] * x - expm1(-h / 2) * denoised
        denoised_2 = model(x_2, mid)
        x = sigmas[i + 1] / sigmas[i] * x - expm1(-h) * denoised_2
    return x


def dpmpp_2s_ancestral_loop(model, x, sigmas, normal):
    for i in range(len(sigmas) - 1):
        s, t = sigmas[i], sigmas[i + 1]
        denoised = model(x, s)
        if t == 0:
            return denoised
        down = t**2 / s
        mid = sqrt(s * down)
        x_2 = mid / s * x + (1 - mid / s) * denoised
        x = down / s * x + (1 - down / s) * model(x_2, mid)
        x = x + normal() * sqrt(t**2 - down**2)
    return x


def dpmpp_2m_sde(model, x, sigmas, normal):
    old = None
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i])
        if sigmas[i + 1] == 0:
            return denoised
        h = log(sigmas[i] / sigmas[i + 1])
        x = sigmas[i + 1] / sigmas[i] * exp(-h) * x - expm1(-2 * h) * denoised
        if old is not None:
            r = log(sigmas[i - 1] / sigmas[i]) / h
            x = x - 0.5 * expm1(-2 * h) * (1 / r) * (denoised - old)
        x = x + normal() * sigmas[i + 1] * sqrt(-expm1(-2 * h))
        old = denoised
    return x


def linear_multistep(model, x, sigmas, normal):
    d_old = None
    for i in range(len(sigmas) - 1):
        d = (x - model(x, sigmas[i])) / sigmas[i]
        dt = sigmas[i + 1] - sigmas[i]
        if d_old is None:
            x = x + dt * d
        else:
            r = dt / (sigmas[i] - sigmas[i - 1])
            x = x + dt * ((1 + r / 2) * d - r / 2 * d_old)
        d_old = d
    return x


# ---------------------------------------------------------------------- on alpha_bars


def ddim_loop(model, x, bars, normal):
    for i in range(len(bars) - 1):
        a, b = bars[i], bars[i + 1]
        eps = model(x, i)
        x_0 = (x - sqrt(1 - a) * eps) / sqrt(a)
        x = sqrt(b) * x_0 + sqrt(1 - b) * eps
    return x


def ddpm_loop(model, x, bars, normal):
    for i in range(len(bars) - 1):
        a, b = bars[i], bars[i + 1]
        alpha, beta = a / b, 1 - a / b
        eps = model(x, i)
        x = (x - beta / sqrt(1 - a) * eps) / sqrt(alpha)
        if b < 1:
            x = x + sqrt(beta * (1 - b) / (1 - a)) * normal()
    return x


def unipc_loop(model, x, bars, normal):
    def level(i):
        return sqrt(bars[i]), sqrt(1 - bars[i]), 0.5 * log(bars[i] / (1 - bars[i]))

    last = None
    for i in range(len(bars) - 1):
        (a_s, s_s, l_s), (a_t, s_t, l_t) = level(i), level(i + 1)
        m = (x - s_s * model(x, i)) / a_s
        if last is not None:
            x_before, m_before, (_, s_0, l_0) = last
            h = l_s - l_0
            x = s_s / s_0 * x_before - a_s * expm1(-h) * (0.5 * m_before + 0.5 * m)
        last = x, m, (a_s, s_s, l_s)
        x = s_t / s_s * x - a_t * expm1(l_s - l_t) * m
    return x


# ---------------------------------------------------------------------- on times of the straight path


def flow_midpoint(model, x, times, normal):
    for i in range(len(times) - 1):
        h = times[i + 1] - times[i]
        k_1 = model(x, times[i])
        k_2 = model(x + h / 2 * k_1, times[i] + h / 2)
        x = x + h * k_2
    return x


def flow_rk4(model, x, times, normal):
    for i in range(len(times) - 1):
        t, h = times[i], times[i + 1] - times[i]
        k_1 = model(x, t)
        k_2 = model(x + h / 2 * k_1, t + h / 2)
        k_3 = model(x + h / 2 * k_2, t + h / 2)
        k_4 = model(x + h * k_3, t + h)
        x = x + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)
    return x


# ---------------------------------------------------------------------- what they claim

LEVELS = np.array([10.0, 6.0, 3.5, 1.8, 0.9, 0.4, 0.0])
POSITIVE = np.array([10.0, 6.0, 3.5, 1.8, 0.9, 0.4, 0.1])
BARS = np.array([0.01, 0.05, 0.2, 0.45, 0.7, 0.9, 1.0])
BELOW_ONE = np.array([0.01, 0.05, 0.2, 0.45, 0.7, 0.9, 0.98])
TIMES = np.array([0.97, 0.8, 0.62, 0.45, 0.3, 0.12, 0.03])


@dataclass(frozen=True)
class Loop:
    """A loop, its grid and the table that it claims, on a process."""

    function: object
    build: object
    grid: np.ndarray
    kind: str = "levels"

    @property
    def name(self):
        return self.function.__name__

    def sampler(self, source=None):
        """The loop, or the loop with another source, as an audit sees it."""
        function = self.function
        if source is not None:
            made = dict(globals())
            exec(source, made)
            function = made[self.name]
        grid, kind = self.grid, self.kind
        rho = np.sqrt((1 - grid) / grid) if kind == "bars" else grid
        process = {"levels": EXPLODING, "bars": PRESERVING, "times": FLOW}[kind]
        prediction = {"levels": "denoiser", "bars": "noise", "times": "velocity"}[kind]
        told = (lambda i: float(rho[int(i)])) if kind == "bars" else float

        def play(model, x, normal):
            return function(model, x, grid, normal)

        def seeded(model, x, seed):
            rng = np.random.default_rng(seed)
            return function(model, x, grid, lambda: rng.standard_normal(x.shape))

        claim = Claim(lambda levels: self.build(process, levels), rho, process, prediction)
        return Sampler(self.name, play, np.dtype(float), claim, told, process, seeded=seeded)

    def subject(self, source=None):
        """The loop as the subject of an audit, of 6 steps."""
        return Subject(self.name, lambda steps: self.sampler(source), steps=(len(self.grid) - 1,))


def _with(build, **options):
    return lambda process, grid: build(process, grid, **options)


LOOPS = (
    Loop(euler, edm_euler, LEVELS),
    Loop(churned_euler, _with(edm_euler, s_churn=4.0), LEVELS),
    Loop(heun, edm_heun, LEVELS),
    Loop(dpm_2, dpm2, LEVELS),
    Loop(ancestral, euler_ancestral, LEVELS),
    Loop(dpmpp_2m, _with(dpm_solver_pp_multistep, order=2), LEVELS),
    Loop(dpmpp_2s, dpm_solver_pp, LEVELS),
    Loop(dpmpp_2s_ancestral_loop, dpmpp_2s_ancestral, LEVELS),
    Loop(dpmpp_2m_sde, sde_dpm_solver_pp, LEVELS),
    Loop(linear_multistep, _with(lms, order=2), LEVELS),
    Loop(ddim_loop, ddim, BARS, "bars"),
    Loop(ddpm_loop, ddpm, BARS, "bars"),
    Loop(unipc_loop, _with(unipc, order=1), BELOW_ONE, "bars"),
    Loop(flow_midpoint, _with(runge_kutta, method="midpoint", clock="t"), TIMES, "times"),
    Loop(flow_rk4, _with(runge_kutta, method="rk4", clock="t"), TIMES, "times"),
)
BY_NAME = {loop.name: loop for loop in LOOPS}
