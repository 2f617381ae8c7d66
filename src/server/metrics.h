// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace deltacome::server {

/// Label names and values, in the order in which they are printed.
using Labels = std::vector<std::pair<std::string, std::string>>;

/// Counts values in buckets. Thread-safe.
class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds);  // ascending; +Inf is added
  void observe(double value) noexcept;

 private:
  friend class MetricsText;
  std::vector<double> bounds_;
  std::vector<std::atomic<uint64_t>> counts_;
  std::atomic<double> sum_ = 0;
};

/// Writes Prometheus' text format, version 0.0.4.
class MetricsText {
 public:
  void family(std::string_view name, std::string_view type, std::string_view help);
  /// A sample of the last family; `suffix` is added to its name.
  void sample(const Labels& labels, double value, std::string_view suffix = "");
  void histogram(std::string_view name, std::string_view help, const Labels& labels,
                 const Histogram& values);
  /// counts [bounds.size() + 1] of values up to each bound and beyond the last.
  void histogram(std::string_view name, std::string_view help, const Labels& labels,
                 std::span<const double> bounds, std::span<const uint64_t> counts, double sum);
  std::string take() { return std::move(out_); }

 private:
  std::string name_, out_;
};

/// A counter for each set of labels; at most a thousand sets, then the rest counts as "other".
class CounterFamily {
 public:
  void add(const Labels& labels, double value = 1);
  void print(MetricsText& out, std::string_view name, std::string_view help) const;
  void forget(std::string_view label, std::string_view value);

 private:
  mutable std::mutex mutex_;
  std::map<Labels, double> counts_;
};

}  // namespace deltacome::server
