// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "deltacome/compress.h"

namespace deltacome {

/// Whether a path is a diff of the original BitDelta: a file that torch.save wrote ("diff.pt").
bool is_bitdelta_file(const std::filesystem::path& path);

/// Converts a diff of the original BitDelta (arXiv:2402.10193; the layout of its repository's
/// save_diff) into an archive of method "bitdelta". For a projection: NAME.mask i32 [n_in / 32,
/// n_out], bit k of word w of input 32 w + k, 1 = plus, and NAME.coeff, delta = coeff * sign.
/// NAME.weight replaces the base's. Configuration and tokenizer are those beside the file, or else
/// the base's. Throws as read_torch_file(); kUnsupported for other entries (low-rank ".A", ".B"),
/// kMismatch for names and shapes that are not the base's.
CompressReport convert_bitdelta(const CompressOptions& options);

}  // namespace deltacome
