# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 04 From chains to SDEs: Fokker-Planck by hand
#
# DDPM is a Markov chain of a thousand small steps. Let the steps shrink: the chain becomes a stochastic differential
# equation, and the law of its state solves a partial differential equation. We derive that equation from three
# moments of one step, solve it in ten lines of NumPy, and hold the answer against the exact density.

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from scipy.sparse import diags_array, eye_array
from scipy.sparse.linalg import spsolve

from refdiff import ExactModel, Gaussian, GaussianMixture, LinearProcess, VPLinear, plotting
from refdiff.distributions import quantile
from refdiff.dynamics import entropy_rate, quantile_flow
from refdiff.dynamics.equilibrium import stationary_covariance
from refdiff.expectations import Quadrature
from refdiff.fokker_planck import FokkerPlanck, Grid, evolve, grid_entropy, grid_information, probability_current
from refdiff.fokker_planck import grid_relative_entropy as relative_entropy

plotting.use_style()
data = GaussianMixture.isotropic([[-1.0], [1.2]], [0.09, 0.25], weights=[0.4, 0.6])
process = VPLinear()  # beta(t) = 0.1 + 19.9 t on [0, 1]
model = ExactModel(data, process)


def beta(t):
    return 0.1 + 19.9 * t


# %% [markdown]
# ## The chain
#
# DDPM's step over a time $\Delta$ is $x_{k+1} = \sqrt{1-\beta_k}\,x_k + \sqrt{\beta_k}\,\varepsilon$ with
# $\beta_k = \beta(t_k)\,\Delta$. The factor $\Delta$ is what makes it a discretisation: after $N$ steps of
# $\Delta = T/N$ the gain of the mean is
#
# $$\prod_k \sqrt{1-\beta(t_k)\Delta}\;\longrightarrow\; \exp\Big(-\tfrac12\int_0^T\beta\Big) = \alpha_T ,$$
#
# with an error of first order in $1/N$. One of the texts drops $\Delta$ (it prints $\sqrt{1-\beta_t}\,x_t +
# \sqrt{\beta_t}\,\varepsilon$ for the step over $\Delta$): then the gain is 0 in the limit, whatever $\beta$ is.

# %%
end = 0.3  # alpha = 0.63: half way
counts = np.array([10, 20, 40, 80, 160, 320])
gains = [np.sqrt(1 - beta(end / n * np.arange(n)) * end / n).prod() for n in counts]  # beta at the left ends
alpha = process.coefficients(end).alpha
errors = np.abs(np.array(gains) - alpha)
assert np.allclose(errors[3:] / errors[2:-1], 1 / 2, rtol=0.05)  # order 1; terms of order 2 are some 1 / counts of it
printed = np.sqrt(1 - 0.9) ** counts[-1]  # without Delta, at a constant beta = 0.9 (the exact gain is e^-0.135)
print(f"gain after {counts[-1]} steps: {gains[-1]:.5f}, exact {alpha:.5f}; as printed {printed:.0e}")

fig, axes = plt.subplots(figsize=(5, 3.6), layout="constrained")
plotting.convergence(axes, counts, errors, label="gain of the chain", order=1)
axes.set(xlabel="steps of the chain on [0, 0.3]", ylabel=r"|gain $-\,\alpha$|", title="A chain refined to an SDE")
plt.show()

# %% [markdown]
# ## Three moments are enough
#
# Let $\pi_\Delta(y\mid x)$ be any chain's step and $\varphi$ a smooth test function. Expand
# $\varphi(y)$ about $x$ and take means:
#
# $$\frac{\mathbb E[\varphi(y)\mid x]-\varphi(x)}{\Delta} = M_1\varphi' + \tfrac12 M_2\varphi'' + \tfrac16 M_3\varphi'''
# + \dots, \qquad M_n(x) = \frac1\Delta\,\mathbb E[(y-x)^n \mid x].$$
#
# These are the **Kramers-Moyal moments**. If $M_1\to b$, $M_2\to D$ and $M_3, M_4\to 0$ as $\Delta\to0$, integrate
# against $p_t(x)$ and move the derivatives onto $p_t$ (by parts; $p$ vanishes at infinity). As $\varphi$ is arbitrary,
#
# $$\boxed{\;\partial_t p = -\partial_x(b\,p) + \tfrac12\,\partial_x^2(D\,p)\;}$$
#
# Nothing else of the step matters: not that it is Gaussian. But the fourth moment must vanish. Below are the moments
# of three steps at $x = 1.5$, $t = 0.3$: DDPM's Gaussian, a fair coin of the same size, and a rare jump of length 1
# with the same mean square (probability $D\Delta$). The third is a chain too; its limit is not a diffusion.

