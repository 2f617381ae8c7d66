// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "grammar/automaton.h"

namespace deltacome::grammar {

/// One way to read a text so far: a state, and the stack of states to return to.
struct Thread {
  Automaton::State state;
  uint32_t stack;  // index of the top frame
  bool operator==(const Thread&) const = default;
};

struct Frame {
  uint32_t below;
  Automaton::State return_to;
  uint16_t depth;
  bool operator==(const Frame&) const = default;
};

/// Frames that are no frames: the bottom of the stack of a whole text, and that of a part of which
/// it is not known who called it.
inline constexpr uint32_t kBottom = 0, kUnknown = 1;
inline constexpr size_t kFirstFrame = 2;

/// Where a text stands in an automaton: all ways to read it, in a form that depends on little but
/// the rest of the text that they allow. Plain values.
struct Position {
  std::vector<Thread> threads;
  std::vector<Frame> frames;  // those of the threads, from index kFirstFrame on
  bool may_end = false;

  bool operator==(const Position&) const = default;
};

/// Follows texts through an automaton. Working memory: one thread.
class Reader {
 public:
  explicit Reader(const Automaton& automaton);

  /// Threads [begin, end) of one place of a text.
  struct Place {
    size_t begin = 0, end = 0;
    bool may_end = false;   // the whole text
    bool returned = false;  // beyond kUnknown
    bool empty() const noexcept { return begin == end; }
    bool dead() const noexcept { return empty() && !may_end && !returned; }
  };
  /// How much memory is in use; going back to a mark forgets the places made since.
  struct Mark {
    size_t threads, frames;
  };

  const Automaton& automaton() const noexcept { return automaton_; }
  void clear();
  /// The place where a rule stands at `state`, called from `stack`.
  Place enter(Automaton::State state, uint32_t stack);
  /// After one byte more.
  Place step(const Place& from, uint8_t byte);
  Thread thread(size_t index) const noexcept { return threads_[index]; }
  Frame frame(uint32_t index) const noexcept { return frames_[index]; }
  int depth(uint32_t stack) const noexcept { return frames_[stack].depth; }
  Mark mark() const noexcept { return {threads_.size(), frames_.size()}; }
  void back_to(const Mark& mark) {
    threads_.resize(mark.threads, {});
    frames_.resize(mark.frames, {});
  }

  Place load(const Position& position);
  Position save(const Place& place) const;

  /// The largest depth that had to be possible for what was entered since it was set.
  int deepest = 0;

 private:
  void add(Automaton::State state, uint32_t stack, Place& place);
  uint32_t push(Automaton::State return_to, uint32_t below);

  const Automaton& automaton_;
  std::vector<Thread> threads_;
  std::vector<Frame> frames_;
};

}  // namespace deltacome::grammar
