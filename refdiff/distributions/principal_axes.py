r"""Principal axes of a law: Cov x = Q diag(v) Q', largest variance first.

For a point set the axes come from the singular values of the centred points, which keeps twice the digits
of the eigenvalues of their covariance. Source: RDX-53 (principal-axis DDIM).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refdiff.arguments import Array, whole_number
from refdiff.distributions.mixture import Empirical, GaussianMixture


@dataclass(frozen=True, eq=False)
class PrincipalAxes:
    """The mean (d,), axes as orthonormal columns (d, r) and variances (r,) along them, in decreasing order."""

    mean: Array
    axes: Array
    variances: Array

    def project(self, law: GaussianMixture) -> GaussianMixture:
        """The law of the coordinates Q' (x - mean)."""
        return law.affine(self.axes.T, -self.axes.T @ self.mean)

    def lift(self, law: GaussianMixture) -> GaussianMixture:
        """The law of mean + Q y: the way back, onto the span of the axes."""
        return law.affine(self.axes, self.mean)


def pca(law: GaussianMixture, count: int | None = None) -> PrincipalAxes:
    """The first `count` principal axes of a law, all d when left out (signs: the largest entry is positive).

    Raises:
        ValueError: count is not in 1..d.

    Examples:
        >>> from refdiff.distributions import Empirical, pca
        >>> found = pca(Empirical([[3.0, 4.0], [-3.0, -4.0]]), count=1)
        >>> print(found.axes.ravel().round(6), found.variances.round(6))
        [0.6 0.8] [25.]
    """
    count = law.dim if count is None else whole_number("count", count, low=1, high=law.dim)
    mean = law.mean()
    if isinstance(law, Empirical):
        scaled = np.sqrt(law.weights)[:, None] * (law.means - mean)
        # fewer points than coordinates leave axes without variance, which only the full factor has
        _, singular, rows = np.linalg.svd(scaled, full_matrices=law.count < law.dim)
        variances, axes = np.append(singular**2, np.zeros(law.dim - len(singular))), rows.T
    else:
        values, vectors = np.linalg.eigh(law.cov())
        variances, axes = np.maximum(values[::-1], 0), vectors[:, ::-1]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
    axes = axes * np.where(largest < 0, -1.0, 1.0)
    return PrincipalAxes(mean, axes[:, :count], variances[:count])
