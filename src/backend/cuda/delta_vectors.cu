// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/delta_kernels.h"
#include "backend/cuda/delta_stream.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kBookBytes = 32 * 1024;  // copies of a book: each lane of a wavefront has its own
constexpr int kStages = 3;

/// An entry of the book in shared memory.
__device__ void load_entry(uint32_t at, uint32_t (&w)[1]) {
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(w[0]) : "r"(at));
}
__device__ void load_entry(uint32_t at, uint32_t (&w)[2]) {
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(w[0]), "=r"(w[1]) : "r"(at));
}
__device__ void load_entry(uint32_t at, uint32_t (&w)[4]) {
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
               : "r"(at));
}

/// Entries of a lane's chunk and its columns: whole operands of 8 columns; see
/// launch_pack_vector().
template <int kDim>
struct Chunk {
  static constexpr int kEntries = chunk_entries(kDim);
  static constexpr int kCols = kEntries * kDim;
  static constexpr int kWords = kCols / 4;
};

/// Where the copies of the book's entries that a lane reads begin: entry e is 128 e bytes behind.
template <int kDim>
__device__ uint32_t copy_of(const void* book) {
  constexpr int kEntryWords = entry_words(kDim);
  return static_cast<uint32_t>(__cvta_generic_to_shared(book)) +
         4 * kEntryWords * (threadIdx.x % (32 / kEntryWords));
}

/// Columns of one chunk of a row, from its codes (bytes `first` and on), as 32-bit words.
template <int kDim>
__device__ void decode_chunk(uint32_t copy, uint32_t codes, int first,
                             uint32_t* words) {  // [Chunk<kDim>::kWords]
  constexpr int kEntries = Chunk<kDim>::kEntries;
  uint32_t entries[kEntries][entry_words(kDim)];
#pragma unroll
  for (int e = 0; e < kEntries; ++e)
    load_entry(copy + 128 * __byte_perm(codes, 0, 0x4440 + first + e), entries[e]);
  if constexpr (kDim == 6) {  // 4 entries of 6 bytes
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      words[e / 2 * 3] = entries[e][0];
      words[e / 2 * 3 + 1] = __byte_perm(entries[e][1], entries[e + 1][0], 0x5410);
      words[e / 2 * 3 + 2] = __byte_perm(entries[e + 1][0], entries[e + 1][1], 0x5432);
    }
  } else {
#pragma unroll
    for (int w = 0; w < Chunk<kDim>::kWords; ++w)
      words[w] = entries[w / (kDim / 4)][w % (kDim / 4)];
  }
}

/// sum += one block of codes (32 rows by 64) times the input: sum[h] of rows 16 h + {g, g + 8}.
template <int kDim, int kTokenTiles>
__device__ void multiply_codes(uint32_t copy, const uint4* slot, const DeltaBuffers& buffers,
                               const InputSegment& segment, int group,
                               float (&sum)[2][kTokenTiles][4]) {
  const SegmentPart& part = segment.parts[0];
  constexpr int kEntries = Chunk<kDim>::kEntries, kCols = Chunk<kDim>::kCols;
  const int lane = static_cast<int>(threadIdx.x % 32);
  uint32_t codes[4][4];  // of rows g, g + 8, g + 16, g + 24
#pragma unroll
  for (int q = 0; q < 4; ++q)
    load_entry(static_cast<uint32_t>(__cvta_generic_to_shared(slot + 32 * q + lane)), codes[q]);
  int c[2][kTokenTiles][4] = {};
#pragma unroll
  for (int p = 0; p < 16 / kEntries; ++p) {
    uint32_t a[4][Chunk<kDim>::kWords];
#pragma unroll
    for (int q = 0; q < 4; ++q)
      decode_chunk<kDim>(copy, codes[q][p * kEntries / 4], p * kEntries % 4, a[q]);
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
      const int token = kMaxTokens * n + lane / 4;
      const int8_t* x = buffers.inputs + part.in + int64_t{token} * part.in_stride +
                        kVectorCodes * kDim * group + kCols * (4 * p + lane % 4);
#pragma unroll
      for (int w = 0; w < Chunk<kDim>::kWords; w += 2) {
        const uint2 b =
            token < segment.n_tokens ? *reinterpret_cast<const uint2*>(x + 4 * w) : uint2{0, 0};
        multiply_add<true>(c[0][n], a[0][w], a[1][w], a[0][w + 1], a[1][w + 1], b.x, b.y);
        multiply_add<true>(c[1][n], a[2][w], a[3][w], a[2][w + 1], a[3][w + 1], b.x, b.y);
      }
    }
  }
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int t = kMaxTokens * n + 2 * (lane % 4) + e;
      const float2* scales = reinterpret_cast<const float2*>(buffers.input_scales) +
                             part.in_scales + int64_t{t} * part.scale_stride + group;
      const float scale = t < segment.n_tokens ? scales->x : 0.0f;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        sum[h][n][e] = fmaf(scale, static_cast<float>(c[h][n][e]), sum[h][n][e]);
        sum[h][n][e + 2] = fmaf(scale, static_cast<float>(c[h][n][e + 2]), sum[h][n][e + 2]);
      }
    }
  }
}

