# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 06 The sampler zoo as tables of numbers
#
# DDIM, DEIS, DPM-Solver, UniPC, Heun, DDPM: each is a table of weights, nothing more. Written side by side the tables
# show who is related to whom; from them follow exact error curves, orders, the exact law of stochastic samplers and a
# measured version of the comparison tables of surveys.

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np

from refdiff import ExactModel, FlowMatching, Gaussian, GaussianMixture, Trigonometric, VEPower, VPLinear, plotting
from refdiff.dynamics import quantile_flow
from refdiff.samplers import Recorder, families, impulse_response, propagate, run, times, to_coordinate, to_prediction
from refdiff.samplers.compare import default_span, grid_times

plotting.use_style()
zoo, process, law = families(), VPLinear(), Gaussian([0.7], 0.3)
print(len(zoo), "samplers")


def in_rho(table):
    """The table as one on y = x / alpha with a model that answers eps."""
    return to_coordinate(to_prediction(table, "noise"), "x/alpha")


# %% [markdown]
# ## A sampler is a table
#
# Every stage of a sampler is a linear combination of the start $x$, of what the model answered before, and of fresh
# normals: $y_k = s_k x + \sum_j w_{kj}\,o_j + \sum_m n_{km} z_m$. The weights depend on the grid, never on the data.
# To compare tables, bring them to one form, $y = x/\alpha$ and a model that answers $\varepsilon$: both changes are
# linear. The rows below are the stages, the columns the evaluations, of six samplers. DDIM fills a triangle with
# columns of one number: a step adds a column and keeps the rest. Heun's Euler stages are thrown away: the row after one
# gives half of its newest weight to the second evaluation. Multistep methods change earlier columns again, UniPC in two
# rows a step, predicted and corrected. DDPM's second table, for its noise, is a triangle like DDIM's.

# %%
grid = times.uniform_log_snr(process, 6, start=0.9, end=0.05)
shown = {"ddim": 6, "edm-heun": 3, "dpmpp-2m": 6, "dpmpp-3m": 6, "unipc-3": 6, "ddpm": 6}
fig, several = plt.subplots(2, 3, figsize=(13, 7.5), layout="constrained")
for axes, (name, steps) in zip(several.flat, shown.items(), strict=True):
    table = in_rho(zoo[name](process, times.uniform_log_snr(process, steps, start=0.9, end=0.05)))
    plotting.tableau(axes, table, part="noise" if name == "ddpm" else "outputs")
    axes.set_title(f"{name}, {'noise' if name == 'ddpm' else 'outputs'} ({table.nfe} evaluations)")
plt.show()

# %% [markdown]
# ## Why DDIM is Euler's method
#
# The PF-ODE is $\dot x = \frac{\dot\alpha}\alpha x - \sigma\dot\lambda\,\varepsilon$. Put $y = x/\alpha$,
# $\rho = \sigma/\alpha = e^{-\lambda}$: the linear term is gone and the clock is $\rho$,
#
# $$\frac{dy}{d\rho} = \varepsilon(\alpha y, t)\qquad\Longrightarrow\qquad
# y_t = y_s + (\rho_t-\rho_s)\,\varepsilon_s \quad\Longleftrightarrow\quad
# x_t = \alpha_t \underbrace{\frac{x_s-\sigma_s\varepsilon_s}{\alpha_s}}_{x^*} + \sigma_t\,\varepsilon_s .$$
#
# Euler's step on the left *is* DDIM on the right, for every schedule. Freezing $x^*$ gives the same. What is often said
# besides does not hold in general: Euler's method on the velocity in $t$ is DDIM only if $\alpha$ and $\sigma$ are
# affine in $t$; an exponential integrator that freezes the *score* is another method. The tables say so to rounding.


# %%
def euler_in_rho(process, grid):
    rec = Recorder("Euler in sigma/alpha", process, grid, "noise")
    x = rec.start
    for s, t in rec.steps:
        x = t.alpha * (x / s.alpha + (t.rho - s.rho) * rec.evaluate(x, s))
    return rec.finish(x)


