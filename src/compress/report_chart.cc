// SPDX-License-Identifier: Apache-2.0
#include "compress/report_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "compress/report_html.h"
#include "core/utf8.h"

namespace deltacome {
namespace {

// One user unit is about one CSS pixel: two charts fill a page of 1200 px, one a page of 600 px.
constexpr double kWidth = 560, kHeight = 320;
constexpr double kLeft = 58, kRight = 548, kTop = 28, kBottom = 274;  // of the plotting area
constexpr double kTextHeight = 12, kLetterWidth = 6.1;  // of a label, 11 px sans-serif, generous
constexpr size_t kMaxLabelLetters = 28;
constexpr double kLargest = 1e30;  // keeps every difference and every coordinate finite
constexpr int kStyles = 8;         // colours in chart_style()
constexpr int kTicks = 6;          // about as many as fit
constexpr int kTickDigits = 10;    // neighbours differ, and 3 * 0.1 is 0.3

bool can_show(const Axis& axis, double value) {
  return std::isfinite(value) && std::abs(value) < kLargest && (!axis.log || value > 1 / kLargest);
}

/// Axis with its range, in decades if it is logarithmic, and the pixels which that range covers.
class Scale {
 public:
  Scale(const Axis& axis, const std::vector<double>& values, double from, double to)
      : axis_(axis), from_(from), to_(to) {
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    low_ = transform(*least);
    high_ = transform(*most);
    const double inner_low = low_, inner_high = high_;
    for (const double value : axis.reach) {
      if (!can_show(axis, value)) continue;
      low_ = std::min(low_, transform(value));
      high_ = std::max(high_, transform(value));
    }
    double pad = 0.06 * (high_ - low_);
    if (high_ - low_ <= 1e-9 * std::max(std::abs(low_), std::abs(high_))) {
      pad = axis.log || low_ == 0 ? 0.5 : 0.5 * std::abs(low_);
    }
    const bool flat = low_ == high_;
    // The end that the axis had to reach anyway is its end: no space below zero or above 100 %.
    if (flat || !(reached(low_) && low_ <= inner_low)) low_ -= pad;
    if (flat || !(reached(high_) && high_ >= inner_high)) high_ += pad;
  }

  double pixel(double value) const {
    return from_ + (to_ - from_) * (transform(value) - low_) / (high_ - low_);
  }

  std::vector<double> ticks() const {
    if (!axis_.log) return linear_ticks(low_, high_);
    std::vector<double> found;
    const double first = std::ceil(low_), last = std::floor(high_);
    if (last - first >= 2) {
      const double stride = std::ceil((last - first + 1) / kTicks);
      for (double e = first; e <= last; e += stride) found.push_back(std::pow(10, e));
      return found;
    }
    for (double e = first - 1; e <= last + 1; ++e) {
      for (const double digit : {1, 2, 5}) {
        const double value = digit * std::pow(10, e);
        if (std::log10(value) >= low_ && std::log10(value) <= high_) found.push_back(value);
      }
    }
    return found.size() >= 3 ? found : linear_ticks(std::pow(10, low_), std::pow(10, high_));
  }

 private:
  double transform(double value) const {
    if (axis_.log) return std::log10(value);
    return std::abs(value) < 1 / kLargest ? 0 : value;  // quotients of such values overflow
  }
  bool reached(double transformed) const {
    return std::any_of(axis_.reach.begin(), axis_.reach.end(), [&](double value) {
      return can_show(axis_, value) && transform(value) == transformed;
    });
  }

  std::vector<double> linear_ticks(double low, double high) const {
    const double rough = (high - low) / kTicks;
    const double power = std::pow(10, std::floor(std::log10(rough)));
    double step = 10 * power;
    for (const double digit : {5, 2, 1}) {
      if (digit * power >= rough) step = digit * power;
    }
    if (axis_.integer) step = std::max(1.0, std::round(step));
    std::vector<double> found;
    const double first = std::ceil(low / step - 1e-9);
    for (int i = 0; i < 3 * kTicks; ++i) {
      const double value = (first + i) * step;
      if (value > high + 1e-9 * step) break;
      found.push_back(value);
    }
    return found;
  }

