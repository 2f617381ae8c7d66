// SPDX-License-Identifier: Apache-2.0
#include "compress/self_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "compress/calibration.h"
#include "core/check.h"
#include "deltacome/error.h"
#include "model/generate.h"
#include "text/chat_template.h"

namespace deltacome {
namespace {

constexpr int64_t kConcurrent = 64;     // sequences written at a time, at most
constexpr int64_t kLeastTokens = 4096;  // fewer say nothing
constexpr double kSeconds = 180;        // of writing
// Operations per second and thread; a busy 2-core EPYC with AVX-512 wrote at 10e9.
constexpr double kNominalRate = 12e9;
constexpr int64_t kFreeTokens = 16;       // before a document turns greedy
constexpr float kSeedTemperature = 1.5F;  // of the begin of a seeded document
constexpr int kSeedTopK = 256;            // the same
constexpr size_t kLongestBegin = 128;     // tokens of a template's begin; more leave no room
constexpr const char* kUserMark = "deltacome-marks-the-words-of-the-user";

/// Documents in the making, one after another, `length` tokens in all.
class Writer {
 public:
  Writer(const SelfTextOptions& options, int64_t vocab_size, int64_t length, int64_t index)
      : options_(options),
        vocab_size_(vocab_size),
        length_(length),
        seed_(options.seed + 0x9e3779b97f4a7c15ull * static_cast<uint64_t>(index + 1)),
        random_(seed_) {
    begin_document();
  }

  bool is_done() const { return static_cast<int64_t>(tokens_.size()) == length_; }
  int64_t n_tokens() const { return static_cast<int64_t>(tokens_.size()); }
  std::vector<std::vector<TokenId>> documents() const {
    std::vector<std::vector<TokenId>> out;
    for (size_t i = 0; i < starts_.size(); ++i) {
      const size_t end = i + 1 < starts_.size() ? starts_[i + 1] : tokens_.size();
      if (end > starts_[i])
        out.emplace_back(tokens_.begin() + static_cast<int64_t>(starts_[i]),
                         tokens_.begin() + static_cast<int64_t>(end));
    }
    return out;
  }
  BatchItem item() { return {pending_, &cache_, {}}; }
  Sequence& cache() { return cache_; }

  SampleParams sampling() const {
    SampleParams params{.temperature = 1, .vocab_size = vocab_size_};
    if (n_written_ < n_seeds_) {
      params.temperature = kSeedTemperature;
      params.top_k = kSeedTopK;
    } else if (is_greedy_ && n_written_ >= kFreeTokens) {
      params.temperature = 0;
    }
    params.uniform = uniform_draw(seed_, tokens_.size());
    return params;
  }

  /// Takes the next token; true if it ended the document, whose keys and values are of no use then.
  bool take(TokenId token) {
    if (!is_stop(token)) {
      append({token});
      ++n_written_;
      return false;
    }
    if (n_written_ == 0) {  // an empty document: begins at random
      append({any_token()});
      ++n_written_;
      return false;
    }
    if (is_users_turn_ && !options_.frame->after.empty() && options_.frame->after[0] == token) {
      is_users_turn_ = false;
      append(options_.frame->after);
      return false;
    }
    append({token});
    begin_document();
    return true;
  }

 private:
  bool is_stop(TokenId token) const {
    return std::find(options_.stop_ids.begin(), options_.stop_ids.end(), token) !=
           options_.stop_ids.end();
  }

  TokenId any_token() {
    for (;;) {
      const auto token = static_cast<TokenId>(random_() % static_cast<uint64_t>(vocab_size_));
      if (!is_stop(token)) return token;
    }
  }

  void begin_document() {
    is_users_turn_ = options_.frame && random_() % 2 == 0;
    const uint64_t style = random_() % 8;
    is_greedy_ = style == 0;
    n_seeds_ = style == 1 || style == 2 ? 1 + static_cast<int64_t>(random_() % 3) : 0;
    n_written_ = 0;
    starts_.push_back(tokens_.size());
    std::vector<TokenId> begin;
    if (options_.bos >= 0) begin.push_back(options_.bos);
    if (is_users_turn_)
      begin.insert(begin.end(), options_.frame->before.begin(), options_.frame->before.end());
    if (begin.empty() && !options_.stop_ids.empty())
      begin.push_back(static_cast<TokenId>(options_.stop_ids.front()));
    if (begin.empty()) begin.push_back(any_token());
    append(begin);
  }

  void append(const std::vector<TokenId>& tokens) {
    const auto room = length_ - static_cast<int64_t>(tokens_.size());
    const auto n = std::min(room, static_cast<int64_t>(tokens.size()));
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.begin() + n);
    pending_ = tokens;
  }

