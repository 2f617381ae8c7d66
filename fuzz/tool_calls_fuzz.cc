// SPDX-License-Identifier: Apache-2.0
// The input is a model's answer. In pieces it must give what it gives at once.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "server/tool_calls.h"

namespace {

std::string shown(std::string_view text, size_t step) {
  deltacome::server::ToolCallParser parser({{.name = "f"}, {.name = "add"}}, true);
  std::string content, calls;
  const auto take = [&](const deltacome::server::ToolText& part) {
    content += part.content;
    for (const auto& call : part.calls) calls += call.name + call.arguments;
  };
  for (size_t at = 0; at < text.size(); at += step) take(parser.push(text.substr(at, step)));
  take(parser.finish());
  return content + '\0' + calls;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string whole = shown(text, size + 1);
  if (shown(text, 1) != whole || shown(text, 5) != whole) std::abort();
  return 0;
}
