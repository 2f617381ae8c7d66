// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/async_copy.cuh"
#include "backend/cuda/numbers.cuh"
#include "backend/cuda/overlap.cuh"
#include "backend/cuda/skinny.h"

namespace deltacome::cuda {
namespace {

constexpr int kWarps = 8;            // of a block, which split n_in among them
constexpr int kOutputs = 16;         // that a block has at a time
constexpr int kPiece = 128;          // inputs that a warp reads at a time: 256 bytes of a row
constexpr int kSteps = kPiece / 32;  // of four lanes that read 8 inputs each
constexpr int kStages = 3;           // pieces on their way to a warp
constexpr int kPlainRows = 8;        // rows of x of a block of the plain product
constexpr int kHeldPieces = kHeldInputs / (kWarps * kPiece);  // whose inputs a warp holds

constexpr int kRingBytes = kWarps * kStages * kOutputs * kPiece * 2;
constexpr int kMostInputBytes = 90 * 1024;  // of x in shared memory

/// Elements between rows of x in shared memory: lanes that read 8 inputs of 8 rows meet in no bank.
__host__ __device__ constexpr int64_t input_stride(int64_t n_in) {
  return (n_in + kPiece - 1) / kPiece * kPiece + 32;
}
__host__ __device__ constexpr int sums_bytes(int columns) {
  return 2 * kWarps * kOutputs * (columns * 8 + 1) * 4;
}

/// c [16, 8] += a [16, 16] b [16, 8].
__device__ __forceinline__ void multiply(const bf16*, float (&c)[4], uint32_t a0, uint32_t a1,
                                         uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void multiply(const f16*, float (&c)[4], uint32_t a0, uint32_t a1,
                                         uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// 16 outputs of a target.
struct Tile {
  int target = 0;
  int64_t first = 0;
  __device__ Tile(const Skinny& a, int64_t tile) {
    for (; target + 1 < a.n_targets; ++target) {
      const int64_t n = (a.targets[target].n_out + kOutputs - 1) / kOutputs;
      if (tile < n) break;
      tile -= n;
    }
    first = tile * kOutputs;
  }
};

/// A warp's weights on their way through shared memory: its pieces of n_in of one tile after
/// another. Each lane copies what it multiplies, 8 neighbours of its rows at a time, so that
/// nothing is synchronized.
template <class T>
struct WeightStream {
  const Skinny& a;
  uint4* ring;  // of the warp, at this lane: [kStages][2 rows][kSteps][32]
  int64_t tile, n_tiles, n_pieces;
  int64_t piece;
  const T* rows[2] = {};
  int slot = 0, slot_ahead = 0;
  uint64_t policy = cache_policy<true>();

  __device__ WeightStream(const Skinny& args, uint4* shared, int64_t tiles)
      : a(args), n_tiles(tiles), n_pieces((args.n_in + kPiece - 1) / kPiece) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    ring = shared + warp * (kStages * 2 * kSteps * 32) + lane;
    tile = blockIdx.x;
    piece = warp;
    enter();
  }
  __device__ void enter() {
    if (tile >= n_tiles || piece >= n_pieces) {
      tile = n_tiles;  // nothing is left
      return;
    }
    const Tile now(a, tile);
    const Skinny::Target& target = a.targets[now.target];
    const int group = threadIdx.x % 32 / 4, quarter = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      // Rows beyond the last are read as the last, and their sums dropped.
      const int64_t row = min(now.first + 8 * h + group, target.n_out - 1);
      rows[h] = static_cast<const T*>(target.w) + row * a.n_in + 8 * quarter;
    }
  }
  __device__ void copy_next() {
    if (tile < n_tiles) {
      uint4* to = ring + slot_ahead * (2 * kSteps * 32);
      const int64_t first = piece * kPiece;
      const auto left = a.n_in - 8 * static_cast<int>(threadIdx.x % 4) - first;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const bool inside = 32 * s < left;
#pragma unroll
        for (int h = 0; h < 2; ++h)
          copy16_of_row(to + (h * kSteps + s) * 32, inside ? rows[h] + first + 32 * s : rows[h],
                        inside, policy);
      }
      piece += kWarps;
      if (piece >= n_pieces) {
        piece = threadIdx.x / 32;
        tile += gridDim.x;
        enter();
      }
    }
    commit_copies();  // also of nothing, so that groups can be counted
    slot_ahead = slot_ahead + 1 == kStages ? 0 : slot_ahead + 1;
  }
  /// The next piece, after the copy of another one has begun.
  __device__ const uint4* take() {
    copy_next();
    wait_copies<kStages - 1>();
    const uint4* at = ring + slot * (2 * kSteps * 32);
    slot = slot + 1 == kStages ? 0 : slot + 1;
    return at;
  }
};

/// x as T into shared memory, zeros behind n_in. By all threads.
template <class T>
__device__ void copy_inputs(const Skinny& a, T* to) {
  const int64_t stride = input_stride(a.n_in), quads = stride / 4;
  for (int64_t i = threadIdx.x; i < a.n_rows * quads; i += 32 * kWarps) {
    const int64_t row = i / quads, k = i % quads * 4;
    const float4 v =
        k < a.n_in ? *reinterpret_cast<const float4*>(a.x + row * a.n_in + k) : float4{0, 0, 0, 0};
    *reinterpret_cast<uint2*>(to + row * stride + k) = {pack2<T>(v.x, v.y), pack2<T>(v.z, v.w)};
  }
}

/// 8 neighbouring inputs of a row of x as operands of the tensor cores, zeros if it is not there.
template <class T>
__device__ void load_inputs(const Skinny& a, int row, int64_t k, uint32_t (&b)[4]) {
  if (row >= a.n_rows || k >= a.n_in) return;
  const auto* x = reinterpret_cast<const float4*>(a.x + row * a.n_in + k);
  const float4 low = __ldg(x), high = __ldg(x + 1);
  b[0] = pack2<T>(low.x, low.y);
  b[1] = pack2<T>(low.z, low.w);
  b[2] = pack2<T>(high.x, high.y);
  b[3] = pack2<T>(high.z, high.w);
}

/// Where x is: rounded once, in registers of who multiplies it or in shared memory; or read and
/// rounded for each tile. In registers it takes no room from the kernel that begins early behind.
enum class Inputs { kHeld, kShared, kRead };

/// Weights are the 16-row operand of the tensor cores, rows of x the 8 columns. Which inputs of a
/// step are multiplied together is of no matter as long as both operands agree, so each lane reads
/// 8 neighbours of its rows straight into the operand. A block takes tiles of 16 outputs in turn;
/// its warps take pieces of n_in in turn and are summed in their order.
/// Grid: any, block (32 * kWarps), shared memory kRingBytes + sums_bytes() + x if it is kShared.
template <class T, int kColumns, Inputs kInputs>  // kColumns: eights of rows of x
__global__ void __launch_bounds__(32 * kWarps, 1)
    skinny_kernel(const __grid_constant__ Skinny a, int64_t n_tiles) {
  extern __shared__ uint4 shared[];
  using Sums = float[kWarps][kOutputs][kColumns * 8 + 1];
  auto* sums = reinterpret_cast<Sums*>(shared + kRingBytes / 16);  // of two tiles that take turns
  T* inputs = reinterpret_cast<T*>(reinterpret_cast<char*>(sums) + sums_bytes(kColumns));
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group = lane / 4, quarter = lane % 4;

  // Weights are on their way before x is there.
  WeightStream<T> stream(a, shared, n_tiles);
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) stream.copy_next();
  wait_for_inputs();
  release_dependents();  // what begins now finds x
  uint32_t held[kInputs == Inputs::kHeld ? kHeldPieces : 1][kSteps][4] = {};
  if (kInputs == Inputs::kHeld) {
#pragma unroll
    for (int p = 0; p < kHeldPieces; ++p) {
#pragma unroll
      for (int s = 0; s < kSteps; ++s)
        load_inputs<T>(a, group, (warp + kWarps * p) * kPiece + 32 * s + 8 * quarter, held[p][s]);
    }
  }
  if (kInputs == Inputs::kShared) {
    copy_inputs(a, inputs);
    __syncthreads();
  }
  int turn = 0;
  for (int64_t tile = blockIdx.x; tile < n_tiles; tile += gridDim.x, turn ^= 1) {
    float c[kColumns][4] = {};
    constexpr int kUnrolled = kInputs == Inputs::kHeld ? kHeldPieces : 1;
#pragma unroll kUnrolled
    for (int p = 0; p < (kInputs == Inputs::kHeld ? kHeldPieces : INT_MAX); ++p) {
      const int64_t piece = warp + kWarps * p;
      if (piece >= stream.n_pieces) break;
      const uint4* weights = stream.take();
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const uint4 upper = weights[s * 32], lower = weights[(kSteps + s) * 32];
        const int64_t k = piece * kPiece + 32 * s + 8 * quarter;
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          const int row = 8 * j + group;
          uint32_t b[4] = {};
          if (kInputs == Inputs::kHeld) {
#pragma unroll
            for (int i = 0; i < 4; ++i) b[i] = held[kInputs == Inputs::kHeld ? p : 0][s][i];
          } else if (kInputs == Inputs::kShared) {
            if (row < a.n_rows) {
              const uint4 eight =
                  *reinterpret_cast<const uint4*>(inputs + row * input_stride(a.n_in) + k);
              b[0] = eight.x;
              b[1] = eight.y;
              b[2] = eight.z;
              b[3] = eight.w;
            }
          } else {
            load_inputs<T>(a, row, k, b);
          }
          multiply(static_cast<const T*>(nullptr), c[j], upper.x, lower.x, upper.y, lower.y, b[0],
                   b[1]);
          multiply(static_cast<const T*>(nullptr), c[j], upper.z, lower.z, upper.w, lower.w, b[2],
                   b[3]);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        sums[turn][warp][8 * (e / 2) + group][8 * j + 2 * quarter + e % 2] = c[j][e];
    }
    __syncthreads();  // the sums of the tile before have been read, too
    const Tile now(a, tile);
    const Skinny::Target& target = a.targets[now.target];
    for (int i = threadIdx.x; i < kOutputs * a.n_rows; i += 32 * kWarps) {
      const int output = i % kOutputs, row = i / kOutputs;
      if (now.first + output >= target.n_out) continue;
      float sum = 0;
#pragma unroll
      for (int from = 0; from < kWarps; ++from) sum += sums[turn][from][output][row];
      target.y[row * target.stride + now.first + output] = sum;
    }
  }
}

