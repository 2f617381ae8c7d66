// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "server/router.h"

namespace deltacome::server {

/// One line: text, or JSON with a fixed set of members.
std::string request_line(const RequestRecord& record, Clock::time_point now, bool json);
/// The same form for what is not a request: {"event", ...}.
std::string event_line(const std::string& event, const std::string& text, bool json);

}  // namespace deltacome::server
