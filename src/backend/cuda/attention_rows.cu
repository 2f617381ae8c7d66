// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/overlap.cuh"
#include "backend/cuda/paged.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kWarps = 4;

/// How a warp reads heads of kHeadDim elements: kLanes lanes share a key, each with kChunks times
/// four elements, 4 * kLanes apart.
template <int kHeadDim>
struct Lanes {
  static constexpr int kLanes = kHeadDim == 80                     ? 4
                                : kHeadDim == 96 || kHeadDim == 32 ? 8
                                : kHeadDim == 16                   ? 4
                                                                   : 16;
  static constexpr int kChunks = kHeadDim / (4 * kLanes);
  static constexpr int kKeys = 32 / kLanes;            // at a time
  static constexpr int kSteps = kBlockTokens / kKeys;  // for a block
  static_assert(kChunks * kLanes * 4 == kHeadDim);
};

/// Online softmax of the heads of one query over some keys.
template <int kHeadDim, int kHeads>
struct Running {
  float largest[kHeads];
  float sum[kHeads];
  float4 mixed[kHeads][Lanes<kHeadDim>::kChunks];
};

/// Joins what the groups of a warp have, in all lanes.
template <int kHeadDim, int kHeads>
__device__ void join_groups(Running<kHeadDim, kHeads>& r) {
  using L = Lanes<kHeadDim>;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
#pragma unroll
    for (int step = L::kLanes; step < 32; step *= 2) {
      const float other = __shfl_xor_sync(0xffffffffu, r.largest[h], step);
      const float largest = fmaxf(r.largest[h], other);
      const float mine = rescale(r.largest[h], largest), theirs = rescale(other, largest);
      r.largest[h] = largest;
      r.sum[h] = r.sum[h] * mine + __shfl_xor_sync(0xffffffffu, r.sum[h], step) * theirs;
#pragma unroll
      for (int c = 0; c < L::kChunks; ++c) {
        float4& m = r.mixed[h][c];
        m.x = m.x * mine + __shfl_xor_sync(0xffffffffu, m.x, step) * theirs;
        m.y = m.y * mine + __shfl_xor_sync(0xffffffffu, m.y, step) * theirs;
        m.z = m.z * mine + __shfl_xor_sync(0xffffffffu, m.z, step) * theirs;
        m.w = m.w * mine + __shfl_xor_sync(0xffffffffu, m.w, step) * theirs;
      }
    }
  }
}

