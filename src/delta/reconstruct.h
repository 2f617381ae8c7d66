// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

#include "backend/backend.h"
#include "io/archive.h"

namespace deltacome {

/// The fine-tune's tensor that base + stored delta stand for, in `dtype`, row-major bytes. For
/// merging: the only place that expands a delta. `blob` as Archive::blob() gives it.
std::vector<std::byte> reconstruct(Backend& backend, Stream& stream, const HostTensor& base,
                                   const MatrixFormat& format, const HostTensor& blob, DType dtype);

}  // namespace deltacome
