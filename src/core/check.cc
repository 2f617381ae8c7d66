// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"

namespace deltacome {

void check_failed(const char* condition, const char* file, int line, const char* function) {
  fail(ErrorCode::kInternal, "internal error: {} does not hold ({}:{}, {})", condition, file, line,
       function);
}

}  // namespace deltacome
