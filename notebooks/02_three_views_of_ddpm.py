# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 02 Three views of DDPM
#
# The same algorithm is a hierarchical latent-variable model with a variational bound, a denoiser trained by score
# matching, and a discretised stochastic differential equation. With an exact denoiser in place of the network every
# term of each view is a number; this notebook puts the numbers side by side, and then shows what the choices that the
# views leave open (which prediction, which variance, how many steps) cost exactly.

# %%
from itertools import pairwise, product

import matplotlib.pyplot as plt
import numpy as np

from refdiff import PREDICTIONS, ExactModel, Gaussian, GaussianMixture, VPLinear, convert, plotting
from refdiff.distributions import cdf, entropy, kl_divergence, ring
from refdiff.dynamics import path
from refdiff.expectations import Quadrature, expectation
from refdiff.metrics import divergence
from refdiff.objectives import posterior_step, standard_prior, variational_bound
from refdiff.processes.beta_table import linear
from refdiff.samplers import propagate, run
from refdiff.samplers.ancestral import ddpm
from refdiff.samplers.ddim import ddim

plotting.use_style()
BLUE, ORANGE, GREEN, PINK = plotting.PALETTE[:4]
LINE = GaussianMixture.isotropic([[-1.6], [0.4], [1.9]], [0.02, 0.01, 0.04], [0.5, 0.3, 0.2])
model = ExactModel(LINE, VPLinear())

# %% [markdown]
# ## First view: a bound, term by term
#
# Noising is a chain $x_0\to x_1\to\dots\to x_T$; DDPM walks it back with Gaussian kernels. Given the end *and the
# start* a step back is Gaussian,
#
# $$q(x_{t-1}\mid x_t, x_0) = \mathcal N\!\Big(
# \underbrace{\tfrac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}}_A x_0 +
# \underbrace{\tfrac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}}_B x_t,\ \tilde\beta_t I\Big),$$
#
# and the model puts its denoiser where $x_0$ stands. The bound on $-\log p(x_0)$ is
#
# $$\mathrm{KL}\big(q(x_T\mid x_0)\,\|\,\mathcal N(0, I)\big) + \mathbb E[-\log p(x_0\mid x_1)] + \sum_{t=2}^T
# \mathbb E\,\mathrm{KL}\big(q(x_{t-1}\mid x_t, x_0)\,\|\,p(x_{t-1}\mid x_t)\big).$$
#
# The sum starts at 2: from 1, as some texts print it, it has the divergence of a point from a Gaussian, infinite. Its
# terms with $\tilde\beta_t$ are $\tfrac12(\mathrm{SNR}_{t-1}-\mathrm{SNR}_t)\,\mathbb E\lVert x_0 - D\rVert^2$.
#
# How far the bound is from the entropy depends on the number of steps and on the variance of the kernels. For
# Gaussian data of standard deviation 1/2 everything is closed: *small* is $\tilde\beta_t$, *large* is $\beta_t$,
# *matched* is $\tilde\beta_t + A^2\,\mathbb E\operatorname{Var}[x_0\mid x_t]$, the best constant.

# %%
i, x0, xt, steps = 300, 0.7, -1.2, linear()
q, bar = steps.posterior(), steps.alpha_bar[i - 2]
forward = ExactModel(Gaussian([0.0], 1.0), steps).process.channel(i - 1, i)
back = forward.reverse(Gaussian([np.sqrt(bar) * x0], 1 - bar))  # Bayes' rule, with x_{i-1} given x_0 for the prior
printed = q.of_x0[i - 1] * x0 + q.of_xt[i - 1] * xt
assert np.allclose([back.gain * xt + back.offset[0], back.noise], [printed, q.variance[i - 1]], rtol=1e-12)  # rounding
assert not np.isclose(back.noise, steps.betas[i - 1], rtol=1e-4)
grid, fine = np.linspace(0.02, 1.0, 50), Quadrature(1e-8)
bound = variational_bound(model, grid, route=fine)
nats = expectation(LINE, lambda x: -LINE.logpdf(x), fine).value  # the entropy of the data: no bound is below
print(f"prior {bound.prior:.5f} + reconstruction {bound.reconstruction:.4f} + steps {bound.diffusion:.4f}"
      f" = {bound.total:.4f} nats; the entropy of the data is {nats:.4f}")  # fmt: skip
