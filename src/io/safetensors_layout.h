// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "core/dtype.h"
#include "core/shape.h"

namespace deltacome {

/// The reference implementation's cap on the JSON header.
inline constexpr uint64_t kMaxHeaderBytes = 100'000'000;
/// The JSON header is padded to this, so that the data section is aligned for every dtype.
inline constexpr size_t kHeaderAlignment = 8;
inline constexpr std::string_view kMetadataName = "__metadata__";

/// Bytes of a tensor; nullopt if an extent is negative or a product of the leading extents exceeds
/// int64 (also when a later extent is zero, so that element_count() never overflows).
std::optional<int64_t> checked_bytes(const Shape& shape, DType dtype) noexcept;

/// Whether a tensor name can stand in a one-line message and in a line of a content hash.
bool is_plain_name(std::string_view name) noexcept;

}  // namespace deltacome
