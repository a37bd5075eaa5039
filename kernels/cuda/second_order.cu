#include "second_order.cuh"

// Outputs (n, DIM) and their divergences (n,) at points (n, DIM) and one time.
extern "C" __global__ void divergence(const real* points, int64 n, LAW_ARGUMENTS, const real* when, real* out,
                                        real* divs) {
    SHARED(real, pool);
    real *at = pool, *table = pool + AT;
    Law law = LAW;
    load_time(when, at);
    for (int64 base = int64(blockIdx.x) * blockDim.x; base < n; base += all()) {
        int64 i = base + threadIdx.x, row = min(i, n - 1);
        real x[DIM], found[DIM], div;
#pragma unroll
        for (int j = 0; j < DIM; ++j) x[j] = points[row * DIM + j];
        evaluate_divergence(x, law, at, table, found, div);
        if (i < n) {
#pragma unroll
            for (int j = 0; j < DIM; ++j) out[i * DIM + j] = found[j];
            divs[i] = div;
        }
    }
}
