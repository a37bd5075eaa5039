r"""The probability flow between two times as a bijection: a continuous normalizing flow whose field is exact.

    f = Psi_{s->t},     p_t = f # p_s:     log p_t(x) = log p_s(f^-1(x)) - int_s^t div v du,     f^-1 = Psi_{t->s}

From any law at the time s, not only from p_s: with N(0, I) at T it is what a sampler without discretisation error
draws. Sources: PODB-27, PODD-72; Chen et al. 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from refdiff.arguments import real_scalar
from refdiff.dynamics.flow import flow, tolerances
from refdiff.dynamics.jacobians import flow_jacobian
from refdiff.model import ExactModel


@dataclass(frozen=True, eq=False)
class FlowMap:
    """The flow map of dx/dt = velocity(x, t) of an exact model from the time `start` to the time `end`.

    Args:
        model: an ExactModel.
        start, end: in either order, p_t with a density at both.
        method: dop853, or dopri5 for loose tolerances.
        rtol, atol: as in `flow`.

    Raises:
        TypeError: the model is no ExactModel.

    Examples:
        >>> from refdiff import ExactModel, FlowMatching, Gaussian
        >>> from refdiff.dynamics import FlowMap
        >>> generator = FlowMap(ExactModel(Gaussian([3.0], 4.0), FlowMatching()), 1.0, 0.0)  # N(0, 1) to N(3, 4)
        >>> print(generator.forward([[1.0]]).round(6), generator.log_det([[1.0]]).round(6))  # 3 + 2 z, log 2
        [[5.]] [0.693147]
    """

    model: ExactModel
    start: float
    end: float
    method: str = "dop853"
    rtol: float | None = None
    atol: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, ExactModel):
            raise TypeError(f"model must be an ExactModel, got {self.model!r}")
        for name in ("start", "end"):
            real_scalar(name, getattr(self, name), low=0, high=self.model.process.T)

    @property
    def dim(self) -> int:
        """d."""
        return self.model.dim

    @property
    def _options(self) -> dict[str, Any]:
        return {"method": self.method, "rtol": self.rtol, "atol": self.atol}

    def forward(self, z: ArrayLike) -> Any:
        """Where points z (..., d) of the time `start` are at the time `end`."""
        return flow(self.model, z, self.start, self.end, **self._options).x

    def inverse(self, x: ArrayLike) -> Any:
        """Where points x (..., d) of the time `end` come from."""
        return flow(self.model, x, self.end, self.start, **self._options).x

    def log_det(self, z: ArrayLike) -> Any:
        """int div v dt along the paths of z, shape (..., d), from `start` to `end`: log det of the map there."""
        return -flow(self.model, z, self.start, self.end, log_density=True, **self._options).log_density_change

    def jacobian(self, z: ArrayLike) -> Any:
        """d x / dz by the variational equation for z of shape (..., d)."""
        rtol, atol = tolerances(z, self.rtol, self.atol)
        return flow_jacobian(self.model, z, self.start, self.end, method=self.method, rtol=rtol, atol=atol).jacobian