  const Axis& axis_;
  double from_, to_;  // pixels
  double low_ = 0, high_ = 0;
};

struct Box {
  double left, top, right, bottom;
  bool overlaps(const Box& other) const {
    return left < other.right && other.left < right && top < other.bottom && other.top < bottom;
  }
};

Box around(double x, double y, double radius) {
  return {x - radius, y - radius, x + radius, y + radius};
}

/// The path of one of five shapes, of about the same area.
std::string marker(int style, double x, double y, double r) {
  const double h = 1.25 * r;
  switch (style % 5) {
    case 0:
      return fmt::format("M{:.1f} {:.1f}a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0z", x - r, y,
                         fmt::arg("r", r), fmt::arg("d", 2 * r));
    case 1:  // square
      return fmt::format("M{:.1f} {:.1f}h{d}v{d}h-{d}z", x - r, y - r, fmt::arg("d", 2 * r));
    case 2:  // diamond
      return fmt::format("M{:.1f} {:.1f}l{h} {h} -{h} {h} -{h} -{h}z", x, y - h, fmt::arg("h", h));
    case 3:  // triangle
      return fmt::format("M{:.1f} {:.1f}l{} {d} -{d} 0z", x, y - h, h, fmt::arg("d", 2 * h));
    default:  // triangle, point down
      return fmt::format("M{:.1f} {:.1f}l{} -{d} -{d} 0z", x, y + h, h, fmt::arg("d", 2 * h));
  }
}

std::string shorten(std::string_view label) {
  std::string text = replace_invalid_utf8(label);
  size_t end = 0;
  for (size_t n = 0; end < text.size(); ++n, end += static_cast<size_t>(utf8_size(text[end]))) {
    if (n == kMaxLabelLetters) return text.substr(0, end) + "…";
  }
  return text;
}

/// Puts labels beside their points, clear of all points and of each other. One for which there is
/// no room is left out: farther away it would seem to belong to another point.
class Labels {
 public:
  void add_obstacle(const Box& box) { taken_.push_back(box); }

  std::string place(const std::string& label, double x, double y) {
    const std::string text = shorten(label);
    const auto letters = std::count_if(text.begin(), text.end(), [](char c) {
      return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    });
    const double width = kLetterWidth * static_cast<double>(letters);
    for (const double away : {0.0, 13.0, -13.0}) {
      for (const double left : {x + 9, x - 9 - width, x - width / 2}) {
        const double middle = y + away;
        const Box box{left, middle - kTextHeight / 2, left + width, middle + kTextHeight / 2};
        if (box.left < kLeft || box.right > kRight || box.top < kTop || box.bottom > kBottom ||
            std::any_of(taken_.begin(), taken_.end(),
                        [&](const Box& other) { return box.overlaps(other); })) {
          continue;
        }
        taken_.push_back(box);
        return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\">{}</text>", left, middle + 4,
                           escape_html(text));
      }
    }
    return "";
  }

