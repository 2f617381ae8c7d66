// SPDX-License-Identifier: Apache-2.0
#include "server/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace deltacome::server {
namespace {

constexpr size_t kMaxLabelSets = 1000;

std::string number(double value) {
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  return fmt::format("{}", value);
}

void append_labels(std::string& out, const Labels& labels) {
  if (labels.empty()) return;
  char separator = '{';
  for (const auto& [name, value] : labels) {
    out += separator;
    out += name + "=\"";
    for (const char c : value) {
      if (c == '\\' || c == '"') out += '\\';
      if (c == '\n') {
        out += "\\n";
      } else {
        out += c;
      }
    }
    out += '"';
    separator = ',';
  }
  out += '}';
}

}  // namespace

Histogram::Histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

void Histogram::observe(double value) noexcept {
  const auto at = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  counts_[static_cast<size_t>(at)].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

void MetricsText::family(std::string_view name, std::string_view type, std::string_view help) {
  name_ = name;
  out_ += fmt::format("# HELP {0} {1}\n# TYPE {0} {2}\n", name, help, type);
}

void MetricsText::sample(const Labels& labels, double value, std::string_view suffix) {
  out_ += name_;
  out_ += suffix;
  append_labels(out_, labels);
  out_ += ' ' + number(value) + '\n';
}

void MetricsText::histogram(std::string_view name, std::string_view help, const Labels& labels,
                            const Histogram& values) {
  std::vector<uint64_t> counts;
  for (const auto& count : values.counts_) counts.push_back(count.load(std::memory_order_relaxed));
  histogram(name, help, labels, values.bounds_, counts,
            values.sum_.load(std::memory_order_relaxed));
}

void MetricsText::histogram(std::string_view name, std::string_view help, const Labels& labels,
                            std::span<const double> bounds, std::span<const uint64_t> counts,
                            double sum) {
  family(name, "histogram", help);
  uint64_t total = 0;
  for (size_t i = 0; i <= bounds.size(); ++i) {
    total += counts[i];
    Labels with_bound = labels;
    with_bound.emplace_back("le", i < bounds.size() ? number(bounds[i]) : "+Inf");
    sample(with_bound, static_cast<double>(total), "_bucket");
  }
  sample(labels, sum, "_sum");
  sample(labels, static_cast<double>(total), "_count");
}

void CounterFamily::add(const Labels& labels, double value) {
  const std::lock_guard lock(mutex_);
  const auto found = counts_.find(labels);
  if (found != counts_.end()) {
    found->second += value;
  } else if (counts_.size() < kMaxLabelSets) {
    counts_.emplace(labels, value);
  } else {
    Labels other = labels;
    for (auto& [name, text] : other) text = "other";
    counts_[other] += value;
  }
}

void CounterFamily::print(MetricsText& out, std::string_view name, std::string_view help) const {
  out.family(name, "counter", help);
  const std::lock_guard lock(mutex_);
  for (const auto& [labels, value] : counts_) out.sample(labels, value);
}

void CounterFamily::forget(std::string_view label, std::string_view value) {
  const std::lock_guard lock(mutex_);
  std::erase_if(counts_, [&](const auto& entry) {
    return std::any_of(entry.first.begin(), entry.first.end(), [&](const auto& pair) {
      return pair.first == label && pair.second == value;
    });
  });
}

}  // namespace deltacome::server
