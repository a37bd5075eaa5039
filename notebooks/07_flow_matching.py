# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 07 Flow matching and rectified flow
#
# Join each point of one law with a point of another by a curve, and ask at every place and time for the *mean* velocity
# of the curves that pass there: a flow along these means carries the first law to the second. With exact means we see
# what flow matching regresses and what it cannot reach, why straight conditional paths make curved flows, and what
# reflow repairs. Time runs as in flow matching, $t = 0$ the source and $t = 1$ the target; in the section on diffusion
# the other way round.

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy.linalg import sqrtm

from refdiff import Channel, ExactModel, FlowMatching, Gaussian, GaussianMixture, VPLinear, plotting
from refdiff.distributions import quantile, ring
from refdiff.dynamics import path
from refdiff.expectations import MonteCarlo, Quadrature
from refdiff.interpolants import (
    InterpolantModel,
    account,
    conditional_loss,
    euler_error,
    linear,
    marginal_loss,
    matching_gap,
    rectify,
    reflow,
)
from refdiff.transport import image_pairs, independent, optimal_map

plotting.use_style()
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "0.45"

# %% [markdown]
# ## The velocity of one path, and of all of them
#
# With $x_t = (1-t)x_0 + t\,x_1$ a pair moves at the constant velocity $x_1 - x_0$. Given $x_1$ alone, a point that is
# at $x$ at time $t$ moves at $v_t(x\mid x_1) = (x_1 - x)/(1-t)$. Many $x_1$ are possible, so what the flow follows is
#
# $$v_t(x) = \mathbb E[x_1 - x_0\mid x_t = x] = \int v_t(x\mid x_1)\,p(x_1\mid x_t = x)\,dx_1.$$
#
# Source $\mathcal N(0, I)$, target three clusters of standard deviation $s$: given the cluster $k$ and $x$, $x_1$ has
# the mean $m_k + \frac{ts^2}{(1-t)^2 + t^2s^2}(x - tm_k)$, and the responsibilities weigh the three.

# %%
noise, target = Gaussian([0.0, 0.0], 1.0), ring(count=3, radius=2.5, std=0.25)
model = InterpolantModel(independent(noise, target), linear())


def by_hand(x, t, std=0.25):
    total = (1 - t) ** 2 + t**2 * std**2  # the variance of x_t in a cluster
    gap = x[:, None] - t * target.means  # (n, 3, 2)
    heights = np.exp(-(gap**2).sum(-1) / (2 * total))
    weights = heights / heights.sum(axis=1, keepdims=True)
    ends = target.means + t * std**2 / total * gap  # E[x_1 | x, k]
    each = (ends - x[:, None]) / (1 - t)
    return each, weights, (weights[..., None] * each).sum(axis=1)


x, t = np.array([[0.35, 0.25]]), 0.45
each, weights, mean = by_hand(x, t)
assert np.allclose(mean, model.velocity(x, t), rtol=1e-12)  # sums of a dozen products of numbers of size 1 to 10
assert not np.allclose(each.mean(axis=1), mean, rtol=1e-2)  # without the responsibilities

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained", sharex=True, sharey=True)
plotting.density(left, target, color=ORANGE)
for velocity, weight in zip(each[0], weights[0]):
    tip = x[0] + (1 - t) * velocity
    left.annotate("", tip, x[0], arrowprops={"arrowstyle": "->", "color": GREY, "lw": 1 + 4 * weight})
    left.text(tip[0], tip[1] + 0.75, f"{weight:.2f}", color=GREY, ha="center")
left.annotate("", x[0] + (1 - t) * mean[0], x[0], arrowprops={"arrowstyle": "-|>", "color": BLUE, "lw": 3})
left.plot(*x[0], "ko", ms=4)
left.set_title("through one place: weighted velocities, and their mean")
plotting.density(right, model.marginal(t), color=BLUE)
places = np.linspace(-3.2, 3.2, 19)
plotting.arrows(right, lambda z: model.velocity(z, t), places, places, color="0.2")
right.set_title(f"the marginal velocity and $p_t$ at t = {t}")
for axes in (left, right):
    axes.set(aspect="equal", xlim=(-3.4, 3.4), ylim=(-3.2, 3.2))
plt.show()

