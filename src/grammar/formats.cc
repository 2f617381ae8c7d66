// SPDX-License-Identifier: Apache-2.0
#include "grammar/formats.h"

#include <array>

namespace deltacome::grammar {
namespace {

// Each describes texts that every validator of the format takes, not all of them: no leap seconds,
// no year 0, seconds with at most 6 digits after the point (RFC 3339), no quoted or long local
// parts (RFC 5321).
#define DELTACOME_DATE                                                                        \
  "((000[1-9]|00[1-9]\\d|0[1-9]\\d\\d|[1-9]\\d{3})-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|" \
  "(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))|"                                 \
  "(\\d\\d(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)-02-29)"
#define DELTACOME_TIME                               \
  "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?" \
  "(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"
#define DELTACOME_LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
#define DELTACOME_HEX "[0-9A-Fa-f]"
#define DELTACOME_URI_CHARS "([A-Za-z0-9\\-._~!$&'()*+,;=:@/?]|%" DELTACOME_HEX "{2})*"

struct Format {
  std::string_view name;
  const char* pattern;
};
constexpr std::array<Format, 10> kFormats = {{
    {"date", DELTACOME_DATE},
    {"time", DELTACOME_TIME},
    {"date-time", DELTACOME_DATE "T" DELTACOME_TIME},
    {"duration",
     "P((\\d{1,9}Y(\\d{1,9}M(\\d{1,9}D)?)?|\\d{1,9}M(\\d{1,9}D)?|\\d{1,9}D)"
     "(T(\\d{1,9}H(\\d{1,9}M(\\d{1,9}S)?)?|\\d{1,9}M(\\d{1,9}S)?|\\d{1,9}S))?|"
     "T(\\d{1,9}H(\\d{1,9}M(\\d{1,9}S)?)?|\\d{1,9}M(\\d{1,9}S)?|\\d{1,9}S)|\\d{1,9}W)"},
    {"uuid", DELTACOME_HEX "{8}-" DELTACOME_HEX "{4}-" DELTACOME_HEX "{4}-" DELTACOME_HEX
                           "{4}-" DELTACOME_HEX "{12}"},
    {"email", "[A-Za-z0-9_+-]{1,32}(\\.[A-Za-z0-9_+-]{1,15}){0,2}@" DELTACOME_LABEL
              "(\\." DELTACOME_LABEL "){1,3}"},
    {"hostname", DELTACOME_LABEL "(\\." DELTACOME_LABEL "){0,4}"},
    {"ipv4", "((25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)\\.){3}(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"},
    {"ipv6",
     "(" DELTACOME_HEX "{1,4}:){7}" DELTACOME_HEX "{1,4}|(" DELTACOME_HEX
     "{1,4}:){1,7}:|(" DELTACOME_HEX "{1,4}:){1,6}(:" DELTACOME_HEX "{1,4})|(" DELTACOME_HEX
     "{1,4}:){1,5}(:" DELTACOME_HEX "{1,4}){2}|(" DELTACOME_HEX "{1,4}:){1,4}(:" DELTACOME_HEX
     "{1,4}){3}|(" DELTACOME_HEX "{1,4}:){1,3}(:" DELTACOME_HEX "{1,4}){4}|(" DELTACOME_HEX
     "{1,4}:){1,2}(:" DELTACOME_HEX "{1,4}){5}|" DELTACOME_HEX "{1,4}:(:" DELTACOME_HEX
     "{1,4}){6}|:((:" DELTACOME_HEX "{1,4}){1,7}|:)"},
    {"uri", "[A-Za-z][A-Za-z0-9+.\\-]{0,15}://" DELTACOME_LABEL "(\\." DELTACOME_LABEL
            "){0,4}(:\\d{1,4})?(/" DELTACOME_URI_CHARS ")?(#" DELTACOME_URI_CHARS ")?"},
}};

}  // namespace

const char* format_pattern(std::string_view format) {
  for (const Format& f : kFormats)
    if (f.name == format) return f.pattern;
  return nullptr;
}

std::string known_formats() {
  std::string out;
  for (const Format& f : kFormats) out += (out.empty() ? "" : ", ") + std::string(f.name);
  return out;
}

}  // namespace deltacome::grammar
