// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/paged.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kThreads = 256;  // 16 x 16: four queries and every 16th key, or value column, each
constexpr int kKeyTile = 32;
constexpr int kQueries = 4;           // of a thread
constexpr int kKeys = kKeyTile / 16;  // of a thread
constexpr int kWeightStride = kKeyTile + 4;

/// Shared memory of a block; rows of keys are padded so that 16 of them start in different banks.
template <int kHeadDim>
struct Tiles {
  static constexpr int kKeyStride = kHeadDim + 4;
  float q[kQueryTile][kHeadDim];  // times query_scale()
  float k[kKeyTile][kKeyStride];
  float v[kKeyTile][kHeadDim];
  float weights[kQueryTile][kWeightStride];
};

/// mixed += weights * values for the thread's queries and columns. kMasked: a weight of 0 belongs
/// to a key that the query does not see, whose value may be anything.
template <int kHeadDim, int kColumns, bool kMasked>
__device__ __forceinline__ void mix(const Tiles<kHeadDim>& t, int y, int x,
                                    float4 (&mixed)[kQueries][kColumns]) {
#pragma unroll 2
  for (int key = 0; key < kKeyTile; key += 4) {
    float weights[kQueries][4];
#pragma unroll
    for (int i = 0; i < kQueries; ++i)
      *reinterpret_cast<float4*>(weights[i]) = load4(&t.weights[kQueries * y + i][key]);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int column = 4 * (x + 16 * c);
        if (kHeadDim % 64 != 0 && column >= kHeadDim) continue;
        const float4 v = load4(&t.v[key + e][column]);
#pragma unroll
        for (int i = 0; i < kQueries; ++i) {
          if (!kMasked || weights[i][e] != 0) add_scaled4(mixed[i][c], weights[i][e], v);
        }
      }
    }
  }
}

