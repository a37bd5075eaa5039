// Outputs (n, DIM) and log densities (n,) at points (n, DIM) and one time.
#include "mixture.cuh"

extern "C" __global__ void predict(const real* points, int64 n, LAW_ARGUMENTS, const real* when, real* out,
                                   real* logp) {
    SHARED(real, pool);
    real *at = pool, *table = pool + TILE_AT;
    Law law = LAW;
    load_time(when, at);
    for (int64 base = int64(blockIdx.x) * blockDim.x; base < n; base += all()) {
        int64 i = base + threadIdx.x;
        real x[DIM], found[DIM];
        load_point(points, n, i, x);
        real log = evaluate(x, law, at, table, found);
        if (i < n) {
            store_point(found, i, out);
            logp[i] = log;
        }
    }
}
