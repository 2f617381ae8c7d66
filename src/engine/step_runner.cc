// SPDX-License-Identifier: Apache-2.0
#include "engine/step_runner.h"

#include <algorithm>

#include "core/check.h"
#include "model/generate.h"

namespace deltacome {
namespace {

/// Whether the device can choose by itself.
bool is_plain(const AnswerState& answer) {
  return deltacome::is_plain(answer.request->request.sampling) &&
         !answer.request->request.logprobs && answer.n_output() >= answer.min_tokens &&
         !answer.matcher;
}

/// Rows whose logits are in memory at once while a prompt is scored.
constexpr int64_t kScoredRows = 32;

double draw(const AnswerState& answer) {
  return uniform_draw(answer.seed, static_cast<uint64_t>(answer.n_output()));
}

}  // namespace

StepRunner::StepRunner(const Model& model, Stream& stream, int64_t n_blocks)
    : model_(model),
      stream_(stream),
      cache_(model.backend(), model.config(), model.config().n_layers, n_blocks, model.kv_dtype(),
             KvCache::Blocks::kCountedElsewhere) {}

std::vector<StepToken> StepRunner::run(std::span<const StepItem> items) {
  std::vector<BatchItem> batch;
  std::vector<StepToken> tokens;
  std::deque<std::vector<int32_t>> placed;  // chunks with pictures
  std::vector<StepItem> scored;
  const auto add = [&](const StepItem& item, BatchItem::Rows wanted) {
    auto& answer = static_cast<AnswerState&>(*item.sequence);
    std::span<const int32_t> chunk =
        std::span(answer.tokens)
            .subspan(static_cast<size_t>(answer.kv.length), static_cast<size_t>(item.n_tokens));
    const Tensor given = place_given_rows(answer, chunk, placed);
    batch.push_back({chunk, &answer.kv, answer.model_variant, wanted, given});
  };
  // Prompts whose rows are all wanted come last, so that the others' rows are side by side.
  for (const StepItem& item : items) {
    auto& answer = static_cast<AnswerState&>(*item.sequence);
    if (answer.wants_prompt_logprobs()) {
      scored.push_back(item);
      continue;
    }
    const bool last = item.n_tokens == answer.pending();
    add(item, last ? BatchItem::Rows::kLast : BatchItem::Rows::kNone);
    if (last)
      tokens.push_back({.answer = &answer, .token = 0, .logprobs = {}, .impossible = false});
  }
  for (const StepItem& item : scored) add(item, BatchItem::Rows::kAll);
  if (Model::is_decode(batch)) {
    choose(model_.decode(stream_, batch, cache_, decoding_), tokens);
    return tokens;
  }
  const HiddenRows rows = model_.forward(stream_, batch, cache_);
  auto first = static_cast<int64_t>(tokens.size());
  if (!tokens.empty()) choose(model_.logits(stream_, rows, 0, first), tokens);
  for (const StepItem& item : scored) {
    auto& answer = static_cast<AnswerState&>(*item.sequence);
    score_prompt(rows, first, answer, item.n_tokens);
    first += item.n_tokens;
    if (answer.pending() > 0) continue;
    tokens.push_back({.answer = &answer, .token = 0, .logprobs = {}, .impossible = false});
    choose(model_.logits(stream_, rows, first - 1, 1), std::span(tokens).last(1));
  }
  return tokens;
}

/// If `chunk` reaches into a picture: becomes the same with its rows, which are computed now at the
/// latest. Not if the prefix cache had all of them.
Tensor StepRunner::place_given_rows(AnswerState& answer, std::span<const int32_t>& chunk,
                                    std::deque<std::vector<int32_t>>& placed) {
  RequestPictures& pictures = answer.request->pictures;
  if (pictures.empty() || answer.kv.length >= answer.n_prompt) return {};
  std::vector<int32_t> ids(chunk.begin(), chunk.end());
  bool any = false;
  for (size_t i = 0; i < ids.size(); ++i) {
    const size_t at = static_cast<size_t>(answer.kv.length) + i;
    if (at >= pictures.prompt.size() || pictures.prompt[at] >= 0) continue;
    ids[i] = pictures.prompt[at];
    any = true;
  }
  if (!any) return {};
  compute_features(pictures, model_.backend(), stream_);
  chunk = placed.emplace_back(std::move(ids));
  return pictures.given;
}

/// Row `first` of `rows` and the n_tokens - 1 after it are those of the answer's last tokens in the
/// cache. A row tells of the token after its own. After a preemption some are known already.
void StepRunner::score_prompt(const HiddenRows& rows, int64_t first, AnswerState& answer,
                              int64_t n_tokens) {
  const int64_t begin = answer.kv.length - n_tokens;  // place of the first row's token
  const int64_t end = std::min(answer.kv.length, answer.n_prompt - 1);
  std::vector<float> host;
  for (auto at = static_cast<int64_t>(answer.prompt_logprobs.size()); at < end;) {
    DELTACOME_CHECK(at >= begin);
    const int64_t count = std::min(kScoredRows, end - at);
    const Tensor logits = model_.logits(stream_, rows, first + at - begin, count);
    host.resize(static_cast<size_t>(logits.size()));
    model_.backend().download(stream_, logits, std::as_writable_bytes(std::span(host)));
    const auto width = static_cast<size_t>(logits.cols());
    for (int64_t i = 0; i < count; ++i, ++at) {
      const auto row = std::span<const float>(host).subspan(static_cast<size_t>(i) * width,
                                                            static_cast<size_t>(answer.vocab_size));
      answer.prompt_logprobs.push_back(logprobs_of(row, answer.tokens[static_cast<size_t>(at) + 1],
                                                   *answer.request->request.prompt_logprobs));
    }
  }
}

void StepRunner::choose(const Tensor& logits, std::span<StepToken> tokens) {
  std::vector<SampleParams> params;
  bool any_plain = false, all_plain = true;
  for (const StepToken& t : tokens) {
    SampleParams p{.vocab_size = t.answer->vocab_size};
    if (is_plain(*t.answer)) {
      const SamplingParams& s = t.answer->request->request.sampling;
      p.temperature = static_cast<float>(s.temperature);
      p.top_k = s.top_k;
      p.top_p = static_cast<float>(s.top_p);
      p.uniform = draw(*t.answer);
      any_plain = true;
    } else {
      all_plain = false;  // its row is sampled too, greedily, and not looked at
    }
    params.push_back(p);
  }
  std::vector<int32_t> ids(tokens.size());
  if (any_plain) model_.backend().sample(stream_, logits, params, ids);
  std::vector<float> host;
  if (!all_plain) {
    host.resize(static_cast<size_t>(logits.size()));
    model_.backend().download(stream_, logits, std::as_writable_bytes(std::span(host)));
  }
  const auto width = static_cast<size_t>(logits.cols());
  for (size_t i = 0; i < tokens.size(); ++i) {
    AnswerState& answer = *tokens[i].answer;
    if (is_plain(answer)) {
      tokens[i].token = ids[i];
      continue;
    }
    const EngineRequest& request = answer.request->request;
    const auto row = std::span(host).subspan(i * width, static_cast<size_t>(answer.vocab_size));
    std::vector<float> unchanged;
    if (request.logprobs) unchanged.assign(row.begin(), row.end());
    const bool may_end = answer.may_end();
    const std::span<const int32_t> ends = answer.banned;
    if (answer.matcher) allow_only(row, answer.matcher->allowed(), may_end ? ends : ends.first(0));
    const int32_t token = choose_token(row, request.sampling, answer.history,
                                       may_end ? ends.first(0) : ends, draw(answer));
    tokens[i].token = token;
    tokens[i].impossible =
        answer.matcher &&
        !(answer.end_ids.contains(token) ? may_end
                                         : grammar::has_bit(answer.matcher->allowed(), token));
    if (request.logprobs)
      tokens[i].logprobs = logprobs_of(unchanged, tokens[i].token, *request.logprobs);
  }
}

}  // namespace deltacome
