// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <ctime>

#include "text/jinja_builtins.h"

namespace deltacome::jinja {

Value make_range(const Args& args) {
  if (!args.named.empty()) fault("range() takes no named arguments");
  if (args.plain.empty() || args.plain.size() > 3) fault("range() takes 1 to 3 arguments");
  static constexpr int64_t kMaxRange = 100'000;  // jinja2.sandbox.MAX_RANGE
  int64_t bounds[3] = {0, 0, 1};
  for (size_t i = 0; i < args.plain.size(); ++i) {
    const Value& v = args.plain[i];
    if (!v.is_integral()) fault(fmt::format("range() needs integers, not '{}'", type_name(v)));
    bounds[args.plain.size() == 1 ? 1 : i] = v.as_int();
  }
  const auto [begin, end, step] = bounds;
  if (step == 0) fault("range() needs a step that is not zero");
  std::vector<Value> items;
  __int128 at = begin;  // the sum may pass the end of 64 bits
  for (; step > 0 ? at < end : at > end; at += step) {
    if (static_cast<int64_t>(items.size()) == kMaxRange) {
      fault(fmt::format("range() is longer than {}", kMaxRange));
    }
    items.emplace_back(static_cast<int64_t>(at));
  }
  return make_list(std::move(items), SeqKind::kRange);
}

std::string local_time(const std::string& format) {
  if (format.empty()) return "";
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  localtime_r(&now, &parts);
  char buffer[1024];
  return {buffer, std::strftime(buffer, sizeof(buffer), format.c_str(), &parts)};
}

}  // namespace deltacome::jinja
