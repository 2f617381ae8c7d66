// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <ostream>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "backend/cpu/activations.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/cpu_memory.h"
#include "backend/test_support.h"
#include "quant/codes.h"
#include "quant/vector_codes.h"

namespace deltacome::cpu {

/// How gtest prints the parameter of a test: the same in every run, as ctest needs.
inline void PrintTo(const Kernels* kernels, std::ostream* out) {
  *out << kernels->name;
}

}  // namespace deltacome::cpu

namespace deltacome::cpu::testing {

using test::gamma_k;
using test::host_tensor;
using test::random_floats;
using test::Rng;

/// Numbers that products with codes multiply, and how far each may be off.
struct Activations {
  std::vector<double> values, errors;

  static Activations exact(std::span<const float> x) {
    return {{x.begin(), x.end()}, std::vector<double>(x.size(), 0)};
  }
};
/// What is left of them in whole steps of each group's scale: off by a step where it is open which
/// one is nearest.
inline Activations quantized(const Activations& x, int64_t group = kActivationGroup,
                             double levels = kActivationLevels) {
  Activations out;
  for (size_t first = 0; first < x.values.size(); first += static_cast<size_t>(group)) {
    const size_t end = std::min(first + static_cast<size_t>(group), x.values.size());
    double largest = 0, error = 0;
    for (size_t i = first; i < end; ++i) {
      largest = std::max(largest, std::abs(x.values[i]));
      error = std::max(error, x.errors[i]);
    }
    const double step = largest / levels;
    for (size_t i = first; i < end; ++i) {
      const double steps = step > 0 ? x.values[i] / step : 0;
      const double off =
          step > 0 ? (x.errors[i] + error) / step + levels * gamma_k(4) : 0;  // of `steps`
      const bool open = std::abs(steps - std::floor(steps) - 0.5) <= off;
      out.values.push_back(std::nearbyint(steps) * step);
      out.errors.push_back(error + (open ? step : 0));
    }
  }
  return out;
}
inline Activations quantized(std::span<const float> x) {
  return quantized(Activations::exact(x));
}
/// As vector codes of `dim` multiply them.
inline Activations quantized_entries(std::span<const float> x, int dim) {
  return quantized(Activations::exact(x), kEntryGroup * dim,
                   static_cast<double>(entry_levels(dim)));
}

/// Bound of the error of sum of codes times activations, for weights scale * (code - center) of a
/// range scale * (2^bits - 1): codes and center are summed apart, in float, and activations may be
/// off by their errors.
inline double code_slack(const Activations& x, double range) {
  double sum = 0, error = 0;
  for (const double v : x.values) sum += std::abs(v);
  for (const double e : x.errors) error += e;
  return range * (gamma_k(2 * static_cast<int64_t>(x.values.size()) + 32) * sum + error);
}

inline HostTensor random_tensor(Rng& rng, DType dtype, Shape shape, float scale = 1) {
  const int64_t n = element_count(shape);
  return host_tensor(dtype, std::move(shape), random_floats(rng, n, scale));
}

/// An f32 tensor of the backend with these values.
inline Tensor device_tensor(Backend& backend, Shape shape, const std::vector<float>& values) {
  Tensor t = backend.allocate(DType::kF32, std::move(shape));
  std::ranges::copy(values, f32(t));
  return t;
}

/// An output with a guard row before and behind it; every element starts as kCanary.
class Guarded {
 public:
  static constexpr float kCanary = -1234.5f;
  Guarded(Backend& backend, int64_t rows, int64_t cols)
      : all_(backend.allocate(DType::kF32, {rows + 2, cols})) {
    std::fill_n(f32(all_), all_.size(), kCanary);
  }
  Tensor tensor() const { return all_.slice(1, all_.rows() - 2); }
  float at(int64_t row, int64_t col) const { return f32(all_)[(row + 1) * all_.cols() + col]; }
  bool intact() const {
    const int64_t n = all_.cols(), last = (all_.rows() - 1) * n;
    for (int64_t i = 0; i < n; ++i) {
      if (f32(all_)[i] != kCanary || f32(all_)[last + i] != kCanary) return false;
    }
    return true;
  }