claims = {
    "Euler in rho": euler_in_rho,
    "DPM-Solver-1": zoo["dpm-solver-1"],
    "DEIS, degree 0": zoo["deis-tab0"],
    "Euler on v in t": zoo["fm-euler"],
    "Euler in log SNR": zoo["euler-log-snr"],
    "frozen score": zoo["exponential-score-euler"],
}
schedules = {"FM": FlowMatching(), "EDM": VEPower(), "VP trig": Trigonometric(), "VP linear": VPLinear()}
same = {"Euler in rho", "DPM-Solver-1", "DEIS, degree 0"}
print(f"{'largest difference to DDIM':28}" + "".join(f"{name:>11}" for name in schedules))
for name, build in claims.items():
    gaps = {}
    for key, schedule in schedules.items():
        steps = [0.6, 0.5, 0.3]
        gaps[key] = in_rho(build(schedule, steps)).difference(in_rho(zoo["ddim"](schedule, steps)))
    print(f"{name:28}" + "".join(f"{gap:11.1e}" for gap in gaps.values()))
    for key, gap in gaps.items():
        affine = name == "Euler on v in t" and key in ("FM", "EDM")
        assert gap < 1e-12 if name in same or affine else gap > 1e-3  # rounding, or another method

# %% [markdown]
# ## Three pictures of a step
#
# In the plane of $\rho$ and $y$ the flow is a curve of slope $\varepsilon$. **DDIM** follows tangents. **DEIS** puts a
# polynomial through the newest evaluations and integrates it over the step: the shaded area *is* the weight times the
# outputs. **Heun** averages two slopes: the diagonal of a parallelogram.

# %%
mixture = GaussianMixture.isotropic([[-1.0], [1.2]], [0.09, 0.25], weights=[0.4, 0.6])
edm = ExactModel(mixture, VEPower(T=4.0))  # alpha = 1, sigma = t: rho = t and y = x
nodes, start = np.array([4.0, 2.6, 1.7, 0.9, 0.35]), np.array([[1.05]])
rho = np.linspace(4, 0.1, 200)
curve = np.array([quantile_flow(edm, start, 4.0, r).item() for r in rho])
slope = np.array([edm.noise([[y]], r).item() for y, r in zip(curve, rho, strict=True)])
fig, (left, middle, right) = plt.subplots(1, 3, figsize=(12.5, 3.6), layout="constrained")
polygon = run(zoo["ddim"](edm.process, nodes), edm, start, trajectory=True)[:, 0, 0]
left.plot(rho, curve, label="exact flow")
left.plot(nodes, polygon, "o-", label="DDIM: tangents")
left.set(title="DDIM is Euler", ylabel="y")
# DEIS of degree 2 in rho: quadratic through eps at three nodes, integrated over the last step, from an exact history
at = [quantile_flow(edm, start, 4.0, r) for r in nodes]
anchors = [edm.noise(y, r).item() for y, r in zip(at[1:4], nodes[1:4], strict=True)]
fit = np.polynomial.Polynomial.fit(nodes[1:4], anchors, 2)
deis = run(zoo["deis-rhoab2"](edm.process, nodes), edm, start, given=dict(enumerate(at[1:4], 1))).item()
assert abs(at[3].item() + fit.integ()(nodes[4]) - fit.integ()(nodes[3]) - deis) < 1e-12  # the area is the step
middle.plot(rho, slope, label=r"$\varepsilon$ along the flow")
middle.plot(nodes[1:4], anchors, "o", color=plotting.PALETTE[1], label="evaluations")
inner = np.linspace(nodes[1], nodes[4], 80)
middle.plot(inner, fit(inner), "--", color=plotting.PALETTE[1], label="quadratic")
last = inner[inner <= nodes[3]]
middle.fill_between(last, fit(last), color=plotting.PALETTE[1], alpha=0.25)
middle.set(title="DEIS integrates a polynomial", ylabel=r"$\varepsilon$")
s, t, y = 2.6, 1.7, at[1].item()  # a step of Heun
k1 = edm.noise([[y]], s).item()
k2 = edm.noise([[y + (t - s) * k1]], t).item()
heun = run(zoo["edm-heun"](edm.process, [s, t]), edm, [[y]]).item()
corner = np.array([[s, y], [(s + t) / 2, y + (t - s) / 2 * k1], [t, heun], [(s + t) / 2, y + (t - s) / 2 * k2], [s, y]])
assert abs(corner[1, 1] + corner[3, 1] - y - heun) < 1e-12  # the diagonal ends where the table does
right.plot(rho, curve, label="exact flow")
right.plot(*corner.T, "-", color=plotting.PALETTE[2], label="half steps of both slopes")
right.plot([s, t], [y, y + (t - s) * k1], ":", color=plotting.PALETTE[1], label="Euler")
right.plot([s, t], [y, heun], "o--", color=plotting.PALETTE[3], label="Heun")
right.set(title="Heun's parallelogram", ylabel="y", xlim=(1.5, 2.7), ylim=(0.66, 0.84))
for axes in (left, middle, right):
    axes.set_xlabel(r"$\rho = \sigma/\alpha$")
    axes.legend(loc="best")
    axes.invert_xaxis()