/// One query, up to kHeads query heads of one kv head, one split of its keys. Grid (n_splits,
/// n_kv_heads * passes, n), block (32 * kWarps); the warps take blocks of the cache in turn.
/// Several splits of a row leave their results in `partials`; the last to arrive joins them in
/// order.
template <class T, int kHeadDim, int kHeads>
__global__ void __launch_bounds__(32 * kWarps) rows_kernel(AttentionRows args, int passes) {
  using L = Lanes<kHeadDim>;
  __shared__ float largest_s[kWarps][kHeads], sum_s[kWarps][kHeads];
  __shared__ __align__(16) float mixed_s[kWarps][kHeads][kHeadDim];  // written in fours
  __shared__ bool last_s;
  release_dependents();
  wait_for_inputs();
  const Attention& a = args.of;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int slot = lane % L::kLanes, group = lane / L::kLanes;

  const int row = args.row_ids[blockIdx.z], position = a.rows.positions[row];
  const int32_t* table = a.rows.blocks + a.rows.tables[row];
  const int first_key = a.window > 0 ? max(0, position - a.window + 1) : 0;
  const int first_split = first_key / kSplitKeys;
  const int n_splits = position / kSplitKeys - first_split + 1;
  const int split = blockIdx.x;
  if (split >= n_splits) return;
  const int begin = max(first_key, (first_split + split) * kSplitKeys);
  const int end = min(position + 1, (first_split + split + 1) * kSplitKeys);

  const int per_kv = a.n_heads / a.n_kv_heads;
  const int kv_head = blockIdx.y / passes;
  const int first_head = kv_head * per_kv + blockIdx.y % passes * kHeads;
  const int n_heads = min(kHeads, (kv_head + 1) * per_kv - first_head);

  float4 q[kHeads][L::kChunks];
  Running<kHeadDim, kHeads> r;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const int head = first_head + min(h, n_heads - 1);  // those beyond are computed and dropped
    r.largest[h] = -INFINITY;
    r.sum[h] = 0;
#pragma unroll
    for (int c = 0; c < L::kChunks; ++c) {
      q[h][c] =
          load4(a.q + (int64_t{row} * a.n_heads + head) * kHeadDim + 4 * (slot + c * L::kLanes));
      scale4(q[h][c], query_scale<kHeadDim>());
      r.mixed[h][c] = make_float4(0, 0, 0, 0);
    }
  }

  const T* k_cache = static_cast<const T*>(a.k.data);
  const T* v_cache = static_cast<const T*>(a.v.data);
  for (int block = begin / kBlockTokens + warp; block * kBlockTokens < end; block += kWarps) {
    const int first = block * kBlockTokens;
    const int low = max(begin, first), high = min(end, first + kBlockTokens) - 1;
    const int64_t token = int64_t{table[block]} * kBlockTokens;
    // A key that is not seen is read as the nearest that is: no branch stands between the loads,
    // and values that may be anything are not read. Its weight is 0.
    int64_t at[L::kSteps];
    bool seen[L::kSteps];
#pragma unroll
    for (int s = 0; s < L::kSteps; ++s) {
      const int key = first + s * L::kKeys + group;
      seen[s] = key >= low && key <= high;
      at[s] = ((token + min(max(key, low), high) - first) * a.n_kv_heads + kv_head) *
              kHeadStride<T, kHeadDim>;
    }
    float score[kHeads][L::kSteps];
#pragma unroll
    for (int s = 0; s < L::kSteps; ++s) {
      const T* head = k_cache + at[s];
      float dot[kHeads] = {};
#pragma unroll
      for (int c = 0; c < L::kChunks; ++c) {
        const float4 k = load4(head + 4 * (slot + c * L::kLanes));
#pragma unroll
        for (int h = 0; h < kHeads; ++h) dot[h] = dot4(q[h][c], k, dot[h]);
      }
      const float scale = head_scale<T, kHeadDim>(head);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) score[h][s] = dot[h] * scale;
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
#pragma unroll
      for (int s = 0; s < L::kSteps; ++s) {
        score[h][s] = sum_over<L::kLanes>(score[h][s]);
        if (!seen[s]) score[h][s] = -INFINITY;
      }
    }
    float base[kHeads];  // of the weights
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float largest = r.largest[h];
#pragma unroll
      for (int s = 0; s < L::kSteps; ++s) largest = fmaxf(largest, score[h][s]);
      const float by = rescale(r.largest[h], largest);
      r.largest[h] = largest;
      r.sum[h] *= by;
#pragma unroll
      for (int c = 0; c < L::kChunks; ++c) scale4(r.mixed[h][c], by);
      base[h] = largest == -INFINITY ? 0.0f : largest;  // no key yet: weights are 0
    }
#pragma unroll
    for (int s = 0; s < L::kSteps; ++s) {
      const T* head = v_cache + at[s];
      const float scale = head_scale<T, kHeadDim>(head);
      float weight[kHeads];
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        weight[h] = exp2f(score[h][s] - base[h]);
        r.sum[h] += weight[h];
        weight[h] *= scale;
      }
#pragma unroll
      for (int c = 0; c < L::kChunks; ++c) {
        const float4 v = load4(head + 4 * (slot + c * L::kLanes));
#pragma unroll
        for (int h = 0; h < kHeads; ++h) add_scaled4(r.mixed[h][c], weight[h], v);
      }
    }
  }
  join_groups(r);

  if (group == 0) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (slot == 0) {
        largest_s[warp][h] = r.largest[h];
        sum_s[warp][h] = r.sum[h];
      }