assert bound.total > nats
ratio = np.exp(2 * model.process.schedules[0].log_snr(grid))
left = [expectation(model.marginal(t), lambda x, t=t: model.posterior_covariance(x, t), fine).value[0, 0] for t in grid]
assert np.allclose(bound.steps, -0.5 * np.diff(ratio) * left[1:], rtol=1e-7)  # two quadratures of tolerance 1e-8
assert not np.allclose(bound.steps, -0.5 * np.diff(ratio) * left[:-1], rtol=1e-2)  # the error of the wrong end
counts = np.unique(np.geomspace(5, 640, 12).astype(int))
half, kinds = ExactModel(Gaussian([0.0], 0.25), VPLinear()), ("large", "small", "matched")


def excess(model, n, variances, least, route=None):
    return variational_bound(model, np.linspace(0.01, 1, n), variances=variances, route=route).total - least


gap = {name: np.array([excess(half, n, name, entropy(half.distribution)) for n in counts]) for name in kinds}
mixed = np.array([excess(model, n, "matched", nats, Quadrature(1e-6)) for n in counts[:7]])
prior = kl_divergence(half.marginal(1.0), standard_prior(half.process, 1))
assert np.allclose(gap["matched"], prior, rtol=0, atol=1e-11)  # only the prior is wrong; sums of 640 terms
assert np.allclose(gap["small"][-3:] * counts[-3:], gap["small"][-1] * counts[-1], rtol=0.1)  # first order in 1/T
fig, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
plotting.convergence(axes, counts, gap["large"], label=r"Gaussian data, large: $\beta_t$", color=ORANGE)
plotting.convergence(axes, counts, gap["small"], label=r"Gaussian data, small: $\tilde\beta_t$", color=BLUE, order=1)
plotting.convergence(axes, counts[:7], mixed, label="three modes, matched", color=PINK)
axes.set(ylabel="bound minus entropy, nats", title=f"What Gaussian kernels cost (Gaussian data, matched: {prior:.0e})")
axes.legend()
plt.show()
print(f"with 640 steps small costs {gap['small'][-1]:.3f} nats, large {gap['large'][-1]:.4f}")

# %% [markdown]
# The matched variance costs Gaussian data nothing, in however few steps; at 640 small still costs fifty times large.
#
# ## Second view: regression on noise is score matching
#
# Under the bound each step is a weighted $\lVert\varepsilon-\hat\varepsilon(x_t)\rVert^2$. Least squares finds
# conditional means, and $\mathbb E[\varepsilon\mid x_t] = -\sigma_t\nabla\log p_t(x_t)$ for any data. So whoever
# regresses the noise on the noisy point learns the score, without a density in sight. Here a "network" that is
# constant on 60 bins sees 40 000 pairs at t = 0.12. Its optimum is known too: on a bin $[a, b]$ it is
# $-\sigma_t\,\frac{p_t(b)-p_t(a)}{P_t(b)-P_t(a)}$.

# %%
t, rng = 0.12, np.random.default_rng(0)
c, pt = model.process.coefficients(t), model.marginal(t)
noise = rng.standard_normal((40_000, 1))
x = c.alpha * LINE.sample(len(noise), rng) + c.sigma * noise
edges, look = np.linspace(-2.6, 2.9, 61), np.linspace(-2.6, 2.9, 400)[:, None]
bins = [noise[(a <= x) & (x < b)] for a, b in pairwise(edges)]
fitted, error = np.array([(e.mean(), e.std() / np.sqrt(len(e))) for e in bins]).T
optimum = -c.sigma * np.diff(np.exp(pt.logpdf(edges[:, None]))) / np.diff(cdf(pt, edges[:, None]))
assert abs((fitted - optimum) / error).max() < 5  # the largest of 60 unit normals is above 5 once in 30 000 times
assert abs((fitted + optimum) / error).max() > 50  # the sign is not free
fig, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
axes.plot(x[:3000, 0], noise[:3000, 0], ".", color="0.75", ms=2, label="pairs $(x_t, \\varepsilon)$", rasterized=True)
axes.stairs(fitted, edges, color=ORANGE, lw=2, label="least squares on bins", baseline=None)
axes.plot(look, model.noise(look, t), color=BLUE, label=r"$-\sigma_t\nabla\log p_t$")
axes.set(xlabel="$x_t$", ylabel=r"$\varepsilon$", xlim=(-2.6, 2.9), ylim=(-3.4, 4.6), title="Learning the score")
axes.legend(loc="upper left", ncols=3, markerscale=4)
plt.show()

