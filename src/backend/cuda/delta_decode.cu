// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/delta_decode.h"
#include "backend/cuda/delta_pack.h"
#include "backend/cuda/numbers.cuh"
#include "backend/cuda/plain_array.cuh"
#include "backend/cuda/rotation.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kWarps = 8;

/// 8 neighbouring columns of one row to `to`, those beyond `left` columns as zeros.
__device__ void store8(void* to, const float (&v)[8], int64_t left) {
  float kept[8];
#pragma unroll
  for (int e = 0; e < 8; ++e) kept[e] = e < left ? v[e] : 0.0f;
  *reinterpret_cast<uint4*>(to) = {pack2<bf16>(kept[0], kept[1]), pack2<bf16>(kept[2], kept[3]),
                                   pack2<bf16>(kept[4], kept[5]), pack2<bf16>(kept[6], kept[7])};
}

/// What the codes of a row of a group are multiplied with.
__device__ float factor_of(const PackedMatrix& m, int64_t row, int64_t group, int64_t groups) {
  if (row >= m.rows) return 0;
  float factor = m.factor;
  if (m.row_factor != nullptr) factor *= m.row_factor[row];
  if (m.scales != nullptr) {
    const auto* scales = static_cast<const uint16_t*>(m.scales);
    factor *= half_at(scales, (row / kScaleRows * groups + group) * kScaleRows +
                                  scale_position(static_cast<int>(row % kScaleRows)));
  }
  return factor;
}

/// One group of one row block, by a warp.
template <int kBits>
__device__ void decode_group(const DecodeJob& job, int64_t block, int64_t group) {
  const PackedMatrix& m = job.matrix;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t groups = groups_of(m.cols), tiles = tiles_of(m.cols);
  const auto* codes = static_cast<const uint4*>(m.codes) +
                      tile_position(m, tiles, block, kGroupTiles * group) * 32 + lane;
  const int n_tiles = static_cast<int>(min(int64_t{kGroupTiles}, tiles - kGroupTiles * group));
  uint32_t words[kGroupTiles][4];
#pragma unroll
  for (int i = 0; i < kGroupTiles; ++i) {
    const uint4 w = i < n_tiles ? __ldcs(codes + 32 * i) : uint4{0, 0, 0, 0};
    words[i][0] = w.x;
    words[i][1] = w.y;
    words[i][2] = w.z;
    words[i][3] = w.w;
  }
#pragma unroll
  for (int field = 0; field < 8 / kBits; ++field) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t row = block * block_rows(kBits) + lane / 4 + 8 * h + 16 * field;
      if (row < job.first || row >= job.first + job.n) continue;
      const float factor = factor_of(m, row, group, groups);
      const float* gains = nullptr;
      if (m.gains != nullptr && row < m.rows)
        gains = m.gains + row / m.gain_rows * ceil_to(m.cols, kTileCols);
      auto* out = static_cast<uint16_t*>(job.out) + (row - job.first) * job.stride;
#pragma unroll
      for (int i = 0; i < kGroupTiles; ++i) {
        const int64_t col = kGroupCols * group + kTileCols * i + 8 * (lane % 4);
        if (i >= n_tiles || col >= job.cols) continue;
        float v[8];
#pragma unroll
        for (int p = 0; p < 2; ++p) {
          constexpr uint32_t kMask = ((1u << kBits) - 1) * 0x01010101u;
          const uint32_t bytes = words[i][h + 2 * p] >> (kBits * field) & kMask;
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            // A code is the low bits of a large float: no conversion is needed.
            const float code =
                __uint_as_float(0x4b000000u | (bytes >> (8 * e) & 0xffu)) - 8388608.0f;
            v[4 * p + e] = (code - m.center) * factor;
          }
        }
        if (gains != nullptr) {
#pragma unroll
          for (int e = 0; e < 8; ++e) v[e] *= gains[col + e];
        }
        store8(out + col, v, m.cols - col);
      }
    }
  }
}

