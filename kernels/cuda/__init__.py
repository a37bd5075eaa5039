"""CUDA kernels: sources in C++, compiled by NVRTC through CuPy where and when they are wanted, and their host code."""
