// SPDX-License-Identifier: Apache-2.0
#include "compress/calibration.h"

#include <algorithm>
#include <random>

#include "io/text_rows.h"

namespace deltacome {
namespace {

/// Fisher-Yates with its own bounded draw: std::shuffle is not the same on every standard library.
void shuffle(std::vector<TextRow>& rows, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (size_t i = rows.size(); i > 1; --i) std::swap(rows[i - 1], rows[random() % i]);
}

using Sequences = std::vector<std::vector<TokenId>>;

/// Pieces of kCalibrationLength tokens; the last one is what is left.
void cut_into(Sequences& pieces, const std::vector<TokenId>& tokens) {
  for (auto at = tokens.begin(); at != tokens.end();) {
    const auto end = at + std::min<int64_t>(kCalibrationLength, tokens.end() - at);
    pieces.emplace_back(at, end);
    at = end;
  }
}

/// Both in their order, evenly mixed, so that any part of the sequences has its share of either.
void spread_into(Sequences& out, Sequences a, Sequences b) {
  size_t next = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    out.push_back(std::move(a[i]));
    for (; next < b.size() * (i + 1) / a.size(); ++next) out.push_back(std::move(b[next]));
  }
}

}  // namespace

std::vector<std::vector<TokenId>> calibration_sequences(
    const std::vector<std::filesystem::path>& files, const RowEncoder& encoder, TokenId bos,
    TokenId eos, int64_t n_tokens, uint64_t seed) {
  std::vector<std::vector<TokenId>> sequences;
  if (files.empty()) return sequences;
  const int64_t share = n_tokens / static_cast<int64_t>(files.size());
  for (const std::filesystem::path& file : files) {
    std::vector<TextRow> rows = read_text_rows(file);
    shuffle(rows, seed);
    Sequences alone, joined;
    std::vector<TokenId> stream;
    int64_t left = std::max<int64_t>(share, 1);
    for (size_t i = 0; i < rows.size() && left > 0; ++i) {
      std::vector<TokenId> ids;
      if (bos >= 0) ids.push_back(bos);
      const std::vector<TokenId> text = encoder.encode(rows[i], file.parent_path());
      ids.insert(ids.end(), text.begin(), text.end());
      if (eos >= 0) ids.push_back(eos);
      ids.resize(std::min(ids.size(), static_cast<size_t>(left)));
      left -= static_cast<int64_t>(ids.size());
      if (i % 2 == 0) {
        cut_into(alone, ids);
      } else {
        stream.insert(stream.end(), ids.begin(), ids.end());
      }
    }
    cut_into(joined, stream);
    spread_into(sequences, std::move(alone), std::move(joined));
  }
  return sequences;
}

}  // namespace deltacome
