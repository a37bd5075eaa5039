# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 03 Scores, Tweedie and SURE
#
# The score $\nabla\log p_\sigma$ of noisy data says everything that denoising can know: the best guess of the clean
# point, its covariance, and even the error of a denoiser whose clean points nobody has. This notebook draws scores,
# verifies these three statements, and shows where a score that was learnt from samples is wrong.

# %%
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Ellipse
from scipy.stats import norm

from refdiff import Channel, Empirical, ExactModel, Gaussian, GaussianMixture, VEPower, VPLinear, plotting
from refdiff.distributions import random_mixture
from refdiff.dynamics import hutchinson, trace_variance
from refdiff.expectations import Quadrature, expectation

plotting.use_style()
BLUE, ORANGE, GREEN = plotting.PALETTE[:3]
SHAPES = [[[0.3, 0.1], [0.1, 0.1]], [[0.1, 0.0], [0.0, 0.3]], [[0.5, -0.2], [-0.2, 0.15]]]
LAW = GaussianMixture.full([[-2.0, -1.0], [1.8, -0.6], [0.2, 1.9]], SHAPES, [0.5, 0.3, 0.2])
model = ExactModel(LAW, VEPower())  # x = x_0 + t eps: the time is sigma itself
PLACES = np.linspace(-4.5, 4.5, 61)


def mean(law, function):  # by quadrature: the relative difference of the two finest sums is below 1e-9
    return expectation(law, function, Quadrature(1e-9)).value


# %% [markdown]
# ## Fields of scores, and of samples
#
# For a mixture $\nabla\log p(x) = -\sum_k r_k(x)\,S_k^{-1}(x-m_k)$: each component pulls as much as it is believed to
# be the origin of $x$. Noise $\sigma$ widens every $S_k$ to $S_k+\sigma^2I$, so that a field of many basins becomes
# one of a single basin: the levels of a noise-conditional score network. Arrows are the darker the longer the score.
#
# Below, the relative error of the score of 150 *samples* (blurred by the same noise), which is what denoising score
# matching converges to on a finite training set. Much noise hides that there are only 150; at little noise this score
# knows the samples one by one: among them it is wrong by its own size; far out, where it pulls to one sample with
# $1/\sigma^2$, by several times that. The exact score does not vanish far from the data, as is sometimes said: for two
# points at $\pm1$ and $\sigma = 0.1$ it is 95 at $x = 0.05$ and 300 at $x = -4$, beside 10 near the points. What
# vanishes is the density that weighs errors.

# %%
levels = (0.15, 0.6, 2.0)
fig, panels = plt.subplots(1, 3, figsize=(11, 3.7), layout="constrained", sharex=True, sharey=True)
for axes, level in zip(panels, levels, strict=True):
    plotting.density(axes, model.marginal(level), color=ORANGE)
    plotting.streamlines(axes, lambda x, t=level: model.score(x, t), PLACES, PLACES, density=0.6, color="0.75")
    plotting.arrows(axes, lambda x, t=level: model.score(x, t), PLACES[3::6], PLACES[3::6], unit=True)
    axes.set(title=f"scores at $\\sigma$ = {level}", aspect="equal", xlim=(-4.5, 4.5), ylim=(-4.5, 4.5))
plt.show()

# %%
points = ExactModel(Empirical(LAW.sample(150, 1)), VEPower())
plane = np.stack(np.meshgrid(PLACES, PLACES), axis=-1)
fig, panels = plt.subplots(1, 3, figsize=(11, 3.3), layout="constrained", sharex=True, sharey=True)
for axes, level in zip(panels, levels, strict=True):
    exact = model.score(plane, level)
    wrong, size = (np.linalg.norm(v, axis=-1) for v in (points.score(plane, level) - exact, exact))
    weight = np.exp(model.log_density(plane, level))
    typical = np.sqrt((weight * wrong**2).sum() / (weight * size**2).sum())
    print(f"sigma = {level}: relative error {typical:.2f}, root mean square over noisy points")
    plotting.error_map(axes, wrong / size, PLACES, PLACES, floor=1e-2, ceiling=10.0, label="relative error")
    axes.plot(*points.distribution.means.T, ".", color=ORANGE, ms=2)
    axes.set(title=f"score of 150 samples, $\\sigma$ = {level}", aspect="equal")
