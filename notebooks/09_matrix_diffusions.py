# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 09 Matrix diffusions
#
# Noise need not fall on every coordinate alike. In critically damped Langevin diffusion (CLD) it enters through
# velocities, in other processes its axes turn with time, and $\alpha$ and $\sigma$ become matrices that do not commute.
# We look at such a process in its phase space, build its DDIM (gDDIM), see what a formula does that was printed with
# two factors exchanged, and find which circulation brings equilibrium about soonest.

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from scipy.linalg import expm, solve_continuous_lyapunov

from refdiff import Empirical, ExactModel, Gaussian, GaussianMixture, LinearProcess, VEPower, plotting
from refdiff.dynamics import flow, path
from refdiff.processes import Rotating, critically_damped_langevin, data_axes, variance_preserving, with_velocity
from refdiff.samplers import propagate, run, times
from refdiff.samplers.ddim import ddim
from refdiff.samplers.matrix_deis import matrix_deis

plotting.use_style()
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#882255"

# %% [markdown]
# ## A linear SDE with matrices
#
# $dx = F x\,dt + G\,dw$, $D = GG^\top$. A clean point $x_0$ becomes $\mathcal N(U_t x_0, \Sigma_t)$ with $\dot U = FU$
# and
#
# $$\dot\Sigma = F\Sigma + \Sigma F^\top + D,\qquad \Sigma_t = \int_0^t e^{sF} D\, e^{sF^\top} ds .$$
#
# For constant coefficients one matrix exponential of twice the size has both (Van Loan). CLD with one position $x$ and
# one velocity $v$: $F = \beta\begin{pmatrix}0 & 1/M\\ -1 & -\Gamma/M\end{pmatrix}$,
# $D = \operatorname{diag}(0, 2\Gamma\beta)$, $\Gamma^2 = 4M$.
#
# Data at $x = \pm1$, velocities $\mathcal N(0, M)$. Noise falls on the velocities, which push the positions, so that
# these stay *smooth* curves, unlike those of a diffusion that is driven itself. Both $x$ and $v$ forget, and all ends
# at $\mathcal N(0, 1)\times\mathcal N(0, M)$. Orange: a noised point; blue: the probability flow back to the data,
# which circles, as a pendulum does.

# %%
langevin = critically_damped_langevin(1)  # beta = 4, M = 1/4
F, D = langevin.drift(0.0), langevin.diffusion(0.0)


def van_loan(F, D, t):
    d = len(F)
    block = expm(t * np.block([[-F, D], [np.zeros((d, d)), F.T]]))
    U = block[d:, d:].T
    return U, U @ block[:d, d:]


for t in (1e-3, 0.1, 1.0):
    U, Sigma = van_loan(F, D, t)
    kernel = langevin.kernel(t)
    slack = 1e-14 * np.exp(16 * t)  # e^{8t} and e^{-8t} meet in one block: seven digits are lost by t = 1
    assert np.allclose(U, kernel.gain, rtol=0, atol=slack) and np.allclose(Sigma, kernel.noise, rtol=0, atol=slack)
print("Sigma at t = 0.001:", np.array2string(langevin.kernel(1e-3).noise, precision=2).replace("\n", ""))

line = GaussianMixture.isotropic([[-1.0], [1.0]], 0.01, [0.4, 0.6])
model = ExactModel(with_velocity(line, 0.25), langevin)
rng, grid = np.random.default_rng(0), np.linspace(0, 1, 201)
walk = [x := model.distribution.sample(6, 1)]
for s, t in pairwise(grid):
    walk.append(x := langevin.channel(s, t).sample(x, rng))
walk = np.stack(walk)
back = path(model, model.sample(6, 1.0, 2), grid[::-1], rtol=1e-6, atol=1e-6, interpolate=True).x
fig, panels = plt.subplots(1, 5, figsize=(13, 2.9), layout="constrained", width_ratios=(1, 1, 1, 1.3, 1.5))
for axes, t in zip(panels, (0.0, 0.05, 0.15, 1.0)):
    plotting.density(axes, model.marginal(t), color="0.6")
    axes.set(title=f"$p_t$, t = {t}", xlim=(-2.7, 2.7), ylim=(-1.9, 1.9), xlabel="x")