# %%
x, rate = 1.5, beta(end)
drift = -rate * x / 2
node, weight = hermegauss(20)  # exact up to the 39th moment
steps = {
    "Gaussian": lambda dt: ((np.sqrt(1 - rate * dt) - 1) * x + np.sqrt(rate * dt) * node, weight / weight.sum()),
    "coin": lambda dt: (drift * dt + np.sqrt(rate * dt) * np.array([-1, 1]), np.full(2, 0.5)),
    "jump": lambda dt: (drift * dt + np.array([-1, 0, 1]), np.array([rate * dt / 2, 1 - rate * dt, rate * dt / 2])),
}
print("    step Delta       M1       M2       M3       M4")
for name, step in steps.items():
    for dt in (1e-2, 1e-3, 1e-4):
        gaps, chances = step(dt)
        moments = np.array([(chances * gaps**n).sum() / dt for n in (1, 2, 3, 4)])
        print(f"{name:>8} {dt:.0e} " + " ".join(f"{m:8.4f}" for m in moments))
        # what is left is of first order in dt: D^2, b^2, 3 D b and 3 D^2 times it, all below 200
        assert np.allclose(moments[:3], [drift, rate, 0], atol=200 * dt)
        assert (abs(moments[3]) < 200 * dt) == (name != "jump")  # the jump's fourth moment stays at D
print(f"   limit       {drift:8.4f} {rate:8.4f}   0.0000   0.0000")

# %% [markdown]
# ## A solver is a chain, too
#
# Turn the argument round: choose the simplest chain that has the right $M_1$ and $M_2$, a walk between cells of width
# $h$. It jumps right at the rate $D/2h^2 + b/2h$ and left at $D/2h^2 - b/2h$ ($b$ at the face that is crossed). Its
# master equation
#
# $$\dot p_i = -\frac{J_{i+1/2} - J_{i-1/2}}{h},\qquad
# J_{i+1/2} = b\,\frac{p_i+p_{i+1}}2 - \frac D2\,\frac{p_{i+1}-p_i}h$$
#
# *is* the finite-volume method: what leaves a cell enters its neighbour, so mass is kept to rounding. With
# Crank-Nicolson in time, $(1 - \frac{\Delta}{2}A)\,p \leftarrow (1 + \frac\Delta2 A)\,p$:


# %%
def by_hand(grid, p, times, b, diffusion, face="central"):
    """The densities of cells (m, n) at times (m,), from p (n,) at times[0]: b(x, t) and D(t) are functions."""
    h, faces, found, one = grid.spacing[0], grid.faces(0)[1:-1], [p], eye_array(p.size, format="csc")
    for s, t in pairwise(times):
        drift, spread = b(faces, (s + t) / 2), diffusion((s + t) / 2)
        if face == "central":
            right, left = (spread / (2 * h**2) + sign * drift / (2 * h) for sign in (1, -1))
        else:  # upwind: rates that are never negative
            right, left = (spread / (2 * h**2) + np.maximum(sign * drift, 0) / h for sign in (1, -1))
        leave = np.append(right, 0) + np.insert(left, 0, 0)  # nothing jumps over the walls
        half = (t - s) / 2 * diags_array([right, -leave, left], offsets=[-1, 0, 1], format="csc")
        p = spsolve(one - half, p + half @ p)
        found.append(p)
    return np.array(found)


def walk(n, steps, diffusion=beta, **options):
    """The grid of n cells, and the densities on it after each of so many steps up to t = 0.3."""
    grid, times = Grid(-7, 7, n), np.linspace(0, 0.3, steps + 1)
    return grid, by_hand(grid, grid.averages(data), times, lambda x, t: -beta(t) * x / 2, diffusion, **options)


grid, hand = walk(400, 60)
operator = FokkerPlanck.of(process, grid)
library = evolve(operator, data, [0, 0.1, 0.2, 0.3], step=0.3 / 60)
assert abs(grid.mass(hand[-1]) - grid.mass(hand[0])) < 1e-12 > library.drift  # rounding, of 60 steps of 400 cells

fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
places = grid.centres(0)
for color, t in zip(plotting.PALETTE, library.times, strict=False):
    exact = grid.averages(model.marginal(t))
    left.plot(places, exact, color=color, label=f"t = {t:.1f}")
    mine = hand[round(t / 0.3 * 60)]
    left.plot(places[::6], mine[::6], ".", color=color)
right.semilogy(places, abs(mine - exact), label="by hand")
right.semilogy(places, abs(library.densities[-1] - exact), "--", label="evolve")
right.set(xlabel="x", ylabel="error", xlim=(-4, 4), ylim=(1e-7, 1e-3), title="Errors at t = 0.3, 400 cells, 60 steps")
right.legend()
left.set(xlabel="x", ylabel="density", xlim=(-4, 4), title="By hand (dots) and exact (lines)")
left.legend()
plt.show()

# %% [markdown]
# ## Its order, and two mistakes
#
# Both are of second order in the cells and in the steps. Two mistakes show what a convergence plot is for: fluxes
# taken from upwind, $b\,p$ of the cell that the drift comes from, are of first order; and
# $\partial_t p = -\partial_x(bp) + D\,\partial_x^2 p$, the equation without its $\frac12$, does not converge at all: it
# solves another equation well.

# %%
cells = [50, 100, 200, 400, 800]
library_at = lambda n: evolve(FokkerPlanck.of(process, Grid(-7, 7, n)), data, [0, 0.3], step=2.4 / n)  # noqa: E731
solvers = {
    "by hand": lambda n: walk(n, n // 8),
    "upwind": lambda n: walk(n, n // 8, face="upwind"),
    "without 1/2": lambda n: walk(n, n // 8, diffusion=lambda t: 2 * beta(t)),
    "evolve": lambda n: (Grid(-7, 7, n), library_at(n).densities),
}
errors = {}
for name, solver in solvers.items():
    errors[name] = [abs(p[-1] - g.averages(model.marginal(0.3))).sum() * g.volume for g, p in map(solver, cells)]
slopes = {name: np.log2(e[-2] / e[-1]) for name, e in errors.items()}
print({name: round(float(slope), 2) for name, slope in slopes.items()})
# the next term of the error is a few times h of the first, and h = 0.01
assert abs(slopes["by hand"] - 2) < 0.05 and abs(slopes["evolve"] - 2) < 0.1
assert abs(slopes["upwind"] - 1) < 0.1 and abs(slopes["without 1/2"]) < 0.01

fig, axes = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
for (name, e), color in zip(errors.items(), plotting.PALETTE, strict=False):
    order = {"evolve": 2, "upwind": 1}.get(name)
    plotting.convergence(axes, cells, e, label=name, order=order, color=color)
axes.set_xticks(cells, cells)
axes.minorticks_off()
axes.set(xlabel="cells", ylabel=r"$\int |p - p_{exact}|\,dx$", title="Cells and steps refined together")
axes.legend()
plt.show()

# %% [markdown]
# ## The current, and whom it carries
#
# The equation says $\partial_t p = -\partial_x J$ with the current $J = b\,p - \frac12\partial_x(D\,p)$. Divide by $p$:
#
# $$v = \frac Jp = b - \tfrac12 D\,\partial_x\log p ,$$
#
# a velocity field that carries the same density without any noise: the **probability flow**. On the line mass cannot
# overtake mass, so $v$ carries quantiles to quantiles, $F_t(x_t) = F_0(x_0)$. The grid's current gives the exact
# model's velocity to the order of the cells.


# %%
def off(n, steps, gain=0.5):
    """How far J / p of a grid is from b - gain D s where p > 0.01; and the current J."""
    grid, found = walk(n, steps)
    current = probability_current(grid, found[-1], -beta(0.3) * grid.points / 2, beta(0.3))[:, 0]
    claim = -beta(0.3) * grid.centres(0) / 2 - gain * beta(0.3) * model.score(grid.points, 0.3)[:, 0]
    return abs(current / found[-1] - claim)[found[-1] > 0.01].max(), current


(coarse, _), (gap, current), (wrong, _) = off(200, 30), off(400, 60), off(400, 60, gain=1.0)
velocity = model.velocity(grid.points, 0.3)[:, 0]
print(f"J/p against b - D s / 2 with 200 cells: {coarse:.3f}, with 400: {gap:.3f}; against b - D s: {wrong:.1f}")
assert abs(coarse / gap - 4) < 0.3 and wrong > 100 * gap  # second order; the next one is some (h / smallest std)^2

times = np.linspace(0, 0.5, 81)
marks = quantile(data, np.linspace(0.05, 0.95, 13))
paths = np.stack([quantile_flow(model, marks, 0.0, t) for t in times])
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
plotting.density_in_time(left, model.log_density, times, np.linspace(-3, 3, 200))
plotting.trajectories(left, paths, times, color=plotting.PALETTE[1], alpha=0.9)
left.set_title("v carries every quantile (5 %, 12.5 %, ...)")
right.plot(places, current, label="J of the grid")
right.plot(places, velocity * np.exp(model.log_density(grid.points, 0.3)), "--", label="v p, exact")
right.set(xlabel="x", ylabel="J", xlim=(-4, 4), title="The current at t = 0.3: the humps meet")
right.legend()
plt.show()

# %% [markdown]
# ## A current that goes nowhere
#
# In the plane $\partial_t p = 0$ asks for $\operatorname{div} J = 0$, not for $J = 0$. Add a rotation to the
# Ornstein-Uhlenbeck drift, $dx = (-x + \omega R x)\,dt + \sqrt2\,dw$: the stationary law stays $N(0, I)$ for every
# $\omega$, and the current goes round in it for ever. Densities do not determine the dynamics (notebook 05).

# %%
turn = np.array([[-1.0, -2.0], [2.0, -1.0]])
assert np.allclose(stationary_covariance(turn, 2 * np.eye(2)), np.eye(2))
plane = Grid([-4, -4], [4, 4], 80)
rotation = FokkerPlanck.of(LinearProcess(turn, np.sqrt(2) * np.eye(2), T=6.0), plane)
spun = evolve(rotation, Gaussian([1.5, 0.0], 0.2), [0, 0.4, 0.8, 6], step=0.02)
fig, several = plt.subplots(1, 4, figsize=(11, 3), sharey=True, layout="constrained")
for axes, t, p in zip(several, spun.times, spun.densities, strict=True):
    flux = probability_current(plane, p, plane.points @ turn.T, 2.0)
    axes.pcolormesh(plane.centres(0), plane.centres(1), p.T, cmap="Blues", rasterized=True)
    at, shown = (field[2::5, 2::5].reshape(-1, 2).T for field in (plane.points, flux))
    axes.quiver(*at, *shown, scale=8 * abs(shown).max(), width=0.008, pivot="mid")  # the longest an eighth of it
    axes.set(title=f"t = {t:.1f}", aspect="equal", xlim=(-3, 3), ylim=(-3, 3))
fig.suptitle("Density and its current: at t = 6 the density stands still, the current does not")
plt.show()
around = 2 * np.stack([-plane.points[..., 1], plane.points[..., 0]], axis=-1) * p[..., None]
print(f"largest current {abs(flux).max():.3f}; less 2 R x p: {abs(flux - around).max():.1e}")
assert abs(flux - around).max() < 0.02 * abs(flux).max()  # h^2 / 6 of third derivatives: 0.4 %, e^-6 of the start

# %% [markdown]
# ## Entropy
#
# Put $\varphi = -\log p$ into the equation: for $H = -\int p\log p$ two terms remain, what the drift compresses and
# what noise spreads (de Bruijn),
#
# $$\dot H = \mathbb E[\partial_x b] + \tfrac12 D\, I(p), \qquad I(p) = \mathbb E\,|\partial_x\log p|^2 .$$
#
# Under a variance-preserving process the drift takes $\beta/2$ nats a unit of time and noise adds $\beta I/2$: entropy
# grows while $I(p_t) > 1$. It need not be monotone: here it passes the prior's, as the variance of the data is above
# 1, and comes back. What only falls is the divergence from the stationary law $\pi = N(0,1)$ (the H-theorem),
#
# $$\frac{d}{dt}\,\mathrm{KL}(p_t\,|\,\pi) = -\tfrac12 D\;\mathbb E\,|\partial_x \log (p_t/\pi)|^2 .$$

# %%
times = np.linspace(0, 0.6, 61)
carried = evolve(operator, data, times, step=0.005).densities
prior = grid.averages(Gaussian([0.0], 1.0))
entropy, divergence = grid_entropy(grid, carried), relative_entropy(grid, carried, prior)
rates = beta(times) / 2 * (grid_information(grid, carried)[:, 0, 0] - 1)
falls = -beta(times) / 2 * grid_information(grid, carried, prior)[:, 0, 0]
exact = np.array([entropy_rate(model, t, Quadrature()).value for t in times[1::6]])
assert np.allclose(rates[1::6], exact, atol=0.02)  # (h / smallest std)^2 = 0.014 of rates of order 1
for value, rate in ((entropy, rates), (divergence, falls)):
    summed = np.cumsum((rate[1:] + rate[:-1]) / 2 * np.diff(times))
    assert abs(value[1:] - value[0] - summed).max() < 2e-3  # the trapezoidal rule, steps of 0.01
assert entropy.max() > np.log(2 * np.pi * np.e) / 2 + 0.05 and (np.diff(divergence) < 0).all()

fig, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
left.plot(times, entropy)
left.axhline(0.5 * np.log(2 * np.pi * np.e), color="0.6", linewidth=1, label="N(0, 1)")
left.legend(loc="lower right")
left.set(xlabel="t", ylabel="nats", title="Entropy passes the prior's")
middle.plot(times, rates, label="grid")
middle.plot(times[1::6], exact, "o", label="exact, by quadrature")
middle.set(xlabel="t", ylabel="nats a unit of time", title="Its rate")
middle.legend()
right.semilogy(times, divergence)
right.set(xlabel="t", ylabel="nats", title=r"KL$(p_t\,|\,N(0,1))$ only falls")
plt.show()

# %% [markdown]
# ## Exercise: noise that depends on where it is
#
# Write the right side of the Fokker-Planck equation for $dx = b(x)\,dt + \sqrt{D(x)}\,dw$ (Itô), as central
# differences: a function `(x, h, p, b, D)` that takes places `x`, a small `h` and three functions, and returns
# $\partial_t p$ at `x`. The check does not know the equation. It asks Kramers and Moyal: for test functions
# $\varphi$, $\int\varphi\,\partial_t p\,dx$ must be $\mathbb E_p[b\varphi' + \frac12 D\varphi'']$.
#
# **Sources.** The Principles of Diffusion Models, 4.1 and 4.5 (PODA-401, PODB-12..14, PODD-76); Kramers 1940, Moyal
# 1949; Risken, The Fokker-Planck Equation. The chain printed without $\Delta$ is an erratum of PODA-401.

# %% tags=["exercise"]
attempt = None  # your turn: a function of (x, h, p, b, D) that returns d_t p at x

# %% jupyter={"source_hidden": true} tags=["solution"]


def solution(x, h, p, b, D):
    drift, spread = lambda y: b(y) * p(y), lambda y: D(y) * p(y)
    return -(drift(x + h) - drift(x - h)) / (2 * h) + (spread(x + h) - 2 * spread(x) + spread(x - h)) / (2 * h**2)


# %% tags=["check"]
given = attempt or solution
x = np.linspace(-9, 9, 2001)  # the trapezoidal rule is exact to rounding for what is smooth and vanishes at the ends
p, b, spread = lambda y: np.exp(model.log_density(y[:, None], 0.2)), lambda y: np.sin(y) - y, lambda y: 1 + y**2 / 2
test_functions = [(x**2, 2 * x, 2 + 0 * x), (np.sin(x), np.cos(x), -np.sin(x)), (np.cos(x), -np.sin(x), -np.cos(x))]


def worst(right_side):
    rate = right_side(x, 1e-3, p, b, spread)
    means = (p(x) * (b(x) * slope + spread(x) * bend / 2) for _, slope, bend in test_functions)
    return max(abs(np.trapezoid(f * rate - mean, x)) for (f, _, _), mean in zip(test_functions, means, strict=True))


def fick(x, h, p, b, D):  # the tempting one: D outside of one derivative
    current = b(x + h) * p(x + h) - b(x - h) * p(x - h)
    return -current / (2 * h) + (D(x + h / 2) * (p(x + h) - p(x)) - D(x - h / 2) * (p(x) - p(x - h))) / (2 * h**2)


# central differences are off by h^2 / 6 = 2e-7 of third and fourth derivatives, some tens
assert worst(given) < 1e-4, f"{worst(given):.2g} off: signs, the 1/2, and D inside of both: -(b p)' + (D p)'' / 2"
assert worst(fick) > 0.1
print(f"{worst(given):.1e} off; with (D p')' / 2 it is {worst(fick):.2f}")
