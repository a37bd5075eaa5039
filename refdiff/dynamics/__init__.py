"""What happens along time: flows of exact models and of fields of one's own, and the relaxation of linear SDEs.

flow maps      `flow`, at many times `path`, with derivatives `flow_jacobian`; as a bijection `FlowMap`; the engine
               is `stepping`
closed maps    `quantile_flow` on the line, `gaussian_flow`, `covariance_flow`; between two laws, by two
               flows (DDIB), `translate`, `gaussian_translation`; SDEdit is `schroedinger.edit`
likelihoods    `log_likelihood`, exact or by probes: `hutchinson`, `trace_variance`, `volume_matrix`
your fields    `VelocityField` with `field_flow`; with parameters and gradients `ParametricField` with `adjoint`
equilibrium    `equilibrium` and `Relaxation`
entropy        `differential_entropy`, `fisher_information`; `entropy_rate` and `divergence_rate` of noised laws
"""

from refdiff.dynamics import equilibrium
from refdiff.dynamics.adjoint import Gradients, adjoint, discrete_adjoint, node_likelihood
from refdiff.dynamics.entropy import (
    differential_entropy,
    divergence_rate,
    entropy_rate,
    fisher_information,
)
from refdiff.dynamics.flow import flow
from refdiff.dynamics.flow_map import FlowMap
from refdiff.dynamics.gaussian_flow import covariance_flow, gaussian_flow
from refdiff.dynamics.jacobians import FlowJacobian, flow_jacobian
from refdiff.dynamics.likelihood import FlowLikelihood, log_likelihood, volume_matrix
from refdiff.dynamics.parametric import Integrand, ParametricField, linear_field, tanh_field
from refdiff.dynamics.paths import Path, path
from refdiff.dynamics.quantiles import quantile_flow
from refdiff.dynamics.relaxation import Relaxation
from refdiff.dynamics.stepping import Flow, Unfinished
from refdiff.dynamics.trace import TraceEstimate, draw_probes, hutchinson, trace_variance
from refdiff.dynamics.translation import Translation, gaussian_translation, translate
from refdiff.dynamics.velocity_field import VelocityField, field_flow

__all__ = [
    "Flow",
    "FlowJacobian",
    "FlowLikelihood",
    "FlowMap",
    "Gradients",
    "Integrand",
    "ParametricField",
    "Path",
    "Relaxation",
    "TraceEstimate",
    "Translation",
    "Unfinished",
    "VelocityField",
    "adjoint",
    "covariance_flow",
    "differential_entropy",
    "discrete_adjoint",
    "divergence_rate",
    "draw_probes",
    "entropy_rate",
    "equilibrium",
    "field_flow",
    "fisher_information",
    "flow",
    "flow_jacobian",
    "gaussian_flow",
    "gaussian_translation",
    "hutchinson",
    "linear_field",
    "log_likelihood",
    "node_likelihood",
    "path",
    "quantile_flow",
    "tanh_field",
    "trace_variance",
    "translate",
    "volume_matrix",
]