# %% [markdown]
# ## Beams and spotlights
#
# Two ways of conditioning. A **beam** is given both ends, $\mathcal N((1-t)x_0 + tx_1, c^2I)$ with a small or no $c$; a
# **spotlight** is given the target alone, $\mathcal N(t x_1, (1-t)^2 I)$, wide at the source and closing in on $x_1$.
# With $c = 0$ their marginals are the same; a beam of constant width $c$ blurs both ends: it starts at
# $\mathcal N(0, (1 + c^2)I)$.

# %%
pairs, c = independent(noise, target), 0.12
starts, ends = pairs.sample(6, 8)
circle = np.stack([np.cos(angle := np.linspace(0, 2 * np.pi, 60)), np.sin(angle)], axis=1)
fig, panels = plt.subplots(1, 3, figsize=(11, 3.7), layout="constrained", sharex=True, sharey=True)
for i, t in enumerate(np.linspace(0, 1, 41)):
    shade = plt.cm.viridis(0.9 * t)
    for one, other in zip(starts, ends):
        panels[0].fill(*((1 - t) * one + t * other + c * circle).T, color=shade, alpha=0.6, lw=0)
    if i % 5 == 0:
        panels[1].plot(*(t * ends[0] + (1 - t) * circle).T, color=shade, lw=1.2)
for t in (0.05, 0.5, 0.95):
    plotting.density(panels[2], model.marginal(t), masses=(0.5, 0.9), color=plt.cm.viridis(0.9 * t), filled=False)
titles = (f"beams, $c = {c}$", "the spotlight on one $x_1$", "all of them: $p_t$ at t = 0.05, 0.5, 0.95")
for axes, title in zip(panels, titles):
    axes.set(title=title, aspect="equal", xlim=(-3.3, 3.3), ylim=(-3.1, 3.1))
plt.show()
lit = Channel(0.5, 0.0, 0.25).push(target)  # all spotlights at t = 1/2; the model adds pairs of components
assert np.allclose(lit.logpdf(starts), model.log_density(starts, 0.5), rtol=1e-12)
wide = InterpolantModel(pairs, linear(c)).marginal(0.0).cov()
assert np.allclose(wide, (1 + c**2) * np.eye(2), rtol=1e-14) and not np.allclose(wide, np.eye(2), rtol=1e-3)

# %% [markdown]
# ## What is regressed
#
# Flow matching wants $L_{FM}(f) = \mathbb E\lVert f(x_t) - v_t(x_t)\rVert^2$, trains on
# $L_{CFM}(f) = \mathbb E\lVert f(x_t) - (x_1 - x_0)\rVert^2$, and may, since
#
# $$L_{CFM}(f) - L_{FM}(f) = \mathbb E\operatorname{tr}\operatorname{Cov}[x_1 - x_0\mid x_t]\qquad\text{for every } f.$$
#
# The right side does not depend on $f$: no network's loss falls below it. Here are three quite different $f$, by
# quadrature, and again with 4000 drawn pairs as in training.

# %%
t, rule = 0.45, Quadrature(tolerance=1e-10)
fields = {"the optimum": model.velocity, "0": lambda x, t: 0 * x, "sin x": lambda x, t: np.sin(x)}
gap = matching_gap(model, t, route=rule).value
for name, f in fields.items():
    cfm, fm = (loss(model, f, t, route=rule).value for loss in (conditional_loss, marginal_loss))
    drawn = conditional_loss(model, f, t, route=MonteCarlo(4000, 0))
    print(
        f"{name:12} CFM {cfm:9.6f}  FM {fm:9.6f}  CFM - FM {cfm - fm:.9f}  drawn {drawn.value:.3f} +- {drawn.error:.3f}"
    )
    assert abs(cfm - fm - gap) < 1e-8 * cfm  # each number is good to 1e-10
    assert abs(drawn.value - cfm) < 5 * drawn.error  # five standard errors: once in two million

scales, times = np.linspace(-0.5, 2.5, 13), np.linspace(0.02, 0.98, 25)
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for loss, name, color in ((conditional_loss, "$L_{CFM}$", ORANGE), (marginal_loss, "$L_{FM}$", BLUE)):
    curve = [
        loss(model, lambda x, t, s=s: s * model.velocity(x, t), t, route=MonteCarlo(2000, 1)).value for s in scales
    ]
    left.plot(scales, curve, "o-", color=color, label=name, ms=3)
