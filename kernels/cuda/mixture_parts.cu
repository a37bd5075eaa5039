// The mixture of many components: they come in parts of `size`, each a row of the grid, whose sums are added in their
// order, (parts, 2 + SUMMED, n).
#include "mixture.cuh"

extern "C" __global__ void sum_parts(const real* points, int64 n, LAW_ARGUMENTS, const real* when, int64 size,
                                     real* parts) {
    SHARED(real, pool);
    real *at = pool, *table = pool + TILE_AT;
    Law law = LAW;
    int64 first = blockIdx.y * size, last = min(first + size, count);
    load_time(when, at);
    for (int64 base = int64(blockIdx.x) * blockDim.x; base < n; base += all()) {
        int64 i = base + threadIdx.x;
        real x[DIM], point[DIM];
        Sums<SUMMED> sums;
        load_point(points, n, i, x);
        onto_axes(law, x, point);
        sum_components(point, law, at, table, first, last, sums);
        if (i < n) save(sums, blockIdx.y, n, i, parts);
    }
}

extern "C" __global__ void merge_parts(const real* points, int64 n, LAW_ARGUMENTS, const real* when, int many,
                                       const real* parts, real* out, real* logp) {
    Law law = LAW;
    for (int64 base = int64(blockIdx.x) * blockDim.x; base < n; base += all()) {
        int64 i = base + threadIdx.x;
        real x[DIM], point[DIM], found[DIM];
        Sums<SUMMED> sums;
        load_point(points, n, i, x);
        onto_axes(law, x, point);
        merge(parts, many, n, min(i, n - 1), sums);
        answer(point, law, when, sums, found);
        from_axes(law, found, x);
        if (i < n) {
            store_point(x, i, out);
            logp[i] = log_density(sums.top, sums.total);
        }
    }
}
