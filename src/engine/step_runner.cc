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
  for (const StepItem& item : items) {
    auto& answer = static_cast<AnswerState&>(*item.sequence);
    const bool last = item.n_tokens == answer.pending();
    std::span<const int32_t> chunk =
        std::span(answer.tokens)
            .subspan(static_cast<size_t>(answer.kv.length), static_cast<size_t>(item.n_tokens));
    const Tensor given = place_given_rows(answer, chunk, placed);
    batch.push_back({chunk, &answer.kv, answer.model_variant,
                     last ? BatchItem::Rows::kLast : BatchItem::Rows::kNone, given});
    if (last)
      tokens.push_back({.answer = &answer, .token = 0, .logprobs = {}, .impossible = false});
  }
  if (Model::is_decode(batch)) {
    choose(model_.decode(stream_, batch, cache_, decoding_), tokens);
    return tokens;
  }
  const HiddenRows rows = model_.forward(stream_, batch, cache_);
  if (!tokens.empty())
    choose(model_.logits(stream_, rows, 0, static_cast<int64_t>(tokens.size())), tokens);
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
