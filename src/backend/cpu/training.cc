// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/training.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/cpu_memory.h"
#include "backend/cpu/top_tokens.h"
#include "backend/cpu/training_attention.h"
#include "backend/cpu/training_loss.h"
#include "linalg/dense.h"
#include "quant/codes.h"

namespace deltacome::cpu {
namespace {

constexpr int64_t kElements = 1 << 14;  // of elementwise ops, to one thread at a time

linalg::BlockF32 block(const Tensor& tensor) {
  return {f32(tensor), tensor.rows(), tensor.cols(), tensor.cols()};
}
float* f32_or_null(const Tensor& tensor) {
  return tensor.empty() ? nullptr : f32(tensor);
}
void check_size(const Tensor& tensor, int64_t size) {
  DELTACOME_CHECK(tensor.empty() || tensor.size() == size);
}

class CpuTrainingOps final : public TrainingOps {
 public:
  explicit CpuTrainingOps(const Runtime& runtime) : runtime_(runtime) {}

  void matmul(Stream&, const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
              float beta, const Tensor& c) override {
    if (c.size() == 0) return;
    linalg::gemm_f32(block(a), transpose_a, block(b), transpose_b, block(c), 1, beta);
  }

  void transpose(Stream&, const Tensor& a, const Tensor& out) override {
    constexpr int64_t kTile = 64;  // so that both sides stay in the cache
    const int64_t n = a.rows(), d = a.cols();
    DELTACOME_CHECK(out.rows() == d && out.cols() == n);
    const float* from = f32(a);
    float* to = f32(out);
    runtime_.pool.parallel_for(n, kTile, [&](int64_t begin, int64_t end) {
      for (int64_t first = 0; first < d; first += kTile) {
        for (int64_t j = first; j < std::min(first + kTile, d); ++j) {
          for (int64_t i = begin; i < end; ++i) to[j * n + i] = from[i * d + j];
        }
      }
    });
  }

  void decode(Stream&, const MatrixFormat& format, const Tensor& blob, const Tensor& q,
              const Tensor& v) override {
    DecodedDelta delta = decode_delta(format, {bytes_of(blob), static_cast<size_t>(blob.bytes())});
    if (format.codec == Codec::kLowRank) {
      const auto rank = static_cast<size_t>(format.rank());
      for (size_t i = 0; i < delta.u.size(); ++i) delta.u[i] *= delta.s[i % rank];
      put(delta.u, q);
      put(delta.v, v);
    } else {
      DELTACOME_CHECK(v.empty());
      put(delta.v, q);
    }
  }

  void compose(Stream&, const Tensor& weight, const Tensor& q, const Tensor& rows,
               const Tensor& cols, const Tensor& out) override {
    const int64_t n_out = out.rows(), n_in = out.cols();
    DELTACOME_CHECK(!weight.empty() || !q.empty());
    check_size(weight, out.size());
    check_size(q, out.size());
    check_size(rows, n_out);
    check_size(cols, n_in);
    const float *q_at = f32_or_null(q), *by = f32_or_null(rows), *by_cols = f32_or_null(cols);
    float* to = f32(out);
    for_rows(n_out, n_in, [&](int64_t o) {
      float* row = to + o * n_in;
      if (q_at == nullptr) return load_row(weight, o, row);
      const float* w = nullptr;
      if (weight.dtype == DType::kF32 && !weight.empty()) {
        w = reinterpret_cast<const float*>(bytes_of(weight)) + o * n_in;
      } else if (!weight.empty()) {
        float* scratch = thread_scratch(n_in).data();
        load_row(weight, o, scratch);
        w = scratch;
      }
      runtime_.kernels.compose({.w = w,
                                .q = q_at + o * n_in,
                                .cols = by_cols,
                                .by = by == nullptr ? 1 : by[o],
                                .n = n_in,
                                .out = row});
    });
  }

