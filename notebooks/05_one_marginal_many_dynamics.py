# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 05 One marginal, many dynamics
#
# The densities $p_t$ between data and noise do not say how a point should move. An ODE, Anderson's reverse SDE and
# everything between them, and beyond, share all of them. We see the same densities with different paths, measure how
# the paths differ, and find out what noise is good for: it forgets errors made early, and costs steps.

# %%
import matplotlib.pyplot as plt
import numpy as np

from refdiff import ExactModel, Gaussian, GaussianMixture, VEPower, VPLinear, plotting
from refdiff.distributions import cdf, total_variation
from refdiff.dynamics import quantile_flow
from refdiff.fokker_planck import FokkerPlanck, Grid, evolve
from refdiff.metrics import energy_distance
from refdiff.samplers import propagate, times
from refdiff.samplers.consistency import flow_map
from refdiff.samplers.reverse_sde import euler_maruyama
from refdiff.stochastic import StochasticEquation, marginal_family, solve

plotting.use_style()
NOISES = (0.0, 0.5, 1.0, 2.0)  # k: the noise in units of the forward process's g
process = VPLinear()
model = ExactModel(GaussianMixture.isotropic([[-1.0], [1.2]], [0.09, 0.25], weights=[0.4, 0.6]), process)

# %% [markdown]
# ## The family
#
# Take the probability flow's velocity $v$ and the score $s = \nabla\log p_t$. For any noise $\gamma(t) \ge 0$,
#
# $$dx = \Big[v - \tfrac{\gamma^2}2 s\Big]dt + \gamma\,d\bar w \quad (dt < 0,\ \text{to data}),\qquad
#   dx = \Big[v + \tfrac{\gamma^2}2 s\Big]dt + \gamma\,dw \quad (dt > 0,\ \text{to noise})$$
#
# all have the marginals $p_t$: in elapsed time $\tau = -t$ the law of the first solves
# $\partial_\tau p = -\nabla\!\cdot\big(({-v} + \tfrac{\gamma^2}2 s)\,p\big) + \tfrac{\gamma^2}2\Delta p$, and as
# $s\,p = \nabla p$ the two new terms cancel. $\gamma = 0$ is the PF-ODE, $\gamma = g$ Anderson's reversal. Divided by
# $p$, with $\Delta p/p = \nabla\!\cdot s + |s|^2$, the equation can be asked at single points, without a grid. One
# printed proof has the sign of $\gamma^2 s/2$ wrong: there the terms add up instead.

# %%
x, t = model.sample(200, 0.3, seed=0), 0.3
score, velocity = model.score(x, t), model.velocity(x, t)
div_score, div_velocity = model.hessian(x, t)[:, 0, 0], model.velocity_divergence(x, t)
rate = model.log_density_rate(x, t)  # d log p / dt, from the density


def residual(gamma2, sign):
    """d log p / d tau - [-div(b p) + gamma^2 lap p / 2] / p with the drift b = -v + sign gamma^2 s / 2."""
    div_b = -div_velocity + sign * gamma2 / 2 * div_score
    b_score = ((-velocity + sign * gamma2 / 2 * score) * score).sum(-1)
    return abs(-rate + div_b + b_score - gamma2 / 2 * (div_score + (score**2).sum(-1))).max()


g2 = process.coefficients(t).g2
print("k      right sign   wrong sign")
for k in NOISES:
    print(f"{k:<4}   {residual(k**2 * g2, 1):10.1e}   {residual(k**2 * g2, -1):10.1e}")
    assert residual(k**2 * g2, 1) < 1e-11  # rounding, of terms up to 1e3
assert residual(g2, -1) > 1

# %% [markdown]
# ## Same densities, different paths
#
# Five points start from the same places at $t = 1$ and run to the data, to the left. The image behind is $p_t$, exact.
# Of 2000 points the distribution at the end is held against the exact one: by the Dvoretzky-Kiefer-Wolfowitz bound
# $\sup|F_n - F|$ exceeds $\sqrt{\log(2/\delta)/2n}$ with probability $\delta$ at most.

