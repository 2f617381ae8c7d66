// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/vector_quantizer.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "backend/cpu/cpu_memory.h"
#include "quant/vector_codes.h"

namespace deltacome::cpu {
namespace {

constexpr int64_t kPanelColumns =
    64;                           // columns between two updates of everything behind them, about
constexpr int64_t kRowBlock = 8;  // rows a thread takes at a time
constexpr int kMaxDim = kBookDimensions.back();

using Square = std::array<double, static_cast<size_t>(kMaxDim) * kMaxDim>;

/// The search for one group of columns [first, first + n): with R^T R = H^-1, the entry e of least
/// (w - e) M (w - e)^T, M = (R_g^T R_g)^-1 for the group's own block R_g of R, is the one of
/// largest w M e^T - e M e^T / 2.
struct Group {
  int64_t first = 0, n = 0;
  Square inverse{};                 // of the group's block of the unit upper triangular factor
  std::vector<float> metric{};      // M [n, n]
  std::vector<float> half_norms{};  // [256]: e M e^T / 2
  std::vector<double> feedback{};   // [n, columns behind the group]: errors to what they spoil
};

class Quantizer {
 public:
  Quantizer(ThreadPool& pool, const Tensor& w, const CpuGptqFactor* factor, int dim)
      : pool_(pool), w_{f64(w), w.rows(), w.cols()}, factor_(factor), dim_(dim) {
    const std::span<const int8_t> book = code_book(dim);
    columns_of_book_.resize(book.size());
    for (int e = 0; e < kBookEntries; ++e) {
      for (int i = 0; i < dim; ++i) {
        columns_of_book_[static_cast<size_t>(i) * kBookEntries + static_cast<size_t>(e)] =
            static_cast<float>(
                book[static_cast<size_t>(e) * static_cast<size_t>(dim) + static_cast<size_t>(i)]) *
            kBookStep;
      }
    }
  }

