// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "backend/cpu/runtime.h"
#include "backend/vision_ops.h"

namespace deltacome::cpu {

/// The ops of a vision tower on the CPU. A row's result does not depend on the number of threads.
/// What `runtime` refers to must outlive the result.
std::unique_ptr<VisionOps> create_vision_ops(const Runtime& runtime);

}  // namespace deltacome::cpu
