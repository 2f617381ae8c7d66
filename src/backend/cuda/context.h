// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "backend/cuda/lt_matmul.h"
#include "backend/cuda/memory.h"

namespace deltacome::cuda {

/// Rows of one variant from which on codes are decoded for cuBLASLt instead of multiplied as they
/// are. Where the two were equally fast on an H200, Llama-2-7B's shapes at a bit a weight.
struct DecodeRows {
  int64_t low_rank = 96, vector = 288, dense = 480;
  /// Nothing is decoded.
  static DecodeRows never() { return {INT64_MAX, INT64_MAX, INT64_MAX}; }
};

/// The device and its memory: what every part of the backend shares. Outlived by nothing that
/// points to it: tensors keep the memory alive themselves.
struct CudaContext {
  int device = 0;
  int n_sms = 0;
  int64_t l2_bytes = 0;
  bool overlaps = false;  // kernels may begin early: sm_90 or later
  std::shared_ptr<DeviceMemory> memory;
  std::shared_ptr<LtMatmul> lt_matmul;
  /// A row has the same bits in any batch: products and attention that do not depend on the other
  /// rows, and no sums in the order in which parts are ready (DeltaLaunch).
  bool deterministic = false;
  DecodeRows decode_rows;
  int64_t decoded_bytes = int64_t{72} << 20;  // of weights that are decoded at a time

  /// Makes the device the current one of the calling thread. First call of whatever may run on a
  /// thread that the backend has not seen.
  void activate() const { DELTACOME_CUDA_CHECK(cudaSetDevice(device)); }
  /// A tensor of undefined contents. Throws kOutOfMemory.
  Tensor allocate(DType dtype, Shape shape, Purpose purpose = Purpose::kWorkspace) const {
    const int64_t bytes = element_count(shape) * dtype_bytes(dtype);
    return {std::make_shared<CudaStorage>(memory, bytes, purpose), 0, dtype, std::move(shape)};
  }
  /// A tensor of workspace with these bytes as elements of a type. Throws as allocate().
  Tensor to_device(CudaStream& stream, std::span<const std::byte> host, DType dtype) const {
    Tensor tensor = allocate(dtype, {static_cast<int64_t>(host.size()) / dtype_bytes(dtype)});
    stream.upload(host, bytes_of(tensor));
    return tensor;
  }
};

}  // namespace deltacome::cuda
