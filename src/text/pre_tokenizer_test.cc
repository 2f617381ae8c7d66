// SPDX-License-Identifier: Apache-2.0
#include "text/pre_tokenizer.h"

#include <gtest/gtest.h>

namespace deltacome {
namespace {

using Strings = std::vector<std::string>;

Strings pieces(PreTokenizerStep step, const std::string& text, bool at_start = true) {
  const PieceText out = PreTokenizer({std::move(step)}).apply(text, at_start);
  Strings strings;
  for (const Piece& piece : out.pieces) {
    strings.push_back(out.text.substr(piece.begin, piece.end - piece.begin));
  }
  return strings;
}

Strings split(SplitBehavior behavior, bool invert = false) {
  return pieces(SplitStep{Pattern::literal("-"), behavior, invert}, "the-final--countdown");
}

// The expected values are those of the documentation of `tokenizers`.
TEST(Split, EachBehavior) {
  using enum SplitBehavior;
  EXPECT_EQ(split(kRemoved), (Strings{"the", "final", "countdown"}));
  EXPECT_EQ(split(kIsolated), (Strings{"the", "-", "final", "-", "-", "countdown"}));
  EXPECT_EQ(split(kMergedWithPrevious), (Strings{"the-", "final-", "-", "countdown"}));
  EXPECT_EQ(split(kMergedWithNext), (Strings{"the", "-final", "-", "-countdown"}));
  EXPECT_EQ(split(kContiguous), (Strings{"the", "-", "final", "--", "countdown"}));
  EXPECT_EQ(split(kRemoved, true), (Strings{"-", "-", "-"}));
}

TEST(ByteLevel, SplitsByGpt2PatternAndSpellsBytes) {
  const ByteLevelStep step{false, Pattern::regex(kGpt2Pattern)};
  EXPECT_EQ(pieces(step, "I'm  é\n1"), (Strings{"I", "'m", "Ġ", "ĠÃ©", "Ċ", "1"}));
  EXPECT_EQ(pieces(ByteLevelStep{true, std::nullopt}, "a b"), (Strings{"ĠaĠb"}));
  EXPECT_EQ(pieces(ByteLevelStep{true, std::nullopt}, " a"), (Strings{"Ġa"}));
}

TEST(ByteLevel, AlphabetIsOneToOne) {
  for (int byte = 0; byte < 256; ++byte) {
    std::string character;
    append_byte_character(static_cast<unsigned char>(byte), character);
    const char32_t c =
        character.size() == 1
            ? static_cast<char32_t>(character[0])
            : static_cast<char32_t>((character[0] & 0x1F) << 6 | (character[1] & 0x3F));
    EXPECT_EQ(byte_of_character(c), byte);
  }
  EXPECT_EQ(byte_of_character(U' '), -1);
  EXPECT_EQ(byte_of_character(0x144), -1);
}

TEST(Metaspace, PrependsByItsScheme) {
  using Prepend = MetaspaceStep::Prepend;
  EXPECT_EQ(pieces(MetaspaceStep{"▁", Prepend::kAlways, true}, "a  b"), (Strings{"▁a", "▁", "▁b"}));
  EXPECT_EQ(pieces(MetaspaceStep{"▁", Prepend::kAlways, false}, " a"), (Strings{"▁a"}));
  EXPECT_EQ(pieces(MetaspaceStep{"▁", Prepend::kFirst, false}, "a", false), (Strings{"a"}));
  EXPECT_EQ(pieces(MetaspaceStep{"▁", Prepend::kFirst, false}, "a", true), (Strings{"▁a"}));
  EXPECT_EQ(pieces(MetaspaceStep{"▁", Prepend::kNever, false}, "a b"), (Strings{"a▁b"}));
}

}  // namespace
}  // namespace deltacome
