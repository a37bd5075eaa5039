# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 08 Optimal transport and Schroedinger bridges
#
# Of all ways to move one law to another, which is the shortest, and which the most likely one for a particle that
# diffuses? The first question has maps and straight lines as its answer, the second random bridges; the noise rate
# $\varepsilon$ leads from one to the other. Everything here has an exact answer: Gaussians, points, and mixtures that
# are made from their potentials.

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy.special import logsumexp

from refdiff import Channel, Empirical, Gaussian, GaussianMixture, plotting
from refdiff import transport as ot
from refdiff.distributions import monotone_map, ring
from refdiff.interpolants import InterpolantModel, energy_density, linear
from refdiff.metrics import energy_distance
from refdiff.schroedinger import GaussianBridge, MixtureBridge, markovian_fitting, point_bridge, proportional_fitting
from refdiff.stochastic import solve

plotting.use_style()
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#882255"

# %% [markdown]
# ## Many maps carry one law to another; one is optimal
#
# $T$ carries $p$ to $q$ where $q(T(x))\,\lvert\det DT(x)\rvert = p(x)$. For $\mathcal N(m, S)\to\mathcal N(n, R)$ every
# $A$ with $ASA^\top = R$ does. Least of $\mathbb E\lVert T(x) - x\rVert^2$ has the one that is the gradient of a convex
# function (Brenier), here the symmetric positive
#
# $$A = S^{-1/2}\left(S^{1/2} R\, S^{1/2}\right)^{1/2} S^{-1/2}.$$

# %%
p = Gaussian([-1.5, 0.0], [[1.0, 0.75], [0.75, 0.65]])
q = Gaussian([1.5, 0.3], [[0.3, -0.45], [-0.45, 0.9]])


def root(matrix):
    values, axes = np.linalg.eigh(matrix)
    return (axes * np.sqrt(values)) @ axes.T


def carried(z, gain):
    return q.mean() + (z - p.mean()) @ gain.T


S, R, half = p.cov(), q.cov(), root(p.cov())
A = np.linalg.inv(half) @ root(half @ R @ half) @ np.linalg.inv(half)
assert np.allclose(A, ot.optimal_map(p, q).gain, rtol=1e-12)  # a few 2 x 2 products
maps = {
    "optimal": A,
    "triangular": np.linalg.cholesky(R) @ np.linalg.inv(np.linalg.cholesky(S)),
    "another root": root(R) @ np.linalg.inv(half),
}
x, lines = p.sample(200, 0), np.linspace(-2, 2, 9)
fig, panels = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained", sharex=True, sharey=True)
for axes, (name, gain) in zip(panels, maps.items()):
    residual = q.logpdf(carried(x, gain)) + np.log(abs(np.linalg.det(gain))) - p.logpdf(x)
    assert np.abs(residual).max() < 1e-12  # all three carry p to q; logarithms up to 10 round by 1e-15
    plotting.density(axes, p, color=BLUE)
    plotting.density(axes, q, color=ORANGE)
    plotting.carried_grid(axes, lambda u: p.mean() + u @ half, lines, lines, color="0.5")
    plotting.carried_grid(axes, lambda u, gain=gain: carried(p.mean() + u @ half, gain), lines, lines, color="0.2")
    cost, skew = ot.image_pairs(p, Channel(gain, q.mean() - gain @ p.mean())).cost(), abs(gain[0, 1] - gain[1, 0])
    axes.set(title=f"{name}: cost {cost:.2f}, $|A - A^T|$ {skew:.2f}", aspect="equal")
plt.show()

# %% [markdown]
# ## The shortest way
#
# Moving along $x_t = (1-t)x + tT(x)$ at even speed is the shortest way from $p$ to $q$ (McCann). Its kinetic energy
# $\mathbb E\lVert v_t\rVert^2$ is $W_2^2$ at every $t$, and no flow spends less in all (Benamou and Brenier). The flow
# of independent pairs spends more, if less at its end. A mean of densities, $(1-t)p + tq$, moves nothing at all: it
# fades.

