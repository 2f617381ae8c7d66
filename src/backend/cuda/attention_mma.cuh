// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/cuda/paged.cuh"

namespace deltacome::cuda {

// What a warp does in the attention of prompts on the tensor cores.

constexpr int kMmaThreads = 128;
constexpr int kMmaKeys = 64;  // of a tile
static_assert(kQueryTile == 16 * (kMmaThreads / 32));

/// bf16 that keys and values of a cache are sums of, and tiles that are on their way.
template <class T>
inline constexpr int kMmaParts = sizeof(T) == 4 ? 2 : 1;
template <class T>
inline constexpr int kMmaStages = sizeof(T) == 2 ? 2 : 1;

/// Rows are padded so that eight of them lie in different banks.
template <class T, int kHeadDim>
struct MmaShared {
  using Tile = bf16[kMmaKeys][kHeadDim + 8];
  Tile k[kMmaStages<T>][kMmaParts<T>];
  Tile v[kMmaStages<T>][kMmaParts<T>];
  float k_scale[sizeof(T) == 1 ? kMmaKeys : 1];  // of codes
  float v_scale[sizeof(T) == 1 ? kMmaKeys : 1];
};

/// The keys that a tile of queries sees.
struct HeadKeys {
  const int32_t* table = nullptr;
  int kv_head = 0;
  int begin = 0, end = 0;
};

/// Two values as bf16, and what that loses as bf16.
struct Split {
  uint32_t high, low;
  __device__ __forceinline__ Split(float a, float b) : high(pack2<bf16>(a, b)) {
    low = pack2<bf16>(a - __uint_as_float(high << 16), b - __uint_as_float(high & 0xffff0000u));
  }
};

/// Four neighbours of a row into the parts of a tile.
template <int kParts, class Tiles>
__device__ __forceinline__ void store_parts(Tiles* tiles, int row, int column, float4 v) {
  const Split a(v.x, v.y), b(v.z, v.w);
  *reinterpret_cast<uint2*>(&(*tiles)[0][row][column]) = {a.high, b.high};
  if (kParts == 2) *reinterpret_cast<uint2*>(&(*tiles)[kParts - 1][row][column]) = {a.low, b.low};
}

/// Four 8 x 8 matrices of 16-bit elements; each lane gives the address of a row: lane 8 i + r row r
/// of matrix i. Transposed: each lane gets two neighbours of a column instead of a row.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const bf16* row) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}
__device__ __forceinline__ void load_transposed(uint32_t (&r)[4], const bf16* row) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}
/// c [16, 8] += a [16, 16] b [16, 8].
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// 16 queries of a head. A lane 4 g + t has of each product the rows g and g + 8, and columns 2 t
/// and 2 t + 1 of every eight.
template <class T, int kHeadDim>
struct WarpAttention {
  static constexpr int kSteps = kHeadDim / 16;
  static constexpr int kParts = kMmaParts<T>;
  using Shared = MmaShared<T, kHeadDim>;

  uint32_t q_high[kSteps][4], q_low[kSteps][4];  // times query_scale()
  float mixed[kHeadDim / 8][4] = {};
  float largest[2] = {-INFINITY, -INFINITY};
  float sum[2] = {};  // of this lane's weights

