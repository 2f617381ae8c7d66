// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/skinny.h"

#include "backend/cuda/numbers.cuh"
#include "backend/cuda/overlap.cuh"
#include "backend/cuda/skinny_weights.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kWarps = kSkinnyWarps;
constexpr int kHeldPieces = 4;                              // of a warp, whose inputs it holds
constexpr int kHeldInputs = kHeldPieces * kWarps * kPiece;  // of a block
constexpr int kTilesOfParts = 2;  // that are multiplied with a part of x before the next is read
// Pieces of a warp in shared memory: all that fit in a block which has an SM for itself, or what
// leaves room for two blocks of V (delta_token.cu), 34 KB each. Measured: docs/benchmarks.md.
constexpr int kStagesAlone = 5, kStagesBeside = 4;

/// Elements between rows of x in shared memory: lanes that read 8 inputs of 8 rows meet in no bank.
__host__ __device__ constexpr int64_t input_stride(int64_t n_in) {
  return (n_in + kPiece - 1) / kPiece * kPiece + 32;
}
__host__ __device__ constexpr int sums_bytes(int columns) {
  return 2 * kWarps * kOutputs * (columns * 8 + 1) * 4;
}
/// Most bytes of shared memory of a block: those of sm_90, or of sm_80.
constexpr int64_t most_shared(int stages) {
  return (stages == kStagesAlone ? 227 : 163) * 1024;
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

/// The one row of x as T into shared memory, zeros behind n_in. By all threads.
template <class T>
__device__ void copy_input(const Skinny& a, T* to) {
  constexpr int kLoads = 6;               // of a thread, on their way at once
  constexpr int kStep = 4 * 32 * kWarps;  // inputs between those of a thread
  const int n_in = static_cast<int>(a.n_in), thread = static_cast<int>(threadIdx.x);
  for (int first = 4 * thread; first < n_in; first += kLoads * kStep) {
    float4 v[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      if (first + i * kStep < n_in)
        v[i] = __ldg(reinterpret_cast<const float4*>(a.x + first + i * kStep));
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      if (first + i * kStep < n_in)
        *reinterpret_cast<uint2*>(to + first + i * kStep) = {pack2<T>(v[i].x, v[i].y),
                                                             pack2<T>(v[i].z, v[i].w)};
    }
  }
  const int k = n_in + 4 * thread;
  if (k < input_stride(n_in)) *reinterpret_cast<uint2*>(to + k) = {0, 0};
}

/// Inputs of a part of n_in as operands of the tensor cores: of a lane 8 neighbours of a row in
/// each step. What is not there is read as something else and replaced, so that many loads are on
/// their way at once.
template <class T, int kColumns>
__device__ void hold_inputs(const Skinny& a, int first_piece,
                            uint32_t (&held)[kHeldPieces][kSteps][kColumns][4]) {
  const int n_in = static_cast<int>(a.n_in);
  const int k0 = first_piece * kPiece + 8 * static_cast<int>(threadIdx.x % 4);
#pragma unroll
  for (int j = 0; j < kColumns; ++j) {
    const int row = 8 * j + static_cast<int>(threadIdx.x % 32 / 4);
    const float* x = a.x + (row < a.n_rows ? row : 0) * a.n_in;
    const int end = row < a.n_rows ? n_in : 0;
#pragma unroll
    for (int p = 0; p < kHeldPieces; ++p) {
      const int k = k0 + p * kWarps * kPiece;
      float4 v[kSteps][2];
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const auto* at = reinterpret_cast<const float4*>(x + (k + 32 * s < end ? k + 32 * s : 0));
        v[s][0] = __ldg(at);
        v[s][1] = __ldg(at + 1);
      }
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const bool inside = k + 32 * s < end;
        uint32_t(&b)[4] = held[p][s][j];
        b[0] = inside ? pack2<T>(v[s][0].x, v[s][0].y) : 0;
        b[1] = inside ? pack2<T>(v[s][0].z, v[s][0].w) : 0;
        b[2] = inside ? pack2<T>(v[s][1].x, v[s][1].y) : 0;
        b[3] = inside ? pack2<T>(v[s][1].z, v[s][1].w) : 0;
      }
    }
  }
}

