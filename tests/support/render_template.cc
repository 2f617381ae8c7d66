// SPDX-License-Identifier: Apache-2.0
// Renders chat templates for tests: reads JSON lines {"template": ..., "context": {...}}, writes
// {"ok": text} or {"error": message, "code": number} for each.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "deltacome/error.h"
#include "text/chat_template.h"

int main() {
  using nlohmann::ordered_json;
  std::string line;
  while (std::getline(std::cin, line)) {
    ordered_json answer;
    try {
      const ordered_json request = ordered_json::parse(line);
      const auto compiled =
          deltacome::ChatTemplate::parse(request.at("template").get<std::string>());
      answer["ok"] = compiled.render_json(request.at("context").dump());
    } catch (const deltacome::Error& e) {
      answer["error"] = e.what();
      answer["code"] = static_cast<int>(e.code());
    }
    std::cout << answer.dump() << '\n' << std::flush;
  }
  return 0;
}
