// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <vector>

#include "model/model.h"
#include "text/tokenizer.h"

namespace deltacome {

/// Stands for a file's name where a model wrote the calibration text itself (docs/format.md).
inline constexpr const char* kSelfTextName = "(sampled from the fine-tune)";

/// What a chat template puts around the first words of a user.
struct ChatFrame {
  std::vector<TokenId> before;  // without BOS
  std::vector<TokenId> after;   // up to where the answer begins
};

/// The frame of the model's chat template; nullopt without one, or if it cannot be used. A `bos`
/// at its begin is left out.
std::optional<ChatFrame> read_chat_frame(const std::filesystem::path& directory,
                                         const Tokenizer& tokenizer, TokenId bos);

struct SelfTextOptions {
  TokenId bos = -1;               // begins a document; < 0: the first stop id does
  std::vector<int64_t> stop_ids;  // end one
  std::optional<ChatFrame> frame;
  int64_t n_tokens = 0;
  int64_t vocab_limit = 0;                 // tokens that may be written; 0 = all of the model
  int64_t cache_bytes = int64_t{1} << 29;  // of keys and values of the sequences being written
  uint64_t seed = 0;
};

/// Tokens that a model of so many products per token writes within about three minutes on n_threads
/// threads: by a fixed rate, so that it is the same on every run. At least 4096, if `limit` allows
/// it; a multiple of kCalibrationLength.
int64_t self_text_tokens(double products_per_token, int n_threads, int64_t limit) noexcept;

/// Documents that the model writes, each a sequence BOS doc EOS, n_tokens in all: every
/// kCalibrationLength tokens one of them is cut. Most are drawn from the model's distribution at
/// temperature 1, some begin with unlikely tokens, some are greedy after their begin; half of them
/// begin as a user's turn if there is a frame. They depend on seed and place alone. on_progress
/// (tokens written). Throws as Model::forward.
std::vector<std::vector<TokenId>> self_text_sequences(
    const Model& model, Stream& stream, const SelfTextOptions& options,
    const std::function<void(int64_t)>& on_progress = {});

}  // namespace deltacome