plt.show()
pair = ExactModel(Empirical([[-1.0], [1.0]]), VEPower())
far = abs(pair.score([[0.05], [-4.0]], 0.1)[:, 0])
near = np.sqrt(mean(pair.marginal(0.1), lambda x: pair.score(x, 0.1)[:, 0] ** 2))
assert np.allclose([*far, near], [95, 300, 10], rtol=2e-3)  # tanh(5) is 1 - 9e-5, and 0.01^-1 times that

# %% [markdown]
# ## Tweedie: the score denoises
#
# For $x = \alpha x_0 + \sigma\varepsilon$
#
# $$\alpha\,\mathbb E[x_0\mid x] = x + \sigma^2\nabla\log p(x),\qquad
# \alpha^2\operatorname{Cov}[x_0\mid x] = \sigma^2 I + \sigma^4\nabla^2\log p(x).$$
#
# The left sides are Bayes' rule, the right sides derivatives of one function. A step of size $\sigma^2$ along the
# score *is* the denoised point only for $\alpha = 1$. Lines go from $x/\alpha$ (blue) to $\mathbb E[x_0\mid x]$
# (orange), ellipses are one standard deviation of what is left open; they are long between two components.

# %%
vp, t = ExactModel(LAW, VPLinear()), 0.2
c = vp.process.coefficients(t)
x = vp.sample(400, t, 3)
bayes, spread = vp.denoiser(x, t), vp.posterior_covariance(x, t)
tweedie = (x + c.sigma**2 * vp.score(x, t)) / c.alpha
second = (c.sigma**2 * np.eye(2) + c.sigma**4 * vp.hessian(x, t)) / c.alpha**2
assert np.allclose(bayes, tweedie, rtol=0, atol=1e-12)  # sums of three terms of size 1
assert np.allclose(spread, second, rtol=0, atol=1e-12)
assert not np.allclose(bayes, tweedie * c.alpha, rtol=0, atol=1e-2)  # one step along the score, not divided by alpha
assert not np.allclose(spread, second - c.sigma**2 * np.eye(2) / c.alpha**2, rtol=0, atol=1e-2)
fig, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
plotting.density(axes, LAW, color=ORANGE, filled=False)
shown = [[-3, -2], [-2.2, 0.3], [-0.1, -0.8], [1.1, 1], [-0.9, 0.8], [3, -0.2], [1.5, -2], [0.3, 2.9], [-1, 2.5]]
shown = c.alpha * np.array(shown)
clean, ellipses = vp.denoiser(shown, t), vp.posterior_covariance(shown, t)
plotting.pairs(axes, shown / c.alpha, clean)
axes.scatter(*np.vstack([shown / c.alpha, clean]).T, s=25, c=[BLUE] * len(shown) + [ORANGE] * len(shown), zorder=3)
for middle, matrix in zip(clean, ellipses, strict=True):
    (small, large), basis = np.linalg.eigh(matrix)
    angle = np.degrees(np.arctan2(basis[1, 1], basis[0, 1]))
    axes.add_patch(Ellipse(middle, 2 * np.sqrt(large), 2 * np.sqrt(small), angle=angle, fc=BLUE, ec=BLUE, alpha=0.25))
axes.set(title=f"Tweedie at t = {t}", xlabel="$x_1$", ylabel="$x_2$", aspect="equal", xlim=(-3.8, 3.4))
plt.show()

