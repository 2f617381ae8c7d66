// SPDX-License-Identifier: Apache-2.0
#include "server/token_texts.h"

#include <algorithm>

namespace deltacome::server {
namespace {

std::vector<TokenLogprob> first(const std::vector<TokenLogprob>& top, int n) {
  return {top.begin(), top.begin() + std::min(n, static_cast<int>(top.size()))};
}

}  // namespace

std::string TokenTexts::of(int32_t token) const {
  // Some tokenizers drop a space at the beginning of a text: it is decoded behind another one.
  try {
    const std::string once = engine_.decode(variant_, {token}, false);
    const std::string twice = engine_.decode(variant_, {token, token}, false);
    return twice.starts_with(once) ? twice.substr(once.size()) : once;
  } catch (const Error&) {  // no tokenizer
    return "token_id:" + std::to_string(token);
  }
}

bool TokenTexts::is_special(int32_t token) const {
  try {
    return engine_.decode(variant_, {token}, true).empty() &&
           !engine_.decode(variant_, {token}, false).empty();
  } catch (const Error&) {  // no tokenizer
    return false;
  }
}

ShownToken TokenTexts::shown(int32_t token, double logprob,
                             const std::vector<TokenLogprob>& top) const {
  ShownToken out{.id = token, .text = of(token), .logprob = logprob};
  for (const TokenLogprob& each : top)
    out.top.push_back({.token = each.token,
                       .logprob = each.logprob,
                       .rank = static_cast<int64_t>(out.top.size()) + 1,
                       .text = of(each.token)});
  return out;
}

std::vector<ShownToken> TokenTexts::prompt(const std::vector<int32_t>& tokens,
                                           const std::vector<Logprobs>& logprobs, int n_top) const {
  std::vector<ShownToken> out;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i == 0 || i > logprobs.size()) {
      out.push_back({.id = tokens[i], .text = of(tokens[i])});
    } else {
      const Logprobs& place = logprobs[i - 1];
      out.push_back(shown(tokens[i], place.chosen, first(place.top, n_top)));
    }
  }
  return out;
}

std::vector<PromptToken> TokenTexts::prompt_guesses(const std::vector<int32_t>& tokens,
                                                    const std::vector<Logprobs>& logprobs,
                                                    int n_top) const {
  std::vector<PromptToken> out(tokens.size());
  for (size_t i = 1; i < tokens.size() && i <= logprobs.size(); ++i) {
    const Logprobs& place = logprobs[i - 1];
    const ShownToken token = shown(tokens[i], place.chosen, first(place.top, n_top));
    out[i].push_back({token.id, place.chosen, place.rank, token.text});
    out[i].insert(out[i].end(), token.top.begin(), token.top.end());
  }
  return out;
}

}  // namespace deltacome::server
