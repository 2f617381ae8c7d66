// SPDX-License-Identifier: Apache-2.0
#include "image/resize.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace deltacome {
namespace {

constexpr int kBits = 22;  // of a weight's fraction: 8 of a value, sums and a sign fit beside it
constexpr double kReach = 2.0;  // of the filter, in pixels of the smaller picture

double bicubic(double x) {
  x = std::abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return ((-0.5 * x + 2.5) * x - 4) * x + 2;
  return 0;
}

/// Which pixels make one of the result, and by how much.
struct Taps {
  int64_t first = 0;
  std::vector<int32_t> weights;
};

/// For results [begin, begin + count) of a line of n_in pixels that becomes n_out.
std::vector<Taps> taps_of(int64_t n_in, int64_t n_out, int64_t begin, int64_t count) {
  const double scale = static_cast<double>(n_in) / static_cast<double>(n_out);
  const double wide = std::max(scale, 1.0), reach = kReach * wide;
  std::vector<Taps> out;
  std::vector<double> weights;
  for (int64_t i = begin; i < begin + count; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const auto first = std::max<int64_t>(0, static_cast<int64_t>(center - reach + 0.5));
    const auto last = std::min<int64_t>(n_in, static_cast<int64_t>(center + reach + 0.5));
    weights.clear();
    double sum = 0;
    for (int64_t x = first; x < last; ++x)
      sum += weights.emplace_back(bicubic((static_cast<double>(x) - center + 0.5) / wide));
    Taps taps{first, {}};
    for (const double w : weights)
      taps.weights.push_back(static_cast<int32_t>(std::lround(w / sum * (1 << kBits))));
    out.push_back(std::move(taps));
  }
  return out;
}

uint8_t to_u8(int64_t sum) {
  return static_cast<uint8_t>(std::clamp<int64_t>(sum >> kBits, 0, 255));
}

}  // namespace

Image resize_bicubic(const Image& image, int64_t width, int64_t height, const Window& part) {
  DELTACOME_CHECK(part.left >= 0 && part.width > 0 && part.left + part.width <= width);
  DELTACOME_CHECK(part.top >= 0 && part.height > 0 && part.top + part.height <= height);
  const std::vector<Taps> columns = taps_of(image.width, width, part.left, part.width);
  const std::vector<Taps> rows = taps_of(image.height, height, part.top, part.height);
  const int64_t first = rows.front().first;
  const int64_t n_rows =
      rows.back().first + static_cast<int64_t>(rows.back().weights.size()) - first;
  const auto line = static_cast<size_t>(3 * part.width);
  constexpr int64_t kHalf = int64_t{1} << (kBits - 1);

  std::vector<uint8_t> narrow(static_cast<size_t>(n_rows) * line);  // of the rows that are needed
  uint8_t* to = narrow.data();
  for (int64_t y = first; y < first + n_rows; ++y) {
    for (const Taps& taps : columns) {
      const uint8_t* from = image.rgb.data() + 3 * (y * image.width + taps.first);
      int64_t sums[3] = {kHalf, kHalf, kHalf};
      for (const int32_t w : taps.weights) {
        for (int64_t& sum : sums) sum += int64_t{w} * *from++;
      }
      for (const int64_t sum : sums) *to++ = to_u8(sum);
    }
  }
  Image out{part.width, part.height, std::vector<uint8_t>(line * static_cast<size_t>(part.height))};
  std::vector<int64_t> sums(line);
  to = out.rgb.data();
  for (const Taps& taps : rows) {
    std::ranges::fill(sums, kHalf);
    const uint8_t* from = narrow.data() + static_cast<size_t>(taps.first - first) * line;
    for (const int32_t w : taps.weights) {
      for (int64_t& sum : sums) sum += int64_t{w} * *from++;
    }
    for (const int64_t sum : sums) *to++ = to_u8(sum);
  }
  return out;
}

}  // namespace deltacome
