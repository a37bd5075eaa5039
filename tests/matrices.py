"""Linear SDEs that do not commute in time, and their moments by SciPy's DOP853: none of it calls the library."""

import numpy as np
from scipy.integrate import solve_ivp

# F and G below change on times of about 1 / 3: DOP853 at its least tolerance is then right to some 1e-13
RTOL, ATOL = 1e-13, 1e-15


class Coefficients:
    """F, u and G as polynomials and waves with random matrices (d, d), (d,), (d, m), and their rates."""

    def __init__(self, dim, seed, columns=None, size=1.0):
        rng = np.random.default_rng(seed)
        self.dim, self.columns = dim, dim if columns is None else columns
        self.a = size * rng.standard_normal((3, dim, dim)) / np.sqrt(dim)
        self.b = rng.standard_normal((3, dim, self.columns)) / np.sqrt(dim)
        self.c = rng.standard_normal((2, dim))

    def drift(self, t):
        return self.a[0] + np.sin(2 * t) * self.a[1] + t * t * self.a[2]

    def noise(self, t):
        return self.b[0] + np.cos(3 * t) * self.b[1] + t * self.b[2]

    def force(self, t):
        return self.c[0] + np.cos(t) * self.c[1]

    def diffusion(self, t):
        g = self.noise(t)
        return g @ g.T

    def rates(self, t):
        g, dg = self.noise(t), -3 * np.sin(3 * t) * self.b[1] + self.b[2]
        drift = 2 * np.cos(2 * t) * self.a[1] + 2 * t * self.a[2]
        return drift, -np.sin(t) * self.c[1], dg @ g.T + g @ dg.T


def moments(equation, s, t):
    """K (d, d), k (d,) and Sigma (d, d) from s to t, by K' = F K, k' = F k + u, Sigma' = F Sigma + Sigma F' + D."""
    d = equation.dim

    def slope(time, state):
        k, offset, sigma = np.split(state, [d * d, d * d + d])
        f, k, sigma = equation.drift(time), k.reshape(d, d), sigma.reshape(d, d)
        moved = f @ sigma
        rates = f @ k, f @ offset + equation.force(time), moved + moved.T + equation.diffusion(time)
        return np.concatenate([rate.ravel() for rate in rates])

    start = np.concatenate([np.eye(d).ravel(), np.zeros(d + d * d)])
    found = solve_ivp(slope, (s, t), start, method="DOP853", rtol=RTOL, atol=ATOL).y[:, -1]
    k, offset, sigma = np.split(found, [d * d, d * d + d])
    return k.reshape(d, d), offset, sigma.reshape(d, d)


def carried(equation, covariance, s, t, stochasticity=0.0):
    """Psi from s to t, Psi' = (F + (1 + k^2)/2 D C^-1) Psi, with C(t) = covariance(t) (d, d).

    C is not carried along: towards clean data its own equation multiplies what errors it has.
    """
    d, k = equation.dim, stochasticity

    def slope(time, psi):
        drawn = np.linalg.solve(covariance(time), equation.diffusion(time)).T
        return ((equation.drift(time) + (1 + k * k) / 2 * drawn) @ psi.reshape(d, d)).ravel()

    return solve_ivp(slope, (s, t), np.eye(d).ravel(), method="DOP853", rtol=RTOL, atol=ATOL).y[:, -1].reshape(d, d)


def langevin(beta=4.0, mass=0.25, friction=1.0):
    """F (2, 2) and G (2, 1) of Langevin dynamics, critically damped at friction^2 = 4 mass."""
    drift = beta * np.array([[0.0, 1 / mass], [-1.0, -friction / mass]])
    return drift, np.array([[0.0], [np.sqrt(2 * friction * beta)]])