  const SelfTextOptions& options_;
  int64_t vocab_size_, length_;
  uint64_t seed_;
  std::mt19937_64 random_;
  std::vector<TokenId> tokens_, pending_;  // pending: not yet in the cache
  std::vector<size_t> starts_;             // of documents
  Sequence cache_;
  bool is_users_turn_ = false, is_greedy_ = false;
  int64_t n_seeds_ = 0, n_written_ = 0;  // tokens of the document by the model
};

/// Writes to the end of all sequences.
void write_all(const Model& model, Stream& stream, std::vector<Writer>& writers, KvCache& cache,
               const std::function<void()>& on_step) {
  for (;;) {
    std::vector<BatchItem> items;
    std::vector<SampleParams> params;
    std::vector<Writer*> runs;
    for (Writer& writer : writers) {
      if (writer.is_done()) continue;
      items.push_back(writer.item());
      params.push_back(writer.sampling());
      runs.push_back(&writer);
    }
    if (items.empty()) return;
    const auto n = static_cast<int64_t>(items.size());
    std::vector<TokenId> tokens(items.size());
    const HiddenRows rows = model.forward(stream, items, cache);
    model.backend().sample(stream, model.logits(stream, rows, 0, n), params, tokens);
    for (size_t i = 0; i < runs.size(); ++i) {
      if (runs[i]->take(tokens[i]) || runs[i]->is_done()) cache.release(runs[i]->cache());
    }
    on_step();
  }
}

}  // namespace

std::optional<ChatFrame> read_chat_frame(const std::filesystem::path& directory,
                                         const Tokenizer& tokenizer, TokenId bos) {
  try {
    const auto chat = ChatTemplate::load(directory);
    if (!chat) return std::nullopt;
    // With a date, for templates that would take today's: the same text on every day.
    const std::string text = chat->render_json(
        fmt::format(R"({{"messages": [{{"role": "user", "content": "{}"}}],)"
                    R"( "add_generation_prompt": true, "date_string": "26 Jul 2024"}})",
                    kUserMark));
    const size_t at = text.find(kUserMark);
    if (at == std::string::npos) return std::nullopt;
    ChatFrame frame{tokenizer.encode(text.substr(0, at), false),
                    tokenizer.encode(text.substr(at + std::string(kUserMark).size()), false)};
    if (bos >= 0 && !frame.before.empty() && frame.before[0] == bos)
      frame.before.erase(frame.before.begin());
    if (frame.before.size() > kLongestBegin) return std::nullopt;
    return frame;
  } catch (const Error&) {  // the template is for chats alone: text is written without it
    return std::nullopt;
  }
}

int64_t self_text_tokens(double products_per_token, int n_threads, int64_t limit) noexcept {
  const double rate = kNominalRate * n_threads;
  const auto within = static_cast<int64_t>(kSeconds * rate / (2 * products_per_token));
  const int64_t n = std::min(limit, std::max(kLeastTokens, within));
  return n < kCalibrationLength ? n : n / kCalibrationLength * kCalibrationLength;
}

std::vector<std::vector<TokenId>> self_text_sequences(
    const Model& model, Stream& stream, const SelfTextOptions& options,
    const std::function<void(int64_t)>& on_progress) {
  const ModelConfig& config = model.config();
  const int64_t vocab_size = options.vocab_limit > 0
                                 ? std::min(options.vocab_limit, config.vocab_size)
                                 : config.vocab_size;
  const int64_t length = std::min(options.n_tokens, kCalibrationLength);
  if (length <= 0) return {};
  const int64_t n_sequences = options.n_tokens / length;
  const int64_t blocks = KvCache::blocks_for(length);
  const int64_t sequence_bytes =
      blocks * kKvBlock * config.n_layers * config.n_kv_heads * config.head_dim * 8;
  const int64_t n_concurrent =
      std::clamp<int64_t>(options.cache_bytes / sequence_bytes, 1, kConcurrent);

  std::vector<std::vector<TokenId>> sequences;
  for (int64_t first = 0; first < n_sequences; first += n_concurrent) {
    const int64_t n = std::min(n_concurrent, n_sequences - first);
    KvCache cache(model.backend(), config, config.n_layers, n * blocks);
    std::vector<Writer> writers;
    for (int64_t i = 0; i < n; ++i) writers.emplace_back(options, vocab_size, length, first + i);
    write_all(model, stream, writers, cache, [&] {
      if (!on_progress) return;
      int64_t written = first * length;
      for (const Writer& writer : writers) written += writer.n_tokens();
      on_progress(written);
    });
    for (const Writer& writer : writers)
      std::ranges::move(writer.documents(), std::back_inserter(sequences));
  }
  return sequences;
}

}  // namespace deltacome
