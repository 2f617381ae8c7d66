// SPDX-License-Identifier: Apache-2.0
#include "grammar/automaton.h"

#include <algorithm>
#include <limits>

#include "core/check.h"
#include "grammar/automaton_builder.h"
#include "grammar/limits.h"

namespace deltacome::grammar {
namespace {

constexpr uint8_t kNever = 255;  // need of a state from which nothing can be finished

/// Lists by state, made of pairs.
class Lists {
 public:
  Lists(size_t n, std::vector<std::pair<uint16_t, uint32_t>> pairs) : begin_(n + 1) {
    std::ranges::sort(pairs);
    pairs.erase(std::unique(pairs.begin(), pairs.end()), pairs.end());  // not std::ranges: clang 14
    for (const auto& [key, value] : pairs) {
      ++begin_[key + size_t{1}];
      values_.push_back(value);
    }
    for (size_t i = 0; i < n; ++i) begin_[i + 1] += begin_[i];
  }
  std::span<const uint32_t> at(size_t key) const {
    return std::span(values_).subspan(begin_[key], begin_[key + 1] - begin_[key]);
  }

 private:
  std::vector<size_t> begin_;
  std::vector<uint32_t> values_;
};

}  // namespace

Automaton::Automaton(const Nfa& nfa, NfaState root) {
  AutomatonBuilder builder(nfa, *this);
  builder.find_classes();
  builder.determinize(root);
  builder.trim();
  builder.find_plain_chars();
}

size_t Automaton::bytes() const noexcept {
  return sizeof(*this) + next_.capacity() * sizeof(State) + info_.capacity() * sizeof(Info) +
         calls_.capacity() * sizeof(Call);
}

/// Dijkstra's algorithm, for costs that are maxima: a path costs what its deepest call costs.
void AutomatonBuilder::trim() {
  const size_t n = out_.info_.size(), n_classes = out_.n_classes_;
  std::vector<std::pair<uint16_t, uint32_t>> readers, returners, callers;  // to -> state or call
  for (size_t s = 0; s < n; ++s) {
    for (size_t c = 0; c < n_classes; ++c) {
      const State to = out_.next_[s * n_classes + c];
      if (to != Automaton::kDead) readers.emplace_back(to, static_cast<uint32_t>(s));
    }
  }
  for (size_t i = 0; i < calls_.size(); ++i) {
    returners.emplace_back(calls_[i].call.return_to, static_cast<uint32_t>(i));
    callers.emplace_back(calls_[i].call.start, static_cast<uint32_t>(i));
  }
  const Lists reader(n, std::move(readers)), returner(n, std::move(returners)),
      caller(n, std::move(callers));
  std::vector<uint8_t> need(n, kNever);
  std::vector<bool> done(n);
  std::vector<std::vector<uint32_t>> open(kMaxDepth + 1);  // by need
  const auto relax = [&](uint32_t s, int value) {
    if (value > kMaxDepth || value >= need[s]) return;
    need[s] = static_cast<uint8_t>(value);
    open[static_cast<size_t>(value)].push_back(s);
  };
  const auto relax_call = [&](const RawCall& c) {
    if (done[c.call.start] && done[c.call.return_to])
      relax(c.from, std::max(1 + need[c.call.start], int{need[c.call.return_to]}));
  };
  for (size_t s = 0; s < n; ++s)
    if (out_.info_[s].accepting) relax(static_cast<uint32_t>(s), 0);
  for (auto& states : open) {
    while (!states.empty()) {
      const uint32_t s = states.back();
      states.pop_back();
      if (done[s]) continue;
      done[s] = true;
      for (const uint32_t from : reader.at(s)) relax(from, need[s]);
      for (const uint32_t i : returner.at(s)) relax_call(calls_[i]);
      for (const uint32_t i : caller.at(s)) relax_call(calls_[i]);
    }
  }
  for (State& to : out_.next_)
    if (to != Automaton::kDead && need[to] == kNever) to = Automaton::kDead;
  std::erase_if(calls_, [&](const RawCall& c) {
    return need[c.call.start] == kNever || need[c.call.return_to] == kNever;
  });
  for (size_t s = 0; s < n; ++s) {
    const auto row = std::span(out_.next_).subspan(s * n_classes, n_classes);
    out_.info_[s].need = need[s];
    out_.info_[s].reads = std::ranges::any_of(row, [](State t) { return t != Automaton::kDead; });
  }
  for (const RawCall& c : calls_) {
    Automaton::Info& info = out_.info_[c.from];
    if (info.n_calls++ == 0) info.first_call = static_cast<uint32_t>(out_.calls_.size());
    out_.calls_.push_back(c.call);
  }
  for (Automaton::Info& info : out_.info_) {
    info.simple = info.reads && !info.accepting && info.n_calls == 0;
    info.only_returns = info.accepting && !info.reads && info.n_calls == 0;
  }
  if (need[out_.start_] == kNever)
    fail(ErrorCode::kInvalidArgument,
         "the constraint allows no text, or none that nests at most {} deep", kMaxDepth);
  if (out_.only_returns(out_.start_))
    fail(ErrorCode::kInvalidArgument, "the constraint allows only the empty text");
}

/// The states after one plain character, whichever it is; false if some character is not read, or
/// not by states that are `quiet`.
bool AutomatonBuilder::plain_successors(State state, const std::vector<bool>& quiet,
                                        std::vector<State>& out) const {
  struct Range {
    uint8_t first, last;
  };
  constexpr Range kTail{0x80, 0xBF};
  static const std::vector<std::vector<Range>> kShapes = {
      {{0x20, 0x21}},
      {{0x23, 0x5B}},
      {{0x5D, 0x7E}},
      {{0xC2, 0xDF}, kTail},
      {{0xE0, 0xE0}, {0xA0, 0xBF}, kTail},
      {{0xE1, 0xEC}, kTail, kTail},
      {{0xED, 0xED}, {0x80, 0x9F}, kTail},
      {{0xEE, 0xEF}, kTail, kTail},
      {{0xF0, 0xF0}, {0x90, 0xBF}, kTail, kTail},
      {{0xF1, 0xF3}, kTail, kTail, kTail},
      {{0xF4, 0xF4}, {0x80, 0x8F}, kTail, kTail}};
  for (const std::vector<Range>& shape : kShapes) {
    std::vector<State> from = {state};
    for (const Range& range : shape) {
      std::vector<State> to;
      for (const State s : from) {
        if (!quiet[s]) return false;
        for (int b = range.first; b <= range.last; ++b) {
          const State t = out_.next(s, out_.byte_class(static_cast<uint8_t>(b)));
          if (t == Automaton::kDead) return false;
          if (to.empty() || to.back() != t) to.push_back(t);
        }
      }
      std::ranges::sort(to);
      to.erase(std::unique(to.begin(), to.end()), to.end());  // not std::ranges: clang 14
      from = std::move(to);
    }
    out.insert(out.end(), from.begin(), from.end());
  }
  return true;
}

void AutomatonBuilder::find_plain_chars() {
  const size_t n = out_.info_.size();
  std::vector<bool> called(n);  // parts of a rule that returns to somewhere
  std::vector<State> open;
  const auto mark = [&](State s) {
    if (!called[s]) open.push_back(s);
    called[s] = true;
  };
  for (const Automaton::Call& c : out_.calls_) mark(c.start);
  while (!open.empty()) {
    const State s = open.back();
    open.pop_back();
    for (size_t c = 0; c < out_.n_classes_; ++c) {
      const State t = out_.next(s, static_cast<uint8_t>(c));
      if (t != Automaton::kDead) mark(t);
    }
    for (const Automaton::Call& c : out_.calls(s)) mark(c.return_to);
  }
  std::vector<bool> quiet(n);
  for (size_t s = 0; s < n; ++s) {
    const Automaton::Info& info = out_.info_[s];
    quiet[s] = info.reads && info.n_calls == 0 && !(info.accepting && called[s]);
  }
  constexpr uint32_t kUnknown = std::numeric_limits<uint32_t>::max();
  std::vector<uint32_t> depth(n, 0);
  std::vector<std::pair<uint16_t, uint32_t>> pairs;
  for (size_t s = 0; s < n; ++s) {
    std::vector<State> successors;
    if (!plain_successors(static_cast<State>(s), quiet, successors)) continue;
    depth[s] = kUnknown;
    for (const State t : successors) pairs.emplace_back(t, static_cast<uint32_t>(s));
  }
  // Breadth first from the states that do not read every character.
  const Lists before(n, std::move(pairs));
  std::vector<uint32_t> queue;
  for (size_t s = 0; s < n; ++s)
    if (depth[s] == 0) queue.push_back(static_cast<uint32_t>(s));
  for (size_t i = 0; i < queue.size(); ++i) {
    for (const uint32_t s : before.at(queue[i])) {
      if (depth[s] != kUnknown) continue;
      depth[s] = depth[queue[i]] + 1;
      queue.push_back(s);
    }
  }
  for (size_t s = 0; s < n; ++s) {
    out_.info_[s].plain_chars =
        depth[s] == kUnknown
            ? Automaton::kEverything
            : static_cast<uint8_t>(std::min(depth[s], Automaton::kEverything - 1u));
  }
}

}  // namespace deltacome::grammar
