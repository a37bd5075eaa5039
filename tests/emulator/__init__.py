"""CUDA without a GPU: `emulator.h` makes kernels run on a processor, `cupy` stands in for CuPy around them."""
