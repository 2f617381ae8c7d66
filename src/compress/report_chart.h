// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace deltacome {

/// One axis. Values that it cannot show (not finite, beyond 1e30, not positive on a log axis) are
/// left out of the chart, which then says how many they are.
struct Axis {
  std::string label;
  bool log = false;
  bool integer = false;            // ticks at whole numbers only
  std::vector<double> reach = {};  // values that the axis reaches at least
};

struct ChartPoint {
  double x = 0, y = 0;
  std::string title;  // shown on hover
  std::string label;  // drawn beside the point where there is room; may be empty
};

struct Series {
  std::string name;
  int style = 0;     // colour, dash and marker: the same in each chart for the same thing
  bool line = true;  // joins the points in their order; otherwise only markers
  std::vector<ChartPoint> points;
};

struct Chart {
  std::string title;
  std::string caption;  // one sentence below: how to read it
  Axis x, y;
  std::vector<Series> series;  // labels of earlier ones go first where room is short
};

/// An HTML <figure> with inline SVG and a legend; a sentence instead if there is no point to show.
std::string render_chart(const Chart& chart);

}  // namespace deltacome
