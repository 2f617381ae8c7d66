// SPDX-License-Identifier: Apache-2.0
#include "compress/calibration_text.h"

#include <algorithm>

#include "compress/calibration.h"
#include "compress/options.h"
#include "compress/self_text.h"
#include "compress/text_check.h"
#include "core/check.h"

namespace deltacome {
namespace {

constexpr int64_t kGpuCacheBytes = int64_t{1} << 33;  // of self-written text
constexpr int64_t kEnoughTokens = 65536;  // more are better for distillation, but no need

TokenId bos_of(const ModelConfig& config) {
  return static_cast<TokenId>(config.bos_token_id.value_or(-1));
}

TokenId eos_of(const ModelConfig& config) {
  return config.eos_token_ids.empty() ? -1 : static_cast<TokenId>(config.eos_token_ids.front());
}

CalibrationText read_files(const CompressOptions& options, const ModelConfig& config,
                           const RowEncoder& encoder) {
  CalibrationText text;
  text.sequences = calibration_sequences(options.calibration, encoder, bos_of(config),
                                         eos_of(config), calibration_tokens(options), options.seed);
  text.given = encoder.given();
  for (const auto& sequence : text.sequences)
    text.n_tokens += static_cast<int64_t>(sequence.size());
  if (text.n_tokens == 0) fail(ErrorCode::kInvalidArgument, "the calibration files hold no tokens");
  const int64_t wanted = std::min(calibration_tokens(options), kEnoughTokens);
  if (text.n_tokens < wanted / 2) {
    text.notes.push_back(fmt::format(
        "the calibration files hold {} tokens, and {} are wanted: codes that fit so little text "
        "may fit other text worse",
        text.n_tokens, wanted));
  }
  return text;
}

/// File by file: of a mixture one of the fine-tune's own kind is enough.
void check_text(const CompressOptions& options, const Model& base, const Model& finetuned,
                Stream& stream, const RowEncoder& encoder, CalibrationText& text) {
  const int64_t share = std::max(kCalibrationLength,
                                 kCheckedTokens / static_cast<int64_t>(options.calibration.size()));
  std::string first_note;
  for (const std::filesystem::path& file : options.calibration) {
    const std::string note = generic_text_note(measure_text(
        base, finetuned, stream,
        calibration_sequences({file}, encoder, bos_of(finetuned.config()), -1, share, options.seed),
        encoder.given()));
    if (note.empty()) return;
    if (first_note.empty()) first_note = note;
  }
  text.notes.push_back(first_note);
}

CalibrationText write_own_text(const CompressOptions& options, const CheckpointPair& pair,
                               const Model& finetuned, Stream& stream, const Tokenizer& tokenizer,
                               const std::function<void(const std::string&)>& on_progress) {
  const TokenId bos = bos_of(finetuned.config());
  CalibrationText text;
  text.n_tokens = calibration_tokens(options);
  if (!is_on_gpu(options)) {  // a GPU writes them all in minutes
    text.n_tokens =
        self_text_tokens(products_per_token(pair), thread_count(options), text.n_tokens);
  }
  text.sequences = self_text_sequences(
      finetuned, stream,
      {.bos = bos,
       .stop_ids = finetuned.config().eos_token_ids,
       .frame = read_chat_frame(options.finetuned, tokenizer, bos),
       .n_tokens = text.n_tokens,
       .vocab_limit = tokenizer.vocab_size(),
       .cache_bytes = is_on_gpu(options) ? kGpuCacheBytes : SelfTextOptions().cache_bytes,
       .seed = options.seed},
      [&](int64_t done) {
        on_progress(fmt::format("the fine-tune writes calibration text, {} of {} tokens", done,
                                text.n_tokens));
      });
  text.notes.push_back(fmt::format(
      "no calibration text was given, so the fine-tune wrote {} tokens itself; text of its own "
      "kind serves better (docs/quality.md says by how much): give --calib FILE",
      text.n_tokens));
  return text;
}

}  // namespace

std::vector<std::string> calibration_names(const CompressOptions& options) {
  std::vector<std::string> names;
  for (const std::filesystem::path& file : options.calibration)
    names.push_back(file.filename().string());
  if (names.empty() && options.method == Method::kAuto) names.emplace_back(kSelfTextName);
  return names;
}

CalibrationText prepare_calibration(const CompressOptions& options, const CheckpointPair& pair,
                                    const Model& base, Stream& stream,
                                    const std::function<void(const std::string&)>& on_progress) {
  const bool is_auto = options.method == Method::kAuto, has_files = !options.calibration.empty();
  if (!is_auto && !has_files) return {};
  const Tokenizer tokenizer = Tokenizer::load(options.finetuned);
  const RowEncoder encoder(tokenizer, pair, base.backend(), stream);
  CalibrationText text;
  if (has_files) text = read_files(options, pair.finetuned_config, encoder);
  if (!is_auto) return text;
  Model finetuned(base.backend(), pair.finetuned, pair.finetuned_config);
  finetuned.on_layer_done(
      [&](int64_t layer) { release_layer(pair.finetuned, pair.tensors, layer); });
  if (has_files) {
    check_text(options, base, finetuned, stream, encoder, text);
  } else {
    text = write_own_text(options, pair, finetuned, stream, tokenizer, on_progress);
  }
  release_layer(pair.finetuned, pair.tensors, -1);
  release_layer(pair.base, pair.tensors, -1);
  return text;
}

}  // namespace deltacome