left.set(title="$f = s\\,v_t$: two parabolas, one above the other", xlabel="s", ylim=(0, None))
left.legend()
right.plot(times, [matching_gap(model, when, route=MonteCarlo(2000, 1)).value for when in times], color=GREEN)
right.set(title="the gap over time, $\\mathbb{E}$ tr Cov$[x_1 - x_0 \\mid x_t]$", xlabel="t", ylim=(0, None))
plt.show()

# %% [markdown]
# ## Diffusion is flow matching on another ruler
#
# Diffusion times now: $t = 0$ data. A variance-preserving path $\alpha_t x_0 + \sigma_t\varepsilon$ divided by
# $\alpha_t + \sigma_t$ is the straight path at $\rho = \sigma_t/(\alpha_t + \sigma_t)$, so that its trajectories are
# those of flow matching up to this scaling:
#
# $$x^{\text{line}}_{\rho(t)} = \frac{x^{\text{VP}}_t}{\alpha_t + \sigma_t}.$$
#
# The VP velocity is $\frac{\alpha'}{\alpha}(x + s_t)$ with the score $s_t$, that of the line $-(x + \rho s)/(1-\rho)$.
# It is tempting to read the first off the second by putting $\rho = \sigma_t$ (a printed one:
# $-\frac{\alpha'}{\alpha}(x + \sigma_t s_t)$). Whether a field moves $p_t$ is decided by
# $\partial_t p + \partial_x(vp) = 0$.

# %%
data = GaussianMixture.isotropic([[-1.2], [0.9]], 0.04, [0.4, 0.6])
vp, line = ExactModel(data, VPLinear()), ExactModel(data, FlowMatching())
when = np.linspace(0.001, 0.8, 81)
coefficients = [vp.process.coefficients(t) for t in when]
total = np.array([c.alpha + c.sigma for c in coefficients])
rho = np.array([c.sigma for c in coefficients]) / total
starts = quantile(vp.marginal(when[0]), np.linspace(0.02, 0.98, 15)).reshape(-1, 1)
curved = path(vp, starts, when).x
on_line = path(line, starts / total[0], rho).x
assert np.allclose(curved / total[:, None, None], on_line, rtol=0, atol=1e-7)  # two solvers' tolerances of 1e-10


def residual(model, v, t, x, h=1e-4):
    """d_t p + d_x (v p), the first exactly and the second by differences: off by h^2 of a third derivative."""
    up, down = (v(y, t)[:, 0] * np.exp(model.log_density(y, t)) for y in (x + h, x - h))
    return np.exp(model.log_density(x, t)) * model.log_density_rate(x, t) + (up - down) / (2 * h)


def slope(t):  # alpha' / alpha
    return vp.process.coefficients(t).dalpha / vp.process.coefficients(t).alpha


velocities = {
    "VP": (vp, lambda x, t: slope(t) * (x + vp.score(x, t)), BLUE),
    "line": (line, lambda x, r: -(x + r * line.score(x, r)) / (1 - r), GREEN),
    "printed": (vp, lambda x, t: -slope(t) * (x + vp.process.coefficients(t).sigma * vp.score(x, t)), ORANGE),
}
look = np.linspace(-2.5, 2.5, 401)[:, None]
fig, panels = plt.subplots(1, 3, figsize=(11, 3.5), layout="constrained", width_ratios=(1, 1, 1.1))
plotting.density_in_time(panels[0], vp.log_density, when, look[::2, 0])
plotting.trajectories(panels[0], curved, when, color=ORANGE, alpha=0.9)
plotting.density_in_time(panels[1], line.log_density, rho, look[::2, 0])
plotting.trajectories(panels[1], on_line, rho, color=ORANGE, alpha=0.9)
panels[0].set(title="VP")
panels[1].set(title="the line: VP divided by $\\alpha + \\sigma$", xlabel="$\\rho$")
for name, (of, v, color) in velocities.items():
    off = np.abs(residual(of, v, 0.3, look))
    panels[2].semilogy(look, off + 1e-18, color=color, label=f"{name}: {off.max():.0e}")
    assert (off.max() < 1e-4) == (name != "printed")  # h^2 = 1e-8 of a third derivative, some thousand at most
panels[2].set(title="$|\\partial_t p + \\partial_x(vp)|$ at t = 0.3", xlabel="x", ylim=(1e-14, 1e2))
panels[2].legend(loc="lower center")
plt.show()

