// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "server/answer_format.h"
#include "server/served_engine.h"

namespace deltacome::server {

/// What a variant's tokens look like.
class TokenTexts {
 public:
  TokenTexts(const ServedEngine& engine, std::string variant)
      : engine_(engine), variant_(std::move(variant)) {}

  /// The token's own text; "token_id:N" without a tokenizer.
  std::string of(int32_t token) const;
  bool is_special(int32_t token) const;
  ShownToken shown(int32_t token, double logprob, const std::vector<TokenLogprob>& top) const;
  /// A prompt with `logprobs` of all its tokens but the first, of each the n_top likeliest.
  std::vector<ShownToken> prompt(const std::vector<int32_t>& tokens,
                                 const std::vector<Logprobs>& logprobs, int n_top) const;
  std::vector<PromptToken> prompt_guesses(const std::vector<int32_t>& tokens,
                                          const std::vector<Logprobs>& logprobs, int n_top) const;

 private:
  const ServedEngine& engine_;
  const std::string variant_;
};

}  // namespace deltacome::server
