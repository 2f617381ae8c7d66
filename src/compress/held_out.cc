// SPDX-License-Identifier: Apache-2.0
#include "compress/held_out.h"

#include <algorithm>

#include "compress/calibration.h"
#include "compress/row_encoder.h"
#include "core/check.h"
#include "io/text_rows.h"
#include "text/tokenizer.h"

namespace deltacome {
namespace {

constexpr int64_t kHeldOutTokens = 16384;  // that fidelity is measured on

}  // namespace

std::vector<ScoredText> read_held_out(const std::filesystem::path& file, const CheckpointPair& pair,
                                      Backend& backend, Stream& stream) {
  const ModelConfig& config = pair.finetuned_config;
  const Tokenizer tokenizer = Tokenizer::load(pair.finetuned.directory());
  const RowEncoder encoder(tokenizer, pair, backend, stream);
  std::vector<ScoredText> out;
  int64_t n_tokens = 0;
  for (const TextRow& row : read_text_rows(file)) {
    ScoredText text;
    const std::vector<TokenId> ids = encoder.encode(row, file.parent_path());
    if (row.prompt_bytes > 0) {
      text = scored_response(
          config,
          encoder.encode({row.text.substr(0, row.prompt_bytes), row.image}, file.parent_path()),
          ids);
    } else {
      if (config.bos_token_id) text.tokens.push_back(static_cast<int32_t>(*config.bos_token_id));
      text.tokens.insert(text.tokens.end(), ids.begin(), ids.end());
    }
    text.tokens.resize(std::min<size_t>(text.tokens.size(), kCalibrationLength));
    if (static_cast<int64_t>(text.tokens.size()) <= text.first_scored) continue;
    n_tokens += static_cast<int64_t>(text.tokens.size());
    out.push_back(std::move(text));
    if (n_tokens >= kHeldOutTokens) break;
  }
  if (out.empty())
    fail(ErrorCode::kInvalidArgument, "{}: holds no text to measure on", file.string());
  for (ScoredText& text : out) text.given = encoder.given();
  return out;
}

HeldOutFidelity measure_held_out(const Model& base,
                                 const std::shared_ptr<const DeviceVariant>& variant,
                                 const CheckpointPair& pair, Stream& stream,
                                 const std::vector<ScoredText>& texts, const std::string& file) {
  const Model reference(base.backend(), pair.finetuned, pair.finetuned_config);
  const Score score =
      score_texts(base, {variant, pair.finetuned_config.vocab_size}, &reference, stream, texts);
  const auto n = static_cast<double>(score.tokens);
  return {file, score.tokens, score.kl / n, static_cast<double>(score.top1) / n};
}

}  // namespace deltacome