/// y of a tile from the sums of all warps, in their order.
template <int kColumns>
__device__ void store_sums(const Skinny& a, int tile,
                           const float (*sums)[kOutputs][kColumns * 8 + 1]) {
  const Tile now(a, tile);
  const Skinny::Target& target = a.targets[now.target];
  for (int i = threadIdx.x; i < kOutputs * a.n_rows; i += 32 * kWarps) {
    const int output = i % kOutputs, row = i / kOutputs;
    if (now.first + output >= target.n_out) continue;
    float sum = 0;
#pragma unroll
    for (int from = 0; from < kWarps; ++from) sum += sums[from][output][row];
    target.y[row * target.stride + now.first + output] = sum;
  }
}

/// Where x is, rounded once: in registers of who multiplies it, all of it or a part at a time, or,
/// of one row, in shared memory.
enum class Inputs { kHeld, kHeldParts, kShared };

/// Weights are the 16-row operand of the tensor cores, rows of x the 8 columns. Which inputs of a
/// step are multiplied together is of no matter as long as both operands agree, so each lane reads
/// 8 neighbours of its rows straight into the operand. A block takes tiles of 16 outputs in turn,
/// kTilesOfParts at a time if x is held in parts; its warps take pieces of n_in in turn and are
/// summed in their order, so bits do not depend on where x is.
/// Grid: any, block (32 * kWarps), shared memory ring_bytes() + sums_bytes() + x if it is kShared.
template <class T, int kColumns, Inputs kInputs, int kStages>  // kColumns: eights of rows of x
__global__ void __launch_bounds__(32 * kWarps, kStages == kStagesBeside && kColumns == 1 ? 2 : 1)
    skinny_kernel(const __grid_constant__ Skinny a, int n_tiles) {
  extern __shared__ uint4 shared[];
  using Sums = float[kWarps][kOutputs][kColumns * 8 + 1];
  auto* sums = reinterpret_cast<Sums*>(shared + ring_bytes(kStages) / 16);  // of two tiles in turn
  T* input = reinterpret_cast<T*>(reinterpret_cast<char*>(sums) + sums_bytes(kColumns));
  constexpr bool kParts = kInputs == Inputs::kHeldParts, kShared = kInputs == Inputs::kShared;
  constexpr int kTiles = kParts ? kTilesOfParts : 1;
  const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, quarter = threadIdx.x % 4;
  const int grid = gridDim.x, n_pieces = static_cast<int>((a.n_in + kPiece - 1) / kPiece);
  const int part = kShared ? n_pieces : kHeldPieces * kWarps;

  // Weights are on their way before x is there.
  WeightStream<T, kTiles, kStages> stream({a, n_tiles, n_pieces, part}, shared);
  wait_for_inputs();
  release_dependents();  // what begins now finds x
  uint32_t held[kShared ? 1 : kHeldPieces][kSteps][kColumns][4] = {};
  if constexpr (kShared) {
    copy_input(a, input);
    __syncthreads();
  } else if constexpr (!kParts) {
    hold_inputs<T>(a, warp, held);
  }
  int turn = 0;
  for (int first = blockIdx.x; first < n_tiles; first += kTiles * grid) {
    float c[kTiles][kColumns][4] = {};
    for (int begin = 0; begin < (kParts ? n_pieces : 1); begin += part) {
      if constexpr (kParts) hold_inputs<T>(a, begin + warp, held);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        if (first + t * grid >= n_tiles) break;
        constexpr int kUnrolled = kShared ? 1 : kHeldPieces;
#pragma unroll kUnrolled
        for (int p = 0; p < (kShared ? INT_MAX : kHeldPieces); ++p) {
          const int piece = begin + warp + kWarps * p;
          if (piece >= n_pieces) break;
          const uint4* weights = stream.take();
#pragma unroll
          for (int s = 0; s < kSteps; ++s) {
            const uint4 upper = weights[s * 32], lower = weights[(kSteps + s) * 32];
#pragma unroll
            for (int j = 0; j < kColumns; ++j) {
              uint4 b = {};
              if constexpr (kShared) {
                const int k = piece * kPiece + 32 * s + 8 * quarter;
                if (group == 0) b = *reinterpret_cast<const uint4*>(input + k);
              } else {
                const uint32_t(&x)[4] = held[p][s][j];
                b = {x[0], x[1], x[2], x[3]};
              }
              multiply(static_cast<const T*>(nullptr), c[t][j], upper.x, lower.x, upper.y, lower.y,
                       b.x, b.y);
              multiply(static_cast<const T*>(nullptr), c[t][j], upper.z, lower.z, upper.w, lower.w,
                       b.z, b.w);
            }
          }
        }
      }
    }
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      if (first + t * grid >= n_tiles) break;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e)
          sums[turn][warp][8 * (e / 2) + group][8 * j + 2 * quarter + e % 2] = c[t][j][e];
      }
      __syncthreads();  // the sums of the tile before have been read, too
      store_sums<kColumns>(a, first + t * grid, sums[turn]);
      turn ^= 1;
    }
  }
}

