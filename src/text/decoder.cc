// SPDX-License-Identifier: Apache-2.0
#include "text/decoder.h"

#include <algorithm>

#include "core/utf8.h"
#include "text/pre_tokenizer.h"

namespace deltacome {
namespace {

class Stage : public TokenSink {
 public:
  explicit Stage(TokenSink& next) : next_(next) {}
  void finish() override { next_.finish(); }

 protected:
  void forward(std::string_view piece) {
    if (!piece.empty()) next_.append(piece);
  }
  void forward_token(std::string_view token) {
    forward(token);
    next_.end_token();
  }
  TokenSink& next_;
};

/// A literal is replaced on the fly; only what may be the beginning of a match waits.
class ReplaceLiteral final : public Stage {
 public:
  ReplaceLiteral(const ReplaceDecoder& step, TokenSink& next)
      : Stage(next), literal_(*step.pattern.literal_text()), content_(step.content) {}

  void append(std::string_view piece) override {
    held_ += piece;
    size_t at = 0;
    for (size_t match = held_.find(literal_); match != std::string::npos;
         match = held_.find(literal_, at)) {
      forward(std::string_view(held_).substr(at, match - at));
      forward(content_);
      at = match + literal_.size();
    }
    size_t n_kept = std::min(held_.size() - at, literal_.size() - 1);
    const auto tail = [&] { return std::string_view(held_).substr(held_.size() - n_kept); };
    while (n_kept > 0 && !literal_.starts_with(tail())) --n_kept;
    forward(std::string_view(held_).substr(at, held_.size() - n_kept - at));
    held_.erase(0, held_.size() - n_kept);
  }
  void end_token() override {
    forward_token(held_);
    held_.clear();
  }

 private:
  const std::string& literal_;
  const std::string& content_;
  std::string held_;
};

class ReplaceRegex final : public Stage {
 public:
  ReplaceRegex(const ReplaceDecoder& step, TokenSink& next) : Stage(next), step_(step) {}
  void append(std::string_view piece) override { token_ += piece; }
  void end_token() override {
    forward_token(step_.pattern.replace_all(token_, step_.content));
    token_.clear();
  }

 private:
  const ReplaceDecoder& step_;
  std::string token_;
};

constexpr size_t kFallbackBytes = 6;  // of a token "<0xNN>"

class ByteFallback final : public Stage {
 public:
  using Stage::Stage;

  void append(std::string_view piece) override {
    if (!plain_ && head_.size() + piece.size() <= kFallbackBytes) {
      head_ += piece;
      return;
    }
    if (!plain_) {  // too long for "<0xNN>"
      flush_run();
      forward(head_);
      head_.clear();
      plain_ = true;
    }
    forward(piece);
  }

  void end_token() override {
    if (const std::optional<char> byte = fallback_byte(head_); byte && !plain_) {
      add_byte(*byte);
    } else {
      if (!plain_) flush_run();
      forward_token(head_);
    }
    head_.clear();
    plain_ = false;
  }

  void finish() override {
    flush_run();
    next_.finish();
  }

 private:
  /// One bad byte spoils its whole run, so a run that is UTF-8 so far must wait for its end.
  void add_byte(char byte) {
    if (spoiled_) return forward_token(kReplacementCharacter);
    run_ += byte;
    const Utf8Unit unit = next_utf8_unit(std::string_view(run_).substr(checked_));
    if (unit.kind == Utf8Unit::Kind::kCharacter) {
      checked_ = run_.size();
    } else if (unit.kind == Utf8Unit::Kind::kInvalid) {
      spoiled_ = true;
      replace_run();
    }
  }

  void replace_run() {
    for (size_t i = 0; i < run_.size(); ++i) forward_token(kReplacementCharacter);
    run_.clear();
  }

  void flush_run() {
    if (checked_ != run_.size()) {
      replace_run();
    } else if (!run_.empty()) {
      forward_token(run_);
    }
    run_.clear();
    checked_ = 0;
    spoiled_ = false;
  }

  std::string head_;      // a token that may still be "<0xNN>"
  bool plain_ = false;    // the token has turned out not to be one
  std::string run_;       // bytes of the run
  size_t checked_ = 0;    // of these, whole characters
  bool spoiled_ = false;  // the run is not UTF-8
};

class Fuse final : public Stage {
 public:
  using Stage::Stage;
  void append(std::string_view piece) override { forward(piece); }
  void end_token() override {}
  void finish() override {
    next_.end_token();
    next_.finish();
  }
};

class Strip final : public Stage {
 public:
  Strip(const StripDecoder& step, TokenSink& next) : Stage(next), step_(step) {}

  void append(std::string_view piece) override {
    while (at_front_ && n_cut_ < step_.start && piece.starts_with(step_.content)) {
      piece.remove_prefix(step_.content.size());
      ++n_cut_;
    }
    if (piece.empty()) return;
    at_front_ = false;
    size_t end = piece.size();  // of what is not a run of `content` at the end
    while (end >= step_.content.size() && piece.substr(0, end).ends_with(step_.content)) {
      end -= step_.content.size();
    }
    if (end > 0) {
      release(n_held_);
      forward(piece.substr(0, end));
    }
    n_held_ += (piece.size() - end) / step_.content.size();
    if (n_held_ > step_.stop) release(n_held_ - step_.stop);
  }

  void end_token() override {
    n_held_ = n_cut_ = 0;
    at_front_ = true;
    next_.end_token();
  }

