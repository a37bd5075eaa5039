# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 12 Errata: printed against corrected
#
# Five texts on diffusion models were read line by line against numbers. Most of what they say holds to the last digit;
# some formulas do not, and a program that copies one of these runs, makes samples, and is wrong. Here are ten
# instructive ones, two of each text, each with an exact case in which printed and corrected form can be told apart, and
# a habit that would have found it. Then all of them, and how to test one's own reading of a formula.

# %%
import re
from collections import Counter
from itertools import permutations

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display
from scipy.integrate import solve_ivp

from refdiff import Channel, Empirical, ExactModel, Gaussian, LinearProcess, VPLinear, plotting
from refdiff.dynamics import flow
from refdiff.interpolants import InterpolantModel, carry, linear
from refdiff.metrics import wasserstein
from refdiff.processes import AffineProcess, beta_table
from refdiff.samplers import propagate
from refdiff.samplers.ancestral import ddpm
from refdiff.samplers.ddim import ddim
from refdiff.transport import independent, optimal_map
from refdiff.validation.cases import KINDS
from refdiff.validation.ledger import rows
from refdiff.validation.runner import registry, run

plotting.use_style()
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
NUMBERS = {}  # item -> what is measured, the truth, what the corrected and the printed formula give


def told(item, what, truth, corrected, printed, within=1e-9):
    """Keep the numbers of one case: the corrected formula is right to `within`, the printed one off by 100 of it."""
    NUMBERS[item] = (what, truth, corrected, printed)
    assert abs(corrected - truth) <= within * max(1, abs(truth)) and abs(printed - truth) > 100 * within


def drawn(axes, x, printed, corrected, title, xlabel, truth=None, **options):
    axes.plot(x, printed, color=ORANGE, label="printed")
    axes.plot(x, corrected, color=BLUE, label="corrected")
    if truth is not None:
        axes.plot(x, truth, ":", color="k", label="truth")
    axes.set(title=title, xlabel=xlabel, **options)


# %% [markdown]
# ## Right at one value only
#
# **Clean data from the noise** (PHY-39). A text that allows noise of any scale,
# $x_t = \sqrt{\bar\alpha}\,x_0 + \sigma\sqrt{1-\bar\alpha}\,\varepsilon$, then prints
#
# $$x_0 = \frac{x_t - \sqrt{1-\bar\alpha}\,\varepsilon}{\sqrt{\bar\alpha}}\qquad\text{for}\qquad
# x_0 = \frac{x_t - \sigma\sqrt{1-\bar\alpha}\,\varepsilon}{\sqrt{\bar\alpha}} .$$
#
# **A kernel density estimate** (PHY-97) with $k_h = \frac1{\sqrt{2\pi}\,h}e^{-(x-x')^2/2h}$ for
# $\frac1{\sqrt{2\pi}\,h}e^{-(x-x')^2/2h^2}$ has the mass $h^{-1/2}$, so that a likelihood prefers kernels that are too
# narrow. Both are right at $\sigma = 1$ and $h = 1$, where one tests first. *Habit: test at a value that is not
# 1.*

# %%
a, c, scales = 0.6, 0.25, np.linspace(0.2, 2, 61)  # alpha-bar, the variance of Gaussian data, sigma
noise = scales * np.sqrt(1 - a) / (a * c + scales**2 * (1 - a))  # E[eps | x_t = 1]
printed, corrected = ((1 - k * np.sqrt(1 - a) * noise) / np.sqrt(a) for k in (1.0, scales))
kernels = [Channel(np.sqrt(a), 0.0, s**2 * (1 - a)) for s in scales]
truth = np.array([one.posterior_mean(Gaussian([0.0], c), [1.0])[0] for one in kernels])  # Bayes
told("PHY-39", "mean of $x_0$ given $x_t = 1$, sigma = 2", truth[-1], corrected[-1], printed[-1])
widths, places = np.linspace(0.2, 2, 61), np.linspace(-20, 20, 8001)
masses = np.array([[np.exp(-(places**2) / (2 * b)).sum() / h for b in (h, h**2)] for h in widths])
masses *= (places[1] - places[0]) / np.sqrt(2 * np.pi)
told("PHY-97", "mass of the kernel, h = 0.2", 1.0, masses[0, 1], masses[0, 0])
assert np.allclose(masses[:, 0], widths**-0.5, rtol=1e-9)  # sums of smooth tails are exact to rounding
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.3), layout="constrained")
drawn(left, scales, printed, corrected, "clean prediction at $x_t = 1$", "$\\sigma$", truth)
drawn(right, widths, *masses.T, "mass of the kernel", "h", np.ones(61))
left.legend()
plt.show()

