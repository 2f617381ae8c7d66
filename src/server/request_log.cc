// SPDX-License-Identifier: Apache-2.0
#include "server/request_log.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "server/json_fields.h"

namespace deltacome::server {
namespace {

std::string utc_now() {
  const auto now = std::chrono::system_clock::now();
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch());
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(seconds), ms.count() % 1000);
}

/// A path of a client, on one line and not longer than a line.
std::string shown(const std::string& text) {
  std::string out;
  for (const char c : text.substr(0, 200))
    out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return out;
}

}  // namespace

std::string request_line(const RequestRecord& r, Clock::time_point now, bool json) {
  const double ms = std::chrono::duration<double, std::milli>(now - r.received).count();
  if (json) {
    Json line = {{"time", utc_now()},
                 {"event", "request"},
                 {"id", r.id},
                 {"method", r.method},
                 {"path", shown(r.path)},
                 {"status", r.status},
                 {"ms", std::round(ms * 1000) / 1000},
                 {"remote", r.remote},
                 {"tenant", r.tenant},
                 {"model", r.model},
                 {"prompt_tokens", r.prompt_tokens},
                 {"output_tokens", r.output_tokens},
                 {"client_gone", r.gone}};
    if (!r.body.empty()) line["body"] = r.body;
    return to_text(line);
  }
  std::string out = fmt::format("{} {} {} {:.1f} ms id={} from={}", r.method, shown(r.path),
                                r.status, ms, r.id, r.remote);
  if (!r.tenant.empty()) out += " tenant=" + shown(r.tenant);
  if (!r.model.empty()) out += " model=" + shown(r.model);
  if (r.prompt_tokens + r.output_tokens > 0)
    out += fmt::format(" tokens={}+{}", r.prompt_tokens, r.output_tokens);
  if (r.gone) out += " client-gone";
  if (!r.body.empty()) out += " body=" + to_text(Json(r.body));  // on one line
  return out;
}

std::string event_line(const std::string& event, const std::string& text, bool json) {
  if (!json) return text;
  return to_text(Json{{"time", utc_now()}, {"event", event}, {"message", text}});
}

}  // namespace deltacome::server
