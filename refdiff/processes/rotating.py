r"""Linear SDEs whose coefficients are constant in a turning frame, R = e^(theta W) with W' = -W and theta = theta(t).

    F(t) = theta' R F_0 R',    D(t) = theta' R D_0 R'                  in general without [F(s), F(t)] = 0
    y = R' x:   dy = M y dtheta + G_0 dw,   M = F_0 - W                which is constant
    K(t, s) = R_t e^((theta_t - theta_s) M) R_s',    Sigma(t | s) = R_t C R_t',    C = int e^(u M) D_0 e^(u M') du

F_0 = -D_0/2 unless given: variance-preserving noise, Sigma = I - U U' with U(t) = K(t, 0), whose eigenvectors turn. In
the spectral form D = sum_m lambda_m d_m d_m' and U = sum_mn u_mn d_m d_n',

    u_mn' = -lambda_m u_mn / 2 + sum_p (e_mp u_pn - u_mp e_pn),    e_mn = d_n . d_m' = -e_nm

The equilibrium in the frame is N(0, I) with the circulation Q = W: who turns with D sees a current, who stands still
none. These are processes with closed forms that do not commute in time, and may rest on noise of rank one.
Sources: RDX-31, RDX-33, RDX-49, RDX-50, RDX-F1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, real_array, real_scalar
from refdiff.channels import Channel
from refdiff.processes import transition

Clock = Callable[[float], tuple[float, float, float]]


class Spectral(NamedTuple):
    """D(t) and U(t) in the eigenvectors of D at one time.

    Attributes:
        rates: lambda_m, the eigenvalues, increasing, shape (d,).
        axes: d_m as columns, shape (d, d).
        evolution: u_mn, shape (d, d).
        connection: e_mn, shape (d, d).
    """

    rates: Array
    axes: Array
    evolution: Array
    connection: Array


@dataclass(frozen=True, eq=False)
class Rotating:
    """The functions F(t), G(t) and D(t) of a turning frame, shape (d, d), and what follows from them in closed form.

    `LinearProcess(turned.drift, turned.noise, T, rates=turned.rates)` is the process that models and samplers take.

    Args:
        turning: W, an antisymmetric matrix (d, d).
        diffusion: D_0, a matrix (d, d), a diagonal (d,) or a number.
        drift: F_0, in the same storages, -D_0 / 2 unless given.
        clock: t -> (theta, theta', theta''), with theta(0) = 0 and theta' >= 0; (t, 1, 0) unless given.

    Raises:
        TypeError: a clock that is no function.
        ValueError: W is not antisymmetric, D_0 not positive semi-definite, the dimensions differ, or theta(0) is not 0.
    """

    turning: Array
    frame_drift: Array
    frame_diffusion: Array
    frame_noise: Array
    clock: Clock | None

    def __init__(
        self, turning: ArrayLike, diffusion: ArrayLike, drift: ArrayLike | None = None, clock: Clock | None = None
    ) -> None:
        w, d = real_array("turning", turning, ndim=(2,)), operators.covariance("diffusion", diffusion)
        if w.shape[0] != w.shape[1] or w.size == 0:
            raise ValueError(f"turning must be square, got shape {w.shape}")
        # 1e-8: as for the symmetry of covariances, what a text file or float32 leaves of it
        if (np.abs(w + w.T) > 1e-8 * np.abs(w).max()).any():
            raise ValueError(f"turning must be antisymmetric, got a sum with its transpose of {np.abs(w + w.T).max()}")
        f = -d / 2 if drift is None else operators.operator("drift", drift)
        for called, part in (("diffusion", d), ("drift", f)):
            if part.ndim and part.shape != (len(w),) * part.ndim:
                raise ValueError(f"{called} must act on dimension {len(w)}, got shape {part.shape}")
        if clock is not None and not callable(clock):
            raise TypeError(f"clock must be a function of time, got {clock!r}")
        d = operators.dense(d, len(w))
        parts = {
            "turning": (w - w.T) / 2,
            "frame_drift": operators.dense(f, len(w)),
            "frame_diffusion": d,
            "frame_noise": operators.root(d),
            "clock": clock,
        }
        for name, value in parts.items():
            object.__setattr__(self, name, value)
        if self._clock(0.0)[0] != 0:
            raise ValueError(f"clock must start at theta = 0, got {self._clock(0.0)[0]}")

    @property
    def dim(self) -> int:
        """d, the dimension of x."""
        return len(self.turning)

    # ------------------------------------------------------------------ coefficients

    def frame(self, t: float) -> Array:
        """R(t) = e^(theta W), shape (d, d), orthogonal."""
        return self._carried(self._clock(t)[0], self.turning).gain

    def drift(self, t: float) -> Array:
        """F(t) = theta' R F_0 R', shape (d, d)."""
        return self._clock(t)[1] * self._turned(t, self.frame_drift)

    def diffusion(self, t: float) -> Array:
        """D(t) = theta' R D_0 R', shape (d, d)."""
        return self._clock(t)[1] * self._turned(t, self.frame_diffusion)

    def noise(self, t: float) -> Array:
        """G(t) = sqrt(theta') R G_0, shape (d, d), G_0 the eigenvectors of D_0 times the roots of its eigenvalues."""
        return np.asarray(np.sqrt(self._clock(t)[1]) * (self.frame(t) @ self.frame_noise))

    def rates(self, t: float) -> tuple[Array, Array, Array]:
        """F'(t) (d, d), the rate of the force, zero (d,), and D'(t) (d, d).

        In the frame they are theta'' X + theta'^2 (W X - X W) of X = F_0 and D_0.
        """
        _, pace, change = self._clock(t)
        w = self.turning
        f, d = (change * part + pace**2 * (w @ part - part @ w) for part in (self.frame_drift, self.frame_diffusion))
        return self._turned(t, f), np.zeros(self.dim), self._turned(t, d)

    # ------------------------------------------------------------------ closed forms

    def propagator(self, s: float, t: float) -> Array:
        """K(t, s), shape (d, d), forward or backward in time."""
        inner = self._carried(self._clock(t)[0] - self._clock(s)[0], self.frame_drift - self.turning).gain
        return np.asarray(self.frame(t) @ inner @ self.frame(s).T)

    def channel(self, s: float, t: float) -> Channel:
        """The channel from time s to time t >= s: N(K x, Sigma).

        Raises:
            ValueError: s > t.
        """
        s, t = real_scalar("s", s), real_scalar("t", t)
        if s > t:
            raise ValueError(f"s must not exceed t, got s = {s} and t = {t}")
        inner = self._carried(self._clock(t)[0] - self._clock(s)[0], self.frame_drift - self.turning)
        after, before = self.frame(t), self.frame(s)
        return transition.Transition(after @ inner.gain @ before.T, np.zeros(self.dim), after @ inner.root).channel

    def kernel(self, t: float) -> Channel:
        """The channel from time 0 to time t."""
        return self.channel(0.0, t)

    def spectral(self, t: float) -> Spectral:
        """Eigenvalues and eigenvectors of D(t), U(t) in these, and their connection; the axes turn with the frame."""
        theta, pace, _ = self._clock(t)
        values, first = np.linalg.eigh(self.frame_diffusion)
        # E' U E with E = R E_0 and U = R e^(theta M): what turns twice is done once
        inner = self._carried(theta, self.frame_drift - self.turning).gain @ self.frame(t)
        connection = pace * (first.T @ self.turning @ first).T
        return Spectral(pace * values, self.frame(t) @ first, first.T @ inner @ first, connection)

    def _carried(self, passed: float, drift: Array) -> transition.Transition:
        """The transition with a constant drift and the noise of the frame while theta passes."""
        still, root = np.zeros(self.dim), self.frame_noise
        return transition.constant(transition.Linear(lambda _: drift, lambda _: still, lambda _: root), passed)

    def _turned(self, t: float, part: Array) -> Array:
        frame = self.frame(t)
        return np.asarray(frame @ part @ frame.T)

    def _clock(self, t: float) -> tuple[float, float, float]:
        """theta, theta' and theta''."""
        time = real_scalar("t", t)
        if self.clock is None:
            return time, 1.0, 0.0
        theta, pace, change = (real_scalar("clock", part) for part in self.clock(time))
        if pace < 0:
            raise ValueError(f"clock must not run backwards, got theta' = {pace} at t = {t}")
        return theta, pace, change