#pragma unroll
      for (int c = 0; c < L::kChunks; ++c) {
        *reinterpret_cast<float4*>(&mixed_s[warp][h][4 * (slot + c * L::kLanes)]) = r.mixed[h][c];
      }
    }
  }
  __syncthreads();

  constexpr int kPartial = kHeadDim + 2;  // mixed values, largest score, sum of weights
  for (int i = threadIdx.x; i < n_heads * kHeadDim; i += 32 * kWarps) {
    const int h = i / kHeadDim, d = i % kHeadDim;
    float largest = -INFINITY, sum = 0, mixed = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, largest_s[w][h]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float by = rescale(largest_s[w][h], largest);
      sum += sum_s[w][h] * by;
      mixed += mixed_s[w][h][d] * by;
    }
    const int head = first_head + h;
    if (n_splits == 1) {
      a.out[(int64_t{row} * a.n_heads + head) * kHeadDim + d] = mixed / sum;
      continue;
    }
    float* partial = args.partials +
                     ((int64_t{blockIdx.z} * a.n_heads + head) * args.n_splits + split) * kPartial;
    partial[d] = mixed;
    if (d == 0) {
      partial[kHeadDim] = largest;
      partial[kHeadDim + 1] = sum;
    }
  }
  if (n_splits == 1) return;

  __threadfence();
  __syncthreads();
  int* arrivals = args.arrivals + int64_t{blockIdx.z} * a.n_heads + first_head;
  if (threadIdx.x == 0) last_s = atomicAdd(arrivals, 1) == n_splits - 1;
  __syncthreads();
  if (!last_s) return;
  __threadfence();
  if (threadIdx.x == 0) *arrivals = 0;  // for the next call
  for (int i = threadIdx.x; i < n_heads * kHeadDim; i += 32 * kWarps) {
    const int h = i / kHeadDim, d = i % kHeadDim;
    const int head = first_head + h;
    const float* partials =
        args.partials + (int64_t{blockIdx.z} * a.n_heads + head) * args.n_splits * kPartial;
    float largest = -INFINITY, sum = 0, mixed = 0;
    for (int s = 0; s < n_splits; ++s)
      largest = fmaxf(largest, __ldcg(partials + s * kPartial + kHeadDim));
    for (int s = 0; s < n_splits; ++s) {
      const float* partial = partials + s * kPartial;
      const float by = rescale(__ldcg(partial + kHeadDim), largest);
      sum += __ldcg(partial + kHeadDim + 1) * by;
      mixed += __ldcg(partial + d) * by;
    }
    a.out[(int64_t{row} * a.n_heads + head) * kHeadDim + d] = mixed / sum;
  }
}

template <class T, int kHeadDim>
cudaError_t launch_heads(const AttentionRows& args, cudaStream_t stream) {
  const int per_kv = args.of.n_heads / args.of.n_kv_heads;
  const int heads = per_kv == 1 ? 1 : per_kv == 2 ? 2 : 4;
  const int passes = (per_kv + heads - 1) / heads;
  const dim3 grid(static_cast<unsigned>(args.n_splits),
                  static_cast<unsigned>(args.of.n_kv_heads * passes),
                  static_cast<unsigned>(args.n));
  const auto kernel = heads == 1   ? rows_kernel<T, kHeadDim, 1>
                      : heads == 2 ? rows_kernel<T, kHeadDim, 2>
                                   : rows_kernel<T, kHeadDim, 4>;
  return launch_early(args.overlaps, kernel, grid, 32 * kWarps, stream, args, passes);
}

}  // namespace

cudaError_t launch_attention_rows(const AttentionRows& args, cudaStream_t stream) {
  if (args.n == 0) return cudaSuccess;
  return for_cache(args.of.k.type, args.of.head_dim, [&](auto* element, auto head_dim) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(element)>>;
    return launch_heads<T, decltype(head_dim)::value>(args, stream);
  });
}

}  // namespace deltacome::cuda
