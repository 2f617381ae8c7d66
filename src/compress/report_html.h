// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace deltacome {

/// Text for HTML content and quoted attributes. Ill-formed UTF-8 and control characters become
/// U+FFFD.
std::string escape_html(std::string_view text);

/// A value with `digits` significant ones, as "0.0123"; "–" if it is not finite.
std::string format_number(double value, int digits = 4);

/// The style sheet of the report and its charts, light and dark.
std::string_view report_style();

}  // namespace deltacome
