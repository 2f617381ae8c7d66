// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/gptq.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/cpu/cpu_memory.h"
#include "quant/codes.h"

namespace deltacome::cpu {
namespace {

constexpr int64_t kColumnBlock = 64;  // columns between two updates of everything behind them
constexpr int64_t kRowBlock = 16;     // rows a thread takes at a time
constexpr uint16_t kSmallest = 1;     // 2^-24, the smallest fp16 scale
constexpr int kScaleSteps = 24;  // candidates of the clipping search, 1/5 to 1 of the largest value

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/// Mid-rise code of w for a positive scale.
uint8_t nearest_code(double w, double inverse_scale, int bits) {
  const double level = std::floor(w * inverse_scale) + static_cast<double>(1 << (bits - 1));
  return static_cast<uint8_t>(std::clamp(level, 0.0, static_cast<double>((1 << bits) - 1)));
}

/// One block of weights that shares a scale, gathered with the weights of its errors.
struct Block {
  std::vector<double> values;
  std::vector<double> weights;
};

/// The scale with the least weighted squared error, as fp16 bits; never 0, so that codes stay
/// defined.
uint16_t best_scale(const Block& block, int bits) {
  double largest = 0, sum = 0, sum_of_weights = 0;
  for (size_t i = 0; i < block.values.size(); ++i) {
    const double magnitude = std::abs(block.values[i]);
    largest = std::max(largest, magnitude);
    sum += block.weights[i] * magnitude;
    sum_of_weights += block.weights[i];
  }
  const auto round_scale = [](double scale) {
    return std::max(kSmallest, float_to_f16(static_cast<float>(std::min(scale, 65504.0))));
  };
  if (largest == 0) return kSmallest;
  // One bit: values are +-scale / 2, and the weighted mean magnitude is optimal.
  if (bits == 1) return round_scale(2 * sum / std::max(sum_of_weights, 1e-300));
  const double full = largest / (0.5 * static_cast<double>((1 << bits) - 1));
  const double center = code_center(bits);
  uint16_t best = kSmallest;
  double least = INFINITY;
  for (int step = 0; step <= kScaleSteps; ++step) {
    const uint16_t candidate = round_scale(full * (0.2 + 0.8 * step / kScaleSteps));
    const double scale = f16_to_float(candidate), inverse = 1 / scale;
    double error = 0;
    for (size_t i = 0; i < block.values.size(); ++i) {
      const double q = scale * (nearest_code(block.values[i], inverse, bits) - center);
      error += block.weights[i] * (block.values[i] - q) * (block.values[i] - q);
    }
    if (error < least) {
      least = error;
      best = candidate;
    }
  }
  return best;
}

/// Scales of one section, before any error feedback changes the weights.
std::vector<uint16_t> static_scales(ThreadPool& pool, linalg::View w, const CpuGptqFactor* factor,
                                    const CodeSection& section) {
  const ArrayFormat& f = section.format;
  const int64_t scale_rows = f.scale_rows == 0 ? w.rows : f.scale_rows;
  const int64_t scale_cols = f.scale_cols == 0 ? section.count : f.scale_cols;
  const int64_t per_row = ceil_div(section.count, scale_cols);
  std::vector<uint16_t> scales(static_cast<size_t>(scale_count(f, w.rows, section.count)));
  pool.parallel_for(static_cast<int64_t>(scales.size()), 16, [&](int64_t begin, int64_t end) {
    Block block;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / per_row * scale_rows, col = section.first + i % per_row * scale_cols;
      const int64_t end_col = std::min(col + scale_cols, section.first + section.count);
      block.values.clear();
      block.weights.clear();
      for (int64_t r = row; r < std::min(row + scale_rows, w.rows); ++r) {
        for (int64_t c = col; c < end_col; ++c) {
          block.values.push_back(w(r, c));
          block.weights.push_back(factor ? factor->diagonal[static_cast<size_t>(c)] : 1.0);
        }
      }
      scales[static_cast<size_t>(i)] = best_scale(block, f.bits);
    }
  });
  return scales;
}

/// What a column needs to be quantized: where its codes and scales are.
struct Column {
  const CodeSection* section;
  Quantized::Section* out;
  int64_t index;  // within the section
};

/// Codes one weight and returns the value that it decodes to.
double quantize_one(double w, const Column& column, int64_t row) {
  const ArrayFormat& f = column.section->format;
  const auto at = static_cast<size_t>(row * column.section->count + column.index);
  if (f.bits == 16) {
    column.out->halves[at] = float_to_f16(static_cast<float>(w));
    return f16_to_float(column.out->halves[at]);
  }
  const int64_t per_row = f.scale_cols == 0 ? 1 : ceil_div(column.section->count, f.scale_cols);
  const int64_t block = (f.scale_rows == 0 ? 0 : row / f.scale_rows) * per_row +
                        (f.scale_cols == 0 ? 0 : column.index / f.scale_cols);
  const double scale = f16_to_float(column.out->scales[static_cast<size_t>(block)]);
  column.out->codes[at] = nearest_code(w, 1 / scale, f.bits);
  return scale * (column.out->codes[at] - static_cast<double>(code_center(f.bits)));
}

}  // namespace