plt.show()

# %% [markdown]
# ## Exact errors, and the orders
#
# For Gaussian data a table's error is a closed form: no samples, no reference solver, down to rounding. On the left
# multistep methods get the steps before their memory is full from the exact flow, and show their order. On the right
# they start as people run them, with a first step of DDIM, which makes an error of second order once: no multistep
# method stays above order 2 unless it corrects (UniPC; it gains an order by that, unipc-3 has 4) or starts with
# Runge-Kutta. A survey says the order is reached "after the ramp-up"; globally it is not.

# %%
bed = Gaussian([0.7, -0.3, 0.5], [0.25, 1.5, 0.12])  # three variances: on one, errors of two orders may cancel
how = {"counts": (6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256), "floor": 1e-10}
compared = ["ddim", "dpmpp-2m", "edm-heun", "dpmpp-3m", "deis-tab3", "unipc-3"]
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
for name, color in zip(compared, plotting.PALETTE, strict=False):
    family = zoo[name]
    for axes, as_run in ((left, False), (right, True)):
        found = family.measured(bed, as_run=as_run, **how)
        counts, errors = np.array(found.counts), np.array(found.errors)
        label = f"{name}: {found.order:.2f}"
        order = family.order if not as_run and name in ("ddim", "edm-heun", "dpmpp-3m", "deis-tab3") else None
        plotting.convergence(axes, counts, errors, label=label, order=order, color=color)
        expected = family.order if not as_run or family.startup is None else family.startup
        assert abs(found.order - expected) < 0.1  # four counts, with the next term of the error in the fit
left.set_title("exact first steps")
right.set(title="as run", ylabel="")
left.legend(fontsize=8, loc="lower left")
right.legend(fontsize=8, loc="lower left")
plt.show()

# %% [markdown]
# ## The comparison table, measured
#
# Surveys print such a table from the papers' words. This one is measured: the order from exact errors, evaluations
# counted, and the **exactness class**: let the model answer a polynomial of degree $d$ in a clock, whatever $x$, for
# $\varepsilon$ (then $y=x/\alpha$ has $dy = \varepsilon\,d\rho$) or for $x_0$ ($d(x/\sigma) = x_0\,de^\lambda$), with
# an exact history. The largest $d$ that a step integrates without error is its class.

# %%
clocks = {"t": lambda t: t, "log SNR": process.log_snr, "rho": lambda t: np.exp(-process.log_snr(t))}
outputs = {"eps": ("noise", "x/alpha", -1), "x0": ("denoiser", "x/sigma", 1)}
legendre, weights = np.polynomial.legendre.leggauss(80)
grid = times.uniform_log_snr(process, 5, start=0.5, end=0.25)


def degree(name, prediction, coordinate, sign, clock):
    """The largest degree (at most 4) of polynomials in the clock that the last step integrates to rounding, or -1."""
    table = to_coordinate(to_prediction(zoo[name](process, grid), prediction), coordinate)
    ends = np.exp(sign * process.log_snr(table.times))  # rho, or 1 / rho
    for d in range(5):
        nodes = ends[0] + np.outer(ends - ends[0], (legendre + 1) / 2)
        values = clock(process.time_of_log_snr(sign * np.log(nodes))) ** d
        exact = (ends - ends[0]) / 2 * (values @ weights)
        history = {k: np.array([[y]]) for k, y in enumerate(exact[:-1]) if k and table.times[k] >= grid[-2]}
        found = run(table, lambda x, t, d=d: np.full_like(x, clock(t) ** d), [[0.0]], given=history).item()
        if abs(found - exact[-1]) > 1e-10 * abs(exact[-1] - exact[list(history)[-1]]):
            return d - 1
    return 4


