// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/numbers.cuh"
#include "backend/cuda/overlap.cuh"
#include "backend/cuda/skinny.h"

namespace deltacome::cuda {
namespace {

constexpr int kWarps = 8;            // of a block, which split n_in among them
constexpr int kPiece = 128;          // inputs that a warp reads at a time: 256 bytes of a row
constexpr int kSteps = kPiece / 32;  // of four lanes that read 8 inputs each
constexpr int kPlainRows = 8;        // rows of x of a block of the plain product

/// 16 bytes that are read once: past L1, whole sectors of 256 bytes into L2.
__device__ __forceinline__ uint4 load_stream(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
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

/// Weights are the 16-row operand of the tensor cores, rows of x the 8 columns. Which inputs of a
/// step are multiplied together is of no matter as long as both operands agree, so each lane reads
/// 8 neighbours of its rows straight into the operand. Grid (sum of tiles over the targets), block
/// (32 * kWarps); a block owns 16 * kTiles outputs, its warps take pieces of n_in in turn and are
/// summed in their order.
template <class T, int kTiles, int kColumns>  // kColumns: eights of rows of x
__global__ void __launch_bounds__(32 * kWarps) skinny_kernel(Skinny a) {
  __shared__ float sums[kWarps][kTiles * 16][kColumns * 8 + 1];
  constexpr int kOutputs = 16 * kTiles;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group = lane / 4, quarter = lane % 4;

  int64_t tile = blockIdx.x;
  int t = 0;
  for (; t + 1 < a.n_targets; ++t) {
    const int64_t n = (a.targets[t].n_out + kOutputs - 1) / kOutputs;
    if (tile < n) break;
    tile -= n;
  }
  const Skinny::Target target = a.targets[t];
  const int64_t first = tile * kOutputs;

  const T* rows[kTiles][2];  // of this lane, in the upper and the lower half of a tile
#pragma unroll
  for (int i = 0; i < 2 * kTiles; ++i) {
    const int64_t row = first + 8 * i + group;
    // Rows beyond the last are read as the last, and their sums dropped.
    rows[i / 2][i % 2] = static_cast<const T*>(target.w) +
                         (row < target.n_out ? row : target.n_out - 1) * a.n_in + 8 * quarter;
  }

  uint4 w[kTiles][2][kSteps];
  const auto load = [&](int64_t at) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int64_t k = at + 32 * s;
      const bool inside = k + 8 * quarter < a.n_in;
#pragma unroll
      for (int i = 0; i < 2 * kTiles; ++i) {
        w[i / 2][i % 2][s] = inside ? load_stream(rows[i / 2][i % 2] + k) : make_uint4(0, 0, 0, 0);
      }
    }
  };

  // The first weights are on their way before x is there.
  release_dependents();
  load(int64_t{warp} * kPiece);
  if (!a.has_inputs) wait_for_inputs();
  float c[kTiles][kColumns][4] = {};
  for (int64_t at = int64_t{warp} * kPiece; at < a.n_in;) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int64_t k = at + 32 * s + 8 * quarter;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const int row = 8 * j + group;
        uint32_t b[4] = {};
        if (row < a.n_rows && k < a.n_in) {
          const auto* x = reinterpret_cast<const float4*>(a.x + row * a.n_in + k);
          const float4 low = __ldcg(x), high = __ldcg(x + 1);
          b[0] = pack2<T>(low.x, low.y);
          b[1] = pack2<T>(low.z, low.w);
          b[2] = pack2<T>(high.x, high.y);
          b[3] = pack2<T>(high.z, high.w);
        }
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          const uint4 upper = w[i][0][s], lower = w[i][1][s];
          multiply(static_cast<const T*>(nullptr), c[i][j], upper.x, lower.x, upper.y, lower.y,
                   b[0], b[1]);
          multiply(static_cast<const T*>(nullptr), c[i][j], upper.z, lower.z, upper.w, lower.w,
                   b[2], b[3]);
        }
      }
    }
    at += int64_t{kWarps} * kPiece;
    if (at < a.n_in) load(at);
  }

#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        sums[warp][16 * i + 8 * (e / 2) + group][8 * j + 2 * quarter + e % 2] = c[i][j][e];
      }
    }
  }
  if (a.has_inputs) wait_for_inputs();
  __syncthreads();
  for (int i = threadIdx.x; i < kOutputs * a.n_rows; i += 32 * kWarps) {
    const int output = i % kOutputs, row = i / kOutputs;
    if (first + output >= target.n_out) continue;
    float sum = 0;
#pragma unroll
    for (int from = 0; from < kWarps; ++from) sum += sums[from][output][row];
    target.y[row * target.stride + first + output] = sum;
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

template <class T, int kTiles>
cudaError_t launch_tiles(const Skinny& args, cudaStream_t stream) {
  int64_t tiles = 0;
  for (int t = 0; t < args.n_targets; ++t)
    tiles += (args.targets[t].n_out + 16 * kTiles - 1) / (16 * kTiles);
  const auto kernel = args.n_rows <= 8 ? skinny_kernel<T, kTiles, 1> : skinny_kernel<T, kTiles, 2>;
  return launch_early(args.overlaps, kernel, dim3(static_cast<unsigned>(tiles)), 32 * kWarps,
                      stream, args);
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
  // Two tiles read x half as often, but need twice as many outputs to fill the device.
  const int tiles = args.tiles != 0 ? args.tiles : outputs >= int64_t{64} * n_sms ? 2 : 1;
  if (args.type == Element::kBf16) {
    return tiles == 2 ? launch_tiles<bf16, 2>(args, stream) : launch_tiles<bf16, 1>(args, stream);
  }
  return tiles == 2 ? launch_tiles<f16, 2>(args, stream) : launch_tiles<f16, 1>(args, stream);
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