plotting.trajectories(panels[3], walk[:, 1:2], color=ORANGE, alpha=0.9)
plotting.trajectories(panels[3], back[:, 1:3], color=BLUE, alpha=0.9, first=ORANGE, last=BLUE)
panels[3].set_title("from 0 to 1, and back")
panels[0].set_ylabel("v")
plotting.trajectories(panels[4], walk[:, :, :1], grid, color=ORANGE, alpha=0.9)
plotting.trajectories(panels[4], back[:, :, :1], grid[::-1], color=BLUE, alpha=0.9, first=ORANGE, last=BLUE)
panels[4].set(title="positions", xlabel="t", ylabel="x")
plt.show()

# %% [markdown]
# ## The frame of the noise
#
# For one clean point $x_0$ the probability flow is $\dot x = Fx + \frac12D\Sigma^{-1}(x - U_tx_0)$. With a $V$ that
# solves
#
# $$\dot V = \left(F + \tfrac12 D\Sigma^{-1}\right)V,\qquad VV^\top = \Sigma,$$
#
# its solutions are $x = U_tx_0 + V_t\varepsilon$ with a *constant* $\varepsilon$. $V$ is neither Cholesky's factor $L$
# of $\Sigma$ nor its symmetric root: $V = LZ$ with a rotation $Z$ that turns as time goes on. Where noise comes in
# through velocities it turns by $\frac{\sqrt3}2$ rad in every e-fold of $t$ and has no limit at $t = 0$, so that no
# initial condition picks one $V$. What samplers need, $\Psi(t, s) = V_tV_s^{-1}$, has no such freedom:
# `process.noise_channel`.

# %%
toy = LinearProcess([[0.0, 1.0], [0.0, 0.0]], [[0.0], [1.0]])  # dx = v dt, dv = dw
rising = LinearProcess(lambda t: -np.array([[1.0, 0.5], [0.2, 2.0]]), lambda t: np.diag([1.0, 1 + t]))  # noise for both
clock = np.geomspace(1.0, 1e-4, 41)
fig, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
for process, color, name in (
    (toy, BLUE, "x' = v, v' = noise"),
    (langevin, ORANGE, "CLD"),
    (rising, GREEN, "noise in both"),
):
    angles = [0.0]
    for s, t in pairwise(clock):
        turn = np.linalg.solve(process.frame(t), process.noise_channel(s, t).gain @ process.frame(s))
        angles.append(angles[-1] + np.arctan2(turn[1, 0], turn[0, 0]))
    axes.semilogx(clock, angles, color=color, label=name)
    rate = (angles[-1] - angles[-5]) / np.log(clock[-1] / clock[-5])
    print(f"{name:20} {rate:8.4f} rad per e-fold of t near 0")
    assert abs(abs(rate) - (np.sqrt(3) / 2 if process is not rising else 0)) < 1e-3  # of order t = 1e-4 off
axes.set(title="The angle between $V$ and Cholesky's factor", xlabel="t", ylabel="radians")
axes.legend()
plt.show()

# %% [markdown]
# ## gDDIM's step, and what was printed
#
# A model predicts $\varepsilon = -V_s^\top\nabla\log p_s$; holding it over a step gives
#
# $$x_t = K x_s + \left[V_t - K V_s\right]\varepsilon
# = Kx_s + U_t\left[U_t^{-1}V_t - U_s^{-1}V_s\right]\varepsilon,\qquad K = U_tU_s^{-1}.$$
#
# The note *DDIM Redux* prints $U_t\left[V_tU_t^{-1} - V_sU_s^{-1}\right]$. The two agree where all matrices commute:
# for every scalar schedule, and for axes that do not turn. Elsewhere the printed step is wrong even for one point, and
# more steps do not cure it: at best its error stops falling, for CLD it explodes.
#
# Titles below say what one printed step misses by for data of one point, where the right one is exact. refdiff's `ddim`
# and `matrix_deis` have the step without any $V$, $x_t = U_tD + \Psi(t,s)(x_s - U_sD)$ with the denoiser $D$, and,
# second figure, polynomials of higher degree through the newest evaluations.