/// 8 columns of 32 rows of a stored array, by a warp; a lane has a row.
__device__ void decode_stored(const DecodeJob& job, int64_t block, int64_t group) {
  const int64_t row = job.first + 32 * block + threadIdx.x % 32, col = 8 * group;
  if (row >= job.first + job.n) return;
  const int64_t rows = job.transposed ? job.array.cols : job.array.rows;
  const int64_t cols = job.transposed ? job.array.rows : job.array.cols;
  float v[8] = {};
  const float factor = job.row_factor == nullptr || row >= rows ? 1.0f : job.row_factor[row];
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    if (row >= rows || col + e >= cols) continue;
    v[e] = factor * (job.transposed ? element_at(job.array, col + e, row)
                                    : element_at(job.array, row, col + e));
  }
  store8(static_cast<uint16_t*>(job.out) + (row - job.first) * job.stride + col, v, 8);
}

/// A warp has a unit: a group of a row block, or 32 rows by 8 columns of a stored array. Grid (ceil
/// of all units / kWarps), block (32 * kWarps).
__global__ void __launch_bounds__(32 * kWarps)
    decode_kernel(const __grid_constant__ DecodeJobs all) {
  const int unit = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x / 32);
  if (unit >= all.starts[all.n]) return;
  int i = 0;
  while (unit >= all.starts[i + 1]) ++i;
  const DecodeJob& job = all.jobs[i];
  const int64_t at = unit - all.starts[i];
  const PackedMatrix& m = job.matrix;
  if (m.codes == nullptr) {
    const int64_t groups = job.cols / 8;
    return decode_stored(job, at / groups, at % groups);
  }
  const int64_t groups = groups_of(m.cols);
  const int64_t block = job.first / block_rows(m.bits) + at / groups, group = at % groups;
  switch (m.bits) {
    case 1:
      return decode_group<1>(job, block, group);
    case 2:
      return decode_group<2>(job, block, group);
    case 4:
      return decode_group<4>(job, block, group);
    default:
      return decode_group<8>(job, block, group);
  }
}

int64_t units_of(const DecodeJob& job) {
  if (job.n == 0 || job.cols == 0) return 0;
  if (job.matrix.codes == nullptr) return (job.n + 31) / 32 * (job.cols / 8);
  const int rows = block_rows(job.matrix.bits);
  const int64_t last = (job.first + job.n + rows - 1) / rows;
  return (last - job.first / rows) * groups_of(job.matrix.cols);
}

template <int kDim>
struct Piece;  // neighbouring values of an entry that are stored at once
template <>
struct Piece<4> {
  using Type = uint2;
};
template <>
struct Piece<6> {
  using Type = uint32_t;
};
template <>
struct Piece<8> {
  using Type = uint4;
};
template <>
struct Piece<12> {
  using Type = uint2;
};
template <>
struct Piece<16> {
  using Type = uint4;
};

/// Blocks of 32 rows by 64 codes, a warp one at a time. Grid: any, block (32 * kWarps).
template <int kDim>
__global__ void __launch_bounds__(32 * kWarps)
    decode_vectors_kernel(const __grid_constant__ DecodeJob job) {
  using Type = typename Piece<kDim>::Type;
  constexpr int kPerPiece = sizeof(Type) / 2;  // values
  constexpr int kEntries = chunk_entries(kDim);
  __shared__ float book[256 * kDim];
  const PackedMatrix& m = job.matrix;
  const auto* entries = static_cast<const int8_t*>(m.book);
  for (int i = static_cast<int>(threadIdx.x); i < 256 * kDim; i += 32 * kWarps)
    book[i] = static_cast<float>(entries[i / kDim * 4 * entry_words(kDim) + i % kDim]);
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t blocks = vector_blocks((m.cols + kDim - 1) / kDim);
  const int64_t first = job.first / kVectorRows;
  const int64_t n = ((job.first + job.n + kVectorRows - 1) / kVectorRows - first) * blocks;
  for (int64_t unit = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; unit < n;
       unit += int64_t{gridDim.x} * kWarps) {
    const int64_t row_block = first + unit / blocks, block = unit % blocks;
    const auto* codes =
        static_cast<const uint4*>(m.codes) + (row_block * blocks + block) * 128 + lane;
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const uint4 loaded = __ldcs(codes + 32 * q);
      const uint32_t words[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
      const int64_t row = row_block * kVectorRows + 8 * q + lane / 4;
      if (row < job.first || row >= job.first + job.n) continue;
      const float factor =
          row >= m.rows ? 0.0f : m.factor * (m.row_factor == nullptr ? 1.0f : m.row_factor[row]);
      auto* out = static_cast<uint16_t*>(job.out) + (row - job.first) * job.stride;
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const int code = kEntries * (4 * (i / kEntries) + lane % 4) + i % kEntries;
        const int64_t col = (block * kVectorCodes + code) * kDim;
        const float* entry = book + (words[i / 4] >> (8 * (i % 4)) & 0xffu) * kDim;
        if (col + kDim <= m.cols) {
#pragma unroll
          for (int p = 0; p < kDim; p += kPerPiece) {
            uint32_t packed[kPerPiece / 2];
#pragma unroll
            for (int e = 0; e < kPerPiece; e += 2)
              packed[e / 2] = pack2<bf16>(entry[p + e] * factor, entry[p + e + 1] * factor);
            *reinterpret_cast<Type*>(out + col + p) = *reinterpret_cast<const Type*>(packed);
          }
        } else {
          for (int e = 0; e < kDim && col + e < job.cols; ++e) {
            const uint32_t value = pack2<bf16>(col + e < m.cols ? entry[e] * factor : 0.0f, 0.0f);
            out[col + e] = static_cast<uint16_t>(value);
          }
        }
      }
    }
  }
}

