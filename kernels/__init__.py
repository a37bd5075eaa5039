"""Compiled inner loops: arrays in, arrays out. Kernels know no distributions and no processes."""
