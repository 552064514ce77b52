// Compiled with: nvcc -ptx -arch=compute_80 -lineinfo kernels.cu
#include <cuda_fp16.h>
#include <stdint.h>

struct block_q4k { __half2 dm; uint8_t scales[12]; uint8_t qs[128]; };
struct block_q8k { float d; int8_t qs[256]; int16_t bsums[16]; };

__device__ __forceinline__ void scale_min(int j, const uint8_t* q, int& d, int& m) {
  if (j < 4) { d = q[j] & 63; m = q[j + 4] & 63; }
  else { d = (q[j + 4] & 0xF) | ((q[j - 4] >> 6) << 4); m = (q[j + 4] >> 4) | ((q[j] >> 6) << 4); }
}

// A warp per row; 8 groups of 32 weights, 4 lanes per group, 8 weights per lane.
extern "C" __global__ void __launch_bounds__(128) q4k_q8k_matvec(const block_q4k* __restrict__ w, const block_q8k* __restrict__ x, float* __restrict__ o, int nb, int rows) {
  int row = blockIdx.x * 4 + threadIdx.y, lane = threadIdx.x;
  if (row >= rows) return;
  float acc = 0;
  int j = lane >> 2, q = lane & 3;
  for (int b = 0; b < nb; b++) {
    const block_q4k* p = w + (size_t)row * nb + b;
    const block_q8k* y = x + b;
    float2 dm = __half22float2(p->dm);
    int s, m; scale_min(j, p->scales, s, m);
    const uint2 v = *(const uint2*)(p->qs + (j >> 1) * 32 + q * 8);
    int lo = (v.x >> ((j & 1) * 4)) & 0x0f0f0f0f, hi = (v.y >> ((j & 1) * 4)) & 0x0f0f0f0f;
    const int* xq = (const int*)(y->qs + j * 32 + q * 8);
    int d = __dp4a(lo, xq[0], 0); d = __dp4a(hi, xq[1], d);
    int bs = q == 0 ? y->bsums[j * 2] + y->bsums[j * 2 + 1] : 0;
    acc += y->d * (dm.x * (s * d) - dm.y * (m * bs));
  }
  for (int k = 16; k; k >>= 1) acc += __shfl_xor_sync(~0u, acc, k);
  if (lane == 0) o[row] = acc;
}

template <bool SYNC> __device__ __forceinline__ void norm(const float* x, const float* g, float* o, int n, float eps) {
  __shared__ float part[8];
  float s = 0;
  for (int i = threadIdx.x; i < n; i += 256) s += x[i] * x[i];
  for (int k = 16; k; k >>= 1) s += __shfl_xor_sync(~0u, s, k);
  if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = s;
  __syncthreads();
  if (threadIdx.x < 32) {
    s = threadIdx.x < 8 ? part[threadIdx.x] : 0;
    for (int k = 4; k; k >>= 1) s += __shfl_xor_sync(~0u, s, k);
    __syncwarp();
    if (threadIdx.x == 0) part[0] = s;
  }
  if (SYNC) __syncthreads();
  float r = rsqrtf(part[0] / n + eps);
  for (int i = threadIdx.x; i < n; i += 256) o[i] = x[i] * r * g[i];
}
extern "C" __global__ void rmsnorm(const float* __restrict__ x, const float* __restrict__ g, float* __restrict__ o, int n, float eps) { norm<true>(x, g, o, n, eps); }
// The same without its last __syncthreads().
extern "C" __global__ void rmsnorm_racy(const float* __restrict__ x, const float* __restrict__ g, float* __restrict__ o, int n, float eps) { norm<false>(x, g, o, n, eps); }

// A warp per head, online softmax over t keys of 64, K and V in f16.
extern "C" __global__ void attention(const float* __restrict__ q, const __half* __restrict__ K, const __half* __restrict__ V, float* __restrict__ o, int t, float scale) {
  int h = blockIdx.x, lane = threadIdx.x;
  float2 qv = *(const float2*)(q + h * 64 + lane * 2);
  float m = -INFINITY, l = 0; float2 acc = make_float2(0, 0);
  for (int i = 0; i < t; i++) {
    float2 kv = __half22float2(*(const __half2*)(K + ((size_t)h * t + i) * 64 + lane * 2));
    float s = qv.x * kv.x + qv.y * kv.y;
    for (int k = 16; k; k >>= 1) s += __shfl_xor_sync(~0u, s, k);
    s *= scale;
    float mn = fmaxf(m, s), c = __expf(m - mn), p = __expf(s - mn);
    float2 vv = __half22float2(*(const __half2*)(V + ((size_t)h * t + i) * 64 + lane * 2));
    acc.x = acc.x * c + p * vv.x; acc.y = acc.y * c + p * vv.y; l = l * c + p; m = mn;
  }
  *(float2*)(o + h * 64 + lane * 2) = make_float2(acc.x / l, acc.y / l);
}

// Lanes loop different counts and then meet in a shuffle.
extern "C" __global__ void diverge(const int* __restrict__ n, int* __restrict__ o) {
  int t = threadIdx.x, c = n[t], s = 0;
  for (int i = 0; i < c; i++) { if (i & 1) s += i; else s ^= t; }
  if (t & 1) s *= 3; else s += 7;
  s += __shfl_down_sync(~0u, s, 1);
  o[t] = s;
}

// Integer and float odds and ends that a compiler expands: division, 64-bit arithmetic, local arrays, half math.
extern "C" __global__ void mixed(const int* __restrict__ a, float* __restrict__ o, int n) {
  int t = threadIdx.x;
  int window[8];
  for (int i = 0; i < 8; i++) window[i] = a[(t + i) % n];
  int best = 0;
  for (int i = 0; i < 8; i++) if (window[(i * 5 + t) & 7] > window[best]) best = (i * 5 + t) & 7;
  long long big = (long long)window[best] * 1000003ll / (t + 1);
  __half2 h = __floats2half2_rn((float)(big & 1023), (float)t);
  h = __hfma2(h, h, __float2half2_rn(1.0f));
  o[t] = __low2float(h) + __high2float(h) + (float)(best % 3) + sqrtf((float)(t * t + 1)) / (float)(t + 2);
}

// All blocks count themselves in; the last one sums what the others left.
extern "C" __global__ void last_block_sums(const float* __restrict__ x, float* part, unsigned* count, float* o, int n) {
  __shared__ float s[32]; __shared__ bool last;
  int t = threadIdx.x;
  float v = 0;
  for (int i = blockIdx.x * 32 + t; i < n; i += gridDim.x * 32) v += x[i];
  s[t] = v;
  __syncthreads();
  if (t == 0) {
    float sum = 0;
    for (int i = 0; i < 32; i++) sum += s[i];
    part[blockIdx.x] = sum;
    __threadfence();
    last = atomicAdd(count, 1u) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (last && t == 0) { float sum = 0; for (unsigned i = 0; i < gridDim.x; i++) sum += part[i]; *o = sum; }
}