# %% [markdown]
# ## A clock or an end exchanged
#
# **The reverse equation** (RDX-B16). With $g^2 = D$ and any $\lambda$ the reverse process is
# $dx = \left[f x - \frac{1+\lambda^2}2D\nabla\log p_t\right]dt + \lambda g\,dw$ with $dt < 0$. One text prints
# $dx = -[\dots]\,dt + \lambda g\,dw$ "with $dt < 0$": one sign too many, and the sampler runs *away* from the data.
#
# **Reflow** (PODB-49) joins $(z_0, z_1)$ by $z_t = (1-t)z_0 + tz_1$, with the target $z_1 - z_0$, and follows it from
# $z_0$. Printed, twice: $z_t = tz_0 + (1-t)z_1$ with the same target. For independent pairs, with which it begins,
# variances come out right, so that centred data show nothing; means are off by a quarter here. *Habit: test with a mean
# that is not 0, and with more than one value of each parameter.*

# %%
vp = AffineProcess(VPLinear(beta_max=4.0))


def noised(t):
    return vp.coefficients(t).alpha ** 2 * c + vp.coefficients(t).sigma ** 2


def returned(amount, sign):
    """The variance at t = 0.01 of the reverse equation with lambda = amount, from p_1."""

    def slope(tau, V):
        k = vp.coefficients(1.0 - tau)
        drift = k.f + 0.5 * (1 + amount**2) * k.g2 / noised(1.0 - tau)  # [...] / x
        return -2 * sign * drift * V + amount**2 * k.g2

    return solve_ivp(slope, (0, 0.99), [noised(1.0)], rtol=1e-11, atol=1e-13).y[0, -1]


amounts = np.linspace(0, 1.5, 16)
found = np.array([[returned(k, sign) for sign in (-1, 1)] for k in amounts])
told("RDX-B16", "variance of the reverse equation, lambda = 1.5", noised(0.01), found[-1, 1], found[-1, 0])


def landed(mean, swapped, std=0.5):
    """The mean that N(0, 1) is carried to, for N(mean, std^2), by the flow of lines with the ends right or swapped."""
    p, q = Gaussian([0.0], 1.0), Gaussian([mean], std**2)
    field = InterpolantModel(independent(q, p) if swapped else independent(p, q), linear()).velocity
    v = (lambda z, t: -field(z, t)) if swapped else field  # E[z_1 - z_0 | z_t], z_t = t z_0 + (1 - t) z_1
    return carry(v, np.zeros((1, 1)), np.linspace(0, 1, 201))[0, 0]


means = np.linspace(-2, 2, 9)
reached = np.array([[landed(m, swapped) for swapped in (True, False)] for m in means])
told("PODB-49", "mean of reflow's first flow to N(2, 1/4)", 2.0, reached[-1, 1], reached[-1, 0], within=1e-8)  # RK4
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.3), layout="constrained")
drawn(left, amounts, *found.T, "variance at the data's end", "$\\lambda$", np.full(16, noised(0.01)), yscale="log")
drawn(right, means, *reached.T, "mean that reflow leads to", "mean of the target", means)
left.legend()
plt.show()

# %% [markdown]
# ## A bar, an index
#
# **DDPM's reverse mean** (TOPA-33), in a text whose $\bar\alpha_t$, $\bar\beta_t$ are signal and standard deviation
# ($\bar\alpha_t^2 + \bar\beta_t^2 = 1$):
#
# $$\frac1{\bar\alpha_t}\left(x_t - \frac{\bar\beta_t^2}{\bar\beta_t}\varepsilon\right)\qquad\text{for}\qquad
# \frac1{\alpha_t}\left(x_t - \frac{\beta_t^2}{\bar\beta_t}\varepsilon\right).$$
#
# With all bars the formula is a correct one, of something else: the clean prediction $\mathbb E[x_0\mid x_t]$. A
# sampler with it jumps to the clean prediction in every step.
#
# **Annealed Langevin** (PODA-331): a loop over noise levels $l = L, \dots, 2$ never visits the last level $\sigma_1$,
# so that samples keep the noise of $\sigma_2$, however many steps are taken. *Habit: run a sampler on a single data
# point; what is left is its error.*