/// The same for one token: sum[q] of row 8 q + g, in lanes 4 g. Neighbouring words of a row are the
/// rows g and g + 8 of the operand as they come from the book, and are multiplied by two columns:
/// column 0 has the inputs of the even words, column 1 those of the odd ones.
template <int kDim>
__device__ void multiply_codes(uint32_t copy, const uint4* slot, const DeltaBuffers& buffers,
                               const SegmentPart& part, int group, float (&sum)[4]) {
  constexpr int kEntries = Chunk<kDim>::kEntries, kCols = Chunk<kDim>::kCols;
  constexpr int kWords = Chunk<kDim>::kWords;
  const int lane = static_cast<int>(threadIdx.x % 32), odd = lane / 4;
  const int8_t* x = buffers.inputs + part.in + kVectorCodes * kDim * group + kCols * (lane % 4) +
                    4 * (odd < 2 ? odd : 0);
  uint32_t codes[4][4];
#pragma unroll
  for (int q = 0; q < 4; ++q)
    load_entry(static_cast<uint32_t>(__cvta_generic_to_shared(slot + 32 * q + lane)), codes[q]);
  int c[4][4] = {};
#pragma unroll
  for (int p = 0; p < 16 / kEntries; p += 2) {
    uint32_t b[kWords];  // of two chunks
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const int chunk = p + i / (kWords / 2), word = i % (kWords / 2) * 2;
      b[i] = odd < 2 ? *reinterpret_cast<const uint32_t*>(x + 4 * kCols * chunk + 4 * word) : 0;
    }
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      uint32_t a[2 * kWords];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int code = (p + h) * kEntries;
        decode_chunk<kDim>(copy, codes[q][code / 4], code % 4, a + h * kWords);
      }
#pragma unroll
      for (int i = 0; i < kWords; i += 2)
        multiply_add<true>(c[q], a[2 * i], a[2 * i + 1], a[2 * i + 2], a[2 * i + 3], b[i],
                           b[i + 1]);
    }
  }
  const float scale =
      (reinterpret_cast<const float2*>(buffers.input_scales) + part.in_scales + group)->x;
#pragma unroll
  for (int q = 0; q < 4; ++q) sum[q] = fmaf(scale, static_cast<float>(c[q][0] + c[q][3]), sum[q]);
}

template <int kDim, class Stream>
__device__ void multiply_block_of_one(const void* book, const DeltaBuffers& buffers,
                                      Stream& stream) {
  const InputSegment& segment = *stream.now.segment;
  const uint32_t copy = copy_of<kDim>(book);
  const int block = stream.now.block, group = stream.now.group;
  const int n = min(stream.left, segment.groups - group);
  const int lane = static_cast<int>(threadIdx.x % 32);
  float sum[4] = {};
  for (int i = 0; i < n; ++i)
    multiply_codes<kDim>(copy, stream.take(), buffers, segment.parts[0], group + i, sum);
  float* out = result_of(buffers, segment, 0);
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    const int row = block * kVectorRows + 8 * q + lane / 4;
    if (lane % 4 != 0 || row >= segment.rows) continue;
    const float by = segment.row_factor == nullptr ? 1.0f : segment.row_factor[row];
    atomicAdd(out + row, sum[q] * segment.parts[0].factor * by);
  }
  stream.advance(n);
}

template <int kDim, int kTokenTiles, class Stream>
__device__ void multiply_block(const void* book, const DeltaBuffers& buffers, Stream& stream) {
  const InputSegment& segment = *stream.now.segment;
  const uint32_t copy = copy_of<kDim>(book);
  const int block = stream.now.block, group = stream.now.group;
  const int n = min(stream.left, segment.groups - group);
  float sum[2][kTokenTiles][4] = {};
  for (int i = 0; i < n; ++i) {
    const uint4* slot = stream.take();
    multiply_codes<kDim, kTokenTiles>(copy, slot, buffers, segment, group + i, sum);
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int t = 0; t < kTokenTiles; ++t)
      add_results(buffers, segment, block * kVectorRows + 16 * h, t, segment.parts[0].factor,
                  sum[h][t]);
  }
  stream.advance(n);
}