# %% [markdown]
# ## Third view: two equations
#
# Small steps back follow $\mathrm dx = [f x - g^2\nabla\log p_t]\,\mathrm dt + g\,\mathrm d\bar w$; the same
# densities are carried without noise by $\dot x = f x - \tfrac12 g^2\nabla\log p_t$. DDPM's sampler is the algorithm
# of Ho et al. in four lines; as a `Tableau` it is one table of numbers, and the probability flow is `path`. Both run
# from right to left here, and from the same 24 points.

# %%
steps = linear(200, 5e-4, 0.1)  # a fifth of the steps, five times the betas
beta, bar = np.append(0.0, steps.betas), np.append(1.0, steps.alpha_bar)
learnt, z = ExactModel(LINE, steps), rng.standard_normal((200, 24, 1))
walk = [learnt.sample(24, 200, 3)]
for i in range(200, 0, -1):
    mean = (walk[-1] - beta[i] / np.sqrt(1 - bar[i]) * learnt.noise(walk[-1], i)) / np.sqrt(1 - beta[i])
    walk.append(mean + np.sqrt(beta[i] * (1 - bar[i - 1]) / (1 - bar[i])) * z[200 - i])
table = run(ddpm(steps, np.arange(200.0, -1, -1)), learnt, walk[0], normals=z[:199])  # the last step adds none
assert np.allclose(walk[-1], table, rtol=0, atol=1e-9)  # 200 steps of rounding, which the flow may magnify a little
large = run(ddpm(steps, np.arange(200.0, -1, -1), variance="beta"), learnt, walk[0], normals=z[:199])
assert not np.allclose(walk[-1], large, rtol=0, atol=1e-3)
smooth = path(learnt, walk[0], np.linspace(200, 0, 51), rtol=1e-5, atol=1e-7).x
fig, panels = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained", sharey=True)
for axes, lines, name in zip(panels, (np.stack(walk), smooth), ("DDPM", "probability flow"), strict=True):
    plotting.density_in_time(axes, learnt.log_density, np.linspace(0, 200, 101), np.linspace(-3.5, 3.5, 141))
    plotting.trajectories(axes, lines, np.linspace(200, 0, len(lines)), alpha=0.4)
    axes.set(title=f"{name}: the same marginals", xlabel="step")
plt.show()

# %% [markdown]
# ## Five predictions, one piece of knowledge
#
# As $x = \alpha D + \sigma\hat\varepsilon$, any prediction gives the others: $s = -\hat\varepsilon/\sigma$,
# $u = \alpha'D + \sigma'\hat\varepsilon$ (velocity), $v = \alpha\hat\varepsilon - \sigma D$. (A well-known diagram of
# these conversions prints $u = \alpha D + \sigma\hat\varepsilon$ in its caption; that is $x$ itself.) What differs is
# how an *error* of the prediction arrives in $D$: multiplied by a factor that depends on the level of noise.

# %%
x = model.sample(50, 0.4, 4)
for source, target in product(PREDICTIONS, repeat=2):
    got = convert(model.predict(x, 0.4, source), x, 0.4, VPLinear(), source, target)
    assert np.allclose(got, model.predict(x, 0.4, target), rtol=0, atol=1e-10)  # quotients of numbers near 1
