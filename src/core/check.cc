// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"

namespace deltacome {

void check_failed(const char* condition, std::source_location where) {
  fail(ErrorCode::kInternal, "internal error: {} does not hold ({}:{}, {})", condition,
       where.file_name(), where.line(), where.function_name());
}

}  // namespace deltacome
