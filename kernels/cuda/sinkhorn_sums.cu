// What parts of points v came to, put together in their order; means by shares that are held.
#define ORDER 2
#include "sinkhorn.cuh"

#define TILE 128

// M = -log2 of the sum of all parts, (parts, 2, n).
extern "C" __global__ void join_minima(const real* partial, int64 n, int parts, real* minima) {
    for (int64 i = own(); i < n; i += all()) {
        Running whole;
        for (int64 part = 0; part < parts; ++part)
            whole.join(partial[2 * part * n + i], partial[(2 * part + 1) * n + i]);
        minima[i] = -(whole.most + log2(whole.sum));
    }
}

// Means of VALUES columns, to those from `column` on of a table (n, k), from sums (parts, VALUES + 1, n).
extern "C" __global__ void join_means(const real* partial, int64 n, int parts, int k_all, int column, real* out) {
    for (int64 i = own(); i < n; i += all()) {
        real sum[VALUES + 1];
#pragma unroll
        for (int c = 0; c <= VALUES; ++c) sum[c] = 0;
        for (int64 part = 0; part < parts; ++part)
#pragma unroll
            for (int c = 0; c <= VALUES; ++c) sum[c] += partial[(part * (VALUES + 1) + c) * n + i];
#pragma unroll
        for (int c = 0; c < VALUES; ++c) out[i * k_all + column + c] = sum[c] / sum[VALUES];
    }
}

// Sums of shares (m, n) times VALUES columns of a table (m, k), over the points of each part: (parts, VALUES + 1, n).
extern "C" __global__ void __launch_bounds__(128, 4)
absorb(const real* shares, int64 n, int64 m, int64 length, const real* values, int k_all, int column, real* partial) {
    SHARED(real, table);  // (TILE, VALUES)
    int64 first = blockIdx.y * length, last = min(first + length, m);
    for (int64 base = int64(blockIdx.x) * blockDim.x; base < n; base += all()) {
        int64 i = base + threadIdx.x;
        Totals<VALUES> totals;
        for (int64 begin = first; begin < last; begin += TILE) {
            int there = int(min(last - begin, int64(TILE)));
            __syncthreads();
            for (int k = threadIdx.x; k < there * VALUES; k += blockDim.x)
                table[k] = values[(begin + k / VALUES) * k_all + column + k % VALUES];
            __syncthreads();
            for (int k = 0; k < there; ++k) {
                real row[VALUES];
#pragma unroll
                for (int c = 0; c < VALUES; ++c) row[c] = table[k * VALUES + c];
                totals.take(shares[(begin + k) * n + min(i, n - 1)], row);
            }
            totals.end_tile();
        }
        if (i < n) totals.store(partial, n, i);
    }
}