# %%
grid = np.linspace(1, 0.01, 401)
bound = np.sqrt(np.log(2 / 1e-6) / (2 * 2000))  # delta = 1e-6
fig, several = plt.subplots(1, 3, figsize=(11, 3.3), sharey=True, layout="constrained")
for axes, k in zip(several, (0.0, 1.0, 2.0), strict=True):
    ends = np.sort(solve(marginal_family(model, k), model.sample(2000, 1.0, seed=3), grid, seed=7), axis=0)
    exact = cdf(model.marginal(0.01), ends).ravel()
    gap = max(abs(exact - np.arange(2000) / 2000).max(), abs(exact - np.arange(1, 2001) / 2000).max())
    assert gap < bound + 0.01  # Euler's steps of 1/400 move the law by less than 0.01
    assert abs(cdf(model.marginal(0.3), ends).ravel() - np.arange(2000) / 2000).max() > bound + 0.01  # p_0.3
    plotting.density_in_time(axes, model.log_density, np.linspace(0.01, 1, 80), np.linspace(-3, 3, 160))
    paths = solve(marginal_family(model, k), np.linspace(-1.6, 1.6, 5)[:, None], grid, seed=9, trajectory=True)
    plotting.trajectories(axes, paths, grid, color=plotting.PALETTE[1], alpha=0.9)
    axes.set(title=f"k = {k:g}: distance {gap:.3f} (bound {bound:.3f})", ylabel="x" if k == 0 else "", ylim=(-3, 3))
plt.show()

# %% [markdown]
# ## How they differ: the joint law of two times
#
# For Gaussian data with variance $S$, $V_t = \alpha_t^2S + \sigma_t^2$, the family with $\gamma = k g$ is linear, and
# $z = (x-\alpha m)/\sqrt V$ obeys $dz = -\tfrac{k^2g^2}{2V}z\,d\tau + \dots$. So $x_t$ and $x_0$ have the correlation
#
# $$\rho_k = \exp\Big(-\frac{k^2}2\int_0^t \frac{g^2}V\Big) = \rho_1^{k^2}, \qquad
#   \rho_1 = \alpha_t\sqrt{S/V_t},$$
#
# as $V' = 2fV + g^2$ integrates the exponent. $\rho_1$ is that of the forward process: only $k = 1$ reverses it as a
# process, in all its joint laws. $k = 0$ remembers everything, $k \to \infty$ nothing. `propagate` gives the exact
# joint law of a sampler's start and output, with no Monte Carlo; Euler-Maruyama's comes to the formula at first order.

# %%
data = Gaussian([0.5], 0.4)
start_times, sizes = np.linspace(0.02, 0.8, 40), (50, 100, 200, 400, 800)
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
for k, color in zip(NOISES, plotting.PALETTE, strict=False):
    c = [process.coefficients(t) for t in start_times]
    forward = np.array([a.alpha * np.sqrt(0.4 / (a.alpha**2 * 0.4 + a.sigma**2)) for a in c])
    left.plot(start_times, forward**k**2, color=color, label=f"k = {k:g}")
    errors = []
    for n in sizes:
        joint = propagate(euler_maruyama(process, np.linspace(0.5, 0, n + 1), noise=k), data)
        found = joint.cross_covariance().item() / np.sqrt(joint.start.cov() * joint.output.cov()).item()
        exact = (process.alpha(0.5) * np.sqrt(0.4 / joint.start.cov().item())) ** k**2
        errors.append(abs(found - exact))
    left.plot(0.5, found, "o", color=color)
    if k > 0:
        plotting.convergence(right, sizes, errors, label=f"k = {k:g}", order={1: 1}.get(k), color=color)
        assert abs(np.log2(errors[-2] / errors[-1]) - 1) < 0.05  # the next term is of order 20 / 800
    else:
        assert max(errors) < 1e-12  # an affine map of one variable has correlation 1, whatever its steps
left.set(xlabel="t", ylabel=r"corr$(x_t, x_0)$", title="Formula, and Euler-Maruyama from t = 0.5 (dots)")
left.legend()
right.set(xlabel="steps", ylabel="error of the correlation", title="First order")
right.legend()
plt.show()

# %% [markdown]
# ## In the plane there are more
#
# The noise is not the only freedom. For an antisymmetric matrix $A$ the field $A s$ carries no density anywhere:
# $\nabla\!\cdot(p\,As) = \nabla\!\cdot(A\nabla p) = \sum A_{ij}\,\partial_i\partial_j p = 0$. So $v + \omega(t)\,As$ is
# another deterministic sampler with the same marginals: the velocity field is *not* unique, it is the only gradient
# field. Below all start from the same point of $p_T$ ($f=0$, $g = \sqrt{2t}$, two modes).

