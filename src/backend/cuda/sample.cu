// SPDX-License-Identifier: Apache-2.0
#include <cub/device/device_segmented_radix_sort.cuh>

#include "backend/cuda/sample.h"

namespace deltacome::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;

struct Best {
  float logit;
  int32_t id;
};

/// The order of first_largest(): numbers before NaN, then by size, then the smaller id; of NaNs the
/// last one.
__device__ bool before(const Best& a, const Best& b) {
  if (isnan(a.logit) || isnan(b.logit)) {
    if (isnan(a.logit) && isnan(b.logit)) return a.id > b.id;
    return isnan(b.logit);
  }
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/// Grid (n), block (kThreads).
__global__ void first_largest_kernel(const float* __restrict__ logits, int64_t width,
                                     const int32_t* __restrict__ vocab,
                                     int32_t* __restrict__ tokens) {
  __shared__ Best best_s[kWarps];
  const float* row = logits + blockIdx.x * width;
  const int n = vocab[blockIdx.x], lane = threadIdx.x % 32;
  // A thread without an element has a copy of the first.
  Best best{row[0], 0};
  for (int i = threadIdx.x; i < n; i += kThreads) {
    const Best other{row[i], i};
    if (before(other, best)) best = other;
  }
  const auto reduce = [&best] {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const Best other{__shfl_xor_sync(0xffffffffu, best.logit, step),
                       __shfl_xor_sync(0xffffffffu, best.id, step)};
      if (before(other, best)) best = other;
    }
  };
  reduce();
  if (lane == 0) best_s[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = best_s[lane];
  reduce();
  if (lane == 0) tokens[blockIdx.x] = best.id;
}

/// Grid (blocks over the vocabulary, n): logits to be sorted, in which a NaN is the smallest and -0
/// is 0, and their ids.
__global__ void keys_kernel(Draw a) {
  const SampleRow row = a.rows[blockIdx.y];
  const int64_t first = blockIdx.y * a.width;
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    a.ends[blockIdx.y] = static_cast<int32_t>(first);
    a.ends[a.n + blockIdx.y] = static_cast<int32_t>(first) + row.vocab_size;
  }
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < row.vocab_size;
       i += gridDim.x * blockDim.x) {
    const float logit = a.logits[row.row * a.width + i];
    a.keys[first + i] = isnan(logit) ? -INFINITY : logit + 0.0f;
    a.ids[first + i] = i;
  }
}

/// Running sums of weights [n] over a block, in order.
class Scan {
 public:
  struct Shared {
    double warp_sum[kWarps];
    int found;
  };
  __device__ Scan(const float* sorted, double temperature, Shared& shared)
      : sorted_(sorted), largest_(sorted[0]), temperature_(temperature), shared_(shared) {}

  __device__ double weight(int i) const {
    return exp((static_cast<double>(sorted_[i]) - largest_) / temperature_);
  }

  struct Found {
    int index;   // of the first weight up to which the sum satisfies the condition; n if none does
    double sum;  // of all weights before the end of the search
  };
  /// The whole block calls it.
  template <class Condition>
  __device__ Found find(int n, const Condition& condition) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    double carry = 0;
    for (int base = 0; base < n; base += kThreads) {
      const int i = base + threadIdx.x;
      double sum = i < n ? weight(i) : 0.0;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const double other = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= step) sum += other;
      }
      if (lane == 31) shared_.warp_sum[warp] = sum;
      if (threadIdx.x == 0) shared_.found = n;
      __syncthreads();
      double before = carry, all = carry;
      for (int w = 0; w < kWarps; ++w) {
        if (w < warp) before += shared_.warp_sum[w];
        all += shared_.warp_sum[w];
      }
      if (i < n && condition(before + sum)) atomicMin(&shared_.found, i);
      __syncthreads();
      const int found = shared_.found;
      __syncthreads();  // before it is set again
      carry = all;
      if (found < n) return {found, carry};
    }
    return {n, carry};
  }

  /// Weights of a sorted row that are at least `least` and above 0, of the first n.
  __device__ int count_from(int n, double least) const {
    int low = 0, high = n;
    while (low < high) {
      const int middle = (low + high) / 2;
      const double w = weight(middle);
      if (w > 0 && w >= least) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

 private:
  const float* sorted_;
  double largest_, temperature_;
  Shared& shared_;
};

/// Grid (n), block (kThreads): the steps of sampling.h on a sorted row.
__global__ void __launch_bounds__(kThreads)
    draw_kernel(Draw a, const float* keys, const int32_t* ids, int32_t* tokens) {
  __shared__ Scan::Shared shared;
  const SampleRow row = a.rows[blockIdx.x];
  const float* sorted = keys + blockIdx.x * a.width;
  if (!isfinite(sorted[0])) return;
  Scan scan(sorted, static_cast<double>(row.temperature), shared);
  int n = scan.count_from(row.vocab_size, 0);
  if (row.top_k > 0) n = min(n, row.top_k);
  const auto never = [](double) { return false; };
  if (row.top_p < 1) {
    const double enough = static_cast<double>(row.top_p) * scan.find(n, never).sum;
    const int last = scan.find(n, [enough](double sum) { return sum >= enough; }).index;
    n = min(n, last + 1);
  }
  n = scan.count_from(n, static_cast<double>(row.min_p) * scan.weight(0));
  const double target = row.uniform * scan.find(n, never).sum;
  const int at = scan.find(n, [target](double sum) { return sum > target; }).index;
  if (threadIdx.x == 0) tokens[row.row] = ids[blockIdx.x * a.width + min(at, n - 1)];
}

cudaError_t sort(void* temporary, size_t& bytes, float* keys, int32_t* ids, int64_t n_items, int n,
                 const int32_t* ends, cudaStream_t stream) {
  return cub::DeviceSegmentedRadixSort::SortPairsDescending(
      temporary, bytes, keys, keys + n_items, ids, ids + n_items, static_cast<int>(n_items), n,
      ends, ends + n, 0, 32, stream);
}

}  // namespace

cudaError_t launch_first_largest(const float* logits, int64_t width, const int32_t* vocab, int n,
                                 int32_t* tokens, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  first_largest_kernel<<<static_cast<unsigned>(n), kThreads, 0, stream>>>(logits, width, vocab,
                                                                          tokens);
  return cudaGetLastError();
}

cudaError_t draw_temporary_bytes(int64_t width, int n, size_t& bytes) {
  return sort(nullptr, bytes, nullptr, nullptr, n * width, n, nullptr, nullptr);
}

cudaError_t launch_draw(const Draw& args, int32_t* tokens, cudaStream_t stream) {
  if (args.n == 0) return cudaSuccess;
  const int64_t n_items = args.n * args.width;
  const dim3 grid(32, static_cast<unsigned>(args.n));
  keys_kernel<<<grid, 256, 0, stream>>>(args);
  if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess) return status;
  size_t bytes = args.temporary_bytes;
  if (const cudaError_t status =
          sort(args.temporary, bytes, args.keys, args.ids, n_items, args.n, args.ends, stream);
      status != cudaSuccess) {
    return status;
  }
  draw_kernel<<<static_cast<unsigned>(args.n), kThreads, 0, stream>>>(args, args.keys + n_items,
                                                                      args.ids + n_items, tokens);
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