  VectorQuantized run() {
    const int64_t rows = w_.rows, n = w_.cols;
    out_.values = allocate(DType::kF64, {rows, n});
    codes_per_row_ = (n + dim_ - 1) / dim_;
    out_.codes.resize(static_cast<size_t>(rows * codes_per_row_));
    out_.scales.resize(static_cast<size_t>(rows));
    work_ = {f64(out_.values), rows, n};
    pool_.parallel_for(rows, kRowBlock, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) sum += w_(r, i) * w_(r, i);
        const double rms = std::sqrt(sum / static_cast<double>(n));
        out_.scales[static_cast<size_t>(r)] =
            std::max<uint16_t>(1, float_to_f16(static_cast<float>(std::min(rms, 65504.0))));
        std::copy_n(w_.row(r), n, work_.row(r));
      }
    });
    const int64_t panel = dim_ * ((kPanelColumns + dim_ - 1) / dim_);
    errors_.resize(static_cast<size_t>(rows * panel));
    for (int64_t first = 0; first < n; first += panel)
      run_panel(first, std::min(panel, n - first), panel);
    return std::move(out_);
  }

 private:
  double feedback(int64_t i, int64_t j) const {
    return factor_->feedback[static_cast<size_t>(i * w_.cols + j)];
  }

  /// Errors of a group times this is what the columns [begin, end) behind it take over:
  /// R_g^-1 R[g, begin:end], in which the diagonal of R cancels.
  std::vector<double> feedback_of(const Group& g, int64_t begin, int64_t end) const {
    std::vector<double> f(static_cast<size_t>(g.n * (end - begin)));
    for (int64_t i = 0; i < g.n; ++i) {
      double* to = f.data() + i * (end - begin);
      for (int64_t k = i; k < g.n; ++k) {
        const double by = g.inverse[static_cast<size_t>(i * kMaxDim + k)];
        const double* from = factor_->feedback.data() + (g.first + k) * w_.cols + begin;
        for (int64_t j = 0; j < end - begin; ++j) to[j] += by * from[j];
      }
    }
    return f;
  }

  Group make_group(int64_t first, int64_t panel_end) const {
    Group g{.first = first, .n = std::min<int64_t>(dim_, w_.cols - first)};
    g.metric.assign(static_cast<size_t>(g.n * g.n), 0);
    if (factor_ == nullptr) {
      for (int64_t i = 0; i < g.n; ++i) g.metric[static_cast<size_t>(i * g.n + i)] = 1;
    } else {
      for (int64_t j = 0; j < g.n; ++j) {  // columns of the inverse of a unit upper triangle
        for (int64_t i = j; i >= 0; --i) {
          double sum = i == j ? 1 : 0;
          for (int64_t k = i + 1; k <= j; ++k)
            sum -= feedback(first + i, first + k) * g.inverse[static_cast<size_t>(k * kMaxDim + j)];
          g.inverse[static_cast<size_t>(i * kMaxDim + j)] = sum;
        }
      }
      // M = N^-1 D^-2 N^-T for R_g = D N; its scale does not matter.
      const double unit = factor_->pivots[static_cast<size_t>(first)];
      for (int64_t i = 0; i < g.n; ++i) {
        for (int64_t j = 0; j < g.n; ++j) {
          double sum = 0;
          for (int64_t k = std::max(i, j); k < g.n; ++k) {
            const double pivot = factor_->pivots[static_cast<size_t>(first + k)] / unit;
            sum += g.inverse[static_cast<size_t>(i * kMaxDim + k)] *
                   g.inverse[static_cast<size_t>(j * kMaxDim + k)] / (pivot * pivot);
          }
          g.metric[static_cast<size_t>(i * g.n + j)] = static_cast<float>(sum);
        }
      }
      g.feedback = feedback_of(g, first + g.n, panel_end);
    }
    for (int e = 0; e < kBookEntries; ++e) {
      float sum = 0;
      for (int64_t i = 0; i < g.n; ++i) {
        for (int64_t j = 0; j < g.n; ++j)
          sum += entry(e, i) * entry(e, j) * g.metric[static_cast<size_t>(i * g.n + j)];
      }
      g.half_norms.push_back(sum / 2);
    }
    return g;
  }

  float entry(int e, int64_t i) const {
    return columns_of_book_[static_cast<size_t>(i * kBookEntries + e)];
  }

  int nearest(const Group& g, const double* w, double inverse_scale) const {
    std::array<float, kBookEntries> score;
    for (size_t e = 0; e < score.size(); ++e) score[e] = -g.half_norms[e];
    for (int64_t j = 0; j < g.n; ++j) {
      float weighted = 0;
      for (int64_t i = 0; i < g.n; ++i)
        weighted +=
            static_cast<float>(w[i] * inverse_scale) * g.metric[static_cast<size_t>(i * g.n + j)];
      const float* column = columns_of_book_.data() + j * kBookEntries;
      for (size_t e = 0; e < score.size(); ++e) score[e] += weighted * column[e];
    }
    return static_cast<int>(std::max_element(score.begin(), score.end()) - score.begin());
  }

  void run_panel(int64_t first, int64_t count, int64_t stride) {
    std::vector<Group> groups;
    for (int64_t at = first; at < first + count; at += dim_)
      groups.push_back(make_group(at, first + count));
    pool_.parallel_for(w_.rows, kRowBlock, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) code_row(groups, r, first, count, stride);
    });
    const int64_t behind = first + count;
    if (factor_ == nullptr || behind == w_.cols) return;
    std::vector<double> all;  // feedback of the panel's columns to everything behind it
    for (const Group& g : groups) {
      const std::vector<double> f = feedback_of(g, behind, w_.cols);
      all.insert(all.end(), f.begin(), f.end());
    }
    linalg::gemm_block(w_.rows, w_.cols - behind, count, -1.0, errors_.data(), stride, all.data(),
                       w_.cols - behind, work_.data + behind, w_.cols);
  }

  void code_row(const std::vector<Group>& groups, int64_t r, int64_t first, int64_t count,
                int64_t stride) {
    double* row = work_.row(r);
    const double scale = f16_to_float(out_.scales[static_cast<size_t>(r)]);
    for (const Group& g : groups) {
      const int e = nearest(g, row + g.first, 1 / scale);
      out_.codes[static_cast<size_t>(r * codes_per_row_ + g.first / dim_)] =
          static_cast<uint8_t>(e);
      double* error = errors_.data() + r * stride + g.first - first;
      for (int64_t i = 0; i < g.n; ++i) {
        const double q = scale * entry(e, i);
        error[i] = row[g.first + i] - q;
        row[g.first + i] = q;
      }
      if (factor_ == nullptr) continue;
      const int64_t behind = first + count - g.first - g.n;
      for (int64_t i = 0; i < g.n; ++i) {
        const double* f = g.feedback.data() + i * behind;
        for (int64_t j = 0; j < behind; ++j) row[g.first + g.n + j] -= error[i] * f[j];
      }
    }
  }

  ThreadPool& pool_;
  linalg::View w_;
  const CpuGptqFactor* factor_;
  int dim_;
  std::vector<float> columns_of_book_;  // [dim, 256]
  int64_t codes_per_row_ = 0;
  VectorQuantized out_;
  linalg::View work_;           // a column that is done holds its values
  std::vector<double> errors_;  // [rows, columns of a panel]
};

}  // namespace

VectorQuantized quantize_vectors(ThreadPool& pool, const Tensor& w, const CpuGptqFactor* factor,
                                 int dim) {
  return Quantizer(pool, w, factor, dim).run();
}

}  // namespace deltacome::cpu
