// SPDX-License-Identifier: Apache-2.0
#include "io/text_rows.h"

#include <functional>

#include "core/check.h"
#include "io/files.h"
#include "io/json.h"

namespace deltacome {
namespace {

using nlohmann::json;

constexpr size_t kMaxBytes = size_t{4} << 30;
constexpr size_t kPieceBytes = 4000;

/// Calls body(line, "file:number") for every line that is not blank, until it returns false.
void for_each_line(const std::filesystem::path& path,
                   const std::function<bool(std::string_view, const std::string&)>& body) {
  const std::string contents = read_text_file(path, kMaxBytes);
  std::string_view rest = contents;
  for (int64_t number = 1; !rest.empty(); ++number) {
    const size_t end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    if (!body(line, fmt::format("{}:{}", path.string(), number))) return;
  }
}

std::string text_field(const json& row, const char* name, const std::string& where) {
  const auto it = row.find(name);
  if (it == row.end() || !it->is_string()) {
    fail(ErrorCode::kCorrupt, "{}: the row has no string \"{}\"", where, name);
  }
  return it->get<std::string>();
}

std::optional<std::string> image_field(const json& row, const std::string& where) {
  const auto it = row.find("image");
  if (it == row.end() || it->is_null()) return std::nullopt;
  return text_field(row, "image", where);
}

std::vector<TextRow> split_plain_text(const std::string& contents) {
  std::vector<TextRow> pieces;
  size_t begin = 0;
  while (begin < contents.size()) {
    size_t end = contents.find("\n\n", std::min(begin + kPieceBytes, contents.size()));
    end = end == std::string::npos ? contents.size() : end + 2;
    pieces.push_back({contents.substr(begin, end - begin)});
    begin = end;
  }
  return pieces;
}

}  // namespace

std::vector<TextRow> read_text_rows(const std::filesystem::path& path) {
  std::vector<TextRow> rows;
  if (path.extension() == ".jsonl") {
    for_each_line(path, [&](std::string_view line, const std::string& where) {
      const json row = parse_json_object(line, where);
      const bool pair = !row.contains("text") && row.contains("prompt");
      TextRow out{text_field(row, pair ? "prompt" : "text", where), image_field(row, where)};
      if (pair) {
        out.prompt_bytes = out.text.size();
        out.text += text_field(row, "response", where);
      }
      rows.push_back(std::move(out));
      return true;
    });
  } else {
    rows = split_plain_text(read_text_file(path, kMaxBytes));
  }
  if (rows.empty()) fail(ErrorCode::kCorrupt, "{}: the file holds no text", path.string());
  return rows;
}

std::vector<EvalRow> read_eval_rows(const std::filesystem::path& path, int64_t limit) {
  std::vector<EvalRow> rows;
  for_each_line(path, [&](std::string_view line, const std::string& where) {
    const json row = parse_json_object(line, where);
    EvalRow out{text_field(row, "prompt", where), text_field(row, "response", where), std::nullopt,
                image_field(row, where), std::string(line)};
    if (const auto it = row.find("answer"); it != row.end() && !it->is_null()) {
      out.answer = it->is_string() ? it->get<std::string>() : it->dump();
    }
    rows.push_back(std::move(out));
    return limit == 0 || static_cast<int64_t>(rows.size()) < limit;
  });
  if (rows.empty()) fail(ErrorCode::kCorrupt, "{}: the file holds no rows", path.string());
  return rows;
}

std::string with_completion(const EvalRow& row, const std::string& completion) {
  json out = json::parse(row.json);
  out["completion"] = completion;
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace deltacome
