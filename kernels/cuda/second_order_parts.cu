// Divergences of many components: they come in parts of `size`, each a row of the grid, whose sums are added in their
// order. Those of the first sweep, (parts, 2 + CENTRES, n), become averages with the largest logit, (2 + CENTRES, n),
// on which those of the second stand, (parts, 2, n).
#include "second_order.cuh"

extern "C" __global__ void first_parts(const real* points, int64 n, LAW_ARGUMENTS, const real* when, int64 size,
                                       real* parts) {
    SHARED(real, pool);
    real *at = pool, *table = pool + TILE_AT;
    Law law = LAW;
    int64 first = blockIdx.y * size, last = min(first + size, count);
    load_time(when, at);
    for (int64 base = int64(blockIdx.x) * blockDim.x; base < n; base += all()) {
        int64 i = base + threadIdx.x;
        real x[DIM], point[DIM];
        Sums<CENTRES> sums;
        load_point(points, n, i, x);
        onto_axes(law, x, point);
        find_centre(point, law, at, table, first, last, sums);
        if (i < n) save(sums, blockIdx.y, n, i, parts);
    }
}

extern "C" __global__ void settle_parts(int64 n, int many, const real* parts, real* centres) {
    for (int64 i = own(); i < n; i += all()) {
        Sums<CENTRES> sums;
        merge(parts, many, n, i, sums);
        settle(sums);
        save(sums, 0, n, i, centres);
    }
}

extern "C" __global__ void second_parts(const real* points, int64 n, LAW_ARGUMENTS, const real* when, int64 size,
                                        const real* centres, real* parts) {
    SHARED(real, pool);
    real *at = pool, *table = pool + TILE_AT;
    Law law = LAW;
    int64 first = blockIdx.y * size, last = min(first + size, count);
    load_time(when, at);
    for (int64 base = int64(blockIdx.x) * blockDim.x; base < n; base += all()) {
        int64 i = base + threadIdx.x;
        real x[DIM], point[DIM], total, sum;
        Sums<CENTRES> centre;
        load_point(points, n, i, x);
        onto_axes(law, x, point);
        restore(centres, n, min(i, n - 1), centre);
        sum_contributions(point, law, at, table, first, last, centre, total, sum);
        if (i < n) {
            real* to = parts + 2 * blockIdx.y * n + i;
            to[0] = total, to[n] = sum;
        }
    }
}

extern "C" __global__ void conclude_parts(const real* points, int64 n, LAW_ARGUMENTS, const real* when, int many,
                                          const real* centres, const real* parts, real* out, real* divs) {
    Law law = LAW;
    for (int64 base = int64(blockIdx.x) * blockDim.x; base < n; base += all()) {
        int64 i = base + threadIdx.x, own = min(i, n - 1);
        real x[DIM], point[DIM], found[DIM], total = 0, sum = 0, div;
        Sums<CENTRES> centre;
        load_point(points, n, i, x);
        onto_axes(law, x, point);
        restore(centres, n, own, centre);
        for (int p = 0; p < many; ++p) {
            total += parts[2 * p * n + own];
            sum += parts[(2 * p + 1) * n + own];
        }
        conclude(point, law, when, centre, total, sum, found, div);
        from_axes(law, found, x);
        if (i < n) {
            store_point(x, i, out);
            divs[i] = div;
        }
    }
}
