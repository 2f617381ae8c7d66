// SPDX-License-Identifier: Apache-2.0
#include "backend/backend.h"

namespace deltacome {

std::unique_ptr<Backend> create_cuda_backend(int /*index*/, bool /*deterministic*/,
                                             int64_t /*memory_bytes*/) {
  fail(ErrorCode::kUnsupported,
       "this build has no CUDA backend; configure with -DDELTACOME_CUDA=ON (preset \"cuda\")");
}

}  // namespace deltacome
