// SPDX-License-Identifier: Apache-2.0
#include "compress/calibration.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "deltacome/error.h"
#include "io/files.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

class CalibrationTest : public testing::Test {
 protected:
  std::filesystem::path write(const std::string& name, const std::string& text) {
    write_file_atomically(directory_.path() / name, text);
    return directory_.path() / name;
  }
  test::TempDir directory_;
  Tokenizer tokenizer_ = Tokenizer::load(DELTACOME_SOURCE_DIR "/tests/data/models/tiny-base");
};

TEST_F(CalibrationTest, HalfOfTheRowsAreAloneSharesAreEqualAndTheSeedDecides) {
  std::string rows;
  for (int i = 0; i < 300; ++i)
    rows += "{\"text\": \"row " + std::to_string(i) + " of the first file\"}\n";
  const auto first = write("a.jsonl", rows);
  const auto second = write("b.txt", std::string(20000, 'x') + "\n\n" + std::string(9000, 'y'));
  const auto sequences = calibration_sequences({first, second}, tokenizer_, 1, 2, 4096, 5);
  ASSERT_FALSE(sequences.empty());
  int64_t from_first = 0, total = 0, alone = 0;
  for (const auto& sequence : sequences) {
    const auto n = static_cast<int64_t>(sequence.size());
    EXPECT_LE(n, kCalibrationLength);
    // Half of the tokens are rows of their own; the first file's are short.
    if (std::ranges::count(sequence, 1) == 1 && sequence.front() == 1) alone += n;
    total += n;
    from_first += tokenizer_.decode(sequence, true).find("row") != std::string::npos ? n : 0;
  }
  EXPECT_EQ(total, 4096);
  EXPECT_EQ(from_first, 2048);
  EXPECT_GE(alone, 1024);
  EXPECT_LT(alone, 4096);
  EXPECT_EQ(sequences, calibration_sequences({first, second}, tokenizer_, 1, 2, 4096, 5));
  EXPECT_NE(sequences, calibration_sequences({first, second}, tokenizer_, 1, 2, 4096, 6));
}

TEST_F(CalibrationTest, ALongRowIsCutIntoPieces) {
  const auto file = write("long.txt", std::string(4000, 'x') + " y");
  const auto sequences = calibration_sequences({file}, tokenizer_, 1, 2, 8192, 0);
  ASSERT_GT(sequences.size(), 1u);
  for (size_t i = 0; i + 1 < sequences.size(); ++i)
    EXPECT_EQ(static_cast<int64_t>(sequences[i].size()), kCalibrationLength);
  EXPECT_EQ(sequences.front().front(), 1);
  EXPECT_EQ(sequences.back().back(), 2);
}

TEST_F(CalibrationTest, AShortFileGivesOneShortSequence) {
  const auto file = write("short.jsonl", "{\"text\": \"few words\"}\n");
  const auto sequences = calibration_sequences({file}, tokenizer_, 1, 2, 4096, 0);
  ASSERT_EQ(sequences.size(), 1u);
  EXPECT_EQ(sequences[0].front(), 1);
  EXPECT_EQ(sequences[0].back(), 2);
  EXPECT_LT(static_cast<int64_t>(sequences[0].size()), kCalibrationLength);
}

TEST_F(CalibrationTest, AMalformedRowIsNamedByLine) {
  const auto file = write("bad.jsonl", "{\"text\": \"fine\"}\n\n{\"txt\": 1}\n");
  try {
    calibration_sequences({file}, tokenizer_, 1, 2, 64, 0);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("bad.jsonl:3: the row has no string \"text\""),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace deltacome