# %% [markdown]
# ## Straight paths make curved flows; reflow straightens them
#
# Lines of independent pairs cross, trajectories of a flow cannot: where lines would cross, the mean velocity turns.
# *Rectifying* replaces the pairs $(x_0, x_1)$ by $(z_0, z_1)$, the ends of the flow; joining *these* by lines and
# averaging again is **reflow**: $z_t = (1-t)z_0 + t z_1$, $v = \mathbb E[z_1 - z_0\mid z_t]$. The ends are now a
# function of each other, so there is nothing left to average wherever the new lines do not cross.
#
# Euler's method follows a line of even speed exactly, in one step. Before reflow its error falls like $1/n$; after it
# there is none but that of the map it was made from (a point half way has to be traced back to its start, up to 1e-8).

# %%
p = GaussianMixture.isotropic([[-2.0, -1.0], [-2.0, 1.0]], 0.09, [0.6, 0.4])
q = GaussianMixture.isotropic([[2.0, -2.0], [2.0, 0.0], [2.0, 2.0]], 0.25)
flow = rectify(independent(p, q), rtol=1e-7, atol=1e-7)
again = reflow(flow)
starts = p.sample(70, 0)
assert np.isinf(again.crossing_time(starts)).all()  # no line meets its neighbours: the second flow is exactly straight
curves = path(flow.model.field(), starts, np.linspace(0, 1, 81), rtol=1e-6, atol=1e-6, interpolate=True).x
lines = np.stack([again.forward(starts, t) for t in (0.0, 1.0)])
drawn = independent(p, q).sample(70, 0)

fig, panels = plt.subplots(1, 4, figsize=(12, 3.3), layout="constrained", width_ratios=(1, 1, 1, 0.7))
for axes, paths, title in zip(panels, (np.stack(drawn), curves, lines), ("pairs", "rectified flow", "reflow")):
    plotting.density(axes, p, color=BLUE)
    plotting.density(axes, q, color=ORANGE)
    plotting.trajectories(axes, paths)
    axes.set(aspect="equal", xticks=[], yticks=[], title=title)
costs = account(flow, MonteCarlo(400, 1))
floor = 0.0
panels[3].bar("pairs", costs.before.value, color="0.4")
parts = {"ends": costs.after.value, "bends": costs.straightness.value, "crossings": costs.variance.value}
for (name, part), color in zip(parts.items(), (BLUE, ORANGE, "#882255")):
    panels[3].bar("flow", part, bottom=floor, color=color)
    panels[3].text(1, floor + part / 2, f"{name} {part:.2f}", ha="center", va="center", color="w", size=8)
    floor += part
panels[3].set(title="$\\mathbb{E}\\,|x_1 - x_0|^2$")
plt.show()
assert abs(costs.residual) < 5 * costs.error  # before - ends - bends - crossings, of 400 draws

steps, route = np.array([1, 2, 4, 8, 16, 32, 64]), MonteCarlo(100, 2)
before = np.array([np.sqrt(euler_error(flow, int(n), route).value) for n in steps])
after = np.array([np.sqrt(euler_error(again, int(n), route).value) for n in steps[:3]])
fig, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
plotting.convergence(axes, steps, before, label="rectified flow", order=1, color=BLUE)
plotting.convergence(axes, steps[:3], after, label="after one reflow", color=ORANGE)
axes.set(title="Euler's error, root of $\\mathbb{E}\\,|\\hat z_1 - z_1|^2$", xlabel="steps", ylabel="error")
axes.legend()
plt.show()
rate = np.log2(before[-2] / before[-1])
print(f"one step: {before[0]:.2f} before, {after[0]:.0e} after; order before: {rate:.2f}")
assert 0.9 < rate < 1.1 and after.max() < 1e-5  # the map is known to 1e-7, its inverse by Newton's steps

# %% [markdown]
# The account is exact: what rectifying saves of the cost went into bends,
# $S = \int\mathbb E\lVert z_1 - z_0 - \dot z_t\rVert^2dt$, and into crossings,
# $V = \int\mathbb E\lVert x_1 - x_0 - v\rVert^2dt$. For Gaussians of covariances $S_0, S_1$ it is all in closed form:
# with $T = (S_1S_0^{-1})^{1/2}$ the map of the flow, $V = \frac\pi2\operatorname{tr}TS_0$ and
# $S = (2 - \frac\pi2)\operatorname{tr}TS_0$.
#
# ## The flow's map is not the optimal one
#
# $T = (S_1S_0^{-1})^{1/2}$ is not symmetric unless $S_0$ and $S_1$ commute, so it is no gradient of a convex function
# and not optimal. One reflow makes its lines straight, and straight is not optimal either. We turn the axes of $S_1$
# against those of $S_0$, and compare.