 private:
  void release(size_t n) {
    for (size_t i = 0; i < n; ++i) forward(step_.content);
    n_held_ -= n;
  }

  const StripDecoder& step_;
  bool at_front_ = true;
  size_t n_cut_ = 0;
  size_t n_held_ = 0;  // times `content` at the end that may have to go
};

class Metaspace final : public Stage {
 public:
  Metaspace(const MetaspaceDecoder& step, TokenSink& next) : Stage(next), step_(step) {}

  void append(std::string_view piece) override {
    size_t at = 0;
    for (size_t match = piece.find(step_.replacement); match != std::string_view::npos;
         match = piece.find(step_.replacement, at)) {
      forward(piece.substr(at, match - at));
      if (!is_first_ || !step_.drops_first) forward(" ");
      at = match + step_.replacement.size();
    }
    forward(piece.substr(at));
  }
  void end_token() override {
    is_first_ = false;
    next_.end_token();
  }

 private:
  const MetaspaceDecoder& step_;
  bool is_first_ = true;
};

class ByteLevel final : public Stage {
 public:
  using Stage::Stage;

  void append(std::string_view piece) override { token_ += piece; }

  void end_token() override {
    bytes_ += byte_level_bytes(token_);
    token_.clear();
    flush(false);
  }

  void finish() override {
    flush(true);
    next_.end_token();
    next_.finish();
  }

 private:
  void flush(bool is_last) {
    size_t at = 0;
    while (at < bytes_.size()) {
      const Utf8Unit unit = next_utf8_unit(std::string_view(bytes_).substr(at));
      if (unit.kind == Utf8Unit::Kind::kIncomplete && !is_last) break;
      at += static_cast<size_t>(unit.n_bytes);
    }
    if (at > 0) forward(replace_invalid_utf8(std::string_view(bytes_).substr(0, at)));
    bytes_.erase(0, at);
  }

  std::string token_;
  std::string bytes_;  // after flush(): at most 3, the beginning of a character
};

class Join final : public Stage {
 public:
  using Stage::Stage;
  void append(std::string_view piece) override { token_ += piece; }
  void end_token() override {
    if (!is_first_) forward(" ");
    is_first_ = false;
    forward_token(token_);
    token_.clear();
  }

 private:
  bool is_first_ = true;
  std::string token_;
};

struct MakeStage {
  TokenSink& next;

  std::unique_ptr<TokenSink> operator()(const ReplaceDecoder& step) const {
    if (step.pattern.literal_text() == nullptr) return std::make_unique<ReplaceRegex>(step, next);
    return std::make_unique<ReplaceLiteral>(step, next);
  }
  std::unique_ptr<TokenSink> operator()(const ByteFallbackDecoder&) const {
    return std::make_unique<ByteFallback>(next);
  }
  std::unique_ptr<TokenSink> operator()(const FuseDecoder&) const {
    return std::make_unique<Fuse>(next);
  }
  std::unique_ptr<TokenSink> operator()(const StripDecoder& step) const {
    return std::make_unique<Strip>(step, next);
  }
  std::unique_ptr<TokenSink> operator()(const MetaspaceDecoder& step) const {
    return std::make_unique<Metaspace>(step, next);
  }
  std::unique_ptr<TokenSink> operator()(const ByteLevelDecoder&) const {
    return std::make_unique<ByteLevel>(next);
  }
  std::unique_ptr<TokenSink> operator()(const JoinDecoder&) const {
    return std::make_unique<Join>(next);
  }
};

}  // namespace

std::optional<char> fallback_byte(std::string_view token) noexcept {
  if (token.size() != kFallbackBytes || !token.starts_with("<0x") || token[5] != '>') return {};
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  };
  const int high = token[3] == '+' ? 0 : digit(token[3]);  // from_str_radix() takes a sign
  const int low = digit(token[4]);
  if (high < 0 || low < 0) return {};
  return static_cast<char>(static_cast<unsigned char>(high * 16 + low));
}

std::string byte_level_bytes(std::string_view token) {
  std::string out;
  for (size_t at = 0; at < token.size(); at += static_cast<size_t>(utf8_size(token[at]))) {
    const int byte = byte_of_character(code_point_at(token, at));
    if (byte < 0) return std::string(token);
    out += static_cast<char>(static_cast<unsigned char>(byte));
  }
  return out;
}

struct DecodePipeline::Output final : TokenSink {
  void append(std::string_view piece) override { text += piece; }
  void end_token() override {}
  void finish() override {}
  std::string text;
};

DecodePipeline::DecodePipeline(const std::vector<DecoderStep>& steps)
    : output_(std::make_unique<Output>()) {
  for (size_t i = steps.size(); i-- > 0;) {
    TokenSink& next = stages_.empty() ? *output_ : *stages_.back();
    stages_.push_back(std::visit(MakeStage{next}, steps[i]));
  }
}

DecodePipeline::DecodePipeline(DecodePipeline&&) noexcept = default;
DecodePipeline& DecodePipeline::operator=(DecodePipeline&&) noexcept = default;
DecodePipeline::~DecodePipeline() = default;

void DecodePipeline::push(std::string_view token) {
  TokenSink& first = stages_.empty() ? *output_ : *stages_.back();
  if (!token.empty()) first.append(token);
  first.end_token();
}

void DecodePipeline::finish() {
  (stages_.empty() ? *output_ : *stages_.back()).finish();
}

std::string DecodePipeline::take() {
  return std::exchange(output_->text, {});
}

}  // namespace deltacome
