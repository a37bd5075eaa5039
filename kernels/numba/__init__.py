"""Fused CPU kernels: arrays in, arrays out, compiled by Numba and kept on disk."""
