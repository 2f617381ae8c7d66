// SPDX-License-Identifier: Apache-2.0
#include "model/score.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace deltacome {
namespace {

constexpr int64_t kBatchTokens = 1024;  // of one forward pass
constexpr int64_t kLogitRows = 64;      // rows of logits in memory at a time

/// log sum exp over a row.
double log_normalizer(std::span<const float> row) {
  const double largest = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float value : row) sum += std::exp(static_cast<double>(value) - largest);
  return largest + std::log(sum);
}

int64_t argmax(std::span<const float> row) {
  return std::max_element(row.begin(), row.end()) - row.begin();
}

/// Hidden states of the scored positions of a batch of texts, in order.
HiddenRows run(const Model& model, const Variant& variant, Stream& stream,
               std::span<const ScoredText> texts, bool reference = false) {
  int64_t blocks = 0;
  for (const ScoredText& text : texts)
    blocks += KvCache::blocks_for(static_cast<int64_t>(text.tokens.size()));
  KvCache cache(model.backend(), model.config(), model.config().n_layers, blocks, model.kv_dtype());
  std::vector<Sequence> sequences(texts.size());
  std::vector<BatchItem> items;
  for (size_t i = 0; i < texts.size(); ++i) {
    // The last token predicts nothing that is scored.
    const std::span<const int32_t> inputs =
        std::span(texts[i].tokens).first(texts[i].tokens.size() - 1);
    const bool own = reference && !texts[i].reference_given.empty();
    items.push_back({inputs, &sequences[i], variant, BatchItem::Rows::kAll,
                     own ? texts[i].reference_given : texts[i].given});
  }
  return model.forward(stream, items, cache);
}

/// Rows of logits of a model, downloaded piece by piece.
class LogitReader {
 public:
  LogitReader(const Model& model, Stream& stream, HiddenRows rows)
      : model_(model), stream_(stream), rows_(std::move(rows)) {}
  void load(int64_t first, int64_t count) {
    values_.resize(static_cast<size_t>(count * rows_.vocab_size));
    model_.backend().download(stream_, model_.logits(stream_, rows_, first, count),
                              std::as_writable_bytes(std::span(values_)));
  }
  int64_t vocab_size() const { return rows_.vocab_size; }
  std::span<const float> row(int64_t i, int64_t vocab) const {
    return std::span(values_).subspan(static_cast<size_t>(i * rows_.vocab_size),
                                      static_cast<size_t>(vocab));
  }

 private:
  const Model& model_;
  Stream& stream_;
  HiddenRows rows_;
  std::vector<float> values_;
};

void add_position(Score& score, std::span<const float> q, int32_t token) {
  ++score.tokens;
  score.nll += log_normalizer(q) - q[static_cast<size_t>(token)];
}

void add_comparison(Score& score, std::span<const float> q, std::span<const float> p) {
  const double log_q = log_normalizer(q), log_p = log_normalizer(p);
  double kl = 0;
  for (size_t i = 0; i < q.size(); ++i) {
    const double lp = static_cast<double>(p[i]) - log_p;
    kl += std::exp(lp) * (lp - (static_cast<double>(q[i]) - log_q));
  }
  score.kl += kl;
  score.top1 += argmax(q) == argmax(p);
}

}  // namespace

ScoredText scored_response(const ModelConfig& config, std::span<const int32_t> prompt,
                           std::span<const int32_t> whole) {
  ScoredText out;
  if (config.bos_token_id) out.tokens.push_back(static_cast<int32_t>(*config.bos_token_id));
  const auto shared = std::ranges::mismatch(prompt, whole).in1 - prompt.begin();
  out.first_scored = std::max<int64_t>(1, static_cast<int64_t>(out.tokens.size()) + shared);
  out.tokens.insert(out.tokens.end(), whole.begin(), whole.end());
  if (!config.eos_token_ids.empty())
    out.tokens.push_back(static_cast<int32_t>(config.eos_token_ids.front()));
  return out;
}

Score score_texts(const Model& candidate, const Variant& variant, const Model* reference,
                  Stream& stream, std::span<const ScoredText> texts,
                  const std::function<void(int64_t)>& on_progress) {
  Score score;
  size_t begin = 0;
  while (begin < texts.size()) {
    size_t end = begin;
    int64_t n_tokens = 0;
    while (end < texts.size() &&
           (end == begin ||
            n_tokens + static_cast<int64_t>(texts[end].tokens.size()) <= kBatchTokens)) {
      DELTACOME_CHECK(texts[end].first_scored >= 1 && texts[end].tokens.size() >= 2);
      n_tokens += static_cast<int64_t>(texts[end++].tokens.size());
    }
    const std::span<const ScoredText> batch = texts.subspan(begin, end - begin);
    LogitReader q(candidate, stream, run(candidate, variant, stream, batch));
    std::unique_ptr<LogitReader> p;
    if (reference)
      p = std::make_unique<LogitReader>(*reference, stream,
                                        run(*reference, {}, stream, batch, true));
    const int64_t vocab = p ? std::min(q.vocab_size(), p->vocab_size()) : q.vocab_size();

    int64_t first_row = 0;  // of the text, among the batch's rows
    for (const ScoredText& text : batch) {
      const auto n = static_cast<int64_t>(text.tokens.size());
      for (int64_t t = text.first_scored; t < n; t += kLogitRows) {
        const int64_t count = std::min(kLogitRows, n - t);
        q.load(first_row + t - 1, count);
        if (p) p->load(first_row + t - 1, count);
        for (int64_t i = 0; i < count; ++i) {
          const int32_t token = text.tokens[static_cast<size_t>(t + i)];
          if (token < 0) continue;  // nothing is predicted there
          if (token >= vocab) {
            fail(ErrorCode::kInvalidArgument,
                 "token id {} of a scored text is outside of the vocabulary of {}", token, vocab);
          }
          add_position(score, q.row(i, vocab), token);
          if (p) add_comparison(score, q.row(i, vocab), p->row(i, vocab));
        }
      }
      first_row += n - 1;
    }
    begin = end;
    if (on_progress) on_progress(static_cast<int64_t>(end));
  }
  return score;
}

}  // namespace deltacome
