#include "mixture.cuh"

// Outputs (n, DIM) and log densities (n,) at points (n, DIM) and one time.
extern "C" __global__ void predict(const real* points, int64 n, LAW_ARGUMENTS, const real* when, real* out,
                                     real* logp) {
    SHARED(real, pool);
    real *at = pool, *table = pool + AT;
    Law law = LAW;
    load_time(when, at);
    for (int64 base = int64(blockIdx.x) * blockDim.x; base < n; base += all()) {
        int64 i = base + threadIdx.x, row = min(i, n - 1);
        real x[DIM], found[DIM];
#pragma unroll
        for (int j = 0; j < DIM; ++j) x[j] = points[row * DIM + j];
        real log = evaluate(x, law, at, table, found);
        if (i < n) {
#pragma unroll
            for (int j = 0; j < DIM; ++j) out[i * DIM + j] = found[j];
            logp[i] = log;
        }
    }
}