# %%
def turned(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]]) @ np.diag([4.0, 0.09]) @ np.array([[c, s], [-s, c]])


first, grid = Gaussian([0.0, 0.0], np.diag([4.0, 0.09])), np.linspace(-1, 1, 11)
angles, excess = np.linspace(0, np.pi / 2, 31), []
for angle in angles:
    second = Gaussian([0.0, 0.0], turned(angle))
    books = account(independent(first, second))
    best = image_pairs(first, optimal_map(first, second)).cost()
    spread = np.trace(sqrtm(turned(angle) @ np.linalg.inv(first.cov())).real @ first.cov())
    # the closed forms against integrals over time, good to 1e-9
    assert np.isclose(books.variance.value, np.pi / 2 * spread, rtol=1e-7)
    assert np.isclose(books.straightness.value, (2 - np.pi / 2) * spread, rtol=1e-7)
    excess.append((books.before.value, books.after.value, best))
excess = np.array(excess)

second = Gaussian([0.0, 0.0], turned(1.0))
maps = {"flow": rectify(independent(first, second)).channel().gain, "optimal": optimal_map(first, second).gain}
fig, panels = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
for axes, (name, gain) in zip(panels, maps.items()):
    plotting.density(axes, first, masses=(0.8,), color=BLUE)
    plotting.density(axes, second, masses=(0.8,), color=ORANGE)
    plotting.carried_grid(axes, lambda z, gain=gain: z @ gain.T, 4 * grid, 0.6 * grid, color="0.25")
    axes.set_title(f"{name} map, |T - T'| = {abs(gain[0, 1] - gain[1, 0]):.2f}")
    axes.set(aspect="equal", xlim=(-5, 5), ylim=(-5, 5))
panels[2].plot(np.degrees(angles), excess[:, 1], color=BLUE, label="flow's ends, and reflow's")
panels[2].plot(np.degrees(angles), excess[:, 2], color=ORANGE, label="optimal, $W_2^2$")
panels[2].set(title="cost against the angle of the axes", xlabel="degrees", ylim=(0, None))
panels[2].legend(loc="upper left")
plt.show()
print("at {:.0f} degrees: pairs {:.3f}, flow {:.3f}, optimal {:.3f}".format(np.degrees(angles[19]), *excess[19]))
assert excess[0, 1] - excess[0, 2] < 1e-12 < excess[19, 1] - excess[19, 2]

# %% [markdown]
# ## Exercise: a velocity from a denoiser
#
# A diffusion model answers $D = \mathbb E[x_1\mid x_t]$ (in the time of flow matching $x_1$ is the data). Write a
# function that turns `D` (n, d) at points `x` (n, d) and a time `t` into the velocity $\mathbb E[x_1 - x_0\mid x_t]$.
# Remember that $x = (1-t)\,\mathbb E[x_0\mid x_t] + t\,\mathbb E[x_1\mid x_t]$.

# %% tags=["exercise"]
attempt = None  # your turn: a function of (D, x, t) that returns velocities (n, d)


# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(D, x, t):
    return (D - x) / (1 - t)


# %% tags=["check"]
given = attempt or solution
# sums of size 1 to 10; D - x loses a digit, and 1 / (1 - t) another
close = lambda y, truth: np.shape(y) == truth.shape and np.allclose(y, truth, rtol=0, atol=1e-11)  # noqa: E731
for t in (0.1, 0.5, 0.9):
    x = model.sample(50, t, seed=5)
    D, truth = model.expected_second(x, t), by_hand(x, t)[2]  # the truth from responsibilities
    assert close(given(D, x, t), truth), f"wrong at t = {t}: what is E[x_0 | x_t] in D and x? (n, d) in, (n, d) out"
    assert not close(D - x, truth)  # the displacement that is left is no velocity

# %% [markdown]
# **Sources.** The Principles of Diffusion Models, 5.2-5.4, 7.5.2 (PODB-33..51, PODB-96, figures 5.5-5.7); Lipman et al.
# 2022; Liu, Gong and Liu 2022; the scaling of VP to the line and the printed velocity: DMI-65, DMI-71 (errata E01,
# E02).
