// Small kernels, right and wrong, by which the emulator is tried. Numbers are double; a block is 64 threads unless
// said.
#define EDGE 48
extern "C" __global__ void fill(double* out, int n, double value) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) out[i] = value;
}

// Sums of blocks by halves, for any number of threads.
extern "C" __global__ void block_sums(const double* x, int n, double* out) {
    SHARED(double, sums);
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    sums[threadIdx.x] = i < n ? x[i] : 0;
    for (int size = blockDim.x; size > 1;) {
        int half = (size + 1) / 2;
        __syncthreads();
        if (threadIdx.x + half < size) sums[threadIdx.x] += sums[threadIdx.x + half];
        size = half;
    }
    if (threadIdx.x == 0) out[blockIdx.x] = sums[0];
}

// Cumulative sums of one block.
extern "C" __global__ void scan(const int* x, int* out) {
    SHARED(int, sums);
    int t = threadIdx.x;
    sums[t] = x[t];
    for (int step = 1; step < blockDim.x; step *= 2) {
        __syncthreads();
        int before = t >= step ? sums[t - step] : 0;
        __syncthreads();
        sums[t] += before;
    }
    out[t] = sums[t];
}

extern "C" __global__ void warp_sums(const double* x, double* out) {
    double sum = x[threadIdx.x];
    for (int bits = 16; bits; bits /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bits);
    out[threadIdx.x] = sum;
}

// What threads of a warp learn of each other, within groups of 8, and of half a warp alone.
extern "C" __global__ void shuffles(int* out) {
    int t = threadIdx.x, lane = t % 32;
    int* row = out + t * 6;
    row[0] = __shfl_up_sync(0xffffffffu, t, 3);
    row[1] = __shfl_down_sync(0xffffffffu, t, 3, 8);
    row[2] = __shfl_sync(0xffffffffu, t, 5, 8);
    row[3] = int(__ballot_sync(0xffffffffu, t % 3 == 0));
    unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    row[4] = __any_sync(half, lane == 20);
    if (lane < 16) __syncwarp(half);
    row[5] = __all_sync(0xffffffffu, t < 32);
}

extern "C" __global__ void votes(const int* yes, int* out) {
    int own = yes[threadIdx.x];
    out[threadIdx.x] = __syncthreads_count(own) * 4 + __syncthreads_or(own) * 2 + __syncthreads_and(own);
}

// Threads say in which turn they came.
extern "C" __global__ void turns(int* next, int* out) {
    out[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(next, 1);
    __syncthreads();
}

// A row of shared memory that a warp alone uses: wrong unless the warp waits for itself.
extern "C" __global__ void neighbours(int fence, int* out) {
    SHARED(int, row);
    row[threadIdx.x] = threadIdx.x;
    if (fence) __syncwarp();
    out[threadIdx.x] = row[threadIdx.x ^ 1];
}

extern "C" __global__ void __launch_bounds__(EDGE, 1) bounded(int* out) { out[threadIdx.x] = 1; }

// ------------------------------------------------------------------ wrong

// What is written begins at so many floats.
extern "C" __global__ void not_aligned(int place) {
    SHARED(float, row);
    *reinterpret_cast<double*>(row + place) = 1;
}
extern "C" __global__ void reversed_without_barrier(double* x) {
    SHARED(double, row);
    row[blockDim.x - 1 - threadIdx.x] = 0;
    __syncthreads();
    row[threadIdx.x] = x[threadIdx.x];
    x[threadIdx.x] = row[blockDim.x - 1 - threadIdx.x];
}

// The second barrier of a loop over tiles is missing: a tile is overwritten while others still read the last one.
extern "C" __global__ void tiles_without_second_barrier(const double* x, int n, double* out) {
    SHARED(double, tile);
    double sum = 0;
    for (int first = 0; first < n; first += blockDim.x) {
        tile[threadIdx.x] = x[first + threadIdx.x];
        __syncthreads();
        for (int k = 0; k < blockDim.x; ++k) sum += tile[k];
    }
    out[threadIdx.x] = sum;
}

extern "C" __global__ void same_word_of_all(double* out, int shared) {
    SHARED(double, word);
    if (shared) word[0] = 1;
    if (!shared) out[0] = 1;
}

extern "C" __global__ void sum_without_atomics(double* out) { out[0] += threadIdx.x == 0; }

extern "C" __global__ void touch(const double* x, int place, double* out) { out[threadIdx.x] = x[place]; }
extern "C" __global__ void touch_written(double* x, int place) { x[place] = 1; }
extern "C" __global__ void touch_shared(int place, int write, double* out) {
    SHARED(double, row);
    for (int i = threadIdx.x; i < blockDim.x; i += blockDim.x) row[i] = 0;
    __syncthreads();
    if (write) row[place] = 1;
    if (!write) out[threadIdx.x] = row[place];
}
extern "C" __global__ void shared_not_set(double* out) {
    SHARED(double, row);
    if (threadIdx.x) row[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = row[threadIdx.x];
}
extern "C" __global__ void local_not_set(const double* x, double* out) {
    double sums[4];
    for (int k = 0; k < 64; ++k) sums[k % 4] += x[k];
    out[threadIdx.x] = sums[0] + sums[1] + sums[2] + sums[3];
}
extern "C" __global__ void too_much_of_its_own(const double* x, int n, double* out) {
    double many[100000];
    for (int k = n - 1; k >= 0; --k) many[k] = x[k % 64];
    for (int k = 0; k < n; ++k) out[k % 64] = many[(k * 7) % n];
}

extern "C" __global__ void barrier_for_some(int most) {
    if (threadIdx.x < most) __syncthreads();
}
extern "C" __global__ void barriers_apart() {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
}
extern "C" __global__ void barrier_and_shuffle(int* out) {
    if (threadIdx.x < 32) __syncthreads();
    else out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
}
extern "C" __global__ void warp_for_some() {
    if (threadIdx.x % 2) __syncwarp();
}
extern "C" __global__ void not_in_its_mask() { __syncwarp(0x0000ffffu); }
