// Outputs (n, DIM) and their divergences (n,) at points (n, DIM) and one time.
#include "second_order.cuh"

extern "C" __global__ void divergence(const real* points, int64 n, LAW_ARGUMENTS, const real* when, real* out,
                                      real* divs) {
    SHARED(real, pool);
    real *at = pool, *table = pool + TILE_AT;
    Law law = LAW;
    load_time(when, at);
    for (int64 base = int64(blockIdx.x) * blockDim.x; base < n; base += all()) {
        int64 i = base + threadIdx.x;
        real x[DIM], found[DIM], div;
        load_point(points, n, i, x);
        evaluate_divergence(x, law, at, table, found, div);
        if (i < n) {
            store_point(found, i, out);
            divs[i] = div;
        }
    }
}