  void gain_gradients(Stream&, const Tensor& g, const Tensor& q, const Tensor& rows,
                      const Tensor& cols, const Tensor& d_rows, const Tensor& d_cols) override {
    const int64_t n_out = g.rows(), n_in = g.cols();
    DELTACOME_CHECK(q.rows() == n_out && q.cols() == n_in);
    check_size(rows, n_out);
    check_size(cols, n_in);
    check_size(d_rows, n_out);
    check_size(d_cols, n_in);
    const float *by = f32_or_null(rows), *by_cols = f32_or_null(cols);
    float* row_sums = f32_or_null(d_rows);
    sum_rows(n_out, n_in, f32_or_null(d_cols), [&](int64_t o, float* col_sums) {
      const float *g_at = f32(g) + o * n_in, *q_at = f32(q) + o * n_in;
      if (row_sums != nullptr)
        row_sums[o] += runtime_.kernels.sum_products(g_at, q_at, by_cols, n_in);
      if (col_sums == nullptr) return;
      const float scale = by == nullptr ? 1 : by[o];
      for (int64_t i = 0; i < n_in; ++i) col_sums[i] += g_at[i] * q_at[i] * scale;
    });
  }

  void add_row_dots(Stream&, const Tensor& a, const Tensor& b, const Tensor& sums) override {
    const int64_t n = a.rows(), d = a.cols();
    DELTACOME_CHECK(b.rows() == n && b.cols() == d && sums.size() == n);
    for_rows(n, d, [&](int64_t i) {
      f32(sums)[i] += runtime_.kernels.sum_products(f32(a) + i * d, f32(b) + i * d, nullptr, d);
    });
  }

  void add_col_sums(Stream&, const Tensor& a, const Tensor& sums) override {
    const int64_t d = a.cols();
    DELTACOME_CHECK(a.rows() == 0 || sums.size() == d);
    sum_rows(a.rows(), d, f32(sums), [&](int64_t i, float* to) {
      const float* from = f32(a) + i * d;
      for (int64_t j = 0; j < d; ++j) to[j] += from[j];
    });
  }

  void rms_norm_backward(Stream&, const Tensor& x, const Tensor& weight, double eps,
                         const Tensor& dy, const Tensor& dx, const Tensor& d_weight) override {
    const int64_t d = weight.size();
    DELTACOME_CHECK(d > 0 && x.size() % d == 0 && x.cols() % d == 0);
    DELTACOME_CHECK(dy.size() == x.size() && dx.size() == x.size());
    check_size(d_weight, d);
    const float* w = f32(weight);
    sum_rows(x.size() / d, d, f32_or_null(d_weight), [&](int64_t i, float* dw) {
      const float *x_at = f32(x) + i * d, *dy_at = f32(dy) + i * d;
      const auto n = static_cast<double>(d);
      const double inverse =
          1 / std::sqrt(static_cast<double>(runtime_.kernels.sum_squares(x_at, d)) / n + eps);
      const double dot = static_cast<double>(runtime_.kernels.sum_products(dy_at, w, x_at, d));
      runtime_.kernels.rms_norm_backward(
          {.x = x_at,
           .w = w,
           .dy = dy_at,
           .n = d,
           .by = static_cast<float>(inverse),
           .minus = static_cast<float>(inverse * inverse * inverse * dot / n),
           .dx = f32(dx) + i * d,
           .dw = dw});
    });
  }

  void attention(Stream&, std::span<const int64_t> lengths, const AttentionShape& shape,
                 const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) override {
    sequence_attention(runtime_, lengths, shape, {q, k, v, out});
  }
  void attention_backward(Stream&, std::span<const int64_t> lengths, const AttentionShape& shape,
                          const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& d_out,
                          const Tensor& dq, const Tensor& dk, const Tensor& dv) override {
    sequence_attention_backward(runtime_, lengths, shape, {q, k, v, d_out}, dq, dk, dv);
  }

  void silu_mul_backward(Stream&, const Tensor& gate, const Tensor& up, const Tensor& d_out,
                         const Tensor& d_gate, const Tensor& d_up) override {
    const int64_t n = d_out.size();
    DELTACOME_CHECK(gate.size() == n && up.size() == n && d_gate.size() == n && d_up.size() == n);
    for_elements(n, [&](int64_t at, int64_t count) {
      runtime_.kernels.silu_mul_backward({.gate = f32(gate) + at,
                                          .up = f32(up) + at,
                                          .d_out = f32(d_out) + at,
                                          .n = count,
                                          .d_gate = f32(d_gate) + at,
                                          .d_up = f32(d_up) + at});
    });
  }