# %%
two = GaussianMixture.isotropic([[-2.0, -1.0], [2.0, 1.0]], [0.15, 0.15], weights=[0.5, 0.5])
plane = ExactModel(two, VEPower(T=3.0))
turn = np.array([[0.0, -1.0], [1.0, 0.0]])
y = plane.sample(100, 1.0, seed=1)
hessian, score = plane.hessian(y, 1.0), plane.score(y, 1.0)
change = lambda a: np.einsum("ij,nji->n", a, hessian) + np.einsum("ni,ij,nj->n", score, a, score)  # noqa: E731
assert abs(change(turn)).max() < 1e-13 < 0.1 < abs(change(np.diag([1.0, -1.0]))).max()  # div(p A s) / p, two matrices


def with_field(a):  # v + 2 t A s, without noise
    drift = lambda x, t: plane.velocity(x, t) + 2 * t * plane.score(x, t) @ a.T  # noqa: E731
    return StochasticEquation(drift, lambda t: np.zeros(()), 2)


cases = {"PF-ODE": marginal_family(plane, 0.0), "PF-ODE + swirl": with_field(turn)}
cases |= {"k = 0.5": marginal_family(plane, 0.5), "k = 1 (Anderson)": marginal_family(plane, 1.0)}
grid = times.quadratic(plane.process, 200, end=0.01)
fig, several = plt.subplots(1, 4, figsize=(11.5, 3.2), sharey=True, layout="constrained")
for axes, (name, equation) in zip(several, cases.items(), strict=True):
    reached = solve(equation, plane.sample(1000, 3.0, seed=2), grid, seed=5)
    gap = energy_distance(reached, plane.marginal(0.01))
    assert gap.value < 6 * gap.error + 0.01  # of Euler: steps of 1/200 of the start's spread 3
    paths = solve(equation, np.tile([[1.2, -2.5]], (3, 1)), grid, seed=3, trajectory=True)
    plotting.density(axes, two)
    for i, color in enumerate(plotting.PALETTE[1:4]):
        plotting.trajectories(axes, paths[:, i : i + 1], color=color, alpha=0.9)
    axes.set(title=name, aspect="equal", xlim=(-5, 5), ylim=(-5, 5))
plt.show()
stretched = solve(with_field(np.diag([1.0, -1.0])), plane.sample(1000, 3.0, seed=2), grid, seed=5)
assert energy_distance(stretched, plane.marginal(0.01)).value > 1  # a matrix that is not antisymmetric

# %% [markdown]
# ## A wrong score: what noise damps and what it amplifies
#
# Let a network answer $\hat\varepsilon = \varepsilon^* + \delta(t)$. For Gaussian data the error $\mu$ of the mean
# obeys a linear equation whose solution, at $t = 0$ and with $\lambda = \log(\alpha/\sigma)$, is
#
# $$\mu_0 = \underbrace{\sqrt{\tfrac{S}{V_T}}\;\rho_k(T)}_{\text{damping}}\,\mu_T \;-\;
#   \int (1+k^2)\,\sqrt{\tfrac{S}{V_t}}\;\rho_k(t)\;\sigma_t\,\delta\;d\lambda .$$
#
# Noise enters twice: $1+k^2$ amplifies what the score gets wrong, and $\rho_k = \rho_1^{k^2}$ forgets what was wrong
# before. So $k$ moves the weight towards the clean end: a score that is wrong at high noise, or a wrong prior, is
# repaired by noise; one that is wrong near the data is made worse.

# %%
S, m = 0.4, 0.5
late, early = (lambda lam: 0.1 * (lam > 1)), (lambda lam: 0.1 * (lam < -1))


def weight(t, k):
    """The weight of an error of the noise prediction in the final mean, for each unit of lambda."""
    a, s = process.alpha(t), process.sigma(t)
    v = a**2 * S + s**2
    return -(1 + k**2) * np.sqrt(S / v) * (a * np.sqrt(S / v)) ** k**2 * s


lam = np.linspace(-5, 6, 2201)
t_of = process.time_of_log_snr(lam)
noise_levels = np.linspace(0, 2.5, 26)
ends = {  # of the prior with V_T = 1, which it is to 3e-5
    "prior off by 0.1": [0.1 * (process.alpha(1.0) ** k**2 * np.sqrt(S) ** (1 + k**2)) for k in noise_levels],
    r"$\delta$ = 0.1, noisy ($\lambda < -1$)": [np.trapezoid(weight(t_of, k) * early(lam), lam) for k in noise_levels],
    r"$\delta$ = 0.1, clean ($\lambda > 1$)": [np.trapezoid(weight(t_of, k) * late(lam), lam) for k in noise_levels],
}
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
for k in NOISES:
    left.plot(lam, -weight(t_of, k), label=f"k = {k:g}")
