// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "compress/row_encoder.h"

namespace deltacome {

inline constexpr int64_t kCalibrationLength = 512;  // tokens of a calibration sequence, at most

/// About n_tokens in sequences of at most kCalibrationLength, the files taking equal shares; a file
/// with fewer tokens gives what it has. A file's rows are shuffled by `seed`. Every other one is a
/// sequence of its own, BOS row EOS, as the fine-tune will be used; the others are joined and cut,
/// for contexts that are longer than a row. Either alone is worse on some fine-tune
/// (docs/quality.md). bos, eos < 0: none.
std::vector<std::vector<TokenId>> calibration_sequences(
    const std::vector<std::filesystem::path>& files, const RowEncoder& encoder, TokenId bos,
    TokenId eos, int64_t n_tokens, uint64_t seed);

}  // namespace deltacome
