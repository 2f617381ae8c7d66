// SPDX-License-Identifier: Apache-2.0
#include "compress/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <system_error>

#include "compress/report_chart.h"
#include "compress/report_html.h"
#include "core/check.h"
#include "io/files.h"

namespace deltacome {
namespace {

// Points of a line: more markers than these cannot be told apart.
constexpr size_t kMaxSpectrumPoints = 36, kMaxCurvePoints = 96;

using Styles = std::map<std::string, int>;

/// One number for each kind of matrix, in order of appearance, so that it looks the same
/// everywhere.
Styles styles_of(const ReportData& data) {
  Styles styles;
  const auto add = [&](const std::string& kind) {
    styles.try_emplace(kind, static_cast<int>(styles.size()));
  };
  for (const auto& spectrum : data.spectra) add(spectrum.kind);
  for (const auto& matrix : data.matrices) add(matrix.kind);
  return styles;
}

/// The series of a chart with one line a kind, in the order of the styles.
std::vector<Series> by_style(const Styles& styles) {
  std::vector<Series> series(styles.size());
  for (const auto& [kind, style] : styles) {
    series[static_cast<size_t>(style)] = {.name = kind, .style = style, .line = true, .points = {}};
  }
  return series;
}

std::string measured(double value) {
  return value < 0 ? "–" : format_number(value);
}

std::string bytes_text(double bytes) {
  for (const char* unit : {"B", "KiB", "MiB"}) {
    if (!(bytes >= 1024)) return fmt::format("{} {}", format_number(bytes), unit);
    bytes /= 1024;
  }
  return fmt::format("{} GiB", format_number(bytes));
}

Chart spectrum_chart(const ReportData& data, const Styles& styles) {
  Chart chart{.title = "Where the delta's energy is",
              .caption =
                  "Share of the delta's output energy in its first components, mean over "
                  "the layers. The steeper the rise, the fewer components do.",
              .x = {.label = "components kept (%)", .reach = {0, 100}},
              .y = {.label = "cumulative energy (%)", .reach = {0, 100}},
              .series = by_style(styles)};
  for (const auto& spectrum : data.spectra) {
    auto& points = chart.series[static_cast<size_t>(styles.at(spectrum.kind))].points;
    const size_t rank = spectrum.energy.size();
    size_t next = 0;
    // Denser at the start, where the curve bends: the k-th point of n stands at (k / n)².
    for (size_t k = 1; k <= kMaxSpectrumPoints; ++k) {
      const size_t i =
          std::max<size_t>(1, rank * k * k / (kMaxSpectrumPoints * kMaxSpectrumPoints));
      if (i <= next || i > rank) continue;
      next = i;
      const double share = 100 * static_cast<double>(i) / static_cast<double>(rank);
      const double energy = 100 * spectrum.energy[i - 1];
      points.push_back({share, energy,
                        fmt::format("{}: {} of {} components hold {} %", spectrum.kind, i, rank,
                                    format_number(energy)),
                        ""});
    }
  }
  return chart;
}

/// A chart by layer; the kinds of a layer stand side by side, so that equal values stay visible.
Chart layer_chart(const ReportData& data, const Styles& styles, const std::string& title,
                  const std::string& label, double ReportData::LayerValue::*value) {
  Chart chart{.title = title,
              .caption = "The kinds of matrix of one layer stand side by side.",
              .x = {.label = "layer", .integer = true},
              .y = {.label = label, .reach = {0}},
              .series = by_style(styles)};
  const auto n_kinds = static_cast<double>(styles.size());
  for (const auto& matrix : data.matrices) {
    const double y = matrix.*value;
    if (matrix.layer < 0 || y < 0) continue;
    const int style = styles.at(matrix.kind);
    const double shift = 0.8 * ((style + 0.5) / n_kinds - 0.5);
    chart.series[static_cast<size_t>(style)].points.push_back(
        {static_cast<double>(matrix.layer) + shift, y,
         fmt::format("layer {}, {} ({}): {}", matrix.layer, matrix.kind, matrix.codec,
                     format_number(y)),
         ""});
  }
  for (auto& series : chart.series) {
    std::stable_sort(series.points.begin(), series.points.end(),
                     [](const auto& a, const auto& b) { return a.x < b.x; });
  }
  return chart;
}

Chart method_chart(const ReportData& data) {
  double most = 0;
  for (const auto& method : data.methods) {
    if (std::isfinite(method.all_in_bytes)) most = std::max(most, method.all_in_bytes);
  }
  const bool large = most >= 2 * std::pow(1024, 3);
  const double unit = std::pow(1024, large ? 3 : 2);
  Chart chart{.title = "KL against size",
              .caption =
                  "Lower and further left is better. KL divergence from the fine-tune on a "
                  "logarithmic axis; bytes count everything that is stored.",
              .x = {.label = large ? "size (GiB)" : "size (MiB)",
                    // Sizes that differ by a few bytes are equal.
                    .reach = {0.9 * most / unit, 1.1 * most / unit}},
              .y = {.label = "KL", .log = true},
              .series = {{.name = "chosen", .style = 1, .line = false, .points = {}},
                         {.name = "tried", .style = 0, .line = false, .points = {}}}};
  for (const auto& method : data.methods) {
    chart.series[method.chosen ? 0 : 1].points.push_back(
        {method.all_in_bytes / unit, method.kl,
         fmt::format("{}: {} bits per weight, {}, KL {}", method.method,
                     format_number(method.bits_per_weight), bytes_text(method.all_in_bytes),
                     format_number(method.kl)),
         method.method});
  }
  return chart;
}

Chart curve_chart(const ReportData& data) {
  Chart chart{.title = "Distillation",
              .caption =
                  "KL divergence from the fine-tune on a logarithmic axis. Held-back text "
                  "takes no part in the training, and its passages weigh by the fine-tune's "
                  "certainty.",
              .x = {.label = "step", .integer = true},
              .y = {.label = "KL", .log = true},
              .series = {{.name = "training", .style = 0, .line = true, .points = {}},
                         {.name = "held back", .style = 1, .line = true, .points = {}}}};
  const size_t stride = data.curve.size() / kMaxCurvePoints + 1;
  const auto add = [](Series& series, const ReportData::CurvePoint& point, double kl) {
    series.points.push_back(
        {static_cast<double>(point.step), kl,
         fmt::format("step {}, {} s: {} KL {}", point.step, format_number(point.seconds),
                     series.name, format_number(kl)),
         ""});
  };
  for (size_t i = 0; i < data.curve.size(); ++i) {
    const auto& point = data.curve[i];
    const bool last = i + 1 == data.curve.size();
    if (i % stride == 0 || last) add(chart.series[0], point, point.training_kl);
    if (point.held_back_kl >= 0) add(chart.series[1], point, point.held_back_kl);
  }
  return chart;
}

struct Cell {
  std::string text;
  bool number = false, best = false;
};

/// A table that scrolls by itself where the page is too narrow.
class Table {
 public:
  explicit Table(const std::vector<Cell>& head) {
    out_ = "<div class=\"wide\"><table><thead>";
    row(head, false, "th");
    out_ += "</thead><tbody>";
  }
  void row(const std::vector<Cell>& cells, bool chosen = false, const char* tag = "td") {
    out_ += chosen ? "<tr class=\"chosen\">" : "<tr>";
    for (const auto& cell : cells) {
      fmt::format_to(std::back_inserter(out_), "<{} class=\"{}{}\">{}</{}>", tag,
                     cell.number ? "n" : "t", cell.best ? " best" : "", escape_html(cell.text),
                     tag);
    }
    out_ += "</tr>\n";
  }
  std::string html() const { return out_ + "</tbody></table></div>\n"; }

