// SPDX-License-Identifier: Apache-2.0
#include "grammar/token_masks.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "grammar/limits.h"

namespace deltacome::grammar {
namespace {

/// Of one automaton and vocabulary. A mask of 128k tokens has 16 KiB.
constexpr size_t kMaxMaskBytes = 8 << 20, kMaxLocalBytes = 32 << 20;
constexpr int kNoSkip = -1;

}  // namespace

TokenMasks::TokenMasks(std::shared_ptr<const Automaton> automaton,
                       std::shared_ptr<const TokenSet> tokens)
    : automaton_(std::move(automaton)),
      tokens_(std::move(tokens)),
      reader_(*automaton_),
      locals_(automaton_->n_states()),
      levels_(TokenTrie::kMaxTokenBytes + 1) {}

template <class OnNode>
void TokenMasks::walk(const TokenTrie& trie, TokenTrie::Node node, const Reader::Place& start,
                      int plain_chars, const OnNode& on_node) {
  const Automaton& a = *automaton_;
  const auto simple = [&](const Thread& t) {
    const int needed = reader_.depth(t.stack) + a.need(t.state);
    reader_.deepest = std::max(reader_.deepest, needed);
    return a.simple(t.state) && needed <= kMaxDepth;
  };
  const size_t base = trie.depth(node);
  levels_[base] = {{}, start, reader_.mark(), false};
  const TokenTrie::Node end = trie.end(node);
  for (TokenTrie::Node i = node + 1; i < end;) {
    if (plain_chars != kNoSkip && trie.plain_chars(i) <= plain_chars) {
      i = trie.end(i);
      continue;
    }
    const size_t depth = trie.depth(i);
    const Level& from = levels_[depth - 1];
    Level& to = levels_[depth];
    if (from.is_single) {  // nearly always
      const Automaton::State next = a.next(from.single.state, a.byte_class(trie.byte(i)));
      if (next == Automaton::kDead) {
        i = trie.end(i);
        continue;
      }
      to.single = {next, from.single.stack};
      if (simple(to.single)) {
        to.is_single = true;
        to.mark = from.mark;
        on_node(i, Reader::Place{0, 1});
        ++i;
        continue;
      }
      reader_.back_to(from.mark);
      to.place = reader_.enter(next, from.single.stack);
    } else {
      reader_.back_to(from.mark);
      to.place = reader_.step(from.place, trie.byte(i));
    }
    if (to.place.dead()) {
      i = trie.end(i);
      continue;
    }
    on_node(i, to.place);
    if (to.place.empty()) {  // nothing more can be read
      i = trie.end(i);
      continue;
    }
    to.is_single = to.place.end == to.place.begin + 1;
    if (to.is_single) to.single = reader_.thread(to.place.begin);
    to.mark = reader_.mark();
    ++i;
  }
}

/// Each state once. The deepest stack that it may take is noted: near the limit of depths what is
/// allowed depends on the caller after all.
const TokenMasks::Local& TokenMasks::local(Automaton::State state) {
  if (locals_[state] != nullptr) return *locals_[state];
  auto out = std::make_unique<Local>();
  const uint8_t plain = automaton_->plain_chars(state);
  out->special_trie = plain >= tokens_->longest_plain();
  const TokenTrie& trie = out->special_trie ? tokens_->special_trie() : tokens_->trie();
  Mask mask(tokens_->n_words());
  if (plain > 0) {
    const auto known = tokens_->plain_mask(plain);
    mask.assign(known.begin(), known.end());
  }
  const Reader::Mark mark = reader_.mark();
  const int deepest = std::exchange(reader_.deepest, 0);
  Reader::Place start = reader_.enter(state, kUnknown);
  // Calls and returns from the state itself are other threads, of the same place.
  start.end = std::min(start.end, start.begin + 1);
  size_t n = 0;
  walk(trie, 0, start, plain > 0 && !out->special_trie ? plain : kNoSkip,
       [&](TokenTrie::Node node, const Reader::Place& place) {
         for (const TokenId id : trie.tokens(node)) {
           set_bit(mask, id);
           ++n;
         }
         if (place.returned && trie.has_children(node)) out->returns.push_back(node);
       });
  reader_.back_to(mark);
  out->deepest = std::exchange(reader_.deepest, deepest);
  if (plain == 0 && n <= tokens_->n_words()) {  // a quarter of the mask's bytes, and less
    for (size_t i = 0; i < mask.size(); ++i)
      for (uint32_t word = mask[i]; word != 0; word &= word - 1)
        out->few.push_back(static_cast<TokenId>(i * 32) + std::countr_zero(word));
  } else {
    out->many = std::move(mask);
  }
  local_bytes_ += sizeof(Local) + out->few.capacity() * sizeof(TokenId) +
                  out->many.capacity() * sizeof(uint32_t) +
                  out->returns.capacity() * sizeof(TokenTrie::Node);
  return *(locals_[state] = std::move(out));
}

void TokenMasks::add_local(const Local& local, Mask& mask) const {
  for (const TokenId id : local.few) set_bit(mask, id);
  for (size_t i = 0; i < local.many.size(); ++i) mask[i] |= local.many[i];
}

void TokenMasks::add_thread(const Thread& thread, Mask& mask) {
  const Reader::Mark mark = reader_.mark();
  const auto add = [&](const TokenTrie& trie) {
    return [&](TokenTrie::Node node, const Reader::Place&) {
      for (const TokenId id : trie.tokens(node)) set_bit(mask, id);
    };
  };
  const Local& l = local(thread.state);
  if (reader_.depth(thread.stack) + l.deepest > kMaxDepth) {
    const Reader::Place whole = reader_.enter(thread.state, thread.stack);
    walk(tokens_->trie(), 0, whole, kNoSkip, add(tokens_->trie()));
  } else {
    add_local(l, mask);
    if (thread.stack >= kFirstFrame && !l.returns.empty()) {
      const Frame frame = reader_.frame(thread.stack);
      const Reader::Place after = reader_.enter(frame.return_to, frame.below);
      const TokenTrie& trie = l.special_trie ? tokens_->special_trie() : tokens_->trie();
      for (const TokenTrie::Node node : l.returns) walk(trie, node, after, kNoSkip, add(trie));
    }
  }
  reader_.back_to(mark);
}

void TokenMasks::add_from(const Position& position, Mask& mask) {
  const Reader::Place place = reader_.load(position);
  for (size_t i = place.begin; i < place.end; ++i) add_thread(reader_.thread(i), mask);
}

void TokenMasks::prepare(size_t n_states) {
  allowed(start(), true);
  n_states = std::min(n_states, automaton_->n_states());
  for (size_t s = 0; s < n_states; ++s) {
    const std::lock_guard lock(mutex_);
    if (local_bytes_ > kMaxLocalBytes / 2) return;
    reader_.clear();
    if (automaton_->reads(static_cast<Automaton::State>(s)))
      local(static_cast<Automaton::State>(s));
  }
}

Position TokenMasks::start() {
  const std::lock_guard lock(mutex_);
  reader_.clear();
  return reader_.save(reader_.enter(automaton_->start(), kBottom));
}

std::shared_ptr<const Mask> TokenMasks::allowed(const Position& position, bool first) {
  const std::lock_guard lock(mutex_);
  const Key key{position, first && tokens_->drops_first_space()};
  if (const auto found = masks_.find(key); found != masks_.end()) {
    used_.splice(used_.begin(), used_, found->second.used);
    return found->second.mask;
  }
  if (local_bytes_ > kMaxLocalBytes) {
    for (auto& l : locals_) l.reset();
    local_bytes_ = 0;
  }
  auto mask = std::make_shared<Mask>(tokens_->n_words());
  add_from(position, *mask);
  if (key.first) {
    // What begins with a space counts without it.
    if (const auto space = tokens_->trie().child(0, ' ')) {
      const TokenTrie& trie = tokens_->trie();
      for (TokenTrie::Node i = *space; i < trie.end(*space); ++i)
        for (const TokenId id : trie.tokens(i))
          (*mask)[static_cast<size_t>(id) / 32] &= ~(1u << (static_cast<uint32_t>(id) % 32));
      const auto add = [&](TokenTrie::Node node, const Reader::Place&) {
        for (const TokenId id : trie.tokens(node)) set_bit(*mask, id);
      };
      const Reader::Place place = reader_.load(position);
      add(*space, place);
      walk(trie, *space, place, kNoSkip, add);
    }
  }
  keep(key, mask);
  return mask;
}

void TokenMasks::keep(const Key& key, std::shared_ptr<const Mask> mask) {
  const auto bytes_of = [](const Key& k, const Mask& m) {
    return 2 * sizeof(Key) + sizeof(Entry) + k.position.threads.size() * sizeof(Thread) +
           k.position.frames.size() * sizeof(Frame) + m.size() * sizeof(uint32_t);
  };
  const size_t bytes = bytes_of(key, *mask);
  while (!used_.empty() && mask_bytes_ + bytes > kMaxMaskBytes) {
    const auto last = masks_.find(*used_.back());
    mask_bytes_ -= bytes_of(last->first, *last->second.mask);
    used_.pop_back();
    masks_.erase(last);
  }
  const auto [place, is_new] = masks_.emplace(key, Entry{std::move(mask), {}});
  used_.push_front(&place->first);
  place->second.used = used_.begin();
  mask_bytes_ += bytes;
}

std::optional<Position> TokenMasks::after(const Position& position, std::string_view text) {
  const std::lock_guard lock(mutex_);
  Reader::Place place = reader_.load(position);
  for (const char c : text) {
    place = reader_.step(place, static_cast<uint8_t>(c));
    if (place.dead()) return std::nullopt;
  }
  return reader_.save(place);
}

std::optional<Position> TokenMasks::after(const Position& position, TokenId token, bool first) {
  const std::string* text = tokens_->bytes_of(token);
  if (text == nullptr) return std::nullopt;
  const bool drop = first && tokens_->drops_first_space() && text->front() == ' ';
  return after(position, std::string_view(*text).substr(drop ? 1 : 0));
}

Mask TokenMasks::allowed_one_by_one(const Position& position, bool first) {
  Mask mask(tokens_->n_words());
  for (TokenId id = 0; id < static_cast<TokenId>(tokens_->size()); ++id)
    if (after(position, id, first)) set_bit(mask, id);
  return mask;
}

size_t TokenMasks::bytes() const {
  const std::lock_guard lock(mutex_);
  return local_bytes_ + mask_bytes_ + locals_.size() * sizeof(locals_[0]);
}

size_t TokenMasks::KeyHash::operator()(const Key& key) const noexcept {
  uint64_t h = 0x9E3779B97F4A7C15ull + key.first + 2 * uint64_t{key.position.may_end};
  const auto mix = [&](uint64_t value) {
    h = (h ^ value) * 0xD6E8FEB86659FD93ull;
    h ^= h >> 32;
  };
  for (const Thread& t : key.position.threads) mix(uint64_t{t.state} << 32 | t.stack);
  for (const Frame& f : key.position.frames) mix(uint64_t{f.return_to} << 32 | f.below);
  return h;
}

std::span<const uint32_t> Matcher::allowed() {
  if (allowed_ == nullptr) allowed_ = masks_->allowed(position_, first_);
  return *allowed_;
}

bool Matcher::accept(TokenId token) {
  std::optional<Position> next = masks_->after(position_, token, first_);
  if (!next) return false;
  position_ = std::move(*next);
  first_ = false;
  allowed_.reset();
  return true;
}

}  // namespace deltacome::grammar