/// One tile of queries and one head: online softmax over tiles of keys in shared memory. Grid
/// (n_tiles, n_heads), block (kThreads), shared memory sizeof(Tiles). flags [n_tiles, n_heads]: 0
/// where there is nothing to do.
template <class T, int kHeadDim>
__global__ void __launch_bounds__(kThreads)
    tiles_kernel(Attention a, const QueryTile* tiles, const int* flags) {
  if (flags[blockIdx.x * a.n_heads + blockIdx.y] == 0) return;
  extern __shared__ float4 shared[];
  auto& t = *reinterpret_cast<Tiles<kHeadDim>*>(shared);
  constexpr int kFours = kHeadDim / 4;
  constexpr int kColumns = (kFours + 15) / 16;
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
  const int first_row = tiles[blockIdx.x].first_row, count = tiles[blockIdx.x].count;
  const int first_position = a.rows.positions[first_row];
  const int32_t* table = a.rows.blocks + a.rows.tables[first_row];
  const int head = blockIdx.y, kv_head = head / (a.n_heads / a.n_kv_heads);

  for (int i = threadIdx.x; i < kQueryTile * kFours; i += kThreads) {
    const int row = i / kFours, column = 4 * (i % kFours);
    float4 q = make_float4(0, 0, 0, 0);
    if (row < count) {
      q = load4(a.q + (int64_t{first_row + row} * a.n_heads + head) * kHeadDim + column);
      scale4(q, query_scale<kHeadDim>());
    }
    *reinterpret_cast<float4*>(&t.q[row][column]) = q;
  }

  float largest[kQueries], sum[kQueries];
  float4 mixed[kQueries][kColumns];
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    largest[i] = -INFINITY;
    sum[i] = 0;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) mixed[i][c] = make_float4(0, 0, 0, 0);
  }

  const int end_key = first_position + count;
  const int begin_key = a.window > 0 ? max(0, first_position - a.window + 1) : 0;
  for (int key0 = begin_key / kKeyTile * kKeyTile; key0 < end_key; key0 += kKeyTile) {
    __syncthreads();  // all have done with the tile before
    for (int i = threadIdx.x; i < kKeyTile * kFours; i += kThreads) {
      const int key = key0 + i / kFours, column = 4 * (i % kFours);
      float4 k = make_float4(0, 0, 0, 0), v = k;
      if (key >= begin_key && key < end_key) {
        const T* from = head_of<T, kHeadDim>(a.k.data, table, key, a.n_kv_heads, kv_head);
        k = load4(from + column);
        if (sizeof(T) == 1) scale4(k, head_scale<T, kHeadDim>(from));
        from = head_of<T, kHeadDim>(a.v.data, table, key, a.n_kv_heads, kv_head);
        v = load4(from + column);
        if (sizeof(T) == 1) scale4(v, head_scale<T, kHeadDim>(from));
      }
      *reinterpret_cast<float4*>(&t.k[i / kFours][column]) = k;
      *reinterpret_cast<float4*>(&t.v[i / kFours][column]) = v;
    }
    __syncthreads();

    float score[kQueries][kKeys] = {};
#pragma unroll 4
    for (int c = 0; c < kHeadDim; c += 4) {
      float4 q[kQueries], k[kKeys];
#pragma unroll
      for (int i = 0; i < kQueries; ++i) q[i] = load4(&t.q[kQueries * y + i][c]);
#pragma unroll
      for (int j = 0; j < kKeys; ++j) k[j] = load4(&t.k[x + 16 * j][c]);
#pragma unroll
      for (int i = 0; i < kQueries; ++i) {
#pragma unroll
        for (int j = 0; j < kKeys; ++j) score[i][j] = dot4(q[i], k[j], score[i][j]);
      }
    }
    // Some query does not see some key of the tile.
    const bool masked =
        key0 + kKeyTile - 1 > first_position || (a.window > 0 && key0 <= end_key - 1 - a.window);
#pragma unroll
    for (int i = 0; i < kQueries; ++i) {
      const int position = first_position + kQueries * y + i;
      float most = largest[i];
#pragma unroll
      for (int j = 0; j < kKeys; ++j) {
        const int key = key0 + x + 16 * j;
        if (masked && (key > position || (a.window > 0 && key <= position - a.window)))
          score[i][j] = -INFINITY;
        most = fmaxf(most, score[i][j]);
      }
      most = max_over<16>(most);
      const float by = rescale(largest[i], most);
      const float base = most == -INFINITY ? 0.0f : most;
      largest[i] = most;
      float weights = 0;
#pragma unroll
      for (int j = 0; j < kKeys; ++j) {
        const float weight = exp2f(score[i][j] - base);
        t.weights[kQueries * y + i][x + 16 * j] = weight;
        weights += weight;
      }
      sum[i] = sum[i] * by + sum_over<16>(weights);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) scale4(mixed[i][c], by);
    }
    __syncwarp();  // weights of a query are written and read by the same 16 lanes
    if (masked) {
      mix<kHeadDim, kColumns, true>(t, y, x, mixed);
    } else {
      mix<kHeadDim, kColumns, false>(t, y, x, mixed);
    }
  }

#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    const int row = kQueries * y + i;
    if (row >= count) continue;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int column = 4 * (x + 16 * c);
      if (kHeadDim % 64 != 0 && column >= kHeadDim) continue;
      scale4(mixed[i][c], 1.0f / sum[i]);
      *reinterpret_cast<float4*>(a.out + (int64_t{first_row + row} * a.n_heads + head) * kHeadDim +
                                 column) = mixed[i][c];
    }
  }
}

}  // namespace

bool has_attention(int head_dim) {
  return head_dim == 16 || head_dim == 32 || head_dim == 64 || head_dim == 80 || head_dim == 96 ||
         head_dim == 128;
}

cudaError_t launch_attention_tiles(const Attention& args, const QueryTile* tiles, int n_tiles,
                                   const int* flags, cudaStream_t stream) {
  if (n_tiles == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(n_tiles), static_cast<unsigned>(args.n_heads));
  return for_cache(args.k.type, args.head_dim, [&](auto* element, auto head_dim) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(element)>>;
    constexpr int kHeadDim = decltype(head_dim)::value;
    constexpr int kBytes = sizeof(Tiles<kHeadDim>);
    if constexpr (kBytes > 48 * 1024) {  // what every block may have
      const cudaError_t status = cudaFuncSetAttribute(
          tiles_kernel<T, kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
      if (status != cudaSuccess) return status;
    }
    tiles_kernel<T, kHeadDim><<<grid, kThreads, kBytes, stream>>>(args, tiles, flags);
    return cudaGetLastError();
  });
}

}  // namespace deltacome::cuda
