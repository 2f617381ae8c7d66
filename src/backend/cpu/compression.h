// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "backend/compression_ops.h"
#include "core/thread_pool.h"

namespace deltacome::cpu {

/// The compression operations on the CPU: OpenBLAS and LAPACK for the dense algebra, own GPTQ
/// loops. `pool` must outlive the result.
std::unique_ptr<CompressionOps> create_compression_ops(ThreadPool& pool);

}  // namespace deltacome::cpu