  double kl_gradient(Stream&, const Tensor& logits, int64_t n_vocab, const Tensor& ids,
                     const Tensor& log_p, const Tensor& weights) override {
    return cpu::kl_gradient(runtime_, logits, n_vocab, ids, log_p, weights);
  }

  void top_tokens(Stream&, const Tensor& logits, int64_t n_vocab, const Tensor& ids,
                  const Tensor& log_p) override {
    if (logits.rows() > 0) cpu::top_tokens(runtime_, logits, n_vocab, ids, log_p);
  }

  void adam(Stream&, const AdamStep& step, const Tensor& p, const Tensor& g, const Tensor& m,
            const Tensor& v) override {
    const int64_t n = p.size();
    DELTACOME_CHECK(g.size() == n && m.size() == n && v.size() == n && step.step >= 1);
    const auto t = static_cast<double>(step.step);
    const double correct1 = 1 - std::pow(static_cast<double>(step.beta1), t);
    const double correct2 = 1 - std::pow(static_cast<double>(step.beta2), t);
    for_elements(n, [&](int64_t at, int64_t count) {
      runtime_.kernels.adam({.beta1 = step.beta1,
                             .beta2 = step.beta2,
                             .epsilon = step.epsilon,
                             .rate = static_cast<float>(static_cast<double>(step.rate) / correct1),
                             .root = static_cast<float>(1 / std::sqrt(correct2)),
                             .n = count,
                             .p = f32(p) + at,
                             .g = f32(g) + at,
                             .m = f32(m) + at,
                             .v = f32(v) + at});
    });
  }

 private:
  static void put(const std::vector<float>& values, const Tensor& to) {
    DELTACOME_CHECK(static_cast<int64_t>(values.size()) == to.size());
    std::ranges::copy(values, f32(to));
  }

  template <class Body>
  void for_elements(int64_t n, const Body& body) const {
    runtime_.pool.parallel_for(n, n < (1 << 18) ? n : kElements,
                               [&](int64_t begin, int64_t end) { body(begin, end - begin); });
  }

  template <class Body>
  void for_rows(int64_t n_rows, int64_t width, const Body& body) const {
    const int64_t some = std::max<int64_t>(1, kElements / std::max<int64_t>(1, width));
    const int64_t grain = grain_of(n_rows, n_rows * width);
    runtime_.pool.parallel_for(n_rows, std::max(grain, some), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(i);
    });
  }

  /// body(i, to) for every row; what it adds to `to` [width] ends in `sums` [width]. The pieces of
  /// rows that are summed apart do not depend on the threads. sums null: to is null.
  template <class Body>
  void sum_rows(int64_t n_rows, int64_t width, float* sums, const Body& body) const {
    constexpr int64_t kPieces = 32, kLeastRows = 16;
    const int64_t piece = std::max(kLeastRows, ceil_div(n_rows, kPieces));
    const int64_t n_pieces = ceil_div(n_rows, piece);
    std::vector<float> partial(sums == nullptr ? 0 : static_cast<size_t>(n_pieces * width));
    runtime_.pool.parallel_for(
        n_pieces, grain_of(n_pieces, n_rows * width), [&](int64_t begin, int64_t end) {
          for (int64_t i = begin * piece; i < std::min(n_rows, end * piece); ++i)
            body(i, sums == nullptr ? nullptr : partial.data() + i / piece * width);
        });
    for (size_t i = 0; i < partial.size(); ++i) sums[i % static_cast<size_t>(width)] += partial[i];
  }

  void load_row(const Tensor& weight, int64_t row, float* out) const {
    const int64_t n = weight.cols();
    const std::byte* in = bytes_of(weight) + row * n * dtype_bytes(weight.dtype);
    if (weight.dtype == DType::kBf16)
      return runtime_.kernels.convert(WeightType::kBf16, in, n, out);
    if (weight.dtype == DType::kF16) return runtime_.kernels.convert(WeightType::kF16, in, n, out);
    convert_to_float(in, weight.dtype, {out, static_cast<size_t>(n)});
  }

  Runtime runtime_;
};

}  // namespace

std::unique_ptr<TrainingOps> create_training_ops(const Runtime& runtime) {
  linalg::set_threads(runtime.pool.n_threads());
  return std::make_unique<CpuTrainingOps>(runtime);
}

}  // namespace deltacome::cpu
