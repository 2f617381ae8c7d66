// SPDX-License-Identifier: Apache-2.0
#include "io/text_rows.h"

#include <gtest/gtest.h>

#include "deltacome/error.h"
#include "io/files.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

TEST(TextRows, ReadsJsonLinesAndPiecesOfPlainText) {
  const test::TempDir directory;
  write_file_atomically(directory / "a.jsonl",
                        "{\"text\": \"one\"}\r\n\n{\"text\": \"two\\n\", \"more\": [1]}");
  EXPECT_EQ(read_text_rows(directory / "a.jsonl"), (std::vector<TextRow>{{"one"}, {"two\n"}}));
  write_file_atomically(directory / "pairs.jsonl",
                        "{\"prompt\": \"2 + 2 = \", \"response\": \"4\"}\n");
  EXPECT_EQ(read_text_rows(directory / "pairs.jsonl"),
            (std::vector<TextRow>{{"2 + 2 = 4", {}, 8}}));
  write_file_atomically(directory / "pictures.jsonl",
                        "{\"text\": \"a\", \"image\": \"a.png\"}\n{\"text\": \"b\", "
                        "\"image\": null}\n");
  EXPECT_EQ(read_text_rows(directory / "pictures.jsonl"),
            (std::vector<TextRow>{{"a", "a.png"}, {"b"}}));
  write_file_atomically(directory / "number.jsonl", "{\"text\": \"a\", \"image\": 1}\n");
  EXPECT_THROW(read_text_rows(directory / "number.jsonl"), Error);
  const std::string paragraph = std::string(3000, 'x') + "\n\n";
  write_file_atomically(directory / "b.txt", paragraph + paragraph + paragraph);
  const std::vector<TextRow> pieces = read_text_rows(directory / "b.txt");
  ASSERT_EQ(pieces.size(), 2u);
  EXPECT_EQ(pieces[0].text + pieces[1].text, paragraph + paragraph + paragraph);
  write_file_atomically(directory / "empty.txt", "");
  EXPECT_THROW(read_text_rows(directory / "empty.txt"), Error);
  EXPECT_THROW(read_text_rows(directory / "none.txt"), Error);
}

TEST(TextRows, EvalRowsKeepAnswersAndTheirOwnJson) {
  const test::TempDir directory;
  write_file_atomically(
      directory / "e.jsonl",
      "{\"prompt\": \"p\", \"response\": \"r\", \"answer\": 5, \"image\": \"i\"}\n{\"prompt\": "
      "\"q\", \"response\": \"s\"}\n");
  const std::vector<EvalRow> rows = read_eval_rows(directory / "e.jsonl");
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].answer, "5");
  EXPECT_EQ(rows[0].image, "i");
  EXPECT_FALSE(rows[1].answer.has_value());
  EXPECT_FALSE(rows[1].image.has_value());
  EXPECT_EQ(read_eval_rows(directory / "e.jsonl", 1).size(), 1u);
  EXPECT_EQ(with_completion(rows[1], "c\n"),
            "{\"completion\":\"c\\n\",\"prompt\":\"q\",\"response\":\"s\"}");
  write_file_atomically(directory / "bad.jsonl", "{\"prompt\": \"p\"}\n");
  EXPECT_THROW(read_eval_rows(directory / "bad.jsonl"), Error);
}

}  // namespace
}  // namespace deltacome
