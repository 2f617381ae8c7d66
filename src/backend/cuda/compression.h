// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "backend/compression_ops.h"
#include "backend/cuda/context.h"

namespace deltacome::cuda {

/// The operations of compression on the GPU: cuBLAS and cuSOLVER in f64, and own kernels. Results
/// are the same in every run on one kind of device. `order` outlives the result.
std::unique_ptr<CompressionOps> create_compression_ops(const CudaContext& context,
                                                       StreamOrder& order);

}  // namespace deltacome::cuda
