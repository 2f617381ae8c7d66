// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/async_copy.cuh"
#include "backend/cuda/attention_mma.cuh"

namespace deltacome::cuda {
namespace {

/// Copies a tile's keys and values, as they are, to its stage. Keys outside [begin, end) are zeros.
template <int kHeadDim>
__device__ __forceinline__ void copy_tile(MmaShared<bf16, kHeadDim>& s, int stage,
                                          const Attention& a, const HeadKeys& keys, int key0,
                                          uint64_t policy) {
  constexpr int kPieces = kHeadDim / 8;  // of 16 bytes
  for (int i = static_cast<int>(threadIdx.x); i < kMmaKeys * kPieces; i += kMmaThreads) {
    const int at = i / kPieces, column = i % kPieces * 8, key = key0 + at;
    const bool inside = key >= keys.begin && key < keys.end;
    const int from = inside ? key : keys.begin;
    const bf16* k = head_of<bf16, kHeadDim>(a.k.data, keys.table, from, a.n_kv_heads, keys.kv_head);
    const bf16* v = head_of<bf16, kHeadDim>(a.v.data, keys.table, from, a.n_kv_heads, keys.kv_head);
    copy16_of_row(reinterpret_cast<uint4*>(&s.k[stage][0][at][column]), k + column, inside, policy);
    copy16_of_row(reinterpret_cast<uint4*>(&s.v[stage][0][at][column]), v + column, inside, policy);
  }
}

/// The same with conversion: codes become bf16, which they are exactly, and their scales apart; f32
/// becomes the sum of two bf16.
template <class T, int kHeadDim>
__device__ __forceinline__ void convert_tile(MmaShared<T, kHeadDim>& s, const Attention& a,
                                             const HeadKeys& keys, int key0) {
  constexpr int kFours = kHeadDim / 4;
  for (int i = static_cast<int>(threadIdx.x); i < kMmaKeys * kFours; i += kMmaThreads) {
    const int at = i / kFours, column = i % kFours * 4, key = key0 + at;
    float4 k{}, v{};
    float k_scale = 0, v_scale = 0;
    if (key >= keys.begin && key < keys.end) {
      const T* from = head_of<T, kHeadDim>(a.k.data, keys.table, key, a.n_kv_heads, keys.kv_head);
      k = load4(from + column);
      k_scale = head_scale<T, kHeadDim>(from);
      from = head_of<T, kHeadDim>(a.v.data, keys.table, key, a.n_kv_heads, keys.kv_head);
      v = load4(from + column);
      v_scale = head_scale<T, kHeadDim>(from);
    }
    store_parts<kMmaParts<T>>(&s.k[0], at, column, k);
    store_parts<kMmaParts<T>>(&s.v[0], at, column, v);
    if (sizeof(T) == 1 && column == 0) {
      s.k_scale[at] = k_scale;
      s.v_scale[at] = v_scale;
    }
  }
}

/// 64 queries of a head by four warps, 16 each: online softmax over tiles of keys, products on the
/// tensor cores. Queries and weights go in as sums of two bf16, so nothing is lost against f32 but
/// the last bits. flags[tile * n_heads + head]: whether a result is not finite; the value of a key
/// that a query does not see may have spoilt it. Grid (n_tiles, n_heads), block (kMmaThreads),
/// shared memory sizeof(MmaShared).
template <class T, int kHeadDim>
__global__ void __launch_bounds__(kMmaThreads, 2)
    mma_kernel(const __grid_constant__ Attention a, const QueryTile* tiles, int* flags) {
  extern __shared__ uint4 shared[];
  auto& s = *reinterpret_cast<MmaShared<T, kHeadDim>*>(shared);
  constexpr bool kCopied = kMmaStages < T >> 1;
  const int lane = static_cast<int>(threadIdx.x % 32);
  // The last tiles of a prompt see the most keys: they go first.
  const int at = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const QueryTile tile = tiles[at];
  const int first_position = a.rows.positions[tile.first_row];
  const int head = static_cast<int>(blockIdx.y);
  HeadKeys keys;
  keys.table = a.rows.blocks + a.rows.tables[tile.first_row];
  keys.kv_head = head / (a.n_heads / a.n_kv_heads);
  keys.end = first_position + tile.count;
  keys.begin = a.window > 0 ? max(0, first_position - a.window + 1) : 0;
  const int row = static_cast<int>(threadIdx.x / 32) * 16 + lane / 4;  // and row + 8

  WarpAttention<T, kHeadDim> warp;
  warp.load_queries(a, tile, head, row);
  const int first_key = keys.begin / kMmaKeys * kMmaKeys;
  const uint64_t policy = cache_policy<false>();
  if constexpr (kCopied) copy_tile(s, 0, a, keys, first_key, policy);
  commit_copies();
  int stage = 0;
  for (int key0 = first_key; key0 < keys.end; key0 += kMmaKeys) {
    if constexpr (kCopied) {
      if (key0 + kMmaKeys < keys.end) copy_tile(s, stage ^ 1, a, keys, key0 + kMmaKeys, policy);
      commit_copies();  // also of nothing, so that groups can be counted
      wait_copies<1>();
    } else {
      convert_tile(s, a, keys, key0);
    }
    __syncthreads();
    // Some query does not see some key of the tile.
    const bool masked = key0 + kMmaKeys - 1 > first_position || key0 < keys.begin ||
                        (a.window > 0 && key0 <= keys.end - 1 - a.window);
    warp.step(s, stage, key0, first_position + row, masked ? a.window : -1);
    __syncthreads();  // before the tile is overwritten
    if (kCopied) stage ^= 1;
  }
  const bool bad = warp.store(a, tile, head, row);
  const int any = __syncthreads_or(bad ? 1 : 0);
  if (threadIdx.x == 0) flags[at * a.n_heads + head] = any;
}

}  // namespace

cudaError_t launch_attention_mma(const Attention& args, const QueryTile* tiles, int n_tiles,
                                 int* flags, cudaStream_t stream) {
  if (n_tiles == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(n_tiles), static_cast<unsigned>(args.n_heads));
  return for_cache(args.k.type, args.head_dim, [&](auto* element, auto head_dim) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(element)>>;
    constexpr int kHeadDim = decltype(head_dim)::value;
    constexpr int kBytes = sizeof(MmaShared<T, kHeadDim>);
    const cudaError_t status = cudaFuncSetAttribute(
        mma_kernel<T, kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    if (status != cudaSuccess) return status;
    mma_kernel<T, kHeadDim><<<grid, kMmaThreads, kBytes, stream>>>(args, tiles, flags);
    return cudaGetLastError();
  });
}

}  // namespace deltacome::cuda
