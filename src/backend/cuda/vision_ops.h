// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>

#include "backend/cuda/memory.h"
#include "backend/vision_ops.h"

namespace deltacome::cuda {

/// `on` gives the stream that an op is put on, after all that was put on others before.
std::unique_ptr<VisionOps> create_vision_ops(std::function<CudaStream&(Stream&)> on);

}  // namespace deltacome::cuda
