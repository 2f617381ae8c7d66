// SPDX-License-Identifier: Apache-2.0
#include "compress/report_html.h"

#include <fmt/format.h>

#include <cmath>

#include "core/utf8.h"

namespace deltacome {

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : replace_invalid_utf8(text)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        const auto byte = static_cast<unsigned char>(c);
        const bool control = (byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7F;
        if (control) {
          out += kReplacementCharacter;
        } else {
          out += c;
        }
    }
  }
  return out;
}

std::string format_number(double value, int digits) {
  if (!std::isfinite(value)) return "–";
  return fmt::format("{:.{}g}", value == 0 ? 0.0 : value, digits);  // no "-0"
}

std::string_view report_style() {
  // Okabe and Ito's colours, told apart by the colour-blind too; darker or lighter where they
  // would vanish before the background.
  return R"css(
:root { color-scheme: light dark; --page: #ffffff; --text: #1c1e21; --soft: #5c6167;
  --rule: #e3e5e8; --panel: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --page: #17191c; --text: #e8eaed; --soft: #a3a9b0; --rule: #34383d; --panel: #202327; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 1rem; background: var(--page);
  color: var(--text); font: 15px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .4rem 0 1rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: .95rem; margin: 0 0 .3rem; }
figcaption, .absent, caption { color: var(--soft); font-size: .85rem; }
.panel { min-width: 0; }
.panel ul { margin: .2rem 0; padding-left: 1.2rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr));
  gap: 1.6rem 1.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .25rem .8rem .25rem .4rem; border-bottom: 1px solid var(--rule);
  text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; white-space: nowrap; }
th { overflow-wrap: normal; }
thead th { color: var(--soft); font-weight: 600; }
tr.chosen td, td.best { font-weight: 700; background: var(--panel); }
summary { cursor: pointer; padding: .3rem 0; }
figure { margin: 0; min-width: 0; }
figure svg:not(.key) { display: block; width: 100%; height: auto; font: 11px system-ui, sans-serif; }
figure text { fill: var(--text); }
.axes path { stroke: var(--rule); fill: none; }
.axes .frame { stroke: var(--soft); }
.axes text { fill: var(--soft); }
.labels text { pointer-events: none; }
figure polyline { fill: none; stroke: var(--c); stroke-width: 1.4; stroke-opacity: .75; }
[class^="s"] path, .key path { fill: var(--c); stroke: transparent; stroke-width: 7; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .2rem 0; padding: 0 0 0 .3rem;
  list-style: none; font-size: .85rem; }
.key { width: 26px; height: 12px; margin-right: .35rem; }
.s0 { --c: #0072b2; } .s1 { --c: #d55e00; } .s2 { --c: #009e73; } .s3 { --c: #b8578f; }
.s4 { --c: #c78500; } .s5 { --c: #3d9bd1; } .s6 { --c: #4d4d4d; } .s7 { --c: #857800; }
@media (prefers-color-scheme: dark) {
  .s0 { --c: #4da3e0; } .s1 { --c: #f07b2e; } .s2 { --c: #1fc296; } .s3 { --c: #dd92bd; }
  .s4 { --c: #f0b030; } .s5 { --c: #8fd0f5; } .s6 { --c: #c8c8c8; } .s7 { --c: #f0e442; }
}
)css";
}

}  // namespace deltacome