 private:
  std::vector<Box> taken_;
};

void draw_axes(const Chart& chart, const Scale& x, const Scale& y, std::string& out) {
  const auto put = std::back_inserter(out);
  out += "<g class=\"axes\">";
  for (const double tick : y.ticks()) {
    const double at = y.pixel(tick);
    fmt::format_to(put,
                   "<path d=\"M{} {:.1f}H{}\"/>"
                   "<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>",
                   kLeft, at, kRight, kLeft - 6, at + 4, format_number(tick, kTickDigits));
  }
  for (const double tick : x.ticks()) {
    const double at = x.pixel(tick);
    fmt::format_to(put,
                   "<path d=\"M{:.1f} {}v5\"/>"
                   "<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                   at, kBottom, at, kBottom + 18, format_number(tick, kTickDigits));
  }
  fmt::format_to(put, "<path class=\"frame\" d=\"M{} {}V{}H{}\"/>", kLeft, kTop, kBottom, kRight);
  fmt::format_to(put, "<text x=\"4\" y=\"14\">{}</text>", escape_html(chart.y.label));
  fmt::format_to(put, "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text></g>",
                 (kLeft + kRight) / 2, kHeight - 8, escape_html(chart.x.label));
}

void draw_series(const Series& series, const Scale& x, const Scale& y, std::string& out) {
  const auto put = std::back_inserter(out);
  const int style = std::max(series.style, 0);
  const double radius = series.line ? 2.6 : 5;
  fmt::format_to(put, "<g class=\"s{}\">", style % kStyles);
  if (series.line) {
    out += "<polyline points=\"";
    for (const auto& point : series.points) {
      fmt::format_to(put, "{:.1f},{:.1f} ", x.pixel(point.x), y.pixel(point.y));
    }
    out += "\"/>";
  }
  for (const auto& point : series.points) {
    fmt::format_to(put, "<path d=\"{}\"><title>{}</title></path>",
                   marker(style, x.pixel(point.x), y.pixel(point.y), radius),
                   escape_html(point.title));
  }
  out += "</g>";
}

std::string legend(const std::vector<Series>& series) {
  std::string out = "<ul class=\"legend\">";
  for (const auto& one : series) {
    const int style = std::max(one.style, 0);
    fmt::format_to(std::back_inserter(out),
                   "<li><svg class=\"key s{}\" viewBox=\"0 0 26 12\" aria-hidden=\"true\">{}"
                   "<path d=\"{}\"/></svg>{}</li>",
                   style % kStyles, one.line ? "<polyline points=\"0,6 26,6\"/>" : "",
                   marker(style, 13, 6, 3.6), escape_html(one.name));
  }
  return out + "</ul>";
}

}  // namespace

std::string render_chart(const Chart& chart) {
  std::vector<Series> shown;
  std::vector<double> xs, ys;
  size_t hidden = 0;
  for (Series series : chart.series) {
    hidden += std::erase_if(series.points, [&](const ChartPoint& point) {
      return !can_show(chart.x, point.x) || !can_show(chart.y, point.y);
    });
    for (const auto& point : series.points) {
      xs.push_back(point.x);
      ys.push_back(point.y);
    }
    if (!series.points.empty()) shown.push_back(std::move(series));
  }
  std::string out = fmt::format("<figure><h3>{}</h3>", escape_html(chart.title));
  const auto put = std::back_inserter(out);
  if (xs.empty()) {
    out += "<p class=\"absent\">This was not measured.</p>";
  } else {
    const Scale x(chart.x, xs, kLeft, kRight);
    const Scale y(chart.y, ys, kBottom, kTop);
    fmt::format_to(put, "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">", kWidth,
                   kHeight, escape_html(chart.title));
    draw_axes(chart, x, y, out);
    Labels labels;
    for (const auto& series : shown) {
      draw_series(series, x, y, out);
      for (const auto& p : series.points)
        labels.add_obstacle(around(x.pixel(p.x), y.pixel(p.y), 6));
    }
    out += "<g class=\"labels\">";
    for (const auto& series : shown) {
      for (const auto& point : series.points) {
        if (point.label.empty()) continue;
        out += labels.place(point.label, x.pixel(point.x), y.pixel(point.y));
      }
    }
    out += "</g></svg>" + legend(shown);
  }
  out += "<figcaption>";
  if (!xs.empty()) out += escape_html(chart.caption);
  if (hidden > 0) {
    fmt::format_to(put, " Not shown, as the axes have no place for them: {} values.", hidden);
  }
  return out + "</figcaption></figure>\n";
}

}  // namespace deltacome
