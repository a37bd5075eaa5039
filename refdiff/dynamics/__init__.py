"""Dynamics of exact models: flow maps."""

from refdiff.dynamics import equilibrium
from refdiff.dynamics.adjoint import Gradients, adjoint, discrete_adjoint, node_likelihood
from refdiff.dynamics.flow import flow
from refdiff.dynamics.flow_map import FlowMap
from refdiff.dynamics.gaussian_flow import gaussian_flow
from refdiff.dynamics.jacobians import FlowJacobian, flow_jacobian
from refdiff.dynamics.layers import Affine, Entrywise, Triangular
from refdiff.dynamics.likelihood import Likelihood, log_likelihood, volume_matrix
from refdiff.dynamics.log_determinants import Roulette
from refdiff.dynamics.normalizing import Composition, Inverse, LogLikelihood, PushForward
from refdiff.dynamics.parametric import Integrand, ParametricField, linear_field, tanh_field
from refdiff.dynamics.paths import Path, path
from refdiff.dynamics.planar import Activation, Planar
from refdiff.dynamics.quantiles import quantile_flow
from refdiff.dynamics.relaxation import Relaxation
from refdiff.dynamics.residual import Residual, euler_layers, tanh_residual
from refdiff.dynamics.stepping import Flow, Unfinished
from refdiff.dynamics.trace import TraceEstimate, draw_probes, hutchinson, trace_variance
from refdiff.dynamics.translation import Translation, gaussian_translation, translate
from refdiff.dynamics.velocity_field import VelocityField, field_flow

__all__ = [
    "Activation",
    "Affine",
    "Composition",
    "Entrywise",
    "Flow",
    "FlowJacobian",
    "FlowMap",
    "Gradients",
    "Integrand",
    "Inverse",
    "Likelihood",
    "LogLikelihood",
    "ParametricField",
    "Path",
    "Planar",
    "PushForward",
    "Relaxation",
    "Residual",
    "Roulette",
    "TraceEstimate",
    "Translation",
    "Triangular",
    "Unfinished",
    "VelocityField",
    "adjoint",
    "discrete_adjoint",
    "draw_probes",
    "equilibrium",
    "euler_layers",
    "field_flow",
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
    "tanh_residual",
    "trace_variance",
    "translate",
    "volume_matrix",
]
