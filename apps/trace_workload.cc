// SPDX-License-Identifier: Apache-2.0
#include "trace_workload.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>

namespace deltacome::cli {
namespace {

struct Law {
  std::string name;
  double parameter = 0;
};

Law parse(const std::string& text) {
  const size_t colon = text.find(':');
  Law law{text.substr(0, colon), 0};
  const bool takes_one = law.name == "zipf" || law.name == "deltazip" || law.name == "power";
  if (law.name == "uniform" && colon == std::string::npos) return law;
  if (takes_one && colon != std::string::npos) {
    size_t used = 0;
    const std::string number = text.substr(colon + 1);
    try {
      law.parameter = std::stod(number, &used);
    } catch (const std::exception&) {
      used = 0;
    }
    if (used > 0 && used == number.size() && law.parameter > 0) return law;
  }
  throw std::invalid_argument("popularity is \"" + text +
                              "\", expected uniform, zipf:S, deltazip:A or power:A");
}

/// In (0, 1]; the library's distributions differ between implementations.
double uniform(std::mt19937_64& rng) {
  return (static_cast<double>(rng() >> 11) + 1) * 0x1p-53;
}

double normal(std::mt19937_64& rng) {  // Box and Muller
  const double radius = std::sqrt(-2 * std::log(uniform(rng)));
  return radius * std::cos(2 * 3.14159265358979323846 * uniform(rng));
}

/// Gamma(shape, 1). Ref: Marsaglia and Tsang, ACM TOMS 26(3), 2000.
double gamma(std::mt19937_64& rng, double shape) {
  if (shape < 1) return gamma(rng, shape + 1) * std::pow(uniform(rng), 1 / shape);
  const double d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  for (;;) {
    const double x = normal(rng), v = std::pow(1 + c * x, 3);
    if (v > 0 && std::log(uniform(rng)) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
  }
}

int64_t between(std::mt19937_64& rng, int64_t low, int64_t high) {
  const auto span = static_cast<double>(high - low);
  return std::min(high - 1, low + static_cast<int64_t>(uniform(rng) * span));
}

}  // namespace

std::vector<double> popularity_of(const std::string& text, int n) {
  const Law law = parse(text);
  std::vector<double> p;
  for (int i = 0; i < n; ++i) {
    const double rank = i + 1;
    if (law.name == "zipf") {
      p.push_back(std::pow(rank, -law.parameter));
    } else if (law.name == "deltazip") {
      p.push_back(std::pow(rank, law.parameter));
    } else if (law.name == "power") {
      p.push_back(std::pow(rank / n, law.parameter) - std::pow((rank - 1) / n, law.parameter));
    } else {
      p.push_back(1);
    }
  }
  double sum = 0;
  for (const double x : p) sum += x;
  for (double& x : p) x /= sum;
  return p;
}

std::string popularity_formula(const std::string& text) {
  const Law law = parse(text);
  if (law.name == "zipf") return "p_i ~ (i + 1)^-S, " + text;
  if (law.name == "deltazip") return "p_i ~ (i + 1)^A, " + text;
  if (law.name == "power") return "p_i = ((i + 1) / n)^A - (i / n)^A, " + text;
  return "p_i = 1 / n";
}

std::vector<TraceRequest> make_trace(const WorkloadOptions& o, int n_variants) {
  std::mt19937_64 rng(o.seed);
  const std::vector<double> p = popularity_of(o.popularity, n_variants);
  const double shape = 1 / (o.cv * o.cv), scale = o.cv * o.cv / o.rate;
  std::vector<TraceRequest> out;
  for (double now = gamma(rng, shape) * scale; now < o.duration_s;
       now += gamma(rng, shape) * scale) {
    TraceRequest request{.arrival_s = now};
    double u = uniform(rng);
    while (request.variant + 1 < n_variants && u > p[static_cast<size_t>(request.variant)])
      u -= p[static_cast<size_t>(request.variant++)];
    request.tenant = static_cast<int>(between(rng, 0, o.n_tenants));
    request.n_input = between(rng, o.input_low, o.input_high);
    request.n_output = between(rng, o.output_low, o.output_high);
    out.push_back(request);
  }
  return out;
}

double percentile(const std::vector<double>& sorted, double p) {
  if (sorted.empty()) return 0;
  const auto n = static_cast<double>(sorted.size());
  const auto rank = static_cast<size_t>(std::max(1.0, std::ceil(p * n)));
  return sorted[std::min(rank, sorted.size()) - 1];
}

double jain_index(const std::vector<double>& values) {
  double sum = 0, squares = 0;
  for (const double v : values) {
    sum += v;
    squares += v * v;
  }
  return squares == 0 ? 1 : sum * sum / (static_cast<double>(values.size()) * squares);
}

}  // namespace deltacome::cli
