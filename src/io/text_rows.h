// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace deltacome {

/// One document of a calibration file.
struct TextRow {
  std::string text;
  std::optional<std::string> image = {};  // a data URI, or a path from the file's directory
  size_t prompt_bytes = 0;                // of text, if the row is a prompt and its response
  bool operator==(const TextRow&) const = default;
};

/// Documents of a calibration file: the "text" of each row of a .jsonl file (or prompt + response)
/// with its "image"; of any other file, pieces of at least 4,000 bytes that end at a blank line.
/// Throws kNotFound, and kCorrupt naming file and line.
std::vector<TextRow> read_text_rows(const std::filesystem::path& path);

/// One row of an evaluation file.
struct EvalRow {
  std::string prompt;
  std::string response;
  std::optional<std::string> answer;
  std::optional<std::string> image;  // a data URI, or a path from the file's directory
  std::string json;                  // the whole row as it stands in the file
};

/// Rows {prompt, response, answer?, image?} of a .jsonl file, the first `limit` of them (0 = all).
/// Throws as above.
std::vector<EvalRow> read_eval_rows(const std::filesystem::path& path, int64_t limit = 0);

/// One line of a generations file: the row with "completion" added, as JSON, without a newline.
std::string with_completion(const EvalRow& row, const std::string& completion);

}  // namespace deltacome