# %%
chain = AffineProcess(beta_table.linear(1000))
when, law = np.unique(np.geomspace(1, 1000, 60).astype(int)), Gaussian([0.5], c)
model, off = ExactModel(law, chain), []
for t in when.tolist():
    now, before = chain.coefficients(t), chain.coefficients(t - 1)
    eps, one = model.noise(np.array([[1.0]]), t)[0, 0], now.alpha / before.alpha
    wrong, right = (1 - now.sigma * eps) / now.alpha, (1 - (1 - one**2) / now.sigma * eps) / one
    exact = chain.channel(t - 1, t).posterior_mean(model.marginal(t - 1), np.array([[1.0]]))[0, 0]  # Bayes
    off.append([abs(wrong - exact), abs(right - exact)])
told("TOPA-33", "mean of $x_{999}$ given $x_{1000} = 1$", exact, right, wrong)
assert abs(wrong - model.denoiser(np.array([[1.0]]), 1000)[0, 0]) < 1e-9  # the formula of E[x_0 | x_t]
levels, counts = np.geomspace(0.1, 10, 10), np.arange(1, 101)  # sigma_1 .. sigma_10
kept, fixed = np.full((100, 2), levels[-1] ** 2), 0.2 / (1 - 0.81)  # what V -> 0.9^2 V + 0.2 keeps
for column, last in enumerate((1, 0)):
    for sigma in levels[last:][::-1]:  # x + eta score + sqrt(2 eta) eps: eta = sigma^2 / 10, score = -x / sigma^2
        kept[:, column] = fixed * sigma**2 + 0.81**counts * (kept[:, column] - fixed * sigma**2)
told("PODA-331", "variance / sigma_1^2 in the end", fixed, *kept[-1, ::-1] / levels[0] ** 2, within=1e-8)
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.3), layout="constrained")
drawn(left, when, *np.transpose(off) + 1e-17, "error of DDPM's mean at $x_t = 1$", "t", xscale="log", yscale="log")
drawn(right, counts, *kept.T, "variance after annealing", "steps a level", np.full(100, fixed / 100), yscale="log")
right.legend()
plt.show()

# %% [markdown]
# ## A term left out
#
# **Noise that depends on the state** (DMI-59), $dx = f\,dt + D(x)^{1/2}dw$:
# $\partial_tp = -\nabla\!\cdot(fp) + \frac12\nabla\!\cdot(D\nabla p)$ is printed, for
# $-\nabla\!\cdot(fp) + \frac12\sum_{ij}\partial_i\partial_j(D_{ij}\,p)$: the difference,
# $\frac12\nabla\!\cdot(p\,\nabla\!\cdot D)$, is a drift. It vanishes for the noise of the usual models, and returns
# with noise that is learnt or lives on positive data.
#
# **The way back from an end point** (RDX-17), which its introduction calls exact for every linear SDE:
# $x(t) = U_tx_0 + V_tV_T^{-1}x(T)$, for $x(t) = U_tx_0 + V_tV_T^{-1}\left[x(T) - U_Tx_0\right]$. The missing term is
# small when hardly any signal is left, and never nothing: encoding and decoding do not meet. *Habit: put both sides at
# an end, here $t = T$.*


# %%
def lognormal(y, t):  # dx = x dw / 2: log x is N(-t/8, t/4)
    return np.exp(-((np.log(y) + t / 8) ** 2) / (t / 2)) / (y * np.sqrt(np.pi * t / 2))


x, h = np.linspace(0.4, 2.5, 211), 1e-3
rate = (lognormal(x, 1 + h) - lognormal(x, 1 - h)) / (2 * h)
D, p = lambda y: y**2 / 4, lambda y: lognormal(y, 1.0)
printed = (D(x + h / 2) * (p(x + h) - p(x)) - D(x - h / 2) * (p(x) - p(x - h))) / (2 * h**2)
right_one = (D(x + h) * p(x + h) - 2 * D(x) * p(x) + D(x - h) * p(x - h)) / (2 * h**2)
told("DMI-59", "d p / d t at x = 0.4, t = 1", rate[0], right_one[0], printed[0], within=1e-5)  # h^2 of 4th derivatives
horizons, x0, t = np.arange(0.5, 8.1, 0.5), 1.5, 0.3
points = [ExactModel(Empirical([[x0]]), LinearProcess([[-0.5]], [[1.0]], T)) for T in horizons]  # U = e^{-t/2}
truth = np.array([flow(one, [[2.0]], T, t, rtol=1e-10).x[0, 0] for one, T in zip(points, horizons)])
U, V = np.exp(-horizons / 2), np.sqrt(-np.expm1(-horizons))
printed_way, corrected_way = (np.exp(-t / 2) * x0 + np.sqrt(-np.expm1(-t)) / V * (2.0 - k * U * x0) for k in (0, 1))
told("RDX-17", "x(0.3) on the way from x(2) = 2 to 1.5", truth[3], corrected_way[3], printed_way[3], within=1e-8)
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.3), layout="constrained")
drawn(left, x, printed, right_one, "$\\partial_tp$ of geometric Brownian motion, t = 1", "x", rate)
drawn(right, horizons, printed_way, corrected_way, "x(0.3) on the way from x(T) = 2 to 1.5", "T", truth)
left.legend()
plt.show()