# %% [markdown]
# ## Three losses, one minimum
#
# A model $s$ should match the score. What one would like to minimise needs $\nabla\log p_\sigma$; two others do not:
#
# | | loss | needs |
# |---|---|---|
# | explicit | $\tfrac12\mathbb E\lVert s-\nabla\log p_\sigma\rVert^2$ | the score |
# | denoising | $\tfrac12\mathbb E\lVert s(x_0+\sigma\varepsilon)+\varepsilon/\sigma\rVert^2$ | pairs |
# | implicit (Hyvärinen) | $\mathbb E[\operatorname{tr}\nabla s + \tfrac12\lVert s\rVert^2]$ | a trace |
#
# They differ by constants: denoising minus explicit is $\tfrac{1}{2\sigma^4}\mathbb E\operatorname{tr}
# \operatorname{Cov}[x_0\mid x]$, so its minimum is not 0 and says nothing about quality by itself; explicit minus
# implicit is $\tfrac12\mathbb E\lVert\nabla\log p_\sigma\rVert^2$, by Stein's identity. In terms of an energy
# $E = -\log p$ the trace has a minus sign, which one text loses: that loss has no minimum at the data.
# The candidates are scores of the same data at a wrong level of noise $\sigma'$.

# %%
line = GaussianMixture.isotropic([[-1.2], [0.9]], [0.1, 0.2], [0.4, 0.6])
noisy, sigma = ExactModel(line, VEPower()), 0.5
law, joint = noisy.marginal(sigma), Channel([[1.0], [1.0]], 0.0, [0.0, sigma**2]).push(line)  # of x, and of (x_0, x)


def losses(s, trace):
    explicit = mean(law, lambda x: 0.5 * (s(x) - law.score(x))[:, 0] ** 2)
    denoising = mean(joint, lambda p: 0.5 * (s(p[:, 1:])[:, 0] + (p[:, 1] - p[:, 0]) / sigma**2) ** 2)
    square, divergence = mean(law, lambda x: 0.5 * s(x)[:, 0] ** 2), mean(law, trace)
    return explicit, denoising, divergence + square, -divergence + square


guesses = np.linspace(0.2, 1.4, 17)
found = np.array([losses(lambda x, g=g: noisy.score(x, g), noisy.marginal(g).laplacian) for g in guesses])
constant = mean(law, lambda x: noisy.posterior_covariance(x, sigma)[:, 0, 0]) / (2 * sigma**4)
fisher = mean(law, lambda x: 0.5 * law.score(x)[:, 0] ** 2)
assert np.allclose(found[:, 1] - found[:, 0], constant, rtol=1e-6)  # differences of sums that are known to 1e-9
assert np.allclose(found[:, 0] - found[:, 2], fisher, rtol=1e-6)
assert np.allclose(guesses[found.argmin(axis=0)], [sigma] * 3 + [guesses[-1]])  # the misprint falls on and on
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
names = {"explicit": BLUE, "denoising": GREEN, "implicit": ORANGE, "with the sign lost": "0.6"}
for values, (name, color) in zip(found.T, names.items(), strict=True):
    left.plot(guesses, values, color=color, label=name)
left.axvline(sigma, color="0.8", lw=1)
left.set(xlabel="$\\sigma'$ of the candidate", title="Three losses and a misprint", ylim=(-2, 8))
left.legend(ncols=2)
x0, noise = line.sample(300, 4), np.random.default_rng(5).standard_normal((300, 1))
drawn = np.array([0.5 * (noisy.score(x0 + sigma * noise, g) + noise / sigma)[:, 0] ** 2 for g in guesses])
error = drawn.std(axis=1) / np.sqrt(300)
right.errorbar(guesses, drawn.mean(axis=1), error, fmt=".", color=GREEN, label="300 pairs, one standard error")
right.plot(guesses, found[:, 1], color=GREEN, label="denoising, exactly")
right.axhline(constant, color="0.6", ls=":", label="its minimum")
right.set(xlabel="$\\sigma'$ of the candidate", title="The denoising loss, from pairs", ylim=(0, 4))
right.legend()
assert (abs(drawn.mean(axis=1) - found[:, 1]) < 4.5 * error).all()  # each of 17 numbers is beyond 4.5 once in 10^5
plt.show()

