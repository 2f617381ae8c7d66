// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <compare>
#include <cstdint>

namespace deltacome::grammar {

/// A set of bytes.
class ByteSet {
 public:
  constexpr ByteSet() = default;
  static constexpr ByteSet range(uint8_t first, uint8_t last) {
    ByteSet out;
    for (int b = first; b <= last; ++b) out.add(static_cast<uint8_t>(b));
    return out;
  }
  static constexpr ByteSet of(char c) {
    return range(static_cast<uint8_t>(c), static_cast<uint8_t>(c));
  }

  constexpr void add(uint8_t byte) { words_[byte >> 6] |= uint64_t{1} << (byte & 63); }
  constexpr bool contains(uint8_t byte) const { return (words_[byte >> 6] >> (byte & 63)) & 1; }
  constexpr ByteSet operator|(const ByteSet& other) const {
    ByteSet out;
    for (size_t i = 0; i < words_.size(); ++i) out.words_[i] = words_[i] | other.words_[i];
    return out;
  }
  auto operator<=>(const ByteSet&) const = default;

 private:
  std::array<uint64_t, 4> words_ = {};
};

}  // namespace deltacome::grammar
