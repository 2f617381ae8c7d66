// SPDX-License-Identifier: Apache-2.0
#include "compress/self_text.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "compress/calibration.h"
#include "io/safetensors.h"

namespace deltacome {
namespace {

using Sequences = std::vector<std::vector<TokenId>>;

const std::filesystem::path kFinetuned = DELTACOME_SOURCE_DIR "/tests/data/models/tiny-math";

class SelfTextTest : public testing::Test {
 protected:
  Sequences write(int64_t n_tokens, uint64_t seed, int64_t vocab_limit = 0,
                  const std::optional<ChatFrame>& frame = {}) {
    return self_text_sequences(model_, *stream_,
                               {.bos = kBos,
                                .stop_ids = {kEos},
                                .frame = frame,
                                .n_tokens = n_tokens,
                                .vocab_limit = vocab_limit,
                                .seed = seed});
  }

  static constexpr TokenId kBos = 1, kEos = 2;
  std::unique_ptr<Backend> backend_ = create_cpu_backend(2);
  std::unique_ptr<Stream> stream_ = backend_->create_stream();
  Checkpoint checkpoint_ = Checkpoint::open(kFinetuned);
  Model model_{*backend_, checkpoint_, read_model_config(kFinetuned)};
  Tokenizer tokenizer_ = Tokenizer::load(kFinetuned);
};

TEST_F(SelfTextTest, SequencesAreDocuments) {
  const Sequences sequences = write(2048, 3);
  int64_t whole = 0, n_tokens = 0;
  for (const auto& sequence : sequences) {
    n_tokens += static_cast<int64_t>(sequence.size());
    EXPECT_EQ(sequence.front(), kBos);
    for (size_t i = 0; i + 1 < sequence.size(); ++i) EXPECT_NE(sequence[i], kEos) << i;
    whole += sequence.back() == kEos;
  }
  EXPECT_EQ(n_tokens, 2048);
  EXPECT_GT(whole, 4);                                           // the fine-tune has learned to end
  EXPECT_GE(whole, static_cast<int64_t>(sequences.size()) - 4);  // four are cut
}

TEST_F(SelfTextTest, TheSeedDecidesAndADocumentIsTheSameAmongMore) {
  const Sequences two = write(1024, 5), three = write(1536, 5);
  EXPECT_EQ(two, write(1024, 5));
  ASSERT_GT(three.size(), two.size());
  EXPECT_EQ(two, Sequences(three.begin(), three.begin() + static_cast<int64_t>(two.size())));
  EXPECT_NE(three.front(), three.back());
  EXPECT_NE(two[0], write(512, 6)[0]);
}

TEST_F(SelfTextTest, StopsAtTheVocabulary) {
  for (const auto& sequence : write(512, 1, 300)) {
    for (const TokenId token : sequence) {
      EXPECT_GE(token, 0);
      EXPECT_LT(token, 300);
    }
  }
}

TEST_F(SelfTextTest, FewTokensAreOneShortSequence) {
  const Sequences sequences = write(37, 0);
  ASSERT_EQ(sequences.size(), 1u);
  EXPECT_EQ(sequences[0].size(), 37u);
  EXPECT_TRUE(write(0, 0).empty());
}

TEST_F(SelfTextTest, AChatTemplateBeginsDocuments) {
  const auto frame = read_chat_frame(kFinetuned, tokenizer_, kBos);
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->before, tokenizer_.encode("### Instruction:\n", false));
  int64_t begun = 0;
  // Characters that no document begins with of its own accord.
  const ChatFrame odd{{900, 901, 902}, {}};
  for (const auto& sequence : write(2048, 2, 0, odd)) {
    const std::vector<TokenId> begin{kBos, 900, 901, 902};
    for (auto it = sequence.begin(); it != sequence.end(); ++begun) {
      it = std::search(it, sequence.end(), begin.begin(), begin.end());
      if (it == sequence.end()) break;
      ++it;
    }
  }
  EXPECT_GT(begun, 0);
}

TEST_F(SelfTextTest, AUsersTurnThatStopsIsAnswered) {
  const ChatFrame frame{{}, {kEos, 900, 901}};  // as ChatML's: the turn's end is a stop token
  int64_t turns = 0, documents = 0;
  for (const auto& sequence : write(4096, 2, 0, frame)) {
    documents += sequence.back() == kEos;
    for (size_t i = 0; i + 2 < sequence.size(); ++i) {
      if (sequence[i] != kEos) continue;
      EXPECT_EQ(sequence[i + 1], 900);
      EXPECT_EQ(sequence[i + 2], 901);
      ++turns;
    }
  }
  EXPECT_GT(turns, 0);
  EXPECT_GT(documents, turns / 2);
}

TEST_F(SelfTextTest, WithoutBosTheStopTokenBegins) {
  const Sequences sequences = self_text_sequences(
      model_, *stream_, {.stop_ids = {kEos}, .frame = {}, .n_tokens = 1024, .seed = 4});
  for (const auto& sequence : sequences) {
    EXPECT_EQ(sequence.front(), kEos);
    for (size_t i = 1; i + 1 < sequence.size(); ++i) EXPECT_NE(sequence[i], kEos) << i;
  }
}

TEST(SelfTextTokens, AreBoundedByTimeFromBelowAndByTheLimit) {
  EXPECT_EQ(self_text_tokens(1e6, 2, 65536), 65536);
  EXPECT_EQ(self_text_tokens(7e10, 2, 65536), 4096);
  EXPECT_EQ(self_text_tokens(7e10, 2, 700), 512);
  EXPECT_EQ(self_text_tokens(7e10, 2, 64), 64);
  EXPECT_GT(self_text_tokens(1e8, 2, 65536), 4096);
  EXPECT_EQ(self_text_tokens(1e8, 2, 65536) % kCalibrationLength, 0);
  EXPECT_LE(self_text_tokens(1e8, 1, 65536), self_text_tokens(1e8, 2, 65536));
}

}  // namespace
}  // namespace deltacome