c = model.process.coefficients(0.4)
misprint = c.alpha * model.denoiser(x, 0.4) + c.sigma * model.noise(x, 0.4)
assert np.allclose(misprint, x) and not np.allclose(misprint, model.velocity(x, 0.4))
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
top, east, low, west = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])
for a, b, label, formula in (
    (top, east, (0.7, 0.65), r"$x = \alpha D + \sigma\hat\varepsilon$"),
    (east, low, (0.65, -0.6), r"$s = -\hat\varepsilon/\sigma$"),
    (low, west, (-0.65, -0.6), r"$u = f x - \frac{1}{2}g^2 s$"),
    (west, top, (-0.7, 0.65), r"$D = \dfrac{\sigma u - \sigma' x}{\alpha'\sigma - \alpha\sigma'}$"),
    (top, low, (0.0, 0.4), r"$D = \dfrac{x + \sigma^2 s}{\alpha}$"),
    (west, east, (0.4, 0.0), r"$u = \alpha' D + \sigma'\hat\varepsilon$"),
):
    left.annotate("", b, a, arrowprops={"arrowstyle": "<->", "color": "0.6", "shrinkA": 28, "shrinkB": 28})
    left.text(*label, formula, ha="center", va="center", fontsize=11, bbox={"fc": "white", "ec": "none", "pad": 1})
names = ("denoiser\n$D$", "noise\n$\\hat\\varepsilon$", "score\n$s$", "velocity\n$u$")
for spot, name in zip((top, east, low, west), names, strict=True):
    left.text(*spot, name, ha="center", va="center", bbox={"boxstyle": "round,pad=0.4", "fc": "white", "ec": BLUE})
left.set(xlim=(-1.5, 1.5), ylim=(-1.3, 1.3), title="With x and t, each determines the rest")
left.axis("off")
clock = np.linspace(0.001, 1, 1000)
c = VPLinear().coefficients(clock)
slope = abs(c.dalpha * c.sigma - c.alpha * c.dsigma) / c.sigma
factors = (c.sigma**0, c.sigma / c.alpha, c.sigma**2 / c.alpha, 1 / slope, c.sigma)
for name, factor in zip(("denoiser", "noise", "score", "velocity", "v_prediction"), factors, strict=True):
    right.semilogy(clock, factor, label=name)
    bump = convert(model.predict(x, 0.4, name) + 1, x, 0.4, VPLinear(), name, "denoiser") - model.denoiser(x, 0.4)
    assert np.allclose(abs(bump), np.interp(0.4, clock, factor), rtol=1e-3)  # read off a line through two points
right.set(xlabel="t", title="Factor from an error of the prediction to one of $D$", ylim=(1e-3, 1e3))
right.legend(loc="upper left")
plt.show()

# %% [markdown]
# Near pure noise an error of $\hat\varepsilon$ arrives in $D$ some 150 times larger, near the data hardly at all; the
# factor of $v$ is $\sigma$, which is small near the data and at most 1.
#
# ## What the variance of the kernel costs: $\sigma = 0$ is not DDIM
#
# The mean of a step is right whatever the data. Its variance is right where it is matched: that is $\tilde\beta_t$ for
# data that are one point, $\beta_t$ for unit normal data. `propagate` gives the law of the output for Gaussian data.
#
# DDIM is what remains when no noise is added *and* the mean is changed to keep the marginals. Leaving out the noise
# alone iterates conditional means, and for Gaussian data, where these are affine, the tower rule
# $\mathbb E[\,\mathbb E[x_0\mid x_1]\mid x_T] = \mathbb E[x_0\mid x_T]$ makes of them one evaluation of the denoiser
# at pure noise, however many steps are taken: the standard deviation is $s^2\alpha_T/\sqrt{\alpha_T^2s^2+\sigma_T^2}$
# in place of $s$. On a ring, where they are not affine, points find the clusters but gather at their inner edges.

# %%
steps, normal = linear(), Gaussian([0.0], 0.25)
numbers = np.array([10, 20, 50, 100, 200, 500, 1000])
data = ExactModel(normal, steps)


def deviation(sampler, n, **how):  # of the output, exactly
    return np.sqrt(propagate(sampler(steps, np.linspace(1000, 0, n + 1), **how), normal).output.cov()[0, 0])


