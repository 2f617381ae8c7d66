// SPDX-License-Identifier: Apache-2.0
#include "grammar/reader.h"

#include <algorithm>

#include "grammar/limits.h"

namespace deltacome::grammar {

Reader::Reader(const Automaton& automaton) : automaton_(automaton) {
  clear();
}

void Reader::clear() {
  threads_.clear();
  frames_.assign(kFirstFrame, {});
}

/// The same frame is never there twice, so that equal stacks have equal indices.
uint32_t Reader::push(Automaton::State return_to, uint32_t below) {
  const Frame frame{below, return_to, static_cast<uint16_t>(frames_[below].depth + 1)};
  for (size_t i = frames_.size(); i-- > kFirstFrame;)
    if (frames_[i] == frame) return static_cast<uint32_t>(i);
  frames_.push_back(frame);
  return static_cast<uint32_t>(frames_.size() - 1);
}

/// Adds a thread, and those that it becomes by calls and returns. One that would need a deeper
/// stack than there may be is left out: what is left can always be finished (docs/grammar.md,
/// "Depth").
void Reader::add(Automaton::State state, uint32_t stack, Place& place) {
  const int depth = frames_[stack].depth, needed = depth + automaton_.need(state);
  deepest = std::max(deepest, needed);
  if (needed > kMaxDepth) return;
  if (automaton_.reads(state)) {
    const Thread thread{state, stack};
    for (size_t i = place.begin; i < place.end; ++i)
      if (threads_[i] == thread) return;
    if (place.end - place.begin >= kMaxThreads) return;
    threads_.push_back(thread);
    ++place.end;
    if (automaton_.simple(state)) return;
  }
  for (const Automaton::Call& call : automaton_.calls(state)) {
    if (automaton_.only_returns(call.return_to)) {
      add(call.start, stack, place);
      continue;
    }
    const int needed_after = depth + automaton_.need(call.return_to);
    const int needed_inside = depth + 1 + automaton_.need(call.start);
    deepest = std::max({deepest, needed_after, needed_inside});
    if (std::max(needed_after, needed_inside) > kMaxDepth) continue;
    add(call.start, push(call.return_to, stack), place);
  }
  if (!automaton_.accepting(state)) return;
  if (stack == kBottom) {
    place.may_end = true;
  } else if (stack == kUnknown) {
    place.returned = true;
  } else {
    const Frame frame = frames_[stack];
    add(frame.return_to, frame.below, place);
  }
}

Reader::Place Reader::enter(Automaton::State state, uint32_t stack) {
  Place place{threads_.size(), threads_.size()};
  add(state, stack, place);
  return place;
}

Reader::Place Reader::step(const Place& from, uint8_t byte) {
  Place to{threads_.size(), threads_.size()};
  const uint8_t byte_class = automaton_.byte_class(byte);
  for (size_t i = from.begin; i < from.end; ++i) {
    const Thread thread = threads_[i];
    const Automaton::State next = automaton_.next(thread.state, byte_class);
    if (next != Automaton::kDead) add(next, thread.stack, to);
  }
  return to;
}

Reader::Place Reader::load(const Position& position) {
  clear();
  frames_.insert(frames_.end(), position.frames.begin(), position.frames.end());
  threads_ = position.threads;
  return {0, threads_.size(), position.may_end};
}

/// Frames in the order in which threads need them, from the bottom: few different forms of the
/// same.
Position Reader::save(const Place& place) const {
  Position out;
  out.may_end = place.may_end;
  out.threads.assign(threads_.begin() + static_cast<std::ptrdiff_t>(place.begin),
                     threads_.begin() + static_cast<std::ptrdiff_t>(place.end));
  std::vector<uint32_t> moved(frames_.size(), 0);  // old -> new; 0: not yet
  std::vector<uint32_t> chain;
  for (Thread& thread : out.threads) {
    chain.clear();
    for (uint32_t f = thread.stack; f >= kFirstFrame && moved[f] == 0; f = frames_[f].below)
      chain.push_back(f);
    while (!chain.empty()) {
      Frame frame = frames_[chain.back()];
      if (frame.below >= kFirstFrame) frame.below = moved[frame.below];
      out.frames.push_back(frame);
      moved[chain.back()] = static_cast<uint32_t>(out.frames.size() + kFirstFrame - 1);
      chain.pop_back();
    }
    if (thread.stack >= kFirstFrame) thread.stack = moved[thread.stack];
  }
  return out;
}

}  // namespace deltacome::grammar