template <class T, int kColumns, Inputs kInputs, int kStages>
cudaError_t launch(const Skinny& args, int n_sms, cudaStream_t stream) {
  const auto kernel = skinny_kernel<T, kColumns, kInputs, kStages>;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(most_shared(kStages)));
  if (status != cudaSuccess) return status;
  int64_t tiles = 0;
  for (int t = 0; t < args.n_targets; ++t)
    tiles += (args.targets[t].n_out + kOutputs - 1) / kOutputs;
  const int64_t input = kInputs == Inputs::kShared ? 2 * input_stride(args.n_in) : 0;
  const auto grid = static_cast<unsigned>(tiles < n_sms ? tiles : n_sms);
  return launch_early(args.overlaps,
                      static_cast<size_t>(ring_bytes(kStages) + sums_bytes(kColumns) + input),
                      kernel, grid, 32 * kWarps, stream, args, static_cast<int>(tiles));
}

template <class T, int kStages>
cudaError_t launch_rows(const Skinny& args, int n_sms, cudaStream_t stream) {
  const bool parts = args.n_in > kHeldInputs;
  if (args.n_rows > 8)
    return parts ? launch<T, 2, Inputs::kHeldParts, kStages>(args, n_sms, stream)
                 : launch<T, 2, Inputs::kHeld, kStages>(args, n_sms, stream);
  const int64_t shared_bytes = ring_bytes(kStages) + sums_bytes(1) + 2 * input_stride(args.n_in);
  if (args.n_rows == 1 && shared_bytes <= most_shared(kStages))
    return launch<T, 1, Inputs::kShared, kStages>(args, n_sms, stream);
  return parts ? launch<T, 1, Inputs::kHeldParts, kStages>(args, n_sms, stream)
               : launch<T, 1, Inputs::kHeld, kStages>(args, n_sms, stream);
}

template <class T>
cudaError_t launch_typed(const Skinny& args, int n_sms, cudaStream_t stream) {
  return args.overlaps && !args.leaves_room ? launch_rows<T, kStagesAlone>(args, n_sms, stream)
                                            : launch_rows<T, kStagesBeside>(args, n_sms, stream);
}

}  // namespace

cudaError_t launch_skinny(const Skinny& args, int n_sms, cudaStream_t stream) {
  int64_t outputs = 0;
  for (int t = 0; t < args.n_targets; ++t) outputs += args.targets[t].n_out;
  if (args.n_rows == 0 || outputs == 0) return cudaSuccess;
  return args.type == Element::kBf16 ? launch_typed<bf16>(args, n_sms, stream)
                                     : launch_typed<f16>(args, n_sms, stream);
}

}  // namespace deltacome::cuda
