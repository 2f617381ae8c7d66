// SPDX-License-Identifier: Apache-2.0
#include "text/decoder.h"

#include <gtest/gtest.h>

namespace deltacome {
namespace {

std::string decode(const std::vector<DecoderStep>& steps, const std::vector<std::string>& tokens) {
  DecodePipeline pipeline(steps);
  for (const std::string& token : tokens) pipeline.push(token);
  pipeline.finish();
  return pipeline.take();
}

// Expected values were computed with `tokenizers` 0.23.3.
TEST(Decoder, EachStep) {
  EXPECT_EQ(decode({}, {"a", "b"}), "ab");
  EXPECT_EQ(decode({JoinDecoder{}}, {"a", "b", ""}), "a b ");
  EXPECT_EQ(decode({StripDecoder{" ", 1, 0}}, {"  a", " b"}), " ab");
  EXPECT_EQ(decode({StripDecoder{"H", 1, 1}}, {"Hey HH", "HAH"}), "ey HA");
  EXPECT_EQ(decode({MetaspaceDecoder{"▁", true}}, {"▁Hey", "▁friend"}), "Hey friend");
  EXPECT_EQ(decode({MetaspaceDecoder{"▁", false}}, {"▁Hey", "▁friend"}), " Hey friend");
  EXPECT_EQ(decode({ByteFallbackDecoder{}}, {"<0xE5>", "<0x8f>", "<0xab>", "a"}), "\u53EBa");
  EXPECT_EQ(decode({ByteFallbackDecoder{}}, {"<0xE5>", "<0x8f>", "a"}), "\uFFFD\uFFFDa");
  EXPECT_EQ(decode({ByteFallbackDecoder{}}, {"<0x61>", "<0xzz>", "<0x6>"}), "a<0xzz><0x6>");
  EXPECT_EQ(decode({ByteLevelDecoder{}}, {"ĠÃ", "©", "世"}), " é世");
}

TEST(Decoder, ReplaceAfterFuseSeesAcrossTokens) {
  const ReplaceDecoder literal{Pattern::literal("aab"), "X"};
  EXPECT_EQ(decode({FuseDecoder{}, literal}, {"a", "a", "a", "b", "aa"}), "aXaa");
  EXPECT_EQ(decode({literal}, {"a", "ab", "aab"}), "aabX");
  const ReplaceDecoder regex{Pattern::regex("a+b"), "X"};
  EXPECT_EQ(decode({FuseDecoder{}, regex}, {"a", "a", "a", "b", "aa"}), "Xaa");
}

TEST(Decoder, StripAtTheEndWaits) {
  DecodePipeline pipeline({});
  const std::vector<DecoderStep> steps{FuseDecoder{}, StripDecoder{" ", 0, 1}};
  pipeline = DecodePipeline(steps);
  pipeline.push("a ");
  EXPECT_EQ(pipeline.take(), "a");
  pipeline.push("  b ");
  EXPECT_EQ(pipeline.take(), "   b");
  pipeline.finish();
  EXPECT_EQ(pipeline.take(), "");
}

}  // namespace
}  // namespace deltacome