print(f"{'sampler':16} {'evals':>7} {'order':>6} {'as run':>7}   exact for")
named = "ddim edm-heun fm-heun deis-tab2 deis-rhoab2 dpm-solver-2 dpm-solver-3m dpmpp-2s dpmpp-2m dpmpp-3m unipc-2 plms"
for name in [*named.split(), "exponential-score-euler"]:
    family = zoo[name]
    degrees = {(o, c): degree(name, *outputs[o], clocks[c]) for o in outputs for c in clocks}
    best = max(degrees.values())
    where = ", ".join(f"{o} in {c}" for (o, c), d in degrees.items() if d == best)
    said = "nothing" if best < 0 else "constants" if best == 0 else f"degree {best}: {where}"
    full, ran = (family.measured(bed, as_run=ran, **how).order for ran in (False, True))
    print(f"{name:16} {family.nfe:>7} {full:6.2f} {ran:7.2f}   {said}")
    if name == "ddim":
        assert set(degrees.values()) == {0}
    if name == "deis-tab2":
        assert degrees["eps", "t"] == 2

# %% [markdown]
# ## Grids
#
# For Gaussian data $N(m, s^2)$ one DDIM step multiplies the standardised deviation by $\cos(\theta_s-\theta_t)$, where
# $\tan\theta = \sigma/(\alpha s)$. So $W_2 = \sqrt{V_t}\,\big(1-\prod_i\cos\Delta\theta_i\big)$, and by concavity of
# $\log\cos$ the best grid has equal angles. No grid is best for all samplers: the exact distances at ten evaluations.

# %%
names = ["uniform", "quadratic", "uniform-log-snr", "uniform-rho", "karras", "uniform-angle", "optimal-ddim"]
start, end = default_span(process)
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True, layout="constrained")
distances = {}
for row, name in enumerate(names):
    extra = {"std": np.sqrt(0.3)} if name == "optimal-ddim" else {}
    grid = times.GRIDS[name](process, 10, start=start, end=end, **extra)
    left.plot(process.log_snr(grid), np.full(11, row), "|", color=plotting.PALETTE[0], markersize=12)
    for sampler in ("ddim", "dpmpp-2m", "edm-heun"):
        steps = 10 // zoo[sampler].evaluations(1)
        other = times.GRIDS[name](process, steps, start=start, end=end, **extra)
        distances[name, sampler] = propagate(zoo[sampler](process, other), law).wasserstein()
    angles = np.arctan2(process.sigma(grid), process.alpha(grid) * np.sqrt(0.3))
    spread = np.sqrt(process.alpha(end) ** 2 * 0.3 + process.sigma(end) ** 2)
    assert abs(distances[name, "ddim"] - spread * (1 - np.cos(np.diff(angles)).prod())) < 1e-12
best = {s: min(names, key=lambda name, s=s: distances[name, s]) for s in ("ddim", "dpmpp-2m", "edm-heun")}
print("best:", ", ".join(f"{s} on {name}, {distances[name, s]:.3f}" for s, name in best.items()))
assert best["ddim"] == "optimal-ddim" != best["dpmpp-2m"]
for sampler, marker in zip(("ddim", "dpmpp-2m", "edm-heun"), "osD", strict=True):
    right.semilogx([distances[name, sampler] for name in names], range(len(names)), marker, label=sampler)
left.set_yticks(range(len(names)), names)
left.set(xlabel=r"$\lambda$ (noise left, data right)", title="Ten steps")
right.set(xlabel=r"$W_2$ to the exact law", title="Ten evaluations")
right.legend()
plt.show()

# %% [markdown]
# ## The exact law of stochastic samplers
#
# Propagation gives the law of the output too, for any number of steps. With the exact denoiser every $\eta$ has the
# exact mean, and too little variance (DDPM's noise of variance $\beta$ is right for data of variance 1, and too much
# for 0.3): what one step with noise $c\,z$ leaves out is the spread of $x_0$ given $x_s$,
#
# $$\mathrm{Var} = V_t - \Big(\alpha_t - \alpha_s\sqrt{\sigma_t^2-c^2}/\sigma_s\Big)^2\,\mathrm{Cov}(x_0|x_s) .$$