# %%
bent = np.random.default_rng(3).standard_normal((4, 3, 3))
processes = {
    "fixed axes": LinearProcess(lambda t: np.diag([-1.0, -2 * t - 0.5, -3.0]), lambda t: np.diag([1.0, 1.0 + t, 0.5])),
    "turning VP": variance_preserving(Rotating([[0, -3.0], [3.0, 0]], [3.0, 1.0]).noise),
    "random F(t), G(t)": LinearProcess(
        lambda t: bent[0] + t * bent[1] - 1.5 * np.eye(3), lambda t: bent[2] + t * bent[3]
    ),
    "CLD": langevin,
}


def sampled(process, model, x, grid, printed):
    V = {grid[0]: process.frame(grid[0])}
    for s, t in pairwise(grid):
        V[t] = process.noise_channel(s, t).gain @ V[s]
        U = {r: process.kernel(r).gain for r in (s, t)}
        K = U[t] @ np.linalg.inv(U[s])
        noise = -model.score(x, s) @ V[s]
        held = V[t] - K @ V[s]
        if printed:
            held = U[t] @ (V[t] @ np.linalg.inv(U[t]) - V[s] @ np.linalg.inv(U[s]))
        x = x @ K.T + noise @ held.T
    return x


START, END = 0.8, 0.2
steps = np.array([1, 2, 4, 8, 16, 32])
fig, panels = plt.subplots(1, 4, figsize=(13, 3.4), layout="constrained")
for axes, (name, process) in zip(panels, processes.items()):
    dim = process.axes
    one = ExactModel(Empirical(np.random.default_rng(4).standard_normal((1, dim))), process)
    few = ExactModel(Empirical(np.random.default_rng(5).standard_normal((4, dim))), process)
    x = few.sample(20, START, 6)
    # one point: exact in one step, up to the tolerance of 1e-10 of the second route
    truth = flow(one, x, START, END, rtol=1e-11).x
    missed = [np.abs(sampled(process, one, x, [START, END], printed) - truth).max() for printed in (False, True)]
    assert missed[0] < 1e-7 and (missed[1] > 1e-2) == (name != "fixed axes")
    truth = flow(few, x, START, END).x
    for printed, color in ((False, BLUE), (True, ORANGE)):
        grids = [np.geomspace(START, END, n + 1) for n in steps]
        errors = [np.sqrt(((sampled(process, few, x, g, printed) - truth) ** 2).sum(axis=1).mean()) for g in grids]
        label = "printed" if printed else "$V_t - K V_s$"
        plotting.convergence(axes, steps, errors, label=label, order=None if printed else 1, color=color)
        assert (errors[-1] < 0.6 * errors[-2]) == (not printed or name == "fixed axes")  # first order halves it
    axes.set(title=f"{name}: one point {missed[1]:.1g}", xlabel="steps", ylabel="")
panels[0].set_ylabel("error of four points")
panels[0].legend()
plt.show()

few = ExactModel(with_velocity(Gaussian([0.5], 0.2), 0.25), langevin)
fig, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for degree, color in ((0, BLUE), (1, GREEN), (2, PURPLE)):
    tables = [matrix_deis(langevin, np.geomspace(1.0, 1e-2, n + 1), degree=degree, clock="log t") for n in steps[2:6]]
    errors = [propagate(table, few.distribution).wasserstein() for table in tables]
    slope = np.log2(errors[-2] / errors[-1])
    plotting.convergence(axes, steps[2:6], errors, label=f"degree {degree}: slope {slope:.2f} in the end", color=color)
    assert degree + 0.5 < slope < degree + 1.5  # on its way to the order degree + 1
axes.set(title="gDDIM on CLD: exact $W_2$ to the truth", xlabel="steps")
axes.legend()
plt.show()
table = ddim(langevin, [START, END])
x = few.sample(5, START, 7)
assert np.allclose(run(table, few, x), sampled(langevin, few, x, [START, END], False), rtol=1e-9)

