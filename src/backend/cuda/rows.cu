// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/rows.h"

#include "backend/cuda/numbers.cuh"
#include "backend/cuda/overlap.cuh"

namespace deltacome::cuda {
namespace {

constexpr int kBlock = 256;

int blocks_for(int64_t n) {
  constexpr int64_t kMaxGrid = 8192;  // the loops stride over the rest
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  return static_cast<int>(blocks < kMaxGrid ? blocks : kMaxGrid);
}

/// Grid (n), block (kBlock): a block copies a row.
template <class T>
__global__ void embed_kernel(const T* __restrict__ table,      // [n_ids, width]
                             const int32_t* __restrict__ ids,  // [n]
                             float* __restrict__ y,            // [n, width]
                             int64_t n_ids, int64_t width) {
  const int64_t id = ids[blockIdx.x];
  if (id >= n_ids) return;
  const T* from = table + id * width;
  float* to = y + blockIdx.x * width;
  for (int64_t i = threadIdx.x; i < width; i += kBlock) to[i] = to_float(from[i]);
}

/// Sum over a block; every thread gets it. `partial` [32], reused by the next call after a barrier.
__device__ float block_sum(float v, float* partial) {
  v = sum_over<32>(v);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (lane == 0) partial[warp] = v;
  __syncthreads();
  const int n_warps = blockDim.x / 32;
  return sum_over<32>(lane < n_warps ? partial[lane] : 0.0f);
}

/// Grid (n_rows * per_row), block (a multiple of 32): a block normalizes a piece. kVector: four
/// elements at a time, which needs d % 4 == 0.
template <class T, int kVector>
__global__ void rms_norm_kernel(RmsNorm a) {
  __shared__ float partial[32];
  release_dependents();
  wait_for_inputs();
  const int64_t row = blockIdx.x / a.per_row;
  float* x = a.x + blockIdx.x * a.d;
  const float* added = a.added == nullptr ? nullptr : a.added + blockIdx.x * a.d;
  float* y = a.y + blockIdx.x * a.d;
  const float* own = a.own == nullptr ? nullptr : a.own[row].values;
  const T* weight = static_cast<const T*>(a.weight);
  const int64_t step = int64_t{blockDim.x} * kVector;
  float squares = 0;
  for (int64_t i = threadIdx.x * kVector; i < a.d; i += step) {
    if constexpr (kVector == 4) {
      float4 v = load4(x + i);
      if (added != nullptr) {
        const float4 more = load4(added + i);
        v = make_float4(v.x + more.x, v.y + more.y, v.z + more.z, v.w + more.w);
        *reinterpret_cast<float4*>(x + i) = v;
      }
      squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    } else {
      if (added != nullptr) x[i] += added[i];
      squares += x[i] * x[i];
    }
  }
  const float mean = block_sum(squares, partial) / static_cast<float>(a.d);
  const float scale = 1.0f / sqrtf(mean + static_cast<float>(a.eps));
  for (int64_t i = threadIdx.x * kVector; i < a.d; i += step) {
    if constexpr (kVector == 4) {
      const float4 v = load4(x + i);
      const float4 w = own != nullptr ? load4(own + i) : load4(weight + i);
      *reinterpret_cast<float4*>(y + i) =
          make_float4(v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w);
    } else {
      y[i] = x[i] * scale * (own != nullptr ? own[i] : to_float(weight[i]));
    }
  }
}

template <class T>
__global__ void bias_kernel(Bias a) {
  // Only own biases reach beyond the base's.
  const int64_t width = a.own == nullptr ? a.n : a.stride, total = a.n_rows * width;
  for (int64_t i = blockIdx.x * int64_t{kBlock} + threadIdx.x; i < total;
       i += int64_t{gridDim.x} * kBlock) {
    const int64_t row = i / width, col = i % width;
    const OwnVector own = a.own == nullptr ? OwnVector() : a.own[row];
    if (col >= (own.values == nullptr ? a.n : own.n)) continue;
    a.y[row * a.stride + col] +=
        own.values != nullptr ? own.values[col] : to_float(static_cast<const T*>(a.bias)[col]);
  }
}

template <class T>
__global__ void round_kernel(const float* __restrict__ x, T* __restrict__ out, int64_t n) {
  for (int64_t i = blockIdx.x * int64_t{kBlock} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kBlock) {
    out[i] = from_float<T>(x[i]);
  }
}

/// Four at a time; n counts fours.
template <class T>
__global__ void round4_kernel(const float4* __restrict__ x, uint2* __restrict__ out, int64_t n) {
  for (int64_t i = blockIdx.x * int64_t{kBlock} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kBlock) {
    const float4 v = x[i];
    out[i] = make_uint2(pack2<T>(v.x, v.y), pack2<T>(v.z, v.w));
  }
}

template <class T>
bool aligned(const T* p, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(bytes) == 0;
}

template <class T>
void round_to(const float* x, void* out, int64_t n, cudaStream_t stream) {
  if (n % 4 == 0 && aligned(x, 16)) {
    round4_kernel<T><<<blocks_for(n / 4), kBlock, 0, stream>>>(reinterpret_cast<const float4*>(x),
                                                               static_cast<uint2*>(out), n / 4);
  } else {
    round_kernel<T><<<blocks_for(n), kBlock, 0, stream>>>(x, static_cast<T*>(out), n);
  }
}

/// Calls body with a null pointer of the element type.
template <class Body>
cudaError_t for_type(Element type, const Body& body) {
  switch (type) {
    case Element::kF32:
      body(static_cast<const float*>(nullptr));
      break;
    case Element::kF16:
      body(static_cast<const f16*>(nullptr));
      break;
    case Element::kBf16:
      body(static_cast<const bf16*>(nullptr));
      break;
    case Element::kInt8:
      return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_embed(const Matrix& table, const int32_t* ids, int64_t n, float* y,
                         cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  return for_type(table.type, [&](auto* t) {
    embed_kernel<<<static_cast<unsigned>(n), kBlock, 0, stream>>>(
        static_cast<decltype(t)>(table.data), ids, y, table.rows, table.cols);
  });
}

cudaError_t launch_rms_norm(const RmsNorm& args, cudaStream_t stream) {
  const int64_t pieces = args.n_rows * args.per_row;
  if (pieces == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>(pieces);
  const int block = args.d <= 128 ? 32 : args.d <= 1024 ? 128 : args.d <= 4096 ? 512 : 1024;
  const bool vector = args.d % 4 == 0 && aligned(args.added, 16) && aligned(args.x, 16) &&
                      aligned(args.y, 16) && aligned(args.weight, 16);
  cudaError_t status = cudaSuccess;
  const cudaError_t of_type = for_type(args.type, [&](auto* t) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(t)>>;
    const auto kernel = vector ? rms_norm_kernel<T, 4> : rms_norm_kernel<T, 1>;
    status = launch_early(args.overlaps, kernel, grid, block, stream, args);
  });
  return status == cudaSuccess ? of_type : status;
}

cudaError_t launch_bias(const Bias& args, cudaStream_t stream) {
  const int64_t total = args.n_rows * (args.own == nullptr ? args.n : args.stride);
  if (total == 0) return cudaSuccess;
  return for_type(args.type, [&](auto* t) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(t)>>;
    bias_kernel<T><<<blocks_for(total), kBlock, 0, stream>>>(args);
  });
}

cudaError_t launch_round(const float* x, Element type, void* out, int64_t n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  if (type == Element::kBf16) {
    round_to<bf16>(x, out, n, stream);
  } else if (type == Element::kF16) {
    round_to<f16>(x, out, n, stream);
  } else {
    return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}

}  // namespace deltacome::cuda