# %% [markdown]
# ## What does not follow
#
# **"DDIM is DDPM without noise"** (DMI-23). Setting the variance of DDPM's kernel to 0 keeps its mean, which is not
# DDIM's; the noise that it counts on is missing, and the spread is lost. For Gaussian data each point falls on
# $\mathbb E[x_0\mid x_T]$, however many steps are taken.
#
# **"The prior is the law of the end"** (TOPB-56): $W_2(p_T, q_T) = 0$ is said to hold in practice. At a finite $T$ data
# of mean $m$ end at $\alpha_Tm$; a sampler that starts at $\mathcal N(0, 1)$ brings the error back to the data,
# whatever its solver. *Habit: Gaussian data; all laws on the way are known.*

# %%
counts, schedule, data = np.array([5, 10, 20, 50, 100, 200, 500]), AffineProcess(VPLinear()), Gaussian([0.0], c)
grids = [np.append(np.linspace(1.0, 1e-3, n), 0.0) for n in counts]
tables = [(ddpm(schedule, g, variance=np.zeros(len(g) - 1)), ddim(schedule, g)) for g in grids]
stds = np.array([[np.sqrt(propagate(one, data).output.cov()[0, 0]) for one in pair] for pair in tables])
# E[x_0 | x_1] = alpha c / V x_1 whatever the steps, by the tower property: its deviation is alpha c / sqrt(V)
k = schedule.coefficients(1.0)
assert np.allclose(stds[:, 0], k.alpha * c / np.sqrt(k.alpha**2 * c + k.sigma**2), rtol=1e-9)
told("DMI-23", "std of 500 steps without noise", np.sqrt(c), stds[-1, 1], stds[-1, 0], within=4e-3)  # DDIM: 1.5 / n
horizons, prior, apart = np.linspace(0.5, 12, 24), Gaussian([0.0], 1.0), []
for T in horizons:
    end = Gaussian([2 * np.exp(-T / 2)], np.exp(-T) * c - np.expm1(-T))
    back = optimal_map(end, Gaussian([2.0], c))  # of Gaussians on the line the flow is this map
    apart.append([wasserstein(end, prior).value, wasserstein(back.push(prior), Gaussian([2.0], c)).value])
apart, k = np.array(apart), np.sqrt(1 - np.exp(-4) * (1 - c)) - 1
told("TOPB-56", "$W_2(p_T, q_T)$, T = 4", apart[7, 0], np.hypot(2 * np.exp(-2), k), 0.0)
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.3), layout="constrained")
drawn(left, counts, *stds.T, "standard deviation of what is sampled", "steps", np.full(7, np.sqrt(c)))
left.set(xscale="log", ylim=(-0.03, 0.6))
left.legend(["DDPM without noise", "DDIM", "truth"], loc="center right")
right.semilogy(horizons, apart[:, 0], color=BLUE, label="at T: $W_2(p_T, \\mathcal{N}(0, 1))$")
right.semilogy(horizons, apart[:, 1], color=GREEN, label="at 0, after the exact flow")
right.set(title="what is called 0", xlabel="T")
right.legend()
plt.show()

# %% [markdown]
# ## The numbers, refdiff's own checks of the same ten, and all the others
#
# Each of these items is an identity of `refdiff validate`, whose *negative control* is the printed formula: the check
# has to hold for the corrected form ("error": what is left), and to miss by at least a hundred tolerances for the
# printed one ("rejected by": by how many). The second table counts all of them: the ledger says of each of the 835
# items of the five texts what became of it. An item is *refuted* where some printed form in it fails, be it a sign, a
# claim, or a cell of a table; that the text around it is sound, and right elsewhere, is the rule. Whether a slip is the
# author's or came with the conversion to text files cannot always be told.