# %% [markdown]
# ## Circulation
#
# At equilibrium $F\Sigma = -\frac12D - Q$ with an antisymmetric $Q$, and *any* $Q$ keeps the same $\Sigma$: it makes a
# current that goes round. The note fears that a circulating particle is trapped, and prefers $Q = 0$. But $Q$ never
# makes the slowest rate slower: with $D = 2I$, $\Sigma = \operatorname{diag}(1, 10)$ and
# $Q = q\begin{pmatrix}0&1\\-1&0\end{pmatrix}$ it becomes 5.5 times faster, since what is fast helps what is slow.

# %%
Sigma, turn = np.diag([1.0, 10.0]), np.array([[0.0, 1.0], [-1.0, 0.0]])
strengths = np.linspace(0, 3, 121)
drifts = [-(np.eye(2) + q * turn) @ np.linalg.inv(Sigma) for q in strengths]
abscissa = np.array([np.linalg.eigvals(drift).real.max() for drift in drifts])
closed = -0.55 + np.sqrt(np.maximum(0.3025 - (1 + strengths**2) / 10, 0))  # trace -1.1, determinant (1 + q^2) / 10
assert np.allclose(abscissa, closed, rtol=0, atol=1e-7) and (np.diff(abscissa) <= 1e-7).all()
for drift in drifts[::30]:  # the same equilibrium for all; 1e-12 is rounding of a linear system
    assert np.allclose(solve_continuous_lyapunov(drift, -2 * np.eye(2)), Sigma, rtol=1e-10, atol=1e-12)
fig, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
left.plot(strengths, -abscissa, color=BLUE)
left.set(title="slowest rate, $-\\max$ Re eig F", xlabel="q", ylim=(0, 0.6))
when = np.linspace(0, 12, 121)
for q, color in ((0.0, ORANGE), (0.5, GREEN), (2.0, BLUE)):
    drift = -(np.eye(2) + q * turn) @ np.linalg.inv(Sigma)
    gone = [expm(t * drift) for t in when]
    middle.semilogy(when, [np.linalg.norm(U @ Sigma @ U.T) for U in gone], color=color, label=f"q = {q}")
    right.plot(*np.array([U @ [3.0, 8.0] for U in gone]).T, color=color)
middle.set(title="$|\\Sigma_\\infty - \\Sigma_t|$ from a point", xlabel="t", ylim=(1e-4, 20))
middle.legend()
plotting.density(right, Gaussian([0.0, 0.0], Sigma), color="0.5")
right.set(title="mean paths, over the equilibrium", xlim=(-5, 5), ylim=(-10, 10))
plt.show()

# %% [markdown]
# ## One schedule for each axis
#
# For Gaussian data of standard deviation $s_m$ along axis $m$ a DDIM step depends on $\sigma/(\alpha s_m)$ alone.
# Noising each principal axis in units of its own $s_m$ (paDDIM) makes all axes equally hard: the same relative error,
# where a common schedule is worst on the narrowest.

# %%
s = np.array([0.05, 0.5, 1.0, 5.0])
law, noise = Gaussian(np.zeros(4), s**2), VEPower(T=80.0)
counts = np.array([10, 20, 40, 80])


def shrinkage(process, n):
    table = ddim(process, times.karras(noise, n, end=0.002, append_clean=True))
    return 1 - np.sqrt(np.diag(propagate(table, law).output.cov())) / s


common = np.array([shrinkage(noise, n) for n in counts])
own = np.array([shrinkage(data_axes(law, noise), n) for n in counts])
assert np.ptp(own, axis=1).max() < 1e-12 < np.ptp(common, axis=1).min()  # one number for all axes
assert np.allclose(common[1], [0.188, 0.139, 0.127, 0.102], atol=5e-4) and np.allclose(own[1], 0.127, atol=5e-4)
fig, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for m, color in enumerate((PURPLE, ORANGE, GREEN, BLUE)):
    plotting.convergence(axes, counts, common[:, m], label=f"common schedule, s = {s[m]}", color=color)
plotting.convergence(axes, counts, own[:, 0], label="own schedules, all axes", color="k", order=1)
axes.set(title="part of the standard deviation that is lost", xlabel="steps", ylabel="")
axes.legend()
plt.show()

