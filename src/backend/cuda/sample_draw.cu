// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/sample_ordered.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kSlice = 4096;  // tokens that a block of bins_kernel() sums
constexpr int kBinThreads = 256;

static_assert(kSlice * ((1 << 20) - 1.0) < 4294967296.0 && Weights::kBits <= 40);

/// Grid (ceil(width / kSlice), n), block (kBinThreads).
__global__ void __launch_bounds__(kBinThreads) bins_kernel(Draw a, const int32_t* tokens) {
  __shared__ uint32_t low[kSampleBins], high[kSampleBins], count[kSampleBins];
  const SampleRow row = a.rows[blockIdx.y];
  const float* logits = a.logits + row.row * a.width;
  const float largest = logits[tokens[row.row]];
  if (!isfinite(largest)) return;
  const Weights weights(largest, row.temperature);
  for (int i = static_cast<int>(threadIdx.x); i < kSampleBins; i += kBinThreads)
    low[i] = high[i] = count[i] = 0;
  __syncthreads();
  const int first = static_cast<int>(blockIdx.x) * kSlice;
  const int end = min(first + kSlice, row.vocab_size);
  for (int i = first + static_cast<int>(threadIdx.x); i < end; i += kBinThreads) {
    const double weight = weights(logits[i]);
    if (!(weight > 0)) continue;  // nor a NaN
    const int bin = weights.bin_of(logits[i]);
    const uint64_t whole = Weights::whole(weight, Weights::shift_of(bin));
    atomicAdd(&low[bin], static_cast<uint32_t>(whole & 0xfffffu));
    atomicAdd(&high[bin], static_cast<uint32_t>(whole >> 20));
    atomicAdd(&count[bin], 1u);
  }
  __syncthreads();
  SampleBins& bins = a.bins[blockIdx.y];
  for (int i = static_cast<int>(threadIdx.x); i < kSampleBins; i += kBinThreads) {
    if (count[i] == 0) continue;
    atomicAdd(reinterpret_cast<unsigned long long*>(&bins.mass[i]),
              static_cast<unsigned long long>((uint64_t{high[i]} << 20) + low[i]));
    atomicAdd(&bins.count[i], count[i]);
  }
}

/// Grid (n), block (kDrawThreads): the steps of sampling.h. Each leaves the first tokens in the
/// order of choice, so what is kept is a Prefix.
__global__ void __launch_bounds__(kDrawThreads) draw_kernel(Draw a, int32_t* tokens) {
  extern __shared__ char memory[];
  auto& shared = *reinterpret_cast<DrawShared*>(memory);
  const SampleRow row = a.rows[blockIdx.x];
  const float largest = a.logits[row.row * a.width + tokens[row.row]];
  if (!isfinite(largest)) return;
  const Weights weights(largest, row.temperature);
  Ordered ordered(a, row, weights, shared);
  const auto first = [&](int count) {
    return ordered.find([count](const Prefix& p) { return p.count >= count; }).until;
  };
  Prefix kept = ordered.all();
  if (row.top_k > 0 && row.top_k < kept.count) kept = first(row.top_k);
  if (row.top_p < 1) {
    const double enough = static_cast<double>(row.top_p) * kept.mass;
    const Prefix reached =
        ordered.find([enough](const Prefix& p) { return p.mass >= enough; }).until;
    if (reached.count < kept.count) kept = reached;
  }
  if (row.min_p > 0) {
    const int likely = max(1, ordered.count_from(static_cast<double>(row.min_p)));
    if (likely < kept.count) kept = first(likely);
  }
  const double target = row.uniform * kept.mass;
  const int n = kept.count;
  const int id =
      ordered.find([target, n](const Prefix& p) { return p.mass > target || p.count >= n; }).id;
  if (threadIdx.x == 0) tokens[row.row] = id;
}

}  // namespace

cudaError_t launch_draw(const Draw& args, int32_t* tokens, cudaStream_t stream) {
  if (args.n == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>((args.width + kSlice - 1) / kSlice),
                  static_cast<unsigned>(args.n));
  bins_kernel<<<grid, kBinThreads, 0, stream>>>(args, tokens);
  if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess) return status;
  const cudaError_t status =
      cudaFuncSetAttribute(draw_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(sizeof(DrawShared)));
  if (status != cudaSuccess) return status;
  draw_kernel<<<static_cast<unsigned>(args.n), kDrawThreads, sizeof(DrawShared), stream>>>(args,
                                                                                           tokens);
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