def matched(n):  # beta V_s / V_t: the variance of x_s given x_t, in n steps
    jumps, variance = pairwise(np.linspace(1000, 0, n + 1)), lambda t: data.marginal(t).cov()[0, 0]
    return [data.process.channel(s, t).noise * variance(s) / variance(t) for t, s in jumps]


small, large = ([deviation(ddpm, n, variance=kind) for n in numbers] for kind in ("posterior", "beta"))
best = [deviation(ddpm, n, variance=matched(n)) for n in numbers]
silent = [deviation(ddpm, n, variance=np.zeros(n)) for n in numbers]
print(f"variance in 1000 steps, for 0.25: {small[-1] ** 2:.6f} (small), {large[-1] ** 2:.6f} (large); "
      f"standard deviation without noise: {silent[0]:.4f} in 10 steps, {silent[-1]:.4f} in 1000")  # fmt: skip
assert np.allclose(best, 0.5, rtol=1e-10)  # exact for any number of steps, but for 1000 roundings
a = np.sqrt(steps.alpha_bar[-1])
assert np.allclose(silent, 0.25 * a / np.sqrt(0.25 * a**2 + 1 - a**2), rtol=1e-9)  # the tower rule
flower = ExactModel(ring(8, 1.6, 0.12), steps)
fig, panels = plt.subplots(1, 4, figsize=(12, 3.1), layout="constrained", width_ratios=(1.5, 1, 1, 1))
none = r"DDPM with $\sigma = 0$"
for values, name in (([deviation(ddim, n) for n in numbers], "DDIM"), (small, "DDPM, small"), (silent, none)):
    panels[0].loglog(numbers, values, "o-", label=name)
panels[0].axhline(0.5, color="0.6", ls=":")
panels[0].set(xlabel="steps", title="standard deviation, for 0.5", ylim=(1e-3, 2))
panels[0].legend(loc="center right")
grid, seeds = np.linspace(1000, 0, 101), flower.sample(400, 1000, 5)
tables = {"DDIM": ddim(steps, grid), "DDPM": ddpm(steps, grid), none: ddpm(steps, grid, variance=np.zeros(100))}
for axes, (name, table) in zip(panels[1:], tables.items(), strict=True):
    plotting.density(axes, flower.distribution, filled=False, color="0.6")
    axes.plot(*run(table, flower, seeds, seed=6).T, ".", ms=3, color=BLUE, rasterized=True)
    axes.set(title=f"{name}, 100 steps", xlim=(-2.4, 2.4), ylim=(-2.4, 2.4), aspect="equal")
plt.show()

# %% [markdown]
# ## How Gaussian is a step back?
#
# The bound's other assumption is the shape of the kernel. $q(x_s\mid x_t)$ is the mixture `channel(s, t).posterior`;
# the best Gaussian (orange) has its mean and variance. After long steps it bridges gaps between modes, which is why
# few-step samplers learn other kernels, against a discriminator whose best game is worth $-\log 4+2\,\mathrm{JSD}$.
# For short steps the JSD is the squared skewness over 48, and the skewness is of order $h^{3/2}$.

# %%
t, y = 0.5, np.array([0.3])
spans, line = np.geomspace(0.01, 0.45, 12), np.linspace(-5, 5, 4001)[:, None]
likely = [np.array([v]) for v in model.sample(24, t, 7)[:, 0]]


def kernels(h, y):
    exact = model.process.channel(t - h, t).posterior(model.marginal(t - h), y)
    return exact, Gaussian(exact.mean(), exact.cov())


def jsd(h, y):
    return divergence(*kernels(h, y), "js", Quadrature(1e-6)).value


def skewness(p, g):
    return np.exp(p.logpdf(line)) @ ((line - g.mean()) / np.sqrt(g.cov()))[:, 0] ** 3 * (line[1, 0] - line[0, 0])


