// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "text/tokenizer.h"

namespace deltacome {

inline constexpr int64_t kCalibrationLength = 512;  // tokens of a calibration sequence

/// Sequences of kCalibrationLength tokens, about n_tokens in all, the files taking equal shares. A
/// file's rows are shuffled by `seed`, joined as BOS row EOS BOS row EOS ..., and cut; a file with
/// fewer tokens gives what it has, one shorter sequence if it does not fill any. bos, eos < 0:
/// none.
std::vector<std::vector<TokenId>> calibration_sequences(
    const std::vector<std::filesystem::path>& files, const Tokenizer& tokenizer, TokenId bos,
    TokenId eos, int64_t n_tokens, uint64_t seed);

}  // namespace deltacome