std::unique_ptr<GptqFactor> factor_hessian(linalg::View h, std::span<const int64_t> order,
                                           double damp) {
  const int64_t n = h.rows;
  DELTACOME_CHECK(h.cols == n && static_cast<int64_t>(order.size()) == n);
  auto factor = std::make_unique<CpuGptqFactor>();
  factor->order.assign(order.begin(), order.end());
  factor->diagonal.resize(static_cast<size_t>(n));
  double trace = 0;
  for (int64_t i = 0; i < n; ++i) trace += h(i, i);
  const double add = trace > 0 ? damp * trace / static_cast<double>(n) : 1.0;
  for (int64_t i = 0; i < n; ++i) factor->diagonal[static_cast<size_t>(i)] = h(i, i) + add;

  factor->feedback.resize(static_cast<size_t>(n * n));
  const linalg::View r{factor->feedback.data(), n, n};
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j)
      r(i, j) = h(order[static_cast<size_t>(i)], order[static_cast<size_t>(j)]);
    r(i, i) += add;
  }
  linalg::inverse_cholesky(r);
  for (int64_t i = 0; i < n; ++i) {
    factor->pivots.push_back(r(i, i));
    const double inverse = 1 / r(i, i);
    for (int64_t j = i; j < n; ++j) r(i, j) *= inverse;
  }
  return factor;
}

Quantized quantize(ThreadPool& pool, const Tensor& w_tensor, const CpuGptqFactor* factor,
                   std::span<const CodeSection> sections) {
  const linalg::View w{f64(w_tensor), w_tensor.rows(), w_tensor.cols()};
  Quantized out;
  out.values = allocate(DType::kF64, {w.rows, w.cols});
  out.sections.resize(sections.size());
  std::vector<Column> columns(static_cast<size_t>(w.cols), Column{nullptr, nullptr, 0});
  for (size_t s = 0; s < sections.size(); ++s) {
    const auto n = static_cast<size_t>(w.rows * sections[s].count);
    if (sections[s].format.bits == 16) {
      out.sections[s].halves.resize(n);
    } else {
      out.sections[s].codes.resize(n);
      out.sections[s].scales = static_scales(pool, w, factor, sections[s]);
    }
    for (int64_t c = 0; c < sections[s].count; ++c) {
      columns[static_cast<size_t>(sections[s].first + c)] = {&sections[s], &out.sections[s], c};
    }
  }
  for (const Column& column : columns) DELTACOME_CHECK(column.section != nullptr);

  // Work on columns in factor order, so that the feedback of a block is one contiguous GEMM.
  const int64_t n = w.cols;
  std::vector<int64_t> order(static_cast<size_t>(n));
  if (factor) {
    order = factor->order;
  } else {
    std::iota(order.begin(), order.end(), 0);
  }
  double* work = f64(out.values);  // a column that is done holds its values
  std::vector<double> errors(static_cast<size_t>(w.rows * kColumnBlock));
  pool.parallel_for(w.rows, kRowBlock, [&](int64_t row_begin, int64_t row_end) {
    for (int64_t i = row_begin; i < row_end; ++i) {
      for (int64_t j = 0; j < n; ++j) work[i * n + j] = w(i, order[static_cast<size_t>(j)]);
    }
  });
  for (int64_t first = 0; first < n; first += kColumnBlock) {
    const int64_t end = std::min(first + kColumnBlock, n);
    pool.parallel_for(w.rows, kRowBlock, [&](int64_t row_begin, int64_t row_end) {
      for (int64_t i = row_begin; i < row_end; ++i) {
        double* row = work + i * n;
        for (int64_t j = first; j < end; ++j) {
          const int64_t original = order[static_cast<size_t>(j)];
          const double q = quantize_one(row[j], columns[static_cast<size_t>(original)], i);
          const double error = row[j] - q;
          row[j] = q;
          errors[static_cast<size_t>(i * kColumnBlock + j - first)] = error;
          if (!factor) continue;
          const double* feedback = factor->feedback.data() + j * n;
          for (int64_t k = j + 1; k < end; ++k) row[k] -= error * feedback[k];
        }
      }
    });
    if (factor && end < n) {
      linalg::gemm_block(w.rows, n - end, end - first, -1.0, errors.data(), kColumnBlock,
                         factor->feedback.data() + first * n + end, n, work + end, n);
    }
  }
  if (factor) {  // back to the columns' own order
    pool.parallel_for(w.rows, kRowBlock, [&](int64_t row_begin, int64_t row_end) {
      std::vector<double> row(static_cast<size_t>(n));
      for (int64_t i = row_begin; i < row_end; ++i) {
        std::copy_n(work + i * n, n, row.begin());
        for (int64_t j = 0; j < n; ++j)
          work[i * n + order[static_cast<size_t>(j)]] = row[static_cast<size_t>(j)];
      }
    });
  }
  return out;
}

}  // namespace deltacome::cpu