# %%
def line(*parts):
    return "| " + " | ".join(map(str, parts)) + " |\n"


table = line(*["item", "what", "truth", "corrected", "printed", "check", "error"], "rejected by") + line(*["---"] * 8)
for item, (what, *numbers) in NUMBERS.items():
    check = next(one for one in registry().values() if item in one.refutes)
    outcome = run(check, KINDS[check.over]("quick", 0, None), level="quick")
    assert outcome.verdict == "ok"
    scores = f"{outcome.error:.0e}", f"{outcome.control:.0e}"
    table += line(item, what, *(f"{x:.6g}" for x in numbers), check.name, *scores)
display(Markdown(table))

refuted = [row for row in rows() if row.state == "refuted"]
plain = [re.split(r"[/(,]", row.kind)[0].strip() for row in refuted]
kinds = [kind if kind in dict(Counter(plain).most_common(6)) else "other" for kind in plain]
cells = Counter((row.source, kind) for row, kind in zip(refuted, kinds))
names = list(dict(Counter(kinds).most_common()))
table = line("", *names, "refuted", "of items") + line(*["---"] * (len(names) + 3))
for source in sorted({row.source for row in refuted}):
    counts = [cells[source, name] for name in names]
    table += line(source, *counts, f"**{sum(counts)}**", sum(row.source == source for row in rows()))
totals = [kinds.count(name) for name in names]
table += line("all", *totals, f"**{len(refuted)}**", len(rows()))
assert sum(totals) == len(refuted) == len({item for one in registry().values() for item in one.refutes})
display(Markdown(table))

# %% [markdown]
# `refdiff validate --html report.html` shows each with its formula, its numbers and what is rejected.
#
# ## Exercise: which printing is right?
#
# The step of DDIM's family from $x_t$ to $x_s$ ($s$ less noisy) is $\mathcal N(\kappa x_t + \lambda x_0, w^2)$. Three
# printings of $\kappa$ and $\lambda$ are going round, each a function of `(a_s, s_s, a_t, s_t, w)`, signals and
# standard deviations of both times. Write a function that takes a list of such functions and returns the *index* of the
# one that keeps the kernels, $x_s\mid x_0\sim\mathcal N(a_sx_0, s_s^2)$, whatever $w$. (Push
# $\mathcal N(a_tx_0, s_t^2)$ through the step: `Channel(kappa, lambda * x0, w**2).push(...)`.)

# %% tags=["exercise"]
attempt = None  # your turn: a function of a list of printings that returns the index of the right one


# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(printings):
    def wrong(printing, x0=0.7):
        kappa, lam = printing(0.9, 0.4, 0.5, 0.8, 0.3)
        law = Channel(kappa, lam * x0, 0.3**2).push(Gaussian([0.5 * x0], 0.8**2))
        return abs(law.mean()[0] - 0.9 * x0) + abs(law.cov()[0, 0] - 0.4**2)

    return int(np.argmin([wrong(printing) for printing in printings]))


# %% tags=["check"]
given = attempt or solution


printings = right, shifted, squared = (
    lambda a_s, s_s, a_t, s_t, w: (k := np.sqrt(s_s**2 - w**2) / s_t, a_s - a_t * k),
    lambda a_s, s_s, a_t, s_t, w: (k := np.sqrt(s_s**2 - w**2) / s_t, a_s - k),  # a lost a_t: the right variance
    lambda a_s, s_s, a_t, s_t, w: (k := np.sqrt(max(s_s**2 - w, 0.0)) / s_t, a_s - a_t * k),  # w taken for a variance
)


def by_means(printings):  # tempting: the third has the right mean, and with w = 0 the right variance
    return next(
        i for i, one in enumerate(printings) if abs(np.dot(one(0.9, 0.4, 0.5, 0.8, 0.3), (0.5, 1)) - 0.9) < 1e-12
    )


shuffles = list(permutations(printings))
for shuffle in shuffles:
    assert given(shuffle) == shuffle.index(right), "it must keep mean and variance of x_s given x_0, with noise w > 0"
assert any(by_means(shuffle) != shuffle.index(right) for shuffle in shuffles)

# %% [markdown]
# **Sources.** Han, DDIM Redux (RDX); Maleki and Pourmoazemi, Diffusion Models: A Mathematical Introduction (DMI); Noh
# and Lee, The Physics of Diffusion Generative Models (PHY); The Principles of Diffusion Models (POD); Su, translated by
# Yang, Topics on Diffusion Generative Models (TOP).