/// Grid (ceil(n_out / kWarps), ceil(n_rows / kPlainRows)), block (32 * kWarps): a warp owns an
/// output of up to kPlainRows rows, its lanes stride over n_in.
template <class T>
__global__ void plain_kernel(const T* __restrict__ w,      // [n_out, n_in]
                             const float* __restrict__ x,  // [n_rows, n_in]
                             float* __restrict__ y,        // [n_rows, stride]
                             int64_t n_out, int64_t n_in, int64_t n_rows, int64_t stride) {
  const int lane = threadIdx.x % 32;
  const int64_t output = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  if (output >= n_out) return;
  const int64_t first = blockIdx.y * int64_t{kPlainRows};
  const int count = static_cast<int>(n_rows - first < kPlainRows ? n_rows - first : kPlainRows);
  float sum[kPlainRows] = {};
  for (int64_t k = lane; k < n_in; k += 32) {
    const float weight = to_float(w[output * n_in + k]);
#pragma unroll
    for (int r = 0; r < kPlainRows; ++r) {
      if (r < count) {
        const float v = x[(first + r) * n_in + k];
        sum[r] = fmaf(weight, to_float(from_float<T>(v)), sum[r]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kPlainRows; ++r) {
    const float total = sum_over<32>(sum[r]);
    if (lane == 0 && r < count) y[(first + r) * stride + output] = total;
  }
}

int64_t input_bytes(const Skinny& args) {
  return args.n_rows * input_stride(args.n_in) * 2;
}

template <class T, int kColumns, Inputs kInputs>
cudaError_t launch(const Skinny& args, int n_sms, cudaStream_t stream) {
  const auto kernel = skinny_kernel<T, kColumns, kInputs>;
  int64_t tiles = 0;
  for (int t = 0; t < args.n_targets; ++t)
    tiles += (args.targets[t].n_out + kOutputs - 1) / kOutputs;
  const bool shared = kInputs == Inputs::kShared;
  const int bytes = kRingBytes + sums_bytes(kColumns);
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes + (shared ? kMostInputBytes : 0));
  if (status != cudaSuccess) return status;
  const auto grid = static_cast<unsigned>(tiles < n_sms ? tiles : n_sms);
  return launch_early(args.overlaps, static_cast<size_t>(bytes + (shared ? input_bytes(args) : 0)),
                      kernel, grid, 32 * kWarps, stream, args, tiles);
}

template <class T>
cudaError_t launch_rows(const Skinny& args, int n_sms, cudaStream_t stream) {
  const bool fits = input_bytes(args) <= kMostInputBytes;
  if (args.n_rows > 8)
    return fits ? launch<T, 2, Inputs::kShared>(args, n_sms, stream)
                : launch<T, 2, Inputs::kRead>(args, n_sms, stream);
  if (args.n_in <= kHeldInputs && args.n_rows > 1)
    return launch<T, 1, Inputs::kHeld>(args, n_sms, stream);
  return fits ? launch<T, 1, Inputs::kShared>(args, n_sms, stream)
              : launch<T, 1, Inputs::kRead>(args, n_sms, stream);
}

template <class T>
void plain(const Matrix& w, const float* x, int64_t n_rows, float* y, int64_t stride,
           cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((w.rows + kWarps - 1) / kWarps),
                  static_cast<unsigned>((n_rows + kPlainRows - 1) / kPlainRows));
  plain_kernel<T><<<grid, 32 * kWarps, 0, stream>>>(static_cast<const T*>(w.data), x, y, w.rows,
                                                    w.cols, n_rows, stride);
}

}  // namespace

cudaError_t launch_skinny(const Skinny& args, int n_sms, cudaStream_t stream) {
  int64_t outputs = 0;
  for (int t = 0; t < args.n_targets; ++t) outputs += args.targets[t].n_out;
  if (args.n_rows == 0 || outputs == 0) return cudaSuccess;
  return args.type == Element::kBf16 ? launch_rows<bf16>(args, n_sms, stream)
                                     : launch_rows<f16>(args, n_sms, stream);
}

cudaError_t launch_plain_product(const Matrix& w, const float* x, int64_t n_rows, float* y,
                                 int64_t stride, cudaStream_t stream) {
  if (n_rows == 0 || w.rows == 0) return cudaSuccess;
  if (w.type == Element::kF32) plain<float>(w, x, n_rows, y, stride, stream);
  if (w.type == Element::kBf16) plain<bf16>(w, x, n_rows, y, stride, stream);
  if (w.type == Element::kF16) plain<f16>(w, x, n_rows, y, stride, stream);
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