  /// Rows `row` and `row` + 8 of the tile; zeros beyond its last.
  __device__ __forceinline__ void load_queries(const Attention& a, const QueryTile& tile, int head,
                                               int row) {
    const int column = 2 * static_cast<int>(threadIdx.x % 4);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = row + 8 * half;
      const float* q = a.q + (int64_t{tile.first_row + r} * a.n_heads + head) * kHeadDim + column;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float2 two{};
          if (r < tile.count) two = *reinterpret_cast<const float2*>(q + 16 * step + 8 * h);
          const Split split(two.x * query_scale<kHeadDim>(), two.y * query_scale<kHeadDim>());
          q_high[step][half + 2 * h] = split.high;
          q_low[step][half + 2 * h] = split.low;
        }
      }
    }
  }

  /// A tile of keys from key0 on; `position` is that of the lane's first row. window -1: all
  /// queries see all keys.
  __device__ __forceinline__ void step(const Shared& s, int stage, int key0, int position,
                                       int window) {
    float score[kMmaKeys / 8][4] = {};
    multiply_keys(s, stage, score);
    scale_scores(s, score);
    if (window >= 0) mask(key0, position, window, score);
    to_weights(score);
    mix_values(s, stage, score);
  }

  /// Results; true if one is not finite.
  __device__ __forceinline__ bool store(const Attention& a, const QueryTile& tile, int head,
                                        int row) {
    bool bad = false;
    const int column = 2 * static_cast<int>(threadIdx.x % 4);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float by = 1.0f / sum_over<4>(sum[half]);
      const int r = row + 8 * half;
      if (r >= tile.count) continue;
      float* out = a.out + (int64_t{tile.first_row + r} * a.n_heads + head) * kHeadDim + column;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        const float2 two{mixed[n][2 * half] * by, mixed[n][2 * half + 1] * by};
        bad = bad || !isfinite(two.x) || !isfinite(two.y);
        *reinterpret_cast<float2*>(out + 8 * n) = two;
      }
    }
    return bad;
  }

 private:
  __device__ __forceinline__ void multiply_keys(const Shared& s, int stage,
                                                float (&score)[kMmaKeys / 8][4]) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int key = lane / 16 * 8 + lane % 8, column = lane / 8 % 2 * 8;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int n = 0; n < kMmaKeys / 8; n += 2) {
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          uint32_t k[4];
          load_matrices(k, &s.k[stage][part][8 * n + key][16 * step + column]);
          multiply(score[n], q_high[step], k[0], k[1]);
          multiply(score[n + 1], q_high[step], k[2], k[3]);
          if (part > 0) continue;  // low times low is below what f32 keeps
          multiply(score[n], q_low[step], k[0], k[1]);
          multiply(score[n + 1], q_low[step], k[2], k[3]);
        }
      }
    }
  }

  __device__ __forceinline__ void scale_scores(const Shared& s, float (&score)[kMmaKeys / 8][4]) {
    if (sizeof(T) != 1) return;
    const int column = 2 * static_cast<int>(threadIdx.x % 4);
#pragma unroll
    for (int n = 0; n < kMmaKeys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) score[n][e] *= s.k_scale[8 * n + column + e % 2];
    }
  }

  __device__ __forceinline__ void mask(int key0, int position, int window,
                                       float (&score)[kMmaKeys / 8][4]) {
    const int column = 2 * static_cast<int>(threadIdx.x % 4);
#pragma unroll
    for (int n = 0; n < kMmaKeys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int key = key0 + 8 * n + column + e % 2, at = position + 8 * (e / 2);
        if (key > at || (window > 0 && key <= at - window)) score[n][e] = -INFINITY;
      }
    }
  }

  /// Scores become weights against the largest so far.
  __device__ __forceinline__ void to_weights(float (&score)[kMmaKeys / 8][4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = largest[half];
#pragma unroll
      for (int n = 0; n < kMmaKeys / 8; ++n)
        most = fmaxf(most, fmaxf(score[n][2 * half], score[n][2 * half + 1]));
      most = max_over<4>(most);
      const float by = rescale(largest[half], most);
      const float base = most == -INFINITY ? 0.0f : most;
      largest[half] = most;
      float weights = 0;
#pragma unroll
      for (int n = 0; n < kMmaKeys / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float weight = exp2f(score[n][2 * half + e] - base);
          score[n][2 * half + e] = weight;
          weights += weight;
        }
      }
      sum[half] = sum[half] * by + weights;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        mixed[n][2 * half] *= by;
        mixed[n][2 * half + 1] *= by;
      }
    }
  }

  __device__ __forceinline__ void mix_values(const Shared& s, int stage,
                                             const float (&weight)[kMmaKeys / 8][4]) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int key = lane / 8 % 2 * 8 + lane % 8, column = lane / 16 * 8;
#pragma unroll
    for (int keys = 0; keys < kMmaKeys; keys += 16) {
      uint32_t high[4], low[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // rows g, g + 8; columns of the first eight, of the second
        const float* two = &weight[keys / 8 + i / 2][2 * (i % 2)];
        float by[2] = {1, 1};
        if (sizeof(T) == 1) {
          by[0] = s.v_scale[keys + 8 * (i / 2) + 2 * (lane % 4)];
          by[1] = s.v_scale[keys + 8 * (i / 2) + 2 * (lane % 4) + 1];
        }
        const Split split(two[0] * by[0], two[1] * by[1]);
        high[i] = split.high;
        low[i] = split.low;
      }
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; n += 2) {
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          uint32_t v[4];
          load_transposed(v, &s.v[stage][part][keys + key][8 * n + column]);
          multiply(mixed[n], high, v[0], v[1]);
          multiply(mixed[n + 1], high, v[2], v[3]);
          if (part > 0) continue;
          multiply(mixed[n], low, v[0], v[1]);
          multiply(mixed[n + 1], low, v[2], v[3]);
        }
      }
    }
  }
};

}  // namespace deltacome::cuda
