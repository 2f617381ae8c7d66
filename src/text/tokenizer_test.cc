// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "deltacome/error.h"

namespace deltacome {
namespace {

using Ids = std::vector<TokenId>;

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

/// Llama-2's shape: "▁" for a space, byte fallback, BOS.
const std::string kSentencePiece = R"json({
  "added_tokens": [
    {"id": 0, "content": "<unk>", "special": true, "normalized": false},
    {"id": 1, "content": "<s>", "special": true, "normalized": false},
    {"id": 2, "content": "</s>", "special": true, "normalized": false}],
  "normalizer": {"type": "Sequence", "normalizers": [
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
  "pre_tokenizer": null,
  "post_processor": {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
  "decoder": {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
  "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
    "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "<0xC3>": 3, "<0xA9>": 4, "<0xFF>": 5,
              "▁": 6, "a": 7, "b": 8, "▁a": 9, "ab": 10, "▁ab": 11, "aa": 12},
    "merges": [["▁", "a"], ["a", "b"], ["▁a", "b"], ["a", "a"]]}})json";

/// Qwen2's shape in small: a pattern, bytes as characters, ids far apart.
const std::string kByteLevel = R"json({
  "added_tokens": [
    {"id": 2147483647, "content": "<|end|>", "special": true},
    {"id": 100, "content": "<|mask|>", "special": false, "lstrip": true, "rstrip": true,
     "normalized": false}],
  "normalizer": {"type": "NFC"},
  "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex": "(?i:'s)|\\p{N}{1,3}| ?\\p{L}+|\\s+"},
     "behavior": "Isolated", "invert": false},
    {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
  "post_processor": {"type": "ByteLevel"},
  "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE", "ignore_merges": true,
    "vocab": {"a": 0, "b": 1, "Ġ": 2, "Ã": 3, "©": 4, "ab": 5, "Ġab": 6, "1": 7, "'": 8, "S": 9,
              "'S": 10, "11": 11, "ð": 12, "Ł": 13, "ĺ": 14, "Ģ": 15},
    "merges": ["a b", "Ġ ab"]}})json";

Tokenizer sentence_piece() {
  return Tokenizer::parse(kSentencePiece, "sp");
}
Tokenizer byte_level() {
  return Tokenizer::parse(kByteLevel, "bl");
}

std::string stream(const Tokenizer& tokenizer, const Ids& ids, bool skip) {
  StreamDecoder decoder(tokenizer, skip);
  std::string text;
  for (const TokenId id : ids) text += decoder.push(id);
  return text + decoder.finish();
}

void expect_error(const std::string& json, ErrorCode code, const std::string& part) {
  try {
    Tokenizer::parse(json, "bad.json");
    FAIL() << "no error, expected one with: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    EXPECT_EQ(std::string(error.what()).rfind("bad.json: ", 0), 0u) << error.what();
  }
}

TEST(SentencePieceBpe, MergesByRankAndPrependsSpace) {
  EXPECT_EQ(sentence_piece().encode("ab aab", false), (Ids{11, 9, 10}));
  EXPECT_EQ(sentence_piece().encode("ab", true), (Ids{1, 11}));
  EXPECT_EQ(sentence_piece().encode("", true), (Ids{1}));
  EXPECT_EQ(sentence_piece().encode("", false), Ids{});
}

TEST(SentencePieceBpe, FallsBackToBytesThenToOneUnknown) {
  EXPECT_EQ(sentence_piece().encode("a\xC3\xA9", false), (Ids{9, 3, 4}));
  EXPECT_EQ(sentence_piece().encode("xyzb", false), (Ids{6, 0, 8}));
  const auto unfused =
      Tokenizer::parse(replaced(kSentencePiece, "\"fuse_unk\": true", "\"fuse_unk\": false"), "sp");
  EXPECT_EQ(unfused.encode("xyb", false), (Ids{6, 0, 0, 8}));
}

TEST(SentencePieceBpe, FindsSpecialTokensInText) {
  EXPECT_EQ(sentence_piece().encode("a</s>a<s>", false), (Ids{9, 2, 9, 1}));
}