# %%
counts = [2, 3, 5, 8, 12, 20, 40, 80]
fig, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
for name in ("ddim", "ddim-eta-half", "ddim-eta1", "ddpm-beta", "dpmpp-2m-sde"):
    laws = [propagate(zoo[name](process, grid_times(process, "uniform-log-snr", n)), law) for n in counts]
    ratio = [float(np.sqrt(one.output.cov() / one.target().cov()).item()) for one in laws]
    axes.plot(counts, ratio, "o-", label=name)
    assert (np.diff(ratio) > 0).all() and ratio[-1] < 1 if name.startswith("ddim") else ratio[4] > 1
axes.axhline(1, color="0.6", linewidth=1)
axes.set(xscale="log", xlabel="steps", ylabel="std / exact std", ylim=(0.2, 1.7), title="Too narrow, too wide")
axes.set_xticks(counts, counts)
axes.minorticks_off()
axes.legend(fontsize=8)
plt.show()

s, t = process.coefficients(0.6), process.coefficients(0.4)
table = zoo["ddim-eta-half"](process, [0.6, 0.4])
c = in_rho(table).unroll().noise[-1, 0] * t.alpha
kept = (s.alpha**2 * 0.3 + s.sigma**2, 0.3 * s.sigma**2 / (s.alpha**2 * 0.3 + s.sigma**2))  # V_s, Cov(x_0 | x_s)
lost = (t.alpha - s.alpha * np.sqrt(t.sigma**2 - c**2) / s.sigma) ** 2 * kept[1]
exact = propagate(table, law)
assert abs(exact.output.cov().item() + lost - exact.target().cov().item()) < 1e-14
model = ExactModel(law, process)
sampled = run(table, model, model.sample(100_000, 0.6, seed=1), seed=2).var()
assert abs(sampled - exact.output.cov().item()) < 5 * np.sqrt(2 / 1e5) * sampled  # 5 standard errors of a variance
print(f"variance after one step: exact law {exact.output.cov().item():.5f}, 100 000 samples {sampled:.5f}, target "
      f"{exact.target().cov().item():.5f}")  # fmt: skip

# %% [markdown]
# ## Exercise: Heun's method in $\rho$
#
# Write EDM's Heun: a function `(model, x, levels)` for a process with $\alpha = 1$, where `levels` are the decreasing
# $\sigma$ and `model(x, sigma)` answers the denoiser. The check feeds it unit impulses, reads its table back, and
# compares it with the family's, coefficient by coefficient.
#
# **Sources.** The Principles of Diffusion Models, chapter 9 (figures 9.1-9.3, table 9.1; PODC9-08..37, PODC9-55);
# Song et al. 2021; Karras et al. 2022; Lu et al. 2022; Zhang and Chen 2023; Zhao et al. 2023.

# %% tags=["exercise"]
attempt = None  # your turn: a function of (model, x, levels) that returns x at the last level

# %% jupyter={"source_hidden": true} tags=["solution"]


def solution(model, x, levels):
    for s, t in pairwise(levels):
        first = (x - model(x, s)) / s
        second = (x + (t - s) * first - model(x + (t - s) * first, t)) / t
        x = x + (t - s) / 2 * (first + second)
    return x


# %% tags=["check"]
given = attempt or solution
levels = [8.0, 3.0, 1.0, 0.2]
truth = zoo["edm-heun"](VEPower(), levels)


def read(sampler):
    once = lambda model, x, normal: np.zeros_like(x) + sampler(model, x, levels)  # noqa: E731
    try:
        return impulse_response(once, VEPower(), end_time=levels[-1])
    except (TypeError, ValueError) as error:  # NotLinear, NotFinite, no array
        raise AssertionError(f"x at the last level, linear in x and in what the model answers: {error}") from None


def averaged(model, x, levels):  # the tempting one: the mean of two denoisers, divided by the old sigma
    for s, t in pairwise(levels):
        clean = model(x, s)
        x = x + (t - s) * (x - (clean + model(x + (t - s) * (x - clean) / s, t)) / 2) / s
    return x


found = read(given)
assert found.nfe == 6, f"Heun asks twice a step, 6 times here; yours asks {found.nfe} times"
off = found.difference(truth)
assert off < 1e-10, f"a weight is off by {off:.2g} of its row: is (x - x_0) / sigma taken at both ends, and averaged?"
assert not read(averaged).close(truth, 1e-3)
print(f"the same table: largest difference {off:.0e}; of the averaged one "
      f"{read(averaged).difference(truth):.2f}")  # fmt: skip
