// SPDX-License-Identifier: Apache-2.0
// Parses the input as a chat template and renders it: only deltacome::Error may escape.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "deltacome/error.h"
#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static constexpr std::string_view kContext =
      R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Grüße 🌍 "},
          {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f",
           "arguments": {"a": 1, "b": [1.5, true, null]}}}]}],
          "tools": [{"x": {"y": []}}], "add_generation_prompt": true, "s": "a b\nc", "n": 3,
          "l": [3, 1, 2], "d": {"k": "v"}})";
  try {
    const auto compiled = deltacome::ChatTemplate::parse(
        std::string_view(reinterpret_cast<const char*>(data), size), {{"bos_token", "<s>"}});
    static_cast<void>(compiled.render_json(kContext));
  } catch (const deltacome::Error&) {
  }
  return 0;
}
