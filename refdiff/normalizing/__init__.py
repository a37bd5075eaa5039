"""Normalizing flows: bijections with known volumes, their compositions, and the densities that they make."""

from refdiff.normalizing.bijections import Base, Bijection, Composition, Inverse, MeanLogLikelihood, PushForward
from refdiff.normalizing.layers import Affine, Entrywise, Triangular
from refdiff.normalizing.log_determinants import Roulette
from refdiff.normalizing.planar import Activation, Planar
from refdiff.normalizing.residual import Residual, euler_layers, tanh_residual

__all__ = [
    "Activation",
    "Affine",
    "Base",
    "Bijection",
    "Composition",
    "Entrywise",
    "Inverse",
    "MeanLogLikelihood",
    "Planar",
    "PushForward",
    "Residual",
    "Roulette",
    "Triangular",
    "euler_layers",
    "tanh_residual",
]
