// Numbers, and what all kernels share. The host defines SINGLE for float, else numbers are double.
#pragma once

#ifdef SINGLE
typedef float real;
#else
typedef double real;
#endif

typedef unsigned int uint32;
typedef unsigned long long uint64;
typedef long long int64;

#ifndef SHARED  // an emulator has its own
#define SHARED(type, name) extern __shared__ __align__(16) type name[]
#endif

#define LOG2_E real(1.4426950408889634073599246810018921)
#define LN_2 real(0.69314718055994530941723212145817657)
#define HALF_LOG_2PI real(0.91893853320467274178032973640561764)

#ifdef SINGLE
#define LOWEST real(-3.402823466e+38f)
#define LEAST_POWER real(-126)  // exp2 below this is no normal number
#else
#define LOWEST real(-1.7976931348623157e+308)
#define LEAST_POWER real(-1022)
#endif

// This thread's number among all of the grid, and how many there are: for (i = own(); i < n; i += all())
__device__ __forceinline__ int64 own() { return int64(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64 all() { return int64(gridDim.x) * blockDim.x; }