left.set(xlabel=r"$\lambda$ (noise left, data right)", ylabel="weight", title="Where an error of the score counts")
left.legend()
for name, values in ends.items():
    right.semilogy(noise_levels, np.abs(values), label=name)
right.set(xlabel="k", ylabel="error of the final mean", ylim=(1e-6, 1), title="Damped, or made worse")
right.legend(loc="lower left")
plt.show()

# the second route: the density itself, carried by the wrong equation on a grid from t = 0.6 to 0.02
line, gauss = Grid(-5, 5, 250), ExactModel(Gaussian([m], S), process)
span = np.linspace(*process.log_snr(np.array([0.6, 0.02])), 4001)
for k in (0.0, 1.0, 2.0):

    def wrong(x, t, k=k):
        c = process.coefficients(t)
        return c.f * x - (1 + k**2) / 2 * c.g2 * (gauss.score(x, t) - 0.1 / c.sigma)

    operator = FokkerPlanck(line, wrong, lambda x, t, k=k: k**2 * process.coefficients(t).g2, fit="limited")
    p = evolve(operator, gauss.marginal(0.6), [0.6, 0.02], step=0.004).densities[-1]
    off = (p @ line.centres(0)) * line.volume - process.alpha(0.02) * m
    t_span, last = process.time_of_log_snr(span), process.coefficients(0.02)
    v = last.alpha**2 * S + last.sigma**2  # the same formula, ended at 0.02
    memory = last.alpha * np.sqrt(S / v)
    expected = 0.1 * np.trapezoid(weight(t_span, k), span) * np.sqrt(v / S) / memory**k**2
    print(f"k = {k:g}: the mean is off by {off:.5f}, by the formula {expected:.5f}")
    assert abs(off - expected) < 2e-3 * abs(expected) + 1e-4  # cells of 1/25, second order: (1/25)^2 of it
    assert k == 0 or abs(off - expected / (1 + k**2)) > 0.05  # without the amplification

# %% [markdown]
# ## What noise costs: steps
#
# The other side: of the family's members the ODE is the easiest to discretise. The exact $W_2$ of Euler-Maruyama's
# output to the truth, for every $k$: all of first order, with a constant that grows with $k$. With few steps noise is
# not only inexact but unstable: the drift towards $p_t$ is $(1+k^2)/2$ times $g^2 s$, and Euler's steps overshoot it.

# %%
counts = np.array([5, 10, 20, 40, 80, 160, 320])
fig, axes = plt.subplots(figsize=(5.5, 3.7), layout="constrained")
constants = []
for k in NOISES:
    grids = [times.uniform_log_snr(process, int(n), start=0.9, end=1e-3) for n in counts]
    errors = [propagate(euler_maruyama(process, grid, noise=k), data).wasserstein() for grid in grids]
    constants.append(errors[-1] * counts[-1])
    plotting.convergence(axes, counts, errors, label=f"k = {k:g}", order={2: 1}.get(k))
    assert abs(np.log2(errors[-2] / errors[-1]) - 1) < 0.1  # the next term is some 10 / 320
assert sorted(constants) == constants
print("error x steps:", ", ".join(f"{c:.2f} (k = {k:g})" for c, k in zip(constants, NOISES, strict=True)))
axes.set(title="Euler-Maruyama, to the exact law", ylabel="$W_2$", ylim=(3e-4, 30))
axes.legend()
plt.show()

# %% [markdown]
# ## Jumps with a flow map
#
# With the flow map itself (a consistency model) the same trade-off comes in large steps ($\alpha = 1$, $\sigma = t$).
# From $\tau_n$ go down to $\sqrt{1-\gamma^2}\,\tau_{n+1}$ along the flow, and back up to $\tau_{n+1}$ by noise: again
# all marginals are kept. $\gamma = 0$ is the ODE; $\gamma = 1$ goes to the data each time. With an exact map $\gamma$
# only helps: it forgets that the prior $N(0, T^2)$ is not $p_T$, which a bijection cannot (it keeps $\mathrm{TV}$).

# %%
ve = ExactModel(Gaussian([1.0], 0.25), VEPower(T=3.0))
carry = flow_map(ve)