# %% [markdown]
# ## Axes that turn slowly
#
# With $F = -\frac12D$ and $D$ whose axes $d_a$ turn slowly, $\dot d_a = \sum_b e_{ab}d_b$, the evolution $U$ is
# diagonal, $u_a = e^{-\lambda_at/2}$, up to $u^1_{ab} = \int_0^te^{-\lambda_a(t-s)/2}(u_b - u_a)(s)\,e_{ab}\,ds$. The
# note drops the exponential: what has leaked from one axis to another decays too, and at first order in the turning.

# %%
nodes, weights = np.polynomial.legendre.leggauss(24)
nodes, weights, rates = (nodes + 1) / 2, weights / 2, np.array([1.0, 3.0])  # t = 1
u, fade = np.exp(-np.outer(nodes, rates) / 2), np.exp(-np.outer(1 - nodes, rates) / 2)
speeds, errors = 0.5 ** np.arange(1, 9), []
for speed in speeds:
    there = Rotating([[0, -speed], [speed, 0]], rates).spectral(1.0)
    leaked = (u[:, None, :] - u[:, :, None]) * there.connection  # (u_b - u_a) e_ab at every node
    corrected, printed = np.tensordot(weights, fade[:, :, None] * leaked, 1), np.tensordot(weights, leaked, 1)
    exact = there.evolution - np.diag(np.exp(-rates / 2))
    errors.append([abs(one - exact)[0, 1] for one in (printed, corrected)])
fig, axes = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
for column, name, order, color in zip(np.transpose(errors), ("printed", "with its decay"), (1, 3), (ORANGE, BLUE)):
    plotting.convergence(axes, 1 / speeds, column, label=name, order=order, color=color)
    assert abs(np.log2(column[-2] / column[-1]) - order) < 0.1  # odd in the speed: the second order is missing
axes.set(title="error of $u_{12}$ at t = 1", xlabel="1 / speed of turning", ylabel="")
axes.legend()
plt.show()

# %% [markdown]
# ## Exercise: the step without a frame
#
# Write gDDIM's step from $s$ to $t < s$ for a clean prediction `clean` (n, d) at `x` (n, d): a function of `(x, clean,
# process, s, t)`. What is needed: `process.kernel(t).gain` is $U_t$, and `process.noise_channel(s, t).gain` is
# $\Psi(t, s)$. It is tempting to carry the noise by Cholesky's factors, $L_tL_s^{-1}$, which keeps the covariance
# right.

# %% tags=["exercise"]
attempt = None  # your turn: a function of (x, clean, process, s, t) that returns points (n, d)


# %% jupyter={"source_hidden": true} tags=["solution"]
def solution(x, clean, process, s, t):
    rest = x - clean @ process.kernel(s).gain.T
    return clean @ process.kernel(t).gain.T + rest @ process.noise_channel(s, t).gain.T


# %% tags=["check"]
given = attempt or solution


def cholesky(x, clean, process, s, t):
    carried = np.linalg.cholesky(process.kernel(t).noise) @ np.linalg.inv(np.linalg.cholesky(process.kernel(s).noise))
    return clean @ process.kernel(t).gain.T + (x - clean @ process.kernel(s).gain.T) @ carried.T


for name in ("CLD", "turning VP"):
    process, clean = processes[name], np.array([[0.7, -0.4]])
    x = process.kernel(0.9).at(clean[0]).sample(20, 8)
    truth = flow(ExactModel(Empirical(clean), process), x, 0.9, 0.3, rtol=1e-11).x  # by DOP853, which knows no U or V
    close = lambda y, truth=truth: np.shape(y) == truth.shape and np.allclose(y, truth, rtol=0, atol=1e-7)  # noqa: E731
    hint = "one point must be hit exactly: carry the clean part of x by U, and all the rest by Psi, as rows (n, d)"
    assert close(given(x, clean, process, 0.9, 0.3)), f"{name}: {hint}"
    assert not close(cholesky(x, clean, process, 0.9, 0.3))

# %% [markdown]
# **Sources.** M. Han, DDIM Redux (RDX-01..20, RDX-41..47, RDX-53, RDX-F1; errata E1, E2, E6, E8); Zhang, Tao and Chen
# 2022 (gDDIM); Dockhorn, Vahdat and Kreis 2022 (CLD).
