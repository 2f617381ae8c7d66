// SPDX-License-Identifier: Apache-2.0
#include "compress/calibration.h"

#include <algorithm>
#include <random>

#include "io/text_rows.h"

namespace deltacome {
namespace {

/// Fisher-Yates with its own bounded draw: std::shuffle is not the same on every standard library.
void shuffle(std::vector<std::string>& rows, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (size_t i = rows.size(); i > 1; --i) std::swap(rows[i - 1], rows[random() % i]);
}

}  // namespace

std::vector<std::vector<TokenId>> calibration_sequences(
    const std::vector<std::filesystem::path>& files, const Tokenizer& tokenizer, TokenId bos,
    TokenId eos, int64_t n_tokens, uint64_t seed) {
  std::vector<std::vector<TokenId>> sequences;
  if (files.empty()) return sequences;
  const int64_t share = n_tokens / static_cast<int64_t>(files.size());
  for (const std::filesystem::path& file : files) {
    std::vector<std::string> rows = read_text_rows(file);
    shuffle(rows, seed);
    std::vector<TokenId> stream;
    for (const std::string& row : rows) {
      if (static_cast<int64_t>(stream.size()) >= share) break;
      const std::vector<TokenId> ids = tokenizer.encode(row, false);
      if (bos >= 0) stream.push_back(bos);
      stream.insert(stream.end(), ids.begin(), ids.end());
      if (eos >= 0) stream.push_back(eos);
    }
    const int64_t available =
        std::min(static_cast<int64_t>(stream.size()), std::max<int64_t>(share, 1));
    const int64_t length = std::min(available, kCalibrationLength);
    for (int64_t first = 0; length > 0 && first + length <= available; first += length) {
      sequences.emplace_back(stream.begin() + first, stream.begin() + first + length);
    }
  }
  return sequences;
}

}  // namespace deltacome