def reached(gamma, steps):
    """The law after `steps` jumps from N(0, T^2), exactly: the map is affine, its gain is read off two points."""
    law = Gaussian([0.0], 9.0)
    for s, t in zip(np.linspace(3, 0, steps + 1), np.linspace(3, 0, steps + 1)[1:], strict=False):
        zero, one = carry(np.array([[0.0], [1.0]]), s, np.sqrt(1 - gamma**2) * t).ravel()
        law = law.affine(one - zero, [zero]).convolve((gamma * t) ** 2)
    return law


fig, several = plt.subplots(1, 4, figsize=(12, 3.1), layout="constrained")
bimodal = ExactModel(model.distribution, VEPower(T=3.0))
rng = np.random.default_rng(4)
for axes, gamma in zip(several, (0.0, 0.5, 1.0), strict=False):
    x = np.array([[-2.5], [0.5], [3.5]])
    path, clock = [x], [3.0]
    for s, t in zip((3.0, 2.0, 1.0), (2.0, 1.0, 0.0), strict=True):
        down = np.sqrt(1 - gamma**2) * t
        landed = quantile_flow(bimodal, x, s, down)
        x = landed + gamma * t * rng.standard_normal(x.shape)
        path, clock = [*path, landed, x], [*clock, down, t]
    plotting.density_in_time(axes, bimodal.log_density, np.linspace(0, 3, 60), np.linspace(-6, 6, 150))
    plotting.trajectories(axes, np.array(path), np.array(clock), color=plotting.PALETTE[1], alpha=0.9)
    axes.set(title=rf"$\gamma$ = {gamma:g}", ylabel="x" if gamma == 0 else "", ylim=(-6, 6))
counts = [1, 2, 4, 8]
distances = {gamma: [total_variation(reached(gamma, n), ve.distribution) for n in counts] for gamma in (0.0, 0.5, 1.0)}
start = total_variation(Gaussian([0.0], 9.0), ve.marginal(3.0))
assert np.allclose(distances[0.0], start, rtol=1e-9)  # a bijection keeps total variation
assert all(np.less(distances[1.0][1:], distances[0.5][1:])) and all(np.less(distances[0.5][1:], distances[0.0][1:]))
for gamma, values in distances.items():
    several[3].loglog(counts, values, "o-", label=rf"$\gamma$ = {gamma:g}")
several[3].set_xticks(counts, counts)
several[3].minorticks_off()
print("TV:", {gamma: [f"{value:.5f}" for value in values] for gamma, values in distances.items()})
several[3].set(xlabel="jumps", title="TV to the data, exact map")
several[3].legend()
plt.show()

# %% [markdown]
# ## Exercise: the drift
#
# Write the drift of the member with noise $\gamma = k g$ for time running from noise to data ($dt<0$): a function of
# `(velocity, score, g2, k)`. The check carries a density with it, by the Fokker-Planck equation on a grid from
# $t = 0.5$ down to $0.1$, and compares with the exact one.
#
# **Sources.** The Principles of Diffusion Models, 4.1, 6.4 (figures 4.2-4.5, 6.2) and 11.4 (PODA-407..413, PODB-67,
# PODD-38, PODD-39); Anderson 1982; Song et al. 2021; Karras et al. 2022.

# %% tags=["exercise"]
attempt = None  # your turn: a function of (velocity, score, g2, k) that returns the drift

# %% jupyter={"source_hidden": true} tags=["solution"]


def solution(velocity, score, g2, k):
    return velocity - k**2 * g2 / 2 * score


# %% tags=["check"]
given = attempt or solution
box, k = Grid(-5, 5, 300), 1.3


def landed(drift):
    """The total variation between what the drift carries and p_0.1."""

    def field(x, t):
        return np.broadcast_to(drift(model.velocity(x, t), model.score(x, t), process.coefficients(t).g2, k), x.shape)

    operator = FokkerPlanck(box, field, lambda x, t: k**2 * process.coefficients(t).g2)
    p = evolve(operator, model.marginal(0.5), [0.5, 0.1], step=0.004).densities[-1]
    return abs(p - box.averages(model.marginal(0.1))).sum() * box.volume / 2


# cells of 1/30 and steps of 1/250: second order, (h / smallest std)^2 = 0.01 of the distance between p_0.1 and its blur
found, forward = landed(given), landed(lambda v, s, g2, k: v + k**2 * g2 / 2 * s)
assert found < 5e-3, f"{found:.2f} of the mass goes elsewhere: is it gamma^2 / 2 of the score, and its sign for dt < 0?"
assert forward > 0.05
print(f"off by {found:.1e} in total variation; with the sign of the forward equation by {forward:.2f}")
