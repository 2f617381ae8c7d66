// SPDX-License-Identifier: Apache-2.0
#include "model/generate.h"

#include <algorithm>

#include "core/check.h"

namespace deltacome {
namespace {

constexpr int64_t kPrefillTokens = 512;  // prompt tokens of one step, over all requests

/// A request that has a place in the batch.
struct Active {
  size_t index = 0;
  Sequence sequence;
  int64_t prefilled = 0;   // prompt tokens already in the cache
  int32_t last_token = 0;  // to be fed next, once the prompt is in
};

int64_t longest(const GenerationRequest& request) {
  return static_cast<int64_t>(request.prompt.size()) + request.max_tokens;
}

/// Blocks for the n_concurrent longest requests: no mix of active ones can need more.
int64_t blocks_needed(std::span<const GenerationRequest> requests, int64_t n_concurrent) {
  std::vector<int64_t> blocks;
  for (const GenerationRequest& request : requests)
    blocks.push_back(KvCache::blocks_for(longest(request)));
  std::sort(blocks.rbegin(), blocks.rend());
  int64_t sum = 0;
  for (size_t i = 0; i < blocks.size() && static_cast<int64_t>(i) < n_concurrent; ++i)
    sum += blocks[i];
  return sum;
}

class Batch {
 public:
  Batch(const Model& model, Stream& stream, std::span<const GenerationRequest> requests,
        int64_t n_concurrent, const std::function<bool(size_t, int32_t)>& on_token)
      : model_(model),
        stream_(stream),
        requests_(requests),
        n_concurrent_(n_concurrent),
        on_token_(on_token),
        cache_(model.backend(), model.config(), model.config().n_layers,
               blocks_needed(requests, n_concurrent), model.kv_dtype()),
        results_(requests.size()) {}

  std::vector<Generation> run() {
    for (;;) {
      admit();
      if (active_.empty()) return std::move(results_);
      step();
    }
  }

 private:
  void admit() {
    for (; next_ < requests_.size() && static_cast<int64_t>(active_.size()) < n_concurrent_;
         ++next_) {
      DELTACOME_CHECK(!requests_[next_].prompt.empty());
      if (requests_[next_].max_tokens > 0) active_.push_back({.index = next_, .sequence = {}});
    }
  }

  void step() {
    std::vector<BatchItem> items;
    std::vector<Active*> runs;  // per item
    int64_t budget = kPrefillTokens;
    for (Active& active : active_) {
      const GenerationRequest& request = requests_[active.index];
      const int64_t left = static_cast<int64_t>(request.prompt.size()) - active.prefilled;
      if (left == 0) {
        items.push_back({{&active.last_token, 1}, &active.sequence, request.variant});
      } else {
        const int64_t n = std::min(left, budget);
        if (n == 0) continue;
        budget -= n;
        items.push_back(
            {std::span(request.prompt)
                 .subspan(static_cast<size_t>(active.prefilled), static_cast<size_t>(n)),
             &active.sequence, request.variant,
             n == left ? BatchItem::Rows::kLast : BatchItem::Rows::kNone, request.given});
        active.prefilled += n;
      }
      runs.push_back(&active);
    }
    std::vector<Active*> sampled;
    for (size_t i = 0; i < items.size(); ++i) {
      if (items[i].wanted == BatchItem::Rows::kLast) sampled.push_back(runs[i]);
    }
    if (Model::is_decode(items))
      return take_tokens(model_.decode(stream_, items, cache_, decoding_), sampled);
    const HiddenRows rows = model_.forward(stream_, items, cache_);
    const auto n = static_cast<int64_t>(sampled.size());
    if (n > 0) take_tokens(model_.logits(stream_, rows, 0, n), sampled);
  }

  void take_tokens(const Tensor& logits, const std::vector<Active*>& sampled) {
    std::vector<SampleParams> params;
    for (const Active* active : sampled) {
      const GenerationRequest& request = requests_[active->index];
      SampleParams p = request.sampling;
      p.uniform = uniform_draw(request.seed, results_[active->index].tokens.size());
      p.vocab_size = model_.vocab_size(request.variant);
      params.push_back(p);
    }
    std::vector<int32_t> tokens(sampled.size());
    model_.backend().sample(stream_, logits, params, tokens);
    std::vector<size_t> finished;
    for (size_t i = 0; i < sampled.size(); ++i) {
      if (!accept(*sampled[i], tokens[i])) finished.push_back(sampled[i]->index);
    }
    for (const size_t index : finished) {
      const auto it = std::find_if(active_.begin(), active_.end(),
                                   [&](const Active& a) { return a.index == index; });
      cache_.release(it->sequence);
      active_.erase(it);
    }
  }

  /// Records a token; false if the request is finished.
  bool accept(Active& active, int32_t token) {
    const GenerationRequest& request = requests_[active.index];
    Generation& result = results_[active.index];
    if (std::find(request.stop_ids.begin(), request.stop_ids.end(), token) !=
        request.stop_ids.end()) {
      result.stopped = true;
      return false;
    }
    result.tokens.push_back(token);
    active.last_token = token;
    if (on_token_ && !on_token_(active.index, token)) return false;
    return static_cast<int64_t>(result.tokens.size()) < request.max_tokens;
  }

  const Model& model_;
  Stream& stream_;
  std::span<const GenerationRequest> requests_;
  int64_t n_concurrent_;
  const std::function<bool(size_t, int32_t)>& on_token_;
  KvCache cache_;
  DecodeMemory decoding_;
  std::vector<Active> active_;
  std::vector<Generation> results_;
  size_t next_ = 0;
};

}  // namespace

double uniform_draw(uint64_t seed, uint64_t step) noexcept {
  uint64_t z = (seed ^ (seed >> 33)) * 0x9e3779b97f4a7c15ull + (step + 1) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

std::vector<Generation> generate(const Model& model, Stream& stream,
                                 std::span<const GenerationRequest> requests, int64_t n_concurrent,
                                 const std::function<bool(size_t, int32_t)>& on_token) {
  DELTACOME_CHECK(n_concurrent > 0);
  return Batch(model, stream, requests, n_concurrent, on_token).run();
}

}  // namespace deltacome