 private:
  std::string out_;
};

std::string facts_table(const ReportData& data) {
  if (data.facts.empty()) return "";
  std::string out = "<div class=\"wide\"><table><tbody>";
  for (const auto& fact : data.facts) {
    out += "<tr><th>" + escape_html(fact.name) + "</th><td>" + escape_html(fact.value) +
           "</td></tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

std::string notes_list(const ReportData& data) {
  if (data.notes.empty()) return "";
  std::string out = "<ul>";
  for (const auto& note : data.notes) out += "<li>" + escape_html(note) + "</li>";
  return out + "</ul>\n";
}

std::string methods_table(const ReportData& data) {
  if (data.methods.empty()) return "";
  Table table({{"method"}, {"bits per weight", true}, {"size", true}, {"KL", true}});
  for (const auto& method : data.methods) {
    table.row({{method.method + (method.chosen ? " (chosen)" : "")},
               {format_number(method.bits_per_weight), true},
               {bytes_text(method.all_in_bytes), true},
               {measured(method.kl), true}},
              method.chosen);
  }
  return table.html();
}

std::string choices_table(const ReportData& data) {
  if (data.choices.empty()) return "";
  Table table({{"kind of matrix"}, {"codec"}, {"KL, low rank", true}, {"KL, vector codes", true}});
  for (const auto& choice : data.choices) {
    const bool both = choice.low_rank_kl >= 0 && choice.vector_kl >= 0;
    table.row({{choice.kind},
               {choice.codec},
               {measured(choice.low_rank_kl), true, both && choice.low_rank_kl < choice.vector_kl},
               {measured(choice.vector_kl), true, both && choice.vector_kl < choice.low_rank_kl}});
  }
  return table.html();
}

std::string matrices_table(const ReportData& data) {
  if (data.matrices.empty()) return "";
  Table table({{"layer", true}, {"kind"}, {"codec"}, {"bits per weight", true}, {"error", true}});
  for (const auto& matrix : data.matrices) {
    table.row({{matrix.layer < 0 ? "–" : fmt::format("{}", matrix.layer), true},
               {matrix.kind},
               {matrix.codec},
               {format_number(matrix.bits), true},
               {measured(matrix.error), true}});
  }
  return fmt::format("<details><summary>All {} matrices</summary>{}</details>\n",
                     data.matrices.size(), table.html());
}

/// A cell of the page with a table or list, or the sentence that there is nothing to show.
std::string panel(const char* heading, const std::string& content, const char* absent) {
  return fmt::format("<div class=\"panel\"><h3>{}</h3>{}</div>\n", heading,
                     content.empty() ? fmt::format("<p class=\"absent\">{}</p>", absent) : content);
}

std::string section(const char* heading, const std::string& cells, const std::string& below = "") {
  return fmt::format("<section><h2>{}</h2>\n<div class=\"grid\">{}</div>\n{}</section>\n", heading,
                     cells, below);
}

}  // namespace

std::string render_report(const ReportData& data) {
  const Styles styles = styles_of(data);
  const std::string title = escape_html(data.title);
  std::string out = fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>"
      "<title>{}</title><style>{}</style></head>\n<body><h1>{}</h1>\n",
      title, report_style(), title);
  out += section("Summary", panel("Facts", facts_table(data), "No facts were recorded.") +
                                panel("Notes", notes_list(data), "There are no notes."));
  out += section("Whole model", render_chart(method_chart(data)) +
                                    panel("Methods tried", methods_table(data),
                                          "Other methods were not measured.") +
                                    render_chart(curve_chart(data)));
  out += section("Kinds of matrix and layers",
                 render_chart(spectrum_chart(data, styles)) +
                     panel("Choice of codec", choices_table(data),
                           "The effect of each kind of matrix was not measured.") +
                     render_chart(layer_chart(data, styles, "Bits per weight", "bits per weight",
                                              &ReportData::LayerValue::bits)) +
                     render_chart(layer_chart(data, styles, "Output error", "relative output error",
                                              &ReportData::LayerValue::error)),
                 matrices_table(data));
  return out + "</body></html>\n";
}

void write_report(const std::filesystem::path& directory, const ReportData& data) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    fail(ErrorCode::kIo, "cannot create the report's directory {}: {}", directory.string(),
         error.message());
  }
  write_file_atomically(directory / "report.html", render_report(data));
}

}  // namespace deltacome