apart = np.array([np.mean([jsd(h, v) for v in likely]) for h in spans])
ratio = [48 * jsd(h, y) / skewness(*kernels(h, y)) ** 2 for h in (0.002, 0.001, 0.0005)]
assert abs(2 * ratio[2] - ratio[1] - 1) < 1e-3  # 1.012 is 1 + 25 h; without that, a hundredth of it is left
print("JSD over skewness^2 / 48:", *(f"{r:.3f}" for r in ratio), f"at small h; at h = 0.45 the JSD is {apart[-1]:.2f}")
p, g = (np.exp(law.logpdf(line)) for law in kernels(0.4, y))
best = p / (p + g)  # the optimal discriminator
game = (p * np.log(best) + g * np.log(1 - best)).sum() * (line[1, 0] - line[0, 0])
assert np.isclose(game, -np.log(4) + 2 * jsd(0.4, y), rtol=0, atol=2e-6)  # twice what the lattice of the JSD allows
fig, panels = plt.subplots(1, 4, figsize=(12, 3.1), layout="constrained", width_ratios=(1, 1, 1, 1.5))
for axes, h in zip(panels, (0.1, 0.3, 0.45), strict=False):
    exact, gaussian = kernels(h, y)
    plotting.density(axes, exact, color=BLUE)
    plotting.density(axes, gaussian, color=ORANGE, filled=False)
    axes.set(title=f"from t = 0.5 to {t - h:.2f}", xlabel="$x_s$ given $x_t = 0.3$", xlim=(-3.5, 3.5), ylabel="")
panels[3].loglog(spans, apart, "o-", color=BLUE)
panels[3].axhline(np.log(2), color="0.6", ls=":")
panels[3].text(0.011, 0.45, "log 2: nothing in common", va="top", color="0.4")
panels[3].set(xlabel="length of the step", title="JSD to the best Gaussian, nats")
plt.show()

# %% [markdown]
# ## Exercise: the posterior of a jump
#
# Samplers skip steps. Write a function of (bar_s, bar_t), the values of $\bar\alpha$ before and after a jump
# (numbers, `bar_s > bar_t`), that returns the tuple (A, B, variance) of
# $q(x_s\mid x_t, x_0) = \mathcal N(Ax_0 + Bx_t, \text{variance})$. There is no $\beta_t$ of the jump in any table.

# %% tags=["exercise"]
attempt = None  # your turn: a function of (bar_s, bar_t) that returns (A, B, variance)


# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(bar_s, bar_t):
    beta = 1 - bar_t / bar_s  # of the jump
    parts = np.sqrt(bar_s) * beta, np.sqrt(1 - beta) * (1 - bar_s), beta * (1 - bar_s)
    return tuple(part / (1 - bar_t) for part in parts)


# %% tags=["check"]
given = attempt or solution
table, jumps = linear(), ((1000, 900), (500, 400), (250, 10))


def truth(t, s):
    found = posterior_step(table, s, t, 1)  # Bayes' rule for the channel from s to t
    return np.array([float(found.of_x0), float(found.of_xt), float(found.posterior)])


def of_the_table(bar_s, bar_t):  # the tempting mistake: beta_t of one step
    beta = table.betas[np.abs(table.alpha_bar - bar_t).argmin()]
    return np.array([np.sqrt(bar_s) * beta, np.sqrt(1 - beta) * (1 - bar_s), beta * (1 - bar_s)]) / (1 - bar_t)


def close(function):  # 1 - alpha_bar is above 0.002 here: subtraction leaves 13 digits
    found = [np.array(function(table.alpha_bar[s - 1], table.alpha_bar[t - 1]), float).squeeze() for t, s in jumps]
    right = [truth(t, s) for t, s in jumps]
    return {f.shape for f in found} == {(3,)} and np.allclose(found, right, rtol=1e-9, atol=0)


assert close(given), "not the (A, B, variance) of the posterior: the jump's own beta is 1 - bar_t / bar_s"
assert not close(of_the_table)
print("right on", ", ".join(f"{t} -> {s}" for t, s in jumps))

# %% [markdown]
# Sources: DMI-19 to DMI-28, DMI-31 to DMI-41, PODA-214 to PODA-227, PODB-54 to PODB-60 (figure 6.1), PODA-417 (figure
# 4.2). Ho, Jain and Abbeel 2020; Song, Meng and Ermon 2021; Xiao, Kreis and Vahdat 2022.
