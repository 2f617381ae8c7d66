// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/compression_ops.h"
#include "backend/cpu/gptq.h"
#include "core/thread_pool.h"

namespace deltacome::cpu {

/// CompressionOps::quantize_vectors(). factor may be null: each group takes the nearest entry.
VectorQuantized quantize_vectors(ThreadPool& pool, const Tensor& w, const CpuGptqFactor* factor,
                                 int dim);

}  // namespace deltacome::cpu
