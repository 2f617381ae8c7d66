// SPDX-License-Identifier: Apache-2.0
#include "io/json.h"

#include <set>
#include <vector>

#include "core/check.h"

namespace deltacome {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;           // Hugging Face files nest 4 deep
constexpr size_t kMaxQuotedBytes = 96;  // longer than any tensor name of a known model

/// Rejects what nlohmann::json would let pass: repeated names and deep nesting.
class StrictNames {
 public:
  explicit StrictNames(const std::string& where) : where_(where) {}

  bool operator()(int depth, json::parse_event_t event, json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
        check_depth(depth);
        names_.emplace_back();
        break;
      case json::parse_event_t::array_start:
        check_depth(depth);
        break;
      case json::parse_event_t::key: {
        const auto& name = parsed.get_ref<const std::string&>();
        if (!names_.back().insert(name).second) {
          fail(ErrorCode::kCorrupt, "{}: {} occurs twice in one JSON object", where_, quote(name));
        }
        break;
      }
      case json::parse_event_t::object_end:
        names_.pop_back();
        break;
      case json::parse_event_t::array_end:
      case json::parse_event_t::value:
        break;
    }
    return true;
  }

 private:
  void check_depth(int depth) const {
    if (depth >= kMaxDepth) {
      fail(ErrorCode::kCorrupt, "{}: JSON nested more than {} deep", where_, kMaxDepth);
    }
  }

  const std::string& where_;
  std::vector<std::set<std::string>> names_;
};

}  // namespace

json parse_json_object(std::string_view text, const std::string& where) {
  // The parser takes a zero byte for the end of the text and would ignore what follows.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    fail(ErrorCode::kCorrupt, "{}: not valid JSON: a zero byte at offset {}", where, zero);
  }
  try {
    StrictNames strict(where);
    json value = json::parse(text.begin(), text.end(), std::ref(strict));
    if (!value.is_object()) {
      fail(ErrorCode::kCorrupt, "{}: got JSON {}, expected an object", where, value.type_name());
    }
    return value;
  } catch (const json::parse_error& error) {
    fail(ErrorCode::kCorrupt, "{}: not valid JSON at byte {}", where, error.byte);
  } catch (const json::exception&) {  // a number beyond the range of double
    fail(ErrorCode::kCorrupt, "{}: not valid JSON: a number is out of range", where);
  }
}

std::string quote(std::string_view text) {
  const bool cut = text.size() > kMaxQuotedBytes;
  // ASCII only, so that neither control characters nor a sequence that the cut broke get out.
  const std::string out = json(std::string(text.substr(0, kMaxQuotedBytes)))
                              .dump(-1, ' ', true, json::error_handler_t::replace);
  return cut ? out.substr(0, out.size() - 1) + "...\"" : out;
}

std::string describe(const json& value) {
  if (value.is_object()) return "an object";
  if (value.is_string()) return quote(value.get_ref<const std::string&>());
  if (value.is_array() && value.size() > 8) return "a long array";
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  return text.size() > kMaxQuotedBytes ? "a long array" : text;
}

}  // namespace deltacome
