// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/compression.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/cpu_memory.h"
#include "backend/cpu/gptq.h"
#include "backend/cpu/vector_quantizer.h"
#include "linalg/dense.h"
#include "quant/vector_codes.h"

namespace deltacome::cpu {
namespace {

constexpr int64_t kGramRows = 4096;  // rows summed in f32 before they are added in f64
constexpr int64_t kMirrorTile = 64;  // of a transposition, so that both sides stay in the cache

linalg::View view(const Tensor& tensor) {
  return {f64(tensor), tensor.rows(), tensor.cols()};
}

/// Row r of a matrix of any floating dtype, exactly.
void load_row(const Tensor& tensor, int64_t r, std::span<double> out) {
  if (tensor.dtype == DType::kF64) {
    std::copy_n(f64(tensor) + r * tensor.cols(), out.size(), out.begin());
    return;
  }
  std::vector<float> row(out.size());
  convert_to_float(bytes_of(tensor) + r * tensor.cols() * dtype_bytes(tensor.dtype), tensor.dtype,
                   row);
  std::copy(row.begin(), row.end(), out.begin());
}

class CpuCompressionOps final : public CompressionOps {
 public:
  explicit CpuCompressionOps(ThreadPool& pool) : pool_(pool) {}

  void subtract(Stream&, const Tensor& a, const Tensor& b, const Tensor& out) override {
    DELTACOME_CHECK(a.size() == out.size() && b.size() == out.size());
    const int64_t cols = out.cols();
    pool_.parallel_for(out.rows(), 16, [&](int64_t begin, int64_t end) {
      std::vector<double> x(static_cast<size_t>(cols)), y(x.size());
      for (int64_t r = begin; r < end; ++r) {
        load_row(a, r, x);
        load_row(b, r, y);
        double* to = f64(out) + r * cols;
        for (size_t i = 0; i < x.size(); ++i) to[i] = x[i] - y[i];
      }
    });
  }

  void gram(Stream&, const Tensor& x, const Tensor& c) override {
    const int64_t n = x.rows(), d = x.cols();
    DELTACOME_CHECK(c.rows() == d && c.cols() == d);
    std::vector<float> piece(static_cast<size_t>(d * d));
    double* sum = f64(c);
    for (int64_t first = 0; first < n; first += kGramRows) {
      linalg::gram_upper(f32(x) + first * d, std::min(kGramRows, n - first), d, piece.data());
      pool_.parallel_for(d, 64, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          for (int64_t j = i; j < d; ++j) sum[i * d + j] += piece[static_cast<size_t>(i * d + j)];
        }
      });
    }
    pool_.parallel_for(d, kMirrorTile, [&](int64_t begin, int64_t end) {  // rows below the diagonal
      for (int64_t first = 0; first < end; first += kMirrorTile) {
        for (int64_t i = std::max(begin, first + 1); i < end; ++i) {
          for (int64_t j = first; j < std::min(first + kMirrorTile, i); ++j)
            sum[i * d + j] = sum[j * d + i];
        }
      }
    });
  }

  void matmul(Stream&, const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
              const Tensor& c) override {
    linalg::gemm(view(a), transpose_a, view(b), transpose_b, view(c));
  }

  std::vector<double> eigh(Stream&, const Tensor& a) override {
    std::vector<double> values = linalg::eigh(view(a));
    const linalg::View v = view(a);
    for (int64_t i = 0; i < v.rows / 2; ++i) {  // largest first
      std::swap_ranges(v.row(i), v.row(i) + v.cols, v.row(v.rows - 1 - i));
    }
    std::reverse(values.begin(), values.end());
    return values;
  }

