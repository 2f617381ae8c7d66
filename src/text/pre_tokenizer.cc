// SPDX-License-Identifier: Apache-2.0
#include "text/pre_tokenizer.h"

#include <algorithm>
#include <array>

#include "core/utf8.h"

namespace deltacome {
namespace {

struct ByteAlphabet {
  std::array<std::string, 256> characters;
  std::array<int16_t, 0x144> bytes;  // by code point, -1: none

  /// GPT-2's bytes_to_unicode: printable Latin-1 stands for itself, the rest follow from U+0100.
  ByteAlphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
      const char32_t c = printable ? static_cast<char32_t>(byte) : next++;
      append_utf8(c, characters[static_cast<size_t>(byte)]);
      bytes[c] = static_cast<int16_t>(byte);
    }
  }
};

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

/// A stretch of a piece, either a match or what lies between two.
struct Stretch {
  Span span;
  bool is_match;
};

void cut(size_t n_bytes, const std::vector<Span>& matches, bool invert, std::vector<Stretch>& out) {
  out.clear();
  size_t previous = 0;
  for (const Span& match : matches) {
    if (previous != match.begin) out.push_back({{previous, match.begin}, invert});
    out.push_back({match, !invert});
    previous = match.end;
  }
  if (previous != n_bytes) out.push_back({{previous, n_bytes}, invert});
}

/// Joins stretches in place so that those left are the pieces.
void join(SplitBehavior behavior, std::vector<Stretch>& stretches) {
  switch (behavior) {
    case SplitBehavior::kIsolated:
      return;
    case SplitBehavior::kRemoved:
      std::erase_if(stretches, [](const Stretch& s) { return s.is_match; });
      return;
    case SplitBehavior::kContiguous:
    case SplitBehavior::kMergedWithPrevious:
    case SplitBehavior::kMergedWithNext:
      break;
  }
  const bool backwards = behavior == SplitBehavior::kMergedWithNext;
  if (backwards) std::reverse(stretches.begin(), stretches.end());
  size_t n = 0;
  bool previous_match = false;
  for (const Stretch stretch : stretches) {
    const bool joins = behavior == SplitBehavior::kContiguous ? stretch.is_match == previous_match
                                                              : stretch.is_match && !previous_match;
    previous_match = stretch.is_match;
    if (!joins || n == 0) {
      stretches[n++] = stretch;
    } else if (backwards) {
      stretches[n - 1].span.begin = stretch.span.begin;
    } else {
      stretches[n - 1].span.end = stretch.span.end;
    }
  }
  stretches.resize(n);
  if (backwards) std::reverse(stretches.begin(), stretches.end());
}

void split(const Pattern& pattern, SplitBehavior behavior, bool invert, PieceText& pieces) {
  std::vector<Piece> out;
  std::vector<Span> matches;
  std::vector<Stretch> stretches;
  const std::string_view text = pieces.text;
  for (const Piece& piece : pieces.pieces) {
    const std::string_view view = text.substr(piece.begin, piece.end - piece.begin);
    pattern.find_all(view, matches);
    cut(view.size(), matches, invert, stretches);
    join(behavior, stretches);
    for (const Stretch& stretch : stretches) {
      if (stretch.span.begin == stretch.span.end) continue;
      out.push_back({piece.begin + stretch.span.begin, piece.begin + stretch.span.end,
                     piece.at_start && stretch.span.begin == 0});
    }
  }
  pieces.pieces = std::move(out);
}

/// Rewrites each piece: rewrite(view, piece, out) appends its new text to out.
template <class Rewrite>
void rewrite_pieces(PieceText& pieces, const Rewrite& rewrite) {
  std::string out;
  out.reserve(pieces.text.size() + pieces.text.size() / 2);
  const std::string_view text = pieces.text;
  for (Piece& piece : pieces.pieces) {
    const size_t begin = out.size();
    rewrite(text.substr(piece.begin, piece.end - piece.begin), piece, out);
    piece.begin = begin;
    piece.end = out.size();
  }
  pieces.text = std::move(out);
}

struct Apply {
  PieceText& pieces;

  void operator()(const SplitStep& step) const {
    split(step.pattern, step.behavior, step.invert, pieces);
  }

  void operator()(const ByteLevelStep& step) const {
    if (step.add_prefix_space) {
      rewrite_pieces(pieces, [](std::string_view view, const Piece&, std::string& out) {
        if (view[0] != ' ') out += ' ';
        out += view;
      });
    }
    if (step.pattern) split(*step.pattern, SplitBehavior::kIsolated, false, pieces);
    rewrite_pieces(pieces, [](std::string_view view, const Piece&, std::string& out) {
      for (const char c : view) append_byte_character(static_cast<unsigned char>(c), out);
    });
  }

  void operator()(const MetaspaceStep& step) const {
    rewrite_pieces(pieces, [&](std::string_view view, const Piece& piece, std::string& out) {
      const bool prepends = step.prepend == MetaspaceStep::Prepend::kAlways ||
                            (step.prepend == MetaspaceStep::Prepend::kFirst && piece.at_start);
      if (prepends && view[0] != ' ' && !view.starts_with(step.replacement)) {
        out += step.replacement;
      }
      for (const char c : view) {
        if (c == ' ') {
          out += step.replacement;
        } else {
          out += c;
        }
      }
    });
    if (step.split) {
      split(Pattern::literal(step.replacement), SplitBehavior::kMergedWithNext, false, pieces);
    }
  }
};

}  // namespace

const std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

PieceText PreTokenizer::apply(std::string text, bool at_start) const {
  PieceText pieces{std::move(text), {}};
  if (!pieces.text.empty()) pieces.pieces.push_back({0, pieces.text.size(), at_start});
  for (const PreTokenizerStep& step : steps_) std::visit(Apply{pieces}, step);
  return pieces;
}

void append_byte_character(unsigned char byte, std::string& out) {
  out += byte_alphabet().characters[byte];
}

int byte_of_character(char32_t code_point) noexcept {
  const auto& bytes = byte_alphabet().bytes;
  return code_point < bytes.size() ? bytes[code_point] : -1;
}

}  // namespace deltacome
