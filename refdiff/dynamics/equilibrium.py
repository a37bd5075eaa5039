r"""Equilibrium of linear SDEs dx = F x dt + G dw, D = G G' with constant F and G: what relaxes and what circulates.

    F Sigma + Sigma F' = -D                      the stationary covariance, where F is Hurwitz
    F = -(D/2 + Q) Sigma^-1,  Q' = -Q            any Q keeps N(0, Sigma): Q grad p is a current without divergence
    F Q + Q F' = (F D - D F')/2                  Q without Sigma; Q = 0, detailed balance, where F D = D F'

In coordinates y = Sigma^(-1/2) x the drift is -(S + A), with S = Sigma^(-1/2) (D/2) Sigma^(-1/2) and A = -A' that of Q:

    d|y|^2/dt = -2 y' S y,   so   |e^(-t (S + A))| <= e^(-t min S),   which is what A = 0 has
    tr S / d  >=  the slowest rate of S + A,   which `fastest_circulation` attains

Circulation therefore slows no worst case, at any time, and may speed all up; where D is singular nothing reaches
equilibrium without it (critically damped Langevin). The contrary is claimed by a source. F, D, Q, Sigma are matrices
(d, d), diagonals (d,) or numbers. The fastest circulation is that of Lelievre, Nier and Pavliotis (2013).
Sources: RDX-41, RDX-42, RDX-43, RDX-46, RDX-47.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import expm, solve_continuous_lyapunov

from refdiff import operators
from refdiff.arguments import Array, real_array, real_scalar

EPS = np.finfo(float).eps


def stationary_covariance(drift: ArrayLike, diffusion: ArrayLike) -> Array:
    """Sigma with F Sigma + Sigma F' = -D, shape (d, d), for `drift` F and `diffusion` D.

    Raises:
        ValueError: F is not Hurwitz, so that no covariance or more than one is stationary.
    """
    f, d = coefficients(drift, diffusion)
    _hurwitz(f)
    sigma = solve_continuous_lyapunov(f, -d)
    return np.asarray((sigma + sigma.T) / 2)


def circulation(drift: ArrayLike, diffusion: ArrayLike) -> Array:
    """Q = -D/2 - F Sigma, shape (d, d), from its own equation F Q + Q F' = (F D - D F')/2 for `drift` and `diffusion`.

    Raises:
        ValueError: F is not Hurwitz.

    Examples:
        >>> from refdiff.dynamics.equilibrium import circulation, stationary_covariance
        >>> drift, diffusion = [[-1.0, 1.0], [-1.0, -1.0]], [2.0, 2.0]  # a pull to the centre, and a turn
        >>> print(stationary_covariance(drift, diffusion).round(6) + 0.0)
        [[1. 0.]
         [0. 1.]]
        >>> print(circulation(drift, diffusion).round(6) + 0.0)  # -D / 2 - F Sigma
        [[ 0. -1.]
         [ 1.  0.]]
    """
    f, d = coefficients(drift, diffusion)
    _hurwitz(f)
    moved = f @ d
    q = solve_continuous_lyapunov(f, (moved - moved.T) / 2)
    return np.asarray((q - q.T) / 2)


def equilibrating_drift(diffusion: ArrayLike, circulation: ArrayLike, covariance: ArrayLike) -> Array:
    """F = -(D/2 + Q) Sigma^-1, shape (d, d), of `diffusion` D and `circulation` Q, which keeps the `covariance` Sigma.

    Raises:
        ValueError: Q is not antisymmetric, Sigma is singular, or D is not positive semi-definite.
    """
    q, sigma = coefficients(circulation, covariance, names=("circulation", "covariance"))
    q, d = coefficients(q, diffusion, names=("circulation", "diffusion"))
    _antisymmetric("circulation", q)
    root = _root(sigma)
    inverse = np.linalg.inv(root)
    return np.asarray(-(d / 2 + q) @ inverse.T @ inverse)


def is_reversible(drift: ArrayLike, diffusion: ArrayLike, parity: ArrayLike | None = None, rtol: float = 1e-12) -> bool:
    """Whether the stationary process is the same backwards in time: detailed balance, F Sigma = -D/2.

    With `parity`, +-1 for each coordinate, shape (d,), those of -1 (velocities) change their sign in reversed time:
    then the part (F + P F P)/2 of the drift, P = diag(parity), must be -(D/2) Sigma^-1. Langevin dynamics of any
    damping is reversible in this sense, though it circulates.

    Args:
        drift: F, Hurwitz.
        diffusion: D.
        parity: +1 or -1 for each coordinate, all +1 when left out.
        rtol: what counts as equal, relative to the largest products of entries.

    Raises:
        ValueError: F is not Hurwitz, or the parity is not +-1.
    """
    f, d = coefficients(drift, diffusion)
    signs, rtol = signs_of(parity, len(d)), real_scalar("rtol", rtol, low=0)
    sigma, turned = stationary_covariance(f, d), np.outer(signs, signs)
    kept, size = (f + turned * f) / 2, np.abs(d).max() + np.linalg.norm(f, 2) * np.linalg.norm(sigma, 2)
    misses = kept @ sigma + d / 2, d - turned * d, np.linalg.norm(f, 2) * (sigma - turned * sigma)
    return bool(max(np.abs(miss).max() for miss in misses) <= rtol * size)


def spectral_abscissa(drift: ArrayLike) -> float:
    """The largest real part of an eigenvalue of the `drift` F (d, d): how fast |e^(tF)| grows in the long run."""
    f, _ = coefficients(drift, 0.0)
    return float(np.linalg.eigvals(f).real.max())


def numerical_abscissa(drift: ArrayLike, covariance: ArrayLike = 1.0) -> float:
    """The rate at which |e^(tF)| grows at t = 0 and, as a bound, at most ever, in the norm of Sigma^-1.

    The largest eigenvalue of (M + M')/2, M = Sigma^(-1/2) F Sigma^(1/2). Where it is positive and the spectral
    abscissa negative, |e^(tF)| first grows; for the stationary covariance of F it is never positive.

    Args:
        drift: F, shape (d, d).
        covariance: Sigma, the Euclidean norm when left out.

    Raises:
        ValueError: Sigma is singular.
    """
    m = _in_metric(drift, covariance)
    return float(np.linalg.eigvalsh((m + m.T) / 2).max())


def growth(drift: ArrayLike, times: ArrayLike, covariance: ArrayLike = 1.0) -> Array:
    """|e^(tF)|, the most that any start has grown after each of the `times` (...), in the norm of Sigma^-1.

    Args:
        drift: F.
        times: any shape (...).
        covariance: Sigma, the Euclidean norm when left out.

    Raises:
        ValueError: Sigma is singular.
    """
    t = real_array("times", times)
    m = _in_metric(drift, covariance)
    return np.asarray(np.linalg.norm(expm(t[..., None, None] * m), 2, axis=(-2, -1)))


def fastest_circulation(diffusion: ArrayLike, covariance: ArrayLike, stretch: float = 4.0) -> Array:
    """A circulation Q (d, d) under which everything relaxes at the rate tr(D Sigma^-1) / (2 d), the best there is.

    In a basis where S has the constant diagonal tau, (S + A) P + P (S + A)' = 2 tau P is solved entry by entry for
    P = diag(p) with different p: A_jk = S_jk (p_j + p_k) / (p_j - p_k). Then |e^(tF)| <= sqrt(stretch) e^(-t tau) in
    the norm of Sigma^-1. The rate of Q = 0 is the smallest eigenvalue of S, zero where D is singular.

    Args:
        diffusion: D.
        covariance: Sigma.
        stretch: max p / min p > 1; the closer to 1 the larger Q.

    Raises:
        ValueError: D = 0, Sigma is singular, or stretch is not larger than 1.
    """
    sigma, d = coefficients(covariance, diffusion, names=("covariance", "diffusion"))
    stretch = real_scalar("stretch", stretch, low=1, open_low=True)
    if not d.any():
        raise ValueError("diffusion must not be 0: nothing relaxes without noise")
    root = _root(sigma)
    inverse = np.linalg.inv(root)
    relaxing = inverse @ (d / 2) @ inverse.T
    basis = _even_basis(relaxing)
    p = np.geomspace(1, stretch, len(d))
    gaps = p[:, None] - p
    np.fill_diagonal(gaps, np.inf)
    turning = basis.T @ relaxing @ basis * (p[:, None] + p) / gaps
    q = root @ basis @ turning @ basis.T @ root.T
    return np.asarray((q - q.T) / 2)


def coefficients(
    drift: ArrayLike, diffusion: ArrayLike, names: tuple[str, str] = ("drift", "diffusion")
) -> tuple[Array, Array]:
    """F and D as matrices (d, d) from `drift`, `diffusion` in any storage, called by `names` in messages.

    Raises:
        ValueError: they are not square, of different dimensions, or D is not positive semi-definite.
    """
    f, d = operators.operator(names[0], drift), operators.covariance(names[1], diffusion)
    if f.ndim == 2 and f.shape[0] != f.shape[1]:
        raise ValueError(f"{names[0]} must be square, got shape {f.shape}")
    sizes = {name: len(part) for name, part in zip(names, (f, d), strict=True) if part.ndim}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"{names[0]} and {names[1]} must act on the same dimension, got {sizes}")
    dim = next(iter(sizes.values()), 1)
    return operators.dense(f, dim), operators.dense(d, dim)


def signs_of(parity: ArrayLike | None, dim: int) -> Array:
    """The `parity` +-1 of `dim` coordinates, shape (d,), all +1 for None.

    Raises:
        ValueError: it has another shape or other numbers.
    """
    signs = np.ones(dim) if parity is None else real_array("parity", parity, ndim=(1,))
    if signs.shape != (dim,) or (np.abs(signs) != 1).any():
        raise ValueError(f"parity must be +1 or -1 for each of {dim} coordinates, got {np.asarray(parity).tolist()}")
    return signs


def _hurwitz(f: Array) -> None:
    """Check that e^(tF) decays, by more than the eigenvalues' own rounding."""
    largest = float(np.linalg.eigvals(f).real.max())
    if largest >= -len(f) * EPS * np.linalg.norm(f, 2):
        raise ValueError(f"drift must have eigenvalues with negative real parts (Hurwitz), got one of {largest:.6g}")


def _antisymmetric(name: str, q: Array) -> None:
    """Check that Q' = -Q, up to what a text file leaves of it."""
    if (np.abs(q + q.T) > 1e-8 * np.abs(q).max()).any():
        raise ValueError(f"{name} must be antisymmetric, got a sum with its transpose of {np.abs(q + q.T).max()}")


def _root(sigma: Array) -> Array:
    """L with L L' = Sigma; any root serves, they differ by a rotation of y."""
    try:
        return np.asarray(np.linalg.cholesky(sigma))
    except np.linalg.LinAlgError:
        raise ValueError("covariance must be positive definite, got a singular one") from None


def _in_metric(drift: ArrayLike, covariance: ArrayLike) -> Array:
    """L^-1 F L, the drift of L^-1 x with L L' = Sigma."""
    f, sigma = coefficients(drift, covariance, names=("drift", "covariance"))
    root = _root(sigma)
    return np.asarray(np.linalg.solve(root, f @ root))


def _even_basis(s: Array) -> Array:
    """An orthogonal matrix B for which B' S B has a constant diagonal: d - 1 rotations, each of which sets one entry.

    The entry i above the mean tau and the entry j below it are mixed by the angle whose tangent x solves
    (S_jj - tau) x^2 + 2 S_ij x + S_ii - tau = 0; such an x exists as the outer coefficients differ in sign.
    """
    dim, basis, left = len(s), np.eye(len(s)), list(range(len(s)))
    tau = np.trace(s) / dim
    for _ in range(dim - 1):
        inner = basis.T @ s @ basis
        diagonal = np.diag(inner)
        i = max(left, key=lambda k: diagonal[k])
        j = min(left, key=lambda k: diagonal[k])
        above, below, mixed = diagonal[i] - tau, diagonal[j] - tau, inner[i, j]
        if above <= dim * EPS * tau:  # the diagonal is constant, and both coefficients may be 0
            break
        larger = mixed + np.copysign(np.sqrt(mixed**2 - above * min(below, 0.0)), mixed)
        x = -above / larger
        cos = 1 / np.hypot(1, x)
        basis[:, [i, j]] = basis[:, [i, j]] @ (cos * np.array([[1, -x], [x, 1]]))
        left.remove(i)
    return basis
