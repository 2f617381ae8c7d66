// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <memory>
#include <string>
#include <string_view>

#include "backend/backend.h"
#include "core/check.h"

namespace deltacome {

/// The backend of --device: "cpu", "cuda" (device 0) or "cuda:N", the latter two also with
/// ",deterministic" behind; n_threads are the CPU's, 0 = one per core. `memory_bytes`: of a device
/// with memory of its own, 0 = what is free. Throws kInvalidArgument for another name, and what the
/// backend's factory throws.
inline std::unique_ptr<Backend> create_backend(const std::string& device, int n_threads,
                                               int64_t memory_bytes = 0) {
  if (device == "cpu" && memory_bytes > 0) {
    fail(ErrorCode::kInvalidArgument,
         "{} bytes of device memory were asked for, but the device is cpu", memory_bytes);
  }
  if (device == "cpu") return create_cpu_backend(n_threads);
  constexpr std::string_view kPrefix = "cuda:", kDeterministic = ",deterministic";
  std::string_view name = device;
  const bool deterministic = name.ends_with(kDeterministic);
  if (deterministic) name.remove_suffix(kDeterministic.size());
  if (name == "cuda") return create_cuda_backend(0, deterministic, memory_bytes);
  int index = -1;
  const char* end = name.data() + name.size();
  if (name.starts_with(kPrefix)) {
    const auto [at, error] = std::from_chars(name.data() + kPrefix.size(), end, index);
    if (error != std::errc() || at != end) index = -1;
  }
  if (index < 0) {
    fail(ErrorCode::kInvalidArgument, "device \"{}\", expected cpu, cuda or cuda:N", device);
  }
  return create_cuda_backend(index, deterministic, memory_bytes);
}

}  // namespace deltacome
