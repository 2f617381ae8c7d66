// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <utility>

#include "deltacome/error.h"

namespace deltacome {

/// Throws Error(code) with a formatted message.
template <class... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

/// Throws Error(kInternal) naming the condition and its place; called by DELTACOME_CHECK only.
[[noreturn]] void check_failed(const char* condition, const char* file, int line,
                               const char* function);

}  // namespace deltacome

/// A condition that only a bug in deltacome can break. Throws, never aborts: one tenant must not
/// end the others. Not std::source_location, which clang 14 lacks with libstdc++.
#define DELTACOME_CHECK(condition) \
  (static_cast<bool>(condition)    \
       ? static_cast<void>(0)      \
       : ::deltacome::check_failed(#condition, __FILE__, __LINE__, __func__))