template <int kDim>
cudaError_t decode_vectors(const DecodeJob& job, int n_sms, cudaStream_t stream) {
  const int64_t blocks = vector_blocks((job.matrix.cols + kDim - 1) / kDim);
  const int64_t units = (job.n / kVectorRows + 2) * blocks, most = int64_t{8} * n_sms;
  const auto grid = static_cast<unsigned>(min((units + kWarps - 1) / kWarps, most));
  decode_vectors_kernel<kDim><<<grid, 32 * kWarps, 0, stream>>>(job);
  return cudaGetLastError();
}

constexpr int kChunk = 2048;  // columns that a block of threads prepares at a time

/// Grid (chunks of the columns, rows), block (kRotationThreads).
__global__ void __launch_bounds__(kRotationThreads)
    prompt_input_kernel(const __grid_constant__ PromptInput a) {
  __shared__ float v[kChunk];
  for (int64_t r = blockIdx.y; r < a.n_rows; r += gridDim.y) {
    const float* x = a.x + (a.rows == nullptr ? r : a.rows[r]) * a.x_stride;
    const int first = kChunk * static_cast<int>(blockIdx.x), n = min(kChunk, a.padded - first);
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kRotationThreads) {
      v[i] = signed_input(a, x, first + i);
    }
    __syncthreads();
    const float by = a.block > 0 ? hadamard(v, min(n, a.cols - first), a.block) : 1.0f;
    auto* out = reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(a.out) + r * a.padded + first);
    for (int i = static_cast<int>(threadIdx.x); i < n / 2; i += kRotationThreads)
      out[i] = pack2<bf16>(v[2 * i] * by, v[2 * i + 1] * by);
    __syncthreads();  // before the next row replaces v
  }
}

}  // namespace

cudaError_t launch_decode(DecodeJobs jobs, cudaStream_t stream) {
  int64_t units = 0;
  for (int i = 0; i < jobs.n; ++i) {
    units += units_of(jobs.jobs[i]);
    if (units > INT32_MAX) return cudaErrorInvalidValue;
    jobs.starts[i + 1] = static_cast<int32_t>(units);
  }
  if (units == 0) return cudaSuccess;
  decode_kernel<<<static_cast<unsigned>((units + kWarps - 1) / kWarps), 32 * kWarps, 0, stream>>>(
      jobs);
  return cudaGetLastError();
}

cudaError_t launch_decode_vectors(const DecodeJob& job, int dim, int n_sms, cudaStream_t stream) {
  if (job.n == 0 || job.cols == 0) return cudaSuccess;
  switch (dim) {
    case 4:
      return decode_vectors<4>(job, n_sms, stream);
    case 6:
      return decode_vectors<6>(job, n_sms, stream);
    case 8:
      return decode_vectors<8>(job, n_sms, stream);
    case 12:
      return decode_vectors<12>(job, n_sms, stream);
    default:
      return decode_vectors<16>(job, n_sms, stream);
  }
}

cudaError_t launch_prompt_input(const PromptInput& input, cudaStream_t stream) {
  if (input.n_rows == 0 || input.padded == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>((input.padded + kChunk - 1) / kChunk),
                  static_cast<unsigned>(input.n_rows < 65535 ? input.n_rows : 65535));
  prompt_input_kernel<<<grid, kRotationThreads, 0, stream>>>(input);
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