TEST(SentencePieceBpe, DecodesAndStripsFirstSpace) {
  EXPECT_EQ(sentence_piece().decode({1, 11, 9, 2}, true), "ab a");
  EXPECT_EQ(sentence_piece().decode({1, 11, 9, 2}, false), "<s> ab a</s>");
  EXPECT_EQ(sentence_piece().decode({3, 4, 5, 7}, false), "\uFFFD\uFFFD\uFFFDa");
  EXPECT_EQ(sentence_piece().decode({7, 3, 4, 7}, false), "aéa");
}

TEST(SentencePieceBpe, LongWordTakesWorkLinearInItsLength) {
  // One word of 400,000 characters; a quadratic merge would not end within the test's time.
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += "aab ";
  const Ids ids = sentence_piece().encode(text, false);
  EXPECT_EQ(ids.size(), 200'001u);
  EXPECT_EQ(sentence_piece().decode(ids, false), text);
}

TEST(ByteLevelBpe, SplitsByPatternAndSpellsBytes) {
  EXPECT_EQ(byte_level().encode("ab ab", false), (Ids{5, 6}));
  EXPECT_EQ(byte_level().encode("ab'S", false), (Ids{5, 10}));
  EXPECT_EQ(byte_level().encode("1111", false), (Ids{7, 7, 7, 7}));
  EXPECT_EQ(byte_level().encode("11", false), (Ids{11}));  // by ignore_merges
  EXPECT_EQ(byte_level().encode("e\xCC\x81", false), (Ids{3, 4}));
}

TEST(ByteLevelBpe, AddedTokensTakeSpaceAround) {
  EXPECT_EQ(byte_level().encode("ab  <|mask|> \nab<|end|>", false), (Ids{5, 100, 5, 2147483647}));
}

TEST(ByteLevelBpe, AnswersAboutItsVocabulary) {
  const Tokenizer tokenizer = byte_level();
  EXPECT_EQ(tokenizer.vocab_size(), int64_t{1} << 31);
  EXPECT_EQ(tokenizer.id_of("Ġab"), 6);
  EXPECT_EQ(tokenizer.id_of("<|end|>"), 2147483647);
  EXPECT_EQ(tokenizer.id_of("nothing"), std::nullopt);
  EXPECT_EQ(tokenizer.token_of(100), "<|mask|>");
  EXPECT_EQ(tokenizer.token_of(-1), "");
  EXPECT_TRUE(tokenizer.is_special(2147483647));
  EXPECT_FALSE(tokenizer.is_special(100));
  EXPECT_FALSE(tokenizer.is_special(0));
}

TEST(Decode, SkipsUnknownIds) {
  EXPECT_EQ(byte_level().decode({5, 77, -5, 6}, false), "ab ab");
}

TEST(Encode, ReadsInvalidUtf8AsReplacementCharacters) {
  const Tokenizer tokenizer = byte_level();
  const auto same = [&](const std::string& bytes, const std::string& text) {
    EXPECT_EQ(tokenizer.encode(bytes, false), tokenizer.encode(text, false)) << text;
  };
  same("a\xFF\xFE", "a\uFFFD\uFFFD");
  same("a\xE2\x82", "a\uFFFD");
  same("\xE2\x82 a", "\uFFFD a");
  same("\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD");
  same("\xF0\x9F\x98\x80", "\U0001F600");
}

TEST(TokenBytes, AreWhatTokensAddToAText) {
  using Bytes = std::vector<std::optional<std::string>>;
  const Tokenizer sp = sentence_piece();
  EXPECT_TRUE(sp.drops_first_space());
  EXPECT_EQ(sp.token_bytes(), (Bytes{std::nullopt, std::nullopt, std::nullopt, "\xC3", "\xA9",
                                     "\xFF", " ", "a", "b", " a", "ab", " ab", "aa"}));
  const Tokenizer bl = byte_level();
  EXPECT_FALSE(bl.drops_first_space());
  const Bytes bytes = bl.token_bytes();
  ASSERT_EQ(bytes.size(), size_t{1} << 22);  // its last id is 2^31 - 1
  EXPECT_EQ(bytes[3], "\xC3");
  EXPECT_EQ(bytes[6], " ab");
  EXPECT_EQ(bytes[15], "\x80");
  EXPECT_EQ(bytes[16], std::nullopt);
  EXPECT_EQ(bytes[100], "<|mask|>");  // added, but not special
  const auto refused = [](const std::string& json) {
    const Tokenizer tokenizer = Tokenizer::parse(json, "t");
    EXPECT_THROW(tokenizer.token_bytes(), Error);
    EXPECT_THROW(tokenizer.drops_first_space(), Error);
  };
  refused(replaced(kSentencePiece, R"("start": 1, "stop": 0)", R"("start": 2, "stop": 0)"));
  refused(replaced(kSentencePiece, R"({"type": "Fuse"},)", ""));
  refused(replaced(kByteLevel, R"("decoder": {"type": "ByteLevel"})", R"("decoder": null)"));
}

TEST(StreamDecoder, NeverGivesPartOfACharacter) {
  const Tokenizer tokenizer = byte_level();
  StreamDecoder decoder(tokenizer, false);
  EXPECT_EQ(decoder.push(5), "ab");
  EXPECT_EQ(decoder.push(12), "");
  EXPECT_EQ(decoder.push(13), "");
  EXPECT_EQ(decoder.push(14), "");
  EXPECT_EQ(decoder.push(15), "\U0001F600");
  EXPECT_EQ(decoder.push(3), "");
  EXPECT_EQ(decoder.push(3), "\uFFFD");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
  EXPECT_EQ(decoder.push(5), "ab");  // a new sequence
}

TEST(StreamDecoder, HoldsARunOfByteTokens) {
  const Tokenizer tokenizer = sentence_piece();
  StreamDecoder decoder(tokenizer, true);
  EXPECT_EQ(decoder.push(9), "a");  // the first space is stripped
  EXPECT_EQ(decoder.push(9), " a");
  EXPECT_EQ(decoder.push(3), "");
  EXPECT_EQ(decoder.push(4), "");  // a bad byte may follow and spoil the run
  EXPECT_EQ(decoder.push(7), "éa");
  EXPECT_EQ(decoder.push(3), "");
  EXPECT_EQ(decoder.push(5), "\uFFFD\uFFFD");
  EXPECT_EQ(decoder.push(4), "\uFFFD");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(StreamDecoder, EqualsDecodeOnAllShortSequences) {
  for (const Tokenizer& tokenizer : {sentence_piece(), byte_level()}) {
    for (TokenId code = 0; code < 14 * 14 * 14; ++code) {
      const Ids ids{code % 14, code / 14 % 14, code / 196};
      for (const bool skip : {false, true}) {
        ASSERT_EQ(stream(tokenizer, ids, skip), tokenizer.decode(ids, skip)) << code;
      }
    }
  }
}

TEST(TokenizerJson, OlderFormsMeanTheSame) {
  const auto old = Tokenizer::parse(
      replaced(replaced(kSentencePiece, R"([["▁", "a"], ["a", "b"], ["▁a", "b"], ["a", "a"]])",
                        R"(["#version: 0.2", "▁ a", "a b", "▁a b", "a a"])"),
               R"("type": "BPE", )", ""),
      "old");
  EXPECT_EQ(old.encode("ab aab", false), (Ids{11, 9, 10}));
}

TEST(TokenizerJson, NamesWhatIsNotSupported) {
  const auto with = [](const std::string& from, const std::string& to) {
    return replaced(kByteLevel, from, to);
  };
  using enum ErrorCode;
  expect_error(with(R"("type": "BPE")", R"("type": "Unigram")"), kUnsupported,
               "model type \"Unigram\" is not supported; supported are BPE");
  expect_error(
      with(R"({"type": "NFC"})", R"({"type": "BertNormalizer"})"), kUnsupported,
      "normalizer type \"BertNormalizer\" is not supported; supported are Sequence, Prepend");
  expect_error(with(R"("type": "Split")", R"("type": "UnicodeScripts")"), kUnsupported,
               "pre_tokenizer.pretokenizers[0] type \"UnicodeScripts\"");
  expect_error(with(R"("post_processor": {"type": "ByteLevel"})",
                    R"("post_processor": {"type": "BertProcessing"})"),
               kUnsupported, "post_processor type \"BertProcessing\"");
  expect_error(with(R"("decoder": {"type": "ByteLevel"})", R"("decoder": {"type": "CTC"})"),
               kUnsupported, "decoder type \"CTC\"");
  expect_error(with(R"("Isolated")", R"("Sideways")"), kUnsupported, "Sideways");
  expect_error(with(R"("ignore_merges": true)", R"("end_of_word_suffix": "</w>")"), kUnsupported,
               "end_of_word_suffix \"</w>\"");
  expect_error(with(R"("ignore_merges": true)", R"("dropout": 0.1)"), kUnsupported, "dropout 0.1");
  expect_error(with(R"((?i:'s)|)", R"([a&&b]|)"), kUnsupported, "&&");
  expect_error(with(R"((?i:'s)|)", R"((|)"), kUnsupported, "regular expression");
}

TEST(TokenizerJson, NamesWhatIsCorrupt) {
  const auto with = [](const std::string& from, const std::string& to) {
    return replaced(kByteLevel, from, to);
  };
  using enum ErrorCode;
  expect_error("", kCorrupt, "not a JSON document");
  expect_error("{", kCorrupt, "not a JSON document");
  expect_error("[]", kCorrupt, "the file must be an object, got array");
  expect_error("{}", kCorrupt, "the file has no \"model\"");
  expect_error(std::string(100'000, '['), kCorrupt, "nested deeper than 64 levels");
  expect_error(with(R"("a": 0)", R"("a": 2147483648)"), kCorrupt, "from 0 to 2147483647");
  expect_error(with(R"("a": 0)", R"("a": -1)"), kCorrupt, "the id of \"a\" in model.vocab");
  expect_error(with(R"("a": 0)", R"("a": "0")"), kCorrupt, "got string");
  expect_error(with(R"("a": 0)", R"("a": 1)"), kCorrupt,
               "tokens \"a\" and \"b\" have the same id 1");
  expect_error(with(R"("a b")", R"("a c")"), kCorrupt, "\"c\" is not in the vocabulary");
  expect_error(with(R"("a b")", R"("b a")"), kCorrupt, "\"ba\" is not in the vocabulary");
  expect_error(with(R"("a b")", R"("ab")"), kCorrupt, "model.merges[0] must have one space");
  expect_error(with(R"("a b")", R"(["a", 1])"), kCorrupt, "model.merges[0] must be two strings");
  expect_error(with(R"("ignore_merges": true)", R"("unk_token": "?")"), kCorrupt,
               "unk_token \"?\"");
  expect_error(with(R"("ignore_merges": true)", R"("ignore_merges": 1)"), kCorrupt,
               "model.ignore_merges must be true or false, got number");
  expect_error(with(R"("id": 100)", R"("id": 5)"), kCorrupt, "has id 5, which is \"ab\"");
  expect_error(with(R"("id": 100)", R"("id": 2147483647)"), kCorrupt, "added_tokens: tokens");
  expect_error(with(R"("<|mask|>")", R"("ab")"), kCorrupt, "has id 100, but 5 in model.vocab");
  expect_error(with(R"("Regex")", R"("Regexp")"), kCorrupt, "has no \"String\"");
}

TEST(TokenizerJson, PatternThatBacktracksTooMuchFails) {
  const auto hostile =
      Tokenizer::parse(replaced(kByteLevel, R"((?i:'s)|)", R"((?:a|a|aa)+$!|)"), "h");
  try {
    hostile.encode(std::string(5000, 'a') + "b", false);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument) << error.what();
  }
}

TEST(TokenizerLoad, MissingFileIsNotFound) {
  try {
    Tokenizer::load("/nonexistent");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  }
}

}  // namespace
}  // namespace deltacome