/// What a warp has of a row block. kTokenTiles 0: of one token.
template <int kDim, int kTokenTiles, class Stream>
__device__ void multiply_any(const void* book, const DeltaBuffers& buffers, Stream& stream) {
  if constexpr (kTokenTiles == 0) {
    multiply_block_of_one<kDim>(book, buffers, stream);
  } else {
    multiply_block<kDim, kTokenTiles>(book, buffers, stream);
  }
}

/// Copies of a book [256][words] for conflict-free reads: entry e of copy c at [e][c].
__device__ void copy_book(const void* from, int dim, uint4* to) {
  const int words = entry_words(dim);
  auto* out = reinterpret_cast<uint32_t*>(to);
  const auto* in = static_cast<const uint32_t*>(from);
  for (int i = static_cast<int>(threadIdx.x); i < kBookBytes / 4; i += 32 * kWarps) {
    const int entry = i / 32, word = i % 32 % words;
    out[i] = in[entry * words + word];
  }
}

template <int kTokenTiles>
using VectorStream = GroupStream<InputSegment, kStages, false, kTokenTiles <= 2>;

/// Vector codes times prepared inputs: a persistent grid; every block of threads has an equal,
/// contiguous share of all segments, whose book it holds, and every warp of it an equal share of
/// each segment's part. Grid: any, block (32 * kWarps), shared memory kBookBytes + the streams'.
template <int kTokenTiles>
__global__ void __launch_bounds__(32 * kWarps, kTokenTiles <= 1 ? 2 : 1)
    vectors_kernel(const __grid_constant__ DeltaCall call,
                   const __grid_constant__ DeltaBuffers buffers) {
  extern __shared__ uint4 shared[];
  const Work<InputSegment> list = open(call.vectors);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const auto n_blocks = static_cast<int>(gridDim.x), index = static_cast<int>(blockIdx.x);
  int unit = share_of(list.units, index, n_blocks);
  const int end = share_of(list.units, index + 1, n_blocks);
  int dim = 0;
  bool waited = false;
  release_dependents();
  int item = unit < end ? item_of(list, unit) : 0;
  while (unit < end) {
    // Units of all following segments with the same book.
    const int first_dim = list.items[item].dim;
    int until = end;
    while (list.starts[item + 1] < end) {
      if (list.items[item + 1].dim != first_dim) {
        until = list.starts[item + 1];
        break;
      }
      ++item;
    }
    if (dim != first_dim) {
      __syncthreads();  // nobody reads the book before
      copy_book(list.items[item].book, first_dim, shared);
      __syncthreads();
      dim = first_dim;
    }
    VectorStream<kTokenTiles> stream;
    const bool whole = buffers.whole_blocks;
    const int begin = block_from(list, unit + share_of(until - unit, warp, kWarps), whole);
    const int stop = block_from(list, unit + share_of(until - unit, warp + 1, kWarps), whole);
    uint4* own_shared = shared + kBookBytes / 16 + warp * stream.kShared;
    if (begin < stop) stream.start(list, item_of(list, begin), begin, stop, own_shared);
    if (!waited) wait_for_inputs();
    waited = true;
    while (stream.left > 0) {
      switch (dim) {
        case 4:
          multiply_any<4, kTokenTiles>(shared, buffers, stream);
          break;
        case 6:
          multiply_any<6, kTokenTiles>(shared, buffers, stream);
          break;
        case 8:
          multiply_any<8, kTokenTiles>(shared, buffers, stream);
          break;
        case 12:
          multiply_any<12, kTokenTiles>(shared, buffers, stream);
          break;
        default:
          multiply_any<16, kTokenTiles>(shared, buffers, stream);
      }
    }
    unit = until;
    ++item;
  }
  if (!waited) wait_for_inputs();
}

template <int kTokenTiles>
cudaError_t launch(const DeltaCall& call, const DeltaBuffers& buffers, const DeltaLaunch& how) {
  constexpr size_t kShared = kBookBytes + size_t{16} * kWarps * VectorStream<kTokenTiles>::kShared;
  return launch_persistent(vectors_kernel<kTokenTiles>, 32 * kWarps, kShared, call, buffers, how);
}

}  // namespace

cudaError_t launch_vectors(const DeltaCall& call, const DeltaBuffers& buffers,
                           const DeltaLaunch& how) {
  if (how.one_token) return launch<0>(call, buffers, how);
  switch (how.token_tiles) {
    case 1:
      return launch<1>(call, buffers, how);
    case 2:
      return launch<2>(call, buffers, how);
    default:
      return launch<4>(call, buffers, how);
  }
}

}  // namespace deltacome::cuda