# %% [markdown]
# ## SURE: the error of a denoiser, without clean data
#
# For any (weakly differentiable) $D$ and $x = x_0+\sigma\varepsilon$ with a *fixed, unknown* $x_0$
#
# $$\mathrm{SURE}(x) = \lVert D(x)-x\rVert^2 + 2\sigma^2\operatorname{div}D(x) - d\sigma^2,\qquad
# \mathbb E_\varepsilon\,\mathrm{SURE} = \mathbb E_\varepsilon\lVert D(x)-x_0\rVert^2.$$
#
# It contains no $x_0$. With $D = x+\sigma^2 s$ it is $2\sigma^4$ times the implicit loss plus $d\sigma^2$: Stein's
# and Hyvärinen's are one idea, and its minimiser over all $D$ is Tweedie's. Below, soft thresholding of 400
# coordinates of which 40 are not zero: SURE of a *single* noisy vector finds nearly the best threshold. One draw of it
# is no risk, though: it scatters, and in one dimension it is often negative.


# %%
def sure(x, cleaned, divergence, sigma):
    return ((cleaned - x) ** 2).sum(axis=-1) + 2 * sigma**2 * divergence - x.shape[-1] * sigma**2


def risk(mean, cut):  # of soft thresholding N(mean, 1) at `cut`, for each coordinate (Donoho and Johnstone 1994)
    inside = norm.cdf(cut - mean) - norm.cdf(-cut - mean)
    edge = (cut - mean) * norm.pdf(cut + mean) + (cut + mean) * norm.pdf(cut - mean)
    return 1 + cut**2 + (mean**2 - cut**2 - 1) * inside - edge


for start in (-1.2, 0.1, 2.0):  # one fixed x_0, the exact denoiser of `line`: both sides by quadrature over the noise
    shaken = Gaussian([start], sigma**2)
    estimated = mean(shaken, lambda x: sure(x, noisy.denoiser(x, sigma), 1 + sigma**2 * law.laplacian(x), sigma))
    without = mean(shaken, lambda x: sure(x, noisy.denoiser(x, sigma), 0.0, sigma))
    true = mean(shaken, lambda x, a=start: (noisy.denoiser(x, sigma)[:, 0] - a) ** 2)
    assert np.isclose(estimated, true, rtol=0, atol=1e-8) and not np.isclose(without, true, rtol=0, atol=0.05)
x = noisy.sample(4000, sigma, 4)
below = np.mean(sure(x, noisy.denoiser(x, sigma), 1 + sigma**2 * law.laplacian(x), sigma) < 0)
rng, cuts = np.random.default_rng(5), np.linspace(0, 3.5, 80)
hidden = np.where(np.arange(400) < 40, 4.0, 0.0)
x = hidden + rng.standard_normal((500, 400))
soft = np.sign(x) * np.maximum(abs(x) - cuts[:, None, None], 0)
estimates = np.array([sure(x, y, (abs(y) > 0).sum(axis=-1), 1.0) for y in soft])
squares = ((soft[:, 0] - hidden) ** 2).sum(axis=-1)
truth = np.array([risk(hidden, cut).sum() for cut in cuts])
# 80 numbers, each beyond 4.5 once in 10^5; with threshold 0 SURE is 400 in each draw
assert (abs(estimates.mean(axis=1) - truth) < 4.5 * estimates.std(axis=1) / np.sqrt(500) + 1e-9).all()
best = truth[estimates.argmin(axis=0)] / truth.min() - 1
print(f"The threshold of smallest SURE costs a risk {best.mean():.1%} above the least, {best.max():.0%} at worst.")
print(f"On the line SURE of the exact denoiser is negative for {below:.0%} of all points.")
fig, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
low, high = np.quantile(estimates, [0.05, 0.95], axis=1)
axes.fill_between(cuts, low, high, color=BLUE, alpha=0.15, lw=0, label="SURE of 90% of all draws")
axes.plot(cuts, estimates[:, 0], color=BLUE, lw=1, label="SURE of one draw: computable")
axes.plot(cuts, squares, color=ORANGE, lw=1, label="its error: not computable")
axes.plot(cuts, truth, color="black", ls="--", label="risk, exactly")
axes.set(xlabel="threshold", ylabel="squared error", title="Soft thresholding in 400 dimensions, 40 of them 4")
axes.legend()
plt.show()

