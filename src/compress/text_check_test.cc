// SPDX-License-Identifier: Apache-2.0
#include "compress/text_check.h"

#include <gtest/gtest.h>

#include "io/safetensors.h"

namespace deltacome {
namespace {

TEST(TextCheck, NotesTextThatTheFineTunePredictsNoBetter) {
  EXPECT_EQ(generic_text_note({1.0, 2.0, 4096}), "");
  EXPECT_EQ(generic_text_note({}), "");  // nothing was measured
  const std::string note = generic_text_note({3.25, 3.125, 4096});
  EXPECT_NE(note.find("3.250 and 3.125"), std::string::npos) << note;
  EXPECT_NE(note.find("--calib"), std::string::npos) << note;
  EXPECT_NE(generic_text_note({3.0, 3.0, 4096}), "");
}

TEST(TextCheck, LeavesOutWhatTheBaseLacksAndMeasuresLittle) {
  const std::filesystem::path models = DELTACOME_SOURCE_DIR "/tests/data/models";
  const auto backend = create_cpu_backend(2);
  const auto stream = backend->create_stream();
  const Checkpoint base = Checkpoint::open(models / "tiny-base");
  const Checkpoint finetuned = Checkpoint::open(models / "tiny-math");
  const Model a(*backend, base, read_model_config(models / "tiny-base"));
  const Model b(*backend, finetuned, read_model_config(models / "tiny-math"));
  const auto n = static_cast<TokenId>(a.config().vocab_size);
  const std::vector<std::vector<TokenId>> unknown{{1, n, 5}, {1}};
  EXPECT_EQ(measure_text(a, b, *stream, unknown).tokens, 0);
  const std::vector<std::vector<TokenId>> mixed{{1, n, 5}, {1, 7, 8, 9}};
  EXPECT_EQ(measure_text(a, b, *stream, mixed).tokens, 3);
  const std::vector<std::vector<TokenId>> much(40, std::vector<TokenId>(512, 9));
  EXPECT_EQ(measure_text(a, b, *stream, much).tokens, 8 * 511);
}

}  // namespace
}  // namespace deltacome
