r"""Noising along axes that are not those of the data's coordinates.

    x_t = E (alpha_t * E' x_0 + b_t + sigma_t * E' eps)

The columns of the orthogonal E are the axes, for example the principal axes of the data (paDDIM), each with a schedule
of its own: everything is the per-axis process, turned. Axes of one noise-to-signal ratio each, sigma_m / alpha_m = s_m
rho(t) with s_m the data's standard deviation, make every axis as hard as any other. Sources: RDX-34, RDX-53.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, real_array
from refdiff.channels import Channel
from refdiff.operators import Operator
from refdiff.processes.affine import AffineProcess
from refdiff.processes.motion import Motion, Offset


@dataclass(frozen=True, eq=False)
class PrincipalAxes:
    """The process `along` the axes E.

    Args:
        along: an AffineProcess, in coordinates along the axes (its offset too).
        basis: E, orthonormal axes as columns, shape (d, d).

    Raises:
        TypeError: along is no AffineProcess.
        ValueError: a basis that is not orthonormal, or of another dimension than the process.

    Examples:
        >>> import numpy as np
        >>> from refdiff import AffineProcess, PrincipalAxes, VEPower
        >>> along = AffineProcess([VEPower(power=1.0, T=4.0), VEPower(power=0.5, T=4.0)])  # sigma = t, sigma = sqrt t
        >>> turned = PrincipalAxes(along, np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2))
        >>> print(turned.kernel(3.0).noise.round(6))  # variances 9 and 3 along the diagonals
        [[6. 3.]
         [3. 6.]]
    """

    along: AffineProcess
    basis: Array

    def __init__(self, along: AffineProcess, basis: ArrayLike) -> None:
        if not isinstance(along, AffineProcess):
            raise TypeError(f"along must be an AffineProcess, got {along!r}")
        axes = real_array("basis", basis, ndim=(2,))
        dim = len(axes)
        if axes.shape != (dim, dim) or along.axes not in (None, dim):
            raise ValueError(
                f"basis must have shape (d, d) with d the axes of the process, {along.axes}, got {axes.shape}"
            )
        if np.abs(axes.T @ axes - np.eye(dim)).max() > 1e-10:  # of eigenvectors it is some d eps
            raise ValueError("basis must have orthonormal columns, got a difference of E'E from the identity of "
                             f"{np.abs(axes.T @ axes - np.eye(dim)).max()}")  # fmt: skip
        object.__setattr__(self, "along", along)
        object.__setattr__(self, "basis", axes)

    @property
    def T(self) -> float:
        """The final time."""
        return self.along.T

    @property
    def axes(self) -> int:
        """d."""
        return len(self.basis)

    @property
    def centred(self) -> PrincipalAxes:
        """The process of x - b_t."""
        return self if self.along is self.along.centred else PrincipalAxes(self.along.centred, self.basis)

    def kernel(self, t: float) -> Channel:
        """The channel from clean data to time t."""
        return self._channel(self.along.kernel(t))

    def channel(self, s: float, t: float) -> Channel:
        """The channel from time s to time t, s <= t."""
        return self._channel(self.along.channel(s, t))

    def noise_channel(self, s: float, t: float, stochasticity: float = 0.0) -> Channel:
        """The channel from y_s to y_t, y = x - A x_0 - b, with k = stochasticity >= 0, see `AffineProcess`."""
        return self._channel(self.along.noise_channel(s, t, stochasticity))

    def offset(self, t: float) -> Offset:
        """E b_t and its rates, each (d,)."""
        return Offset(*(self._vector(part) for part in self.along.offset(t)))

    def motion(self, t: float) -> Motion:
        """The motion of the process along the axes, turned."""
        along = self.along.motion(t)
        known = {name: part for name, part in along._asdict().items() if part is not None and name != "offset"}
        turned: dict[str, Any] = {name: self._turned(part) for name, part in known.items()}
        return along._replace(offset=self.offset(t), **turned)

    def drift(self, t: float) -> Operator:
        """F(t), shape (d, d) or a scalar."""
        return self._turned(self.along.drift(t))

    def force(self, t: float) -> Array:
        """E u(t), shape (d,)."""
        return self._vector(self.along.force(t))

    def diffusion(self, t: float) -> Operator:
        """D(t), shape (d, d) or a scalar."""
        return self._turned(self.along.diffusion(t))

    def _turned(self, a: Operator) -> Operator:
        """E diag(a) E'; a number stays one."""
        return a if a.ndim == 0 else np.asarray((self.basis * a) @ self.basis.T)

    def _vector(self, b: Array) -> Array:
        return np.asarray(self.basis @ np.broadcast_to(b, (self.axes,)))

    def _channel(self, channel: Channel) -> Channel:
        return Channel(self._turned(channel.gain), self._vector(channel.offset), self._turned(channel.noise))