# %% [markdown]
# ## Traces without Jacobians
#
# SURE, the implicit loss and likelihoods need a divergence, $\operatorname{tr}J$, of which networks give products
# $Ju$ only. Hutchinson: $\operatorname{tr}J = \mathbb E\,u^\top Ju$ for probes with $\mathbb E\,uu^\top = I$. The
# variance is known exactly: $2\lVert S\rVert_F^2$ for normals, and without the diagonal's $2\sum_i S_{ii}^2$ for
# random signs ($S$ the symmetric part). Orthogonal probes never ask one direction twice, and $d$ of them are exact.

# %%
wide = ExactModel(random_mixture(32, 6, 6, "full"), VEPower())
jacobian = wide.denoiser_jacobian(wide.sample(1, 1.0, 7)[0], 1.0)
many, counts = np.broadcast_to(jacobian, (1000, 32, 32)), np.array([1, 2, 4, 8, 16, 31])
fig, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
for kind, color in (("gaussian", ORANGE), ("rademacher", BLUE), ("orthogonal", GREEN)):
    known = np.sqrt([trace_variance(jacobian, kind, int(m)) for m in counts])
    errors = np.array([hutchinson(many, int(m), seed=8, probe=kind).value for m in counts]) - np.trace(jacobian)
    # 1000 squares of nearly normal numbers: their root mean square is known to 2.2 to 2.6%, four of these are 10%
    assert np.allclose(errors.std(axis=1), known, rtol=0.1)
    axes.loglog(counts, known, color=color, label=kind)
    axes.loglog(counts, errors.std(axis=1), "o", color=color)
axes.set(xlabel="probes", ylabel="standard error of the trace", title="Hutchinson in 32 dimensions: exact and measured")
axes.set_xticks(counts, counts, minor=False)
axes.legend()
plt.show()

# %% [markdown]
# ## Sampling with scores
#
# Langevin's iteration $x\leftarrow x+\eta\,\nabla\log p_\sigma(x)+\sqrt{2\eta}\,z$ keeps $p_\sigma$ up to an error of
# order $\eta$. At the smallest level alone it hardly ever leaves the basin where it began; with the noise lowered
# step by step, $\eta_l = \delta\sigma_l^2$, it meets the modes while they are one. The loop must *include* the
# smallest level: one printed algorithm stops before it, and leaves a point with the variance of the level above.

# %%
ladder, delta, per_level = np.geomspace(4.0, 0.1, 10), 0.1, 60


def langevin(x, levels, rng):
    walk = [x]
    for level in np.repeat(levels, per_level):
        step = delta * level**2
        walk.append(walk[-1] + step * model.score(walk[-1], level) + np.sqrt(2 * step) * rng.standard_normal(x.shape))
    return np.array(walk)


rng = np.random.default_rng(9)
fig, panels = plt.subplots(1, 3, figsize=(11, 3.5), layout="constrained", width_ratios=(1, 1, 0.8))
shares = {"true": LAW.weights}
for axes, levels, name in zip(panels, ([0.1] * 10, ladder), ("the smallest level only", "annealed"), strict=False):
    walk = langevin(ladder[0] * rng.standard_normal((1500, 2)), levels, rng)
    plotting.density(axes, model.marginal(0.1), color=GREEN, filled=False)
    plotting.trajectories(axes, walk[::5, :6], alpha=0.25)  # every fifth step of six
    axes.set(title=f"Langevin: {name}", xlim=(-6, 6), ylim=(-6, 6), aspect="equal")
    shares[name] = model.marginal(0.1).responsibilities(walk[-1]).mean(axis=0)