# %%
way, flow = ot.displacement(p, q), InterpolantModel(ot.independent(p, q), linear())
fig, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained", width_ratios=(1.2, 1.2, 1))
for t in (0.0, 0.25, 0.5, 0.75, 1.0):
    plotting.density(left, way.marginal(t), masses=(0.5, 0.8), color=plt.cm.viridis(0.9 * t))
starts = p.sample(12, 2)
plotting.trajectories(left, np.stack([starts, way.image(starts, 0.0, 1.0)]), first="k", last="k", alpha=0.9)
plotting.density(middle, GaussianMixture.full([p.mean(), q.mean()], np.array([S, R])), color=plt.cm.viridis(0.45))
for axes, title in ((left, "displacement, t = 0, 1/4, 1/2, 3/4, 1"), (middle, "the mean of the densities, t = 1/2")):
    axes.set(title=title, aspect="equal", xlim=(-4.2, 3.8), ylim=(-3, 3.2))
times = np.linspace(0, 1, 41)
straight = np.array([way.energy(t) for t in times])
mean_paths = np.array([energy_density(flow, t).value for t in times])
right.plot(times, mean_paths, color=ORANGE, label="independent pairs")
right.plot(times, straight, color=BLUE, label="displacement")
right.set(title="kinetic energy $\\mathbb{E}\\,|v_t|^2$", xlabel="t", ylim=(0, 13))
right.legend(loc="lower center")
plt.show()
W2 = ((p.mean() - q.mean()) ** 2).sum() + np.trace(S + R - 2 * root(half @ R @ half))
assert np.allclose(straight, W2, rtol=1e-12) and np.trapezoid(mean_paths, times) > W2 + 0.2
print(f"W2^2 = {W2:.4f}; the flow of independent pairs spends {np.trapezoid(mean_paths, times):.4f}")

# %% [markdown]
# ## With an entropy
#
# Adding $\varepsilon\,\mathrm{KL}(\gamma\,\Vert\, p\otimes q)$ to the cost $c = \frac12\lvert x - y\rvert^2$ spreads
# the plan out: $\gamma_{ij} = a_ib_j\exp\frac{f_i + g_j - c_{ij}}{\varepsilon}$, whose two potentials are found by
# turns (Sinkhorn), in logarithms so that no $\varepsilon$ is too small:
#
# $$f_i = -\varepsilon\log\sum_j b_j\, e^{(g_j - c_{ij})/\varepsilon},\qquad
# g_j = -\varepsilon\log\sum_i a_i\, e^{(f_i - c_{ij})/\varepsilon}.$$
#
# The plan closes in on the graph of the optimal map (orange), and Sinkhorn's turns become slow: each leaves $s_2^2$ of
# the error, with $s_2$ the second singular value of $\gamma_{ij}/\sqrt{a_ib_j}$, the correlation that the plan leaves
# between $x$ and $y$ (the first is 1). As $\varepsilon\to0$ it tends to 1.

# %%
one = GaussianMixture.isotropic([[-1.0], [1.0]], 0.08, [0.4, 0.6])
two = GaussianMixture.isotropic([[-1.6], [0.0], [1.6]], 0.06)
X, Y = np.linspace(-1.9, 1.9, 77)[:, None], np.linspace(-2.3, 2.3, 93)[:, None]
a, b = (np.exp(law.logpdf(x) - logsumexp(law.logpdf(x))) for law, x in ((one, X), (two, Y)))
C = 0.5 * (X - Y.T) ** 2


def turns(C, eps, count):
    g, errors = np.zeros(len(b)), []
    for _ in range(count):
        f = -eps * logsumexp((g - C) / eps, b=b, axis=1)
        errors.append(np.abs(b * np.exp(g / eps) * (np.exp((f[:, None] - C) / eps).T @ a) - b).sum())
        g = -eps * logsumexp((f[:, None] - C) / eps, b=a[:, None], axis=0)
    f = -eps * logsumexp((g - C) / eps, b=b, axis=1)
    return a[:, None] * b * np.exp((f[:, None] + g - C) / eps), np.array(errors)