  void scale(Stream&, const Tensor& a, std::span<const double> rows,
             std::span<const double> cols) override {
    const linalg::View v = view(a);
    DELTACOME_CHECK(rows.empty() || static_cast<int64_t>(rows.size()) == v.rows);
    DELTACOME_CHECK(cols.empty() || static_cast<int64_t>(cols.size()) == v.cols);
    pool_.parallel_for(v.rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const double by = rows.empty() ? 1 : rows[static_cast<size_t>(i)];
        for (int64_t j = 0; j < v.cols; ++j) {
          v(i, j) *= cols.empty() ? by : by * cols[static_cast<size_t>(j)];
        }
      }
    });
  }

  std::vector<double> row_dots(Stream&, const Tensor& a, const Tensor& b) override {
    const linalg::View x = view(a), y = view(b);
    DELTACOME_CHECK(x.rows == y.rows && x.cols == y.cols);
    std::vector<double> sums(static_cast<size_t>(x.rows));
    pool_.parallel_for(x.rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < x.cols; ++j) sum += x(i, j) * y(i, j);
        sums[static_cast<size_t>(i)] = sum;
      }
    });
    return sums;
  }

  void copy(Stream&, const Tensor& a, const Tensor& out) override {
    DELTACOME_CHECK(a.dtype == out.dtype && a.size() == out.size());
    std::copy_n(bytes_of(a), a.bytes(), bytes_of(out));
  }

  void transpose(Stream&, const Tensor& a, const Tensor& out) override {
    const linalg::View x = view(a), y = view(out);
    DELTACOME_CHECK(x.rows == y.cols && x.cols == y.rows);
    pool_.parallel_for(y.rows, 32, [&](int64_t begin, int64_t end) {
      for (int64_t j = 0; j < y.cols; ++j) {
        for (int64_t i = begin; i < end; ++i) y(i, j) = x(j, i);
      }
    });
  }

  void clear(Stream&, const Tensor& a) override {
    std::fill_n(bytes_of(a), a.bytes(), std::byte{0});
  }

  void multiply(Stream&, const Tensor& a, const Tensor& b, const Tensor& out) override {
    DELTACOME_CHECK(a.size() == out.size() && b.size() == out.size());
    pool_.parallel_for(out.size(), 1 << 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) f64(out)[i] = f64(a)[i] * f64(b)[i];
    });
  }

  void gather_rows(Stream&, const Tensor& a, std::span<const int64_t> rows,
                   const Tensor& out) override {
    const linalg::View x = view(a), y = view(out);
    DELTACOME_CHECK(static_cast<int64_t>(rows.size()) == y.rows && x.cols == y.cols);
    for (size_t i = 0; i < rows.size(); ++i) {
      DELTACOME_CHECK(rows[i] >= 0 && rows[i] < x.rows);
      std::copy_n(x.row(rows[i]), x.cols, y.row(static_cast<int64_t>(i)));
    }
  }

  std::vector<double> diagonal(Stream&, const Tensor& square) override {
    const linalg::View x = view(square);
    DELTACOME_CHECK(x.rows == x.cols);
    std::vector<double> values;
    for (int64_t i = 0; i < x.rows; ++i) values.push_back(x(i, i));
    return values;
  }

  void add_diagonal(Stream&, const Tensor& square, std::span<const double> values) override {
    const linalg::View x = view(square);
    DELTACOME_CHECK(x.rows == x.cols && static_cast<int64_t>(values.size()) == x.rows);
    for (int64_t i = 0; i < x.rows; ++i) x(i, i) += values[static_cast<size_t>(i)];
  }

  std::unique_ptr<GptqFactor> gptq_factor(Stream&, const Tensor& h, std::span<const int64_t> order,
                                          double damp) override {
    return factor_hessian(view(h), order, damp);
  }

  Quantized gptq(Stream&, const Tensor& w, const GptqFactor* factor,
                 std::span<const CodeSection> sections) override {
    return quantize(pool_, w, static_cast<const CpuGptqFactor*>(factor), sections);
  }

  VectorQuantized quantize_vectors(Stream&, const Tensor& w, const GptqFactor* factor,
                                   int dim) override {
    return cpu::quantize_vectors(pool_, w, static_cast<const CpuGptqFactor*>(factor), dim);
  }

  void solve_right(Stream&, const Tensor& a, const Tensor& b) override {
    linalg::solve_right(view(a), view(b));
  }

  void rotate_rows(Stream&, const Tensor& a, std::span<const float> signs, int64_t block) override {
    const linalg::View v = view(a);
    DELTACOME_CHECK(static_cast<int64_t>(signs.size()) == v.cols);
    pool_.parallel_for(v.rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        rotate(std::span(v.row(r), static_cast<size_t>(v.cols)), signs, block);
    });
  }

 private:
  ThreadPool& pool_;
};

}  // namespace

std::unique_ptr<CompressionOps> create_compression_ops(ThreadPool& pool) {
  linalg::set_threads(pool.n_threads());
  return std::make_unique<CpuCompressionOps>(pool);
}

}  // namespace deltacome::cpu