for k, ((name, share), color) in enumerate(zip(shares.items(), ("0.6", ORANGE, BLUE), strict=True)):
    panels[2].bar(np.arange(3) + 0.27 * (k - 1), share, 0.25, label=name, color=color)
panels[2].set(title="share of each component", xticks=range(3), xticklabels=("left", "right", "top"))
panels[2].legend()
off = [abs(share - LAW.weights).max() for share in shares.values()]
print(f"shares are wrong by up to {off[1]:.2f} at one level, {off[2]:.2f} annealed")
assert off[2] < 0.2 * off[1]
plt.show()


def last_variance(levels, v=100.0):  # 100 steps a level on data at 0: V -> (1 - delta)^2 V + 2 delta sigma^2
    for level in np.repeat(levels, 100):
        v = (1 - delta) ** 2 * v + 2 * delta * level**2
    return v * (1 - delta / 2)  # without what the length of the steps adds


ten = np.geomspace(10, 0.1, 10)
assert np.isclose(last_variance(ten), 0.1**2, rtol=1e-6)  # of the level before 0.9^200 is left
assert np.isclose(last_variance(ten[:-1]), 0.167**2, rtol=1e-2)  # the printed loop: that of the level above

# %% [markdown]
# ## Exercise: SURE when the noise has a shape
#
# Let $x = x_0 + \xi$ with $\xi\sim\mathcal N(0, C)$ and any covariance $C$. Write a function of (x, cleaned,
# jacobian, C): noisy points (n, d), what a denoiser makes of them (n, d), its Jacobian there (n, d, d) and the matrix
# C (d, d). It returns an unbiased estimate of $\lVert D(x)-x_0\rVert^2$ for each point, shape (n,). Stein's identity
# for such noise is $\mathbb E\,\xi^\top h(\xi) = \mathbb E\operatorname{tr}(C\,\nabla h)$.

# %% tags=["exercise"]
attempt = None  # your turn: a function of (x, cleaned, jacobian, C) that returns SURE, shape (n,)


# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(x, cleaned, jacobian, C):
    # |D - x_0|^2 = |D - x|^2 + 2 (D - x).xi + |xi|^2, whose second term is 2 tr C (J - I) on average
    return ((cleaned - x) ** 2).sum(axis=-1) + 2 * np.einsum("ij,nji->n", C, jacobian) - np.trace(C)


# %% tags=["check"]
given = attempt or solution
shaped = Channel(1.0, 0.0, C := np.array([[0.9, 0.3], [0.3, 0.2]]))


def gap(function, start):  # of its expectation over the noise to the risk at x_0 = start
    def term(x):
        cleaned, jacobian = shaped.posterior_mean(LAW, x), shaped.posterior_cov(LAW, x) @ np.linalg.inv(C)
        found = np.array(function(x, cleaned, jacobian, C), float)
        assert found.shape == x.shape[:1], f"one number for each point, shape {x.shape[:1]}, got {found.shape}"
        return found - ((cleaned - start) ** 2).sum(axis=-1)

    return abs(expectation(Gaussian(start, C), term, Quadrature(1e-7), scale=1e3).value)


def good(function):  # a lattice that sees the risk, of size 1, to 1e-7
    return all(gap(function, start) < 1e-6 for start in ([0.3, -0.5], [-1.5, 1.0]))


def round_noise(x, cleaned, jacobian, C):  # the tempting mistake: the mean variance, and the divergence
    return sure(x, cleaned, np.trace(jacobian, axis1=1, axis2=2), np.sqrt(np.trace(C) / 2))


assert good(given), "not unbiased: expand |D - x_0|^2 around x, and use Stein's identity for the mixed term"
assert not good(round_noise)
print("unbiased at two points")

# %% [markdown]
# Sources: PODA-303, PODA-305, PODA-310 to PODA-334 (figures 3.2, 3.3 and 3.5 to 3.7), PODD-104 to PODD-106. Robbins
# 1956; Stein 1981; Hyvärinen 2005; Vincent 2011; Song and Ermon 2019.