 private:
  Tensor all_;
};

inline CodedArray random_array(Rng& rng, const ArrayFormat& format, int64_t rows, int64_t cols) {
  CodedArray a{
      .format = format, .rows = rows, .cols = cols, .codes = {}, .scales = {}, .values = {}};
  std::uniform_int_distribution<int> code(0, format.bits == 16 ? 0 : (1 << format.bits) - 1);
  std::uniform_real_distribution<float> scale(0.01f, 0.1f);
  for (int64_t i = 0; i < rows * cols; ++i) {
    if (format.bits == 16) {
      a.values.push_back(float_to_f16(scale(rng) - 0.05f));
    } else {
      a.codes.push_back(static_cast<uint8_t>(code(rng)));
    }
  }
  for (int64_t i = 0; i < scale_count(format, rows, cols); ++i)
    a.scales.push_back(float_to_f16(scale(rng)));
  return a;
}

inline MatrixFormat dense_format(int64_t base_rows, int64_t n_in, const ArrayFormat& array,
                                 int64_t added = 0) {
  return {.codec = Codec::kDense,
          .shape = {base_rows + added, n_in},
          .base_rows = base_rows,
          .dense = array,
          .tiers = {}};
}
inline MatrixFormat vector_format(int64_t base_rows, int64_t n_in, int dim, bool col_gain,
                                  int64_t added = 0) {
  MatrixFormat format = dense_format(base_rows, n_in, {}, added);
  format.codec = Codec::kVector;
  format.vector = {.dim = dim, .block = rotation_block(n_in), .seed = 5};
  format.col_gain = col_gain;
  return format;
}
inline MatrixFormat raw_format(Shape shape, DType dtype) {
  MatrixFormat format;
  format.shape = std::move(shape);
  format.raw_dtype = dtype;
  format.base_rows = format.n_out();
  return format;
}
inline LinearTarget linear_target(int slot, Tensor weight, Tensor y) {
  LinearTarget target;
  target.slot = slot;
  target.weight = std::move(weight);
  target.y = std::move(y);
  return target;
}

/// A blob of random values.
inline HostTensor random_blob(Rng& rng, const MatrixFormat& format) {
  const BlobLayout layout = layout_of(format);
  std::vector<std::byte> blob(static_cast<size_t>(layout.total_bytes));
  const auto fill = [&](const Part& part, DType dtype) {
    const std::vector<float> v = random_floats(rng, part.bytes / dtype_bytes(dtype), 0.3f);
    convert_from_float(v, dtype, blob.data() + part.offset);
  };
  if (format.codec == Codec::kRaw) fill(layout.raw, format.raw_dtype);
  if (format.codec == Codec::kDense) {
    pack(random_array(rng, format.dense, format.base_rows, format.n_in()), layout.dense, blob);
  }
  for (size_t i = 0; i < layout.tiers.size(); ++i) {
    const TierFormat& tier = format.tiers[i];
    pack(random_array(rng, tier.v, tier.rank, format.n_in()), layout.tiers[i].v, blob);
    pack(random_array(rng, tier.u, tier.rank, format.base_rows), layout.tiers[i].u, blob);
  }
  std::uniform_int_distribution<int> code(0, 255), gain(64, 192);  // gains of 0.5 to 2
  const auto fill_codes = [&](const Part& part, std::uniform_int_distribution<int>& random) {
    for (int64_t i = 0; i < part.bytes; ++i)
      blob[static_cast<size_t>(part.offset + i)] = static_cast<std::byte>(random(rng));
  };
  fill(layout.row_scale, DType::kF16);
  fill_codes(layout.vector_codes, code);
  fill_codes(layout.row_gain, gain);
  fill_codes(layout.col_gain, gain);
  fill(layout.s, DType::kBf16);
  fill(layout.added, format.raw_dtype);
  return HostTensor::of(DType::kU8, {layout.total_bytes}, std::move(blob));
}

/// Tests that run for every instruction set of this machine.
class EachIsa : public ::testing::TestWithParam<const Kernels*> {
 protected:
  CpuBackend backend_{2, *GetParam()};
  std::unique_ptr<Stream> stream_ = backend_.create_stream();
  Rng rng_{42};
};

inline std::string isa_name(const ::testing::TestParamInfo<const Kernels*>& info) {
  std::string name = info.param->name;
  std::erase(name, '-');
  std::erase(name, ' ');
  return name;
}

#define DELTACOME_FOR_EACH_ISA(Suite)                                                          \
  INSTANTIATE_TEST_SUITE_P(                                                                    \
      Isa, Suite, ::testing::ValuesIn(available_kernels().begin(), available_kernels().end()), \
      isa_name)

}  // namespace deltacome::cpu::testing