fig, panels = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained", sharex=True, sharey=True)
for axes, eps in zip(panels, (2.0, 0.2, 0.02, 0.002)):
    plan = ot.sinkhorn(Empirical(X, a), Empirical(Y, b), eps, tolerance=1e-12)
    if eps > 0.1:  # where turns alone end soon; sinkhorn also takes larger steps, and Newton's
        assert np.allclose(turns(C, eps, 300)[0], plan.coupling(), rtol=0, atol=1e-12)
    plotting.plan(axes, plan.coupling(), X, Y)
    axes.plot(X, monotone_map(one, two, X), color=ORANGE, lw=0.9)
    axes.set(title=f"$\\varepsilon$ = {eps}", xlabel="x", ylabel="", xlim=(-1.9, 1.9), ylim=(-2.3, 2.3))
panels[0].set_ylabel("y")
plt.show()

fig, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
for eps, color in zip((2.0, 0.5, 0.2, 0.1), (BLUE, GREEN, ORANGE, PURPLE)):
    plan = ot.sinkhorn(Empirical(X, a), Empirical(Y, b), eps, tolerance=1e-13)
    s = np.linalg.svd(plan.coupling() / np.sqrt(np.outer(a, b)), compute_uv=False)
    errors = turns(C, eps, 120)[1]
    kept = errors > 1e-12
    label, last = f"$\\varepsilon$ = {eps}, rate {s[1] ** 2:.4f}", np.flatnonzero(kept)[-1]
    axes.semilogy(np.arange(120)[kept][::3], errors[kept][::3], "o", ms=3.5, color=color, label=label)
    axes.semilogy([0, last], errors[last] * s[1] ** (2 * np.array([-last, 0])), color=color, lw=0.8)
    found = (errors[last] / errors[last // 2]) ** (1 / (last - last // 2))
    assert abs(s[0] - 1) < 1e-10 and abs(found - s[1] ** 2) < 0.02 * (1 - s[1] ** 2) + 1e-3  # the faster ones fade
axes.set(title="Sinkhorn's error of the columns; lines: the rate $s_2^2$ of the plan", xlabel="turns")
axes.legend()
plt.show()

# %% [markdown]
# ## What the entropy distorts
#
# The cost $V_\varepsilon$ is above $\frac12W_2^2$ by $\frac d2\varepsilon\log\frac1{2\pi\varepsilon} +
# \frac\varepsilon2(H_p + H_q)$, up to $O(\varepsilon^2)$, with the entropies $H$, even between equal laws; and the mean
# partner $\mathbb E[y\mid x]$ of a point is drawn inwards: a map fitted to it makes a law that is too narrow.
# Sinkhorn's divergence $V_\varepsilon(p,q) - \frac12V_\varepsilon(p,p) - \frac12V_\varepsilon(q,q)$ takes the first
# order away: its error is of order $\varepsilon^2$.

# %%
eps_line = 10.0 ** -np.arange(0, 3.5, 0.5)
raw = np.array([abs(ot.entropic_cost(p, q, e) - W2 / 2) for e in eps_line])
debiased = np.array([abs(ot.sinkhorn_divergence(p, q, e) - W2 / 2) for e in eps_line])
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
plotting.convergence(left, 1 / eps_line, raw, label="$V_\\varepsilon$", color=ORANGE)
plotting.convergence(left, 1 / eps_line, debiased, label="Sinkhorn's divergence", order=2, color=BLUE)
left.set(title="error against $W_2^2 / 2$", xlabel="$1/\\varepsilon$", xticks=[1, 10, 100, 1000])
left.legend()
assert abs(np.log10(debiased[-3] / debiased[-1]) - 2) < 0.02  # the next power is the fourth
entropies = sum(0.5 * np.log(np.linalg.det(2 * np.pi * np.e * law.cov())) for law in (p, q))
first = eps_line * (0.5 * entropies - np.log(2 * np.pi * eps_line))
assert abs(np.log10((raw - first)[-3] / (raw - first)[-1]) - 2) < 0.05  # what the expansion leaves is of order eps^2
ends, begin = ring(6, 2.0, 0.15).sample(150, 5), Gaussian([0.0, 0.0], 0.3).sample(150, 6)
right.plot(*ends.T, ".", color=ORANGE, ms=4, label="q")
spreads = [np.trace(np.cov(ends.T))]
for eps, color in ((0.02, PURPLE), (0.5, BLUE), (2.0, GREEN)):
    pulled = ot.sinkhorn(begin, ends, eps).barycentric(begin)
    right.plot(*pulled.T, ".", color=color, ms=2.5, label=f"$\\mathbb{{E}}[y \\mid x]$, $\\varepsilon$ = {eps}")
    spreads.append(np.trace(np.cov(pulled.T)))
assert (np.diff(spreads) < 0).all()  # each narrower than the last, as E[y | x] must be
right.set(title="mean partners", aspect="equal")
right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## Schroedinger bridges
#
# Of all processes from $p$ to $q$ the one nearest to $\sqrt\varepsilon\,w$ (in KL of paths) has these pairs
# $\gamma_\varepsilon$ of ends, joined by Brownian bridges. It is Markov:
# $dx = \varepsilon\nabla\log\Psi_t\,dt + \sqrt\varepsilon\,dw$, with $p_t = \Psi_t\hat\Psi_t$. For two sets of points
# all is a finite sum.
#
# With mixtures for potentials both ends are mixtures too, exactly: a test for solvers. We run Euler-Maruyama with the
# drift $\varepsilon\nabla\log\Psi$ and look whether it arrives; and check the drift against its meaning,
# $\mathbb E[\frac{x_1 - x}{1-t}\mid x_t = x]$.

# %%
points, other = Empirical(ring(3, 0.7, 0.25).sample(40, 7)), Empirical(ring(7, 2.2, 0.12).sample(40, 8))
fig, panels = plt.subplots(1, 4, figsize=(10.5, 2.9), layout="constrained", sharex=True, sharey=True)
for axes, eps in zip(panels, (1.0, 0.1, 0.01)):
    plotting.trajectories(axes, point_bridge(points, other, eps).sample(np.linspace(0, 1, 101), 40, 9))
    axes.set_title(f"$\\varepsilon$ = {eps}")
best = ot.optimal_pairs(points, other)
plotting.pairs(panels[3], best.first.means, best.second.means)
panels[3].set_title("$\\varepsilon$ = 0: optimal transport")
for axes in panels:
    axes.set(aspect="equal", xticks=[], yticks=[], xlim=(-3, 3), ylim=(-3, 3))
plt.show()

bridge = MixtureBridge(
    GaussianMixture.isotropic([[-1.0], [1.0]], 0.05),
    GaussianMixture.isotropic([[-2.5], [0.0], [2.5]], 0.05, [3.0, 1.0, 3.0]),
    0.3,
)
where = bridge.marginal(0.6).sample(50, 10)
meant = (bridge.model.expected_second(where, 0.6) - where) / (1 - 0.6)  # by Bayes' rule for pairs, without potentials
assert np.allclose(bridge.forward_drift(where, 0.6), meant, rtol=0, atol=1e-10)
assert not np.allclose(bridge.velocity(where, 0.6), meant, atol=1e-2)  # the flow's velocity is another field

made = solve(bridge.equation(), bridge.marginal(0.0).sample(4000, 11), np.linspace(0, 1, 201), seed=12, trajectory=True)
arrived, stopped = (energy_distance(made[-1], bridge.marginal(t)) for t in (1.0, 0.9))
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained", width_ratios=(3, 2))
plotting.density_in_time(left, bridge.log_density, np.linspace(0, 1, 121), np.linspace(-3.6, 3.6, 240))
plotting.trajectories(left, made[:, :25], np.linspace(0, 1, 201), color=ORANGE, alpha=0.8)
left.set(title="$p_t$ of the bridge, and solutions of its equation", ylim=(-3.6, 3.6))
right.hist(made[-1, :, 0], bins=60, density=True, color=ORANGE, alpha=0.4, label="arrived")
plotting.density(right, bridge.marginal(1.0), color=BLUE, filled=False)
right.set(title="the end: 4000 solutions, and the exact law", xlabel="x")
right.legend()
plt.show()
print(f"energy distance to the law at t = 1: {arrived.value:.1e} +- {arrived.error:.0e}; at 0.9: {stopped.value:.1e}")
assert arrived.value < 6 * arrived.error < stopped.value  # six standard errors: steps of 1/200 are not seen by them

# %% [markdown]
# ## Finding a bridge, and both limits
#
# **Proportional fitting** (IPF, Sinkhorn in continuous time) mends one end at a time and ruins the other; a cycle
# leaves $r^2$ of errors of means and $r^4$ of covariances, $r$ the correlation of the ends. **Markovian fitting** (IMF,
# DSBM) keeps both ends right and mends the process in between: its rate is never above 0.104 on the line, whatever
# $\varepsilon$.
#
# With $\varepsilon\to0$ the ends become a map, with $\varepsilon\to\infty$ independent, $r\approx st/\varepsilon$. The
# cost $\mathrm{KL}(P\Vert R)$ itself *diverges* for $\varepsilon\to0$ (a map's paths are impossible without noise);
# what tends to $W_2^2$ is $2\varepsilon\,\mathrm{KL}$. A text that leaves out the factor loses the limit.

# %%
start, end = Gaussian([-1.0], 1.0), Gaussian([1.5], 0.25)
fig, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
for eps, color in ((2.0, BLUE), (0.5, ORANGE), (0.1, PURPLE)):
    fitted = proportional_fitting(start, end, eps, 40)
    by_cycle = fitted.divergences()[::2]
    markov = markovian_fitting(ot.independent(start, end), eps, 12)
    axes.semilogy(by_cycle, "o-", color=color, ms=3, label=f"IPF, $\\varepsilon$ = {eps}")
    axes.semilogy(markov.divergences(), "s--", color=color, ms=3, label=f"IMF, $\\varepsilon$ = {eps}")
    r = np.sqrt(eps**2 + 4 * 0.25) - eps  # c / (s t), s t = 1/2, for the covariance c with c (c + eps) = s^2 t^2
    seen = by_cycle[by_cycle > 1e-9]  # KL is quadratic in the error of means: a cycle leaves r^4
    assert np.isclose(fitted.mean_rates[0], r**2, rtol=1e-12) and abs(seen[-1] / seen[-2] - r**4) < 0.02
    assert markov.rates.max() < 0.1039
axes.set(title="KL to the bridge", xlabel="cycles", xlim=(-0.5, 20.5), xticks=range(0, 21, 5), ylim=(1e-14, 100))
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

eps_line = np.geomspace(1e-4, 1e2, 25)
bridges = [GaussianBridge(start, end, e) for e in eps_line]
correlation = np.array([one.pairs.cross_covariance()[0, 0] / 0.5 for one in bridges])
scaled = 2 * eps_line * [one.cost for one in bridges]
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
left.semilogx(eps_line, correlation, color=BLUE, label="exact")
left.semilogx(eps_line[13:], 0.5 / eps_line[13:], color="k", ls=":", label="$st/\\varepsilon$")
left.set(title="correlation of the ends", xlabel="$\\varepsilon$", ylim=(0, 1.05))
left.legend()
exact = 2.5**2 + 0.5**2  # W_2^2: the means, and the standard deviations 1 and 1/2
right.loglog(eps_line, scaled, color=BLUE, label="$2\\varepsilon$ KL")
right.loglog(eps_line, scaled / (2 * eps_line), color=ORANGE, label="KL")
right.axhline(exact, color="k", ls=":", label="$W_2^2$")
right.set(title="the cost of the bridge", xlabel="$\\varepsilon$")
right.legend()
plt.show()
assert abs(scaled[0] - exact - 1e-4 * np.log(2)) < 1e-7  # entropies differ by log 2; what is left is of order eps^2

# %% [markdown]
# ## Exercise: a plan for small $\varepsilon$
#
# Write a function that takes costs `C` (n, m) and `eps` and returns the entropic plan (n, m) of equal masses $1/n$ and
# $1/m$, right to $10^{-6}$ in both marginals. With $\varepsilon = 0.005$ and costs from 4.5 to 15 the kernel
# $e^{-C/\varepsilon}$ is below all numbers that a computer has: stay in logarithms. `turns` above shows half of it; be
# patient, or start from the potentials of a larger $\varepsilon$.

# %% tags=["exercise"]
attempt = None  # your turn: a function of (C, eps) that returns masses (n, m)


# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(C, eps):
    (n, m), g = C.shape, np.zeros(C.shape[1])
    for now in (*np.geomspace(C.max(), eps, 12)[:-1], eps):
        for _ in range(50 if now > eps else 1500):
            f = -now * (logsumexp((g - C) / now, axis=1) - np.log(m))
            g = -now * (logsumexp((f[:, None] - C) / now, axis=0) - np.log(n))
    return np.exp((f[:, None] + g - C) / eps) / (n * m)


# %% tags=["check"]
given = attempt or solution


def naive(C, eps):  # Sinkhorn in masses, as it is usually printed
    K, v = np.exp(-C / eps), np.ones(C.shape[1])
    with np.errstate(all="ignore"):
        for _ in range(500):
            u = 1 / C.shape[0] / (K @ v)
            v = 1 / C.shape[1] / (K.T @ u)
        return u[:, None] * K * v


def fault(masses, C, eps):
    if np.shape(masses) != C.shape or not np.isfinite(masses).all() or not np.all(np.asarray(masses) > 0):
        return f"masses are not {C.shape} positive numbers"
    if any(np.abs(np.sum(masses, axis=k) - 1 / C.shape[1 - k]).max() >= 1e-6 for k in (0, 1)):
        return "rows do not sum to 1 / n, or columns not to 1 / m: more turns?"
    cross = np.log(masses) + C / eps  # a sum f_i + g_j: its mixed differences vanish, up to rounding of C / eps
    mixed = np.abs(cross - cross[:1] - cross[:, :1] + cross[0, 0]).max()
    return "" if mixed < 1e-9 * C.max() / eps else "the marginals are right, the form exp((f + g - C) / eps) is not"


rng = np.random.default_rng(13)
C = 0.5 * (np.linspace(-1, 1, 12)[:, None] - np.linspace(2, 4.5, 15) + 0.1 * rng.standard_normal((12, 15))) ** 2
for eps in (1.0, 0.05, 5e-3):
    assert not (wrong := fault(given(C, eps), C, eps)), f"eps = {eps}: {wrong}"
assert not fault(naive(C, 1.0), C, 1.0) and fault(naive(C, 5e-3), C, 5e-3)  # it has underflowed

# %% [markdown]
# **Sources.** The Principles of Diffusion Models, 7.2-7.4 (PODB-70..92, figures 7.1-7.3; the factor $2\varepsilon$ is
# erratum E6 of PODB-88); Brenier 1991, McCann 1997, Benamou and Brenier 2000; Cuturi 2013; De Bortoli et al. 2021
# (IPF); Shi et al. 2023 and Peluchetti 2023 (IMF); Korotin et al. 2024 (bridges of mixtures).
