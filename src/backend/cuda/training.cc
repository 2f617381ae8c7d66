// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/training.h"

#include <cmath>
#include <vector>

#include "backend/cuda/blas.h"
#include "backend/cuda/decode.h"
#include "backend/cuda/dense.h"
#include "backend/cuda/linear.h"
#include "backend/cuda/training_attention.h"
#include "backend/cuda/training_kernels.h"

namespace deltacome::cuda {
namespace {

float* f32_or_null(const Tensor& tensor) {
  return tensor.empty() ? nullptr : f32(tensor);
}
void check_size(const Tensor& tensor, int64_t size) {
  DELTACOME_CHECK(tensor.empty() || tensor.size() == size);
}

class CudaTrainingOps final : public TrainingOps {
 public:
  CudaTrainingOps(const CudaContext& context, StreamOrder& order)
      : context_(context), order_(order), blas_(context), decoder_(context) {}

  void matmul(Stream& stream, const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
              float beta, const Tensor& c) override {
    if (c.size() == 0) return;
    blas_.gemm(on(stream), block_f32(a), transpose_a, block_f32(b), transpose_b, block_f32(c), beta,
               Precision::kTf32);
  }

  void transpose(Stream& stream, const Tensor& a, const Tensor& out) override {
    DELTACOME_CHECK(a.rows() == out.cols() && a.cols() == out.rows());
    DELTACOME_CUDA_CHECK(launch_transpose(f32(a), a.rows(), a.cols(), f32(out), on(stream).get()));
  }

  void decode(Stream& stream, const MatrixFormat& format, const Tensor& blob, const Tensor& q,
              const Tensor& v) override {
    decoder_.run(on(stream), format, blob, q, v);
  }

  void compose(Stream& stream, const Tensor& weight, const Tensor& q, const Tensor& rows,
               const Tensor& cols, const Tensor& out) override {
    DELTACOME_CHECK(!weight.empty() || !q.empty());
    check_size(weight, out.size());
    check_size(q, out.size());
    check_size(rows, out.rows());
    check_size(cols, out.cols());
    Compose args{.weight = {},
                 .q = f32_or_null(q),
                 .rows = f32_or_null(rows),
                 .cols = f32_or_null(cols),
                 .out = f32(out),
                 .n_out = out.rows(),
                 .n_in = out.cols()};
    if (!weight.empty()) args.weight = matrix_of(weight);
    DELTACOME_CUDA_CHECK(launch_compose(args, on(stream).get()));
  }

  void gain_gradients(Stream& stream, const Tensor& g, const Tensor& q, const Tensor& rows,
                      const Tensor& cols, const Tensor& d_rows, const Tensor& d_cols) override {
    const int64_t n_out = g.rows(), n_in = g.cols();
    DELTACOME_CHECK(q.rows() == n_out && q.cols() == n_in);
    check_size(rows, n_out);
    check_size(cols, n_in);
    check_size(d_rows, n_out);
    check_size(d_cols, n_in);
    const Tensor sums = scratch(d_cols.empty() ? 0 : column_sum_scratch(n_out, n_in));
    DELTACOME_CUDA_CHECK(launch_gain_gradients({.g = f32(g),
                                                .q = f32(q),
                                                .rows = f32_or_null(rows),
                                                .cols = f32_or_null(cols),
                                                .d_rows = f32_or_null(d_rows),
                                                .d_cols = f32_or_null(d_cols),
                                                .scratch = f32(sums),
                                                .n_out = n_out,
                                                .n_in = n_in},
                                               on(stream).get()));
  }

  void add_row_dots(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& sums) override {
    DELTACOME_CHECK(b.rows() == a.rows() && b.cols() == a.cols() && sums.size() == a.rows());
    DELTACOME_CUDA_CHECK(
        launch_add_row_dots(f32(a), f32(b), a.rows(), a.cols(), f32(sums), on(stream).get()));
  }

  void add_col_sums(Stream& stream, const Tensor& a, const Tensor& sums) override {
    DELTACOME_CHECK(a.rows() == 0 || sums.size() == a.cols());
    const Tensor partial = scratch(column_sum_scratch(a.rows(), a.cols()));
    DELTACOME_CUDA_CHECK(
        launch_add_col_sums(f32(a), a.rows(), a.cols(), f32(sums), f32(partial), on(stream).get()));
  }

  void rms_norm_backward(Stream& stream, const Tensor& x, const Tensor& weight, double eps,
                         const Tensor& dy, const Tensor& dx, const Tensor& d_weight) override {
    const int64_t d = weight.size();
    DELTACOME_CHECK(d > 0 && x.size() % d == 0 && x.cols() % d == 0);
    DELTACOME_CHECK(dy.size() == x.size() && dx.size() == x.size());
    check_size(d_weight, d);
    const int64_t n = x.size() / d;
    const Tensor sums = scratch(2 * n + (d_weight.empty() ? 0 : column_sum_scratch(n, d)));
    DELTACOME_CUDA_CHECK(launch_rms_norm_backward({.x = f32(x),
                                                   .weight = f32(weight),
                                                   .dy = f32(dy),
                                                   .dx = f32(dx),
                                                   .d_weight = f32_or_null(d_weight),
                                                   .scratch = f32(sums),
                                                   .n = n,
                                                   .d = d,
                                                   .eps = eps},
                                                  on(stream).get()));
  }

  void attention(Stream& stream, std::span<const int64_t> lengths, const AttentionShape& shape,
                 const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) override {
    SequenceAttention{blas_, context_, on(stream), lengths, shape, q, k, v, out}.forward();
  }
  void attention_backward(Stream& stream, std::span<const int64_t> lengths,
                          const AttentionShape& shape, const Tensor& q, const Tensor& k,
                          const Tensor& v, const Tensor& d_out, const Tensor& dq, const Tensor& dk,
                          const Tensor& dv) override {
    SequenceAttention{blas_, context_, on(stream), lengths, shape, q, k, v, d_out}.backward(dq, dk,
                                                                                            dv);
  }

  void silu_mul_backward(Stream& stream, const Tensor& gate, const Tensor& up, const Tensor& d_out,
                         const Tensor& d_gate, const Tensor& d_up) override {
    const int64_t n = d_out.size();
    DELTACOME_CHECK(gate.size() == n && up.size() == n && d_gate.size() == n && d_up.size() == n);
    DELTACOME_CUDA_CHECK(launch_silu_mul_backward(f32(gate), f32(up), f32(d_out), f32(d_gate),
                                                  f32(d_up), n, on(stream).get()));
  }

  double kl_gradient(Stream& stream, const Tensor& logits, int64_t n_vocab, const Tensor& ids,
                     const Tensor& log_p, const Tensor& weights) override {
    const int64_t n = logits.rows(), width = logits.cols();
    if (n == 0) return 0;
    const int64_t k = ids.cols();
    DELTACOME_CHECK(n_vocab > 0 && n_vocab <= width && k > 0 && k <= n_vocab && k <= kMostTargets);
    DELTACOME_CHECK(ids.rows() == n && log_p.rows() == n && log_p.cols() == k);
    DELTACOME_CHECK(weights.size() == n);
    const Tensor losses = context_.allocate(DType::kF64, {n});
    CudaStream& to = on(stream);
    DELTACOME_CUDA_CHECK(launch_kl_gradient({.logits = f32(logits),
                                             .n = n,
                                             .width = width,
                                             .n_vocab = n_vocab,
                                             .ids = i32(ids),
                                             .log_p = f32(log_p),
                                             .weights = f32(weights),
                                             .k = k,
                                             .losses = f64(losses)},
                                            to.get()));
    std::vector<double> host(static_cast<size_t>(n));
    to.download(f64(losses), std::as_writable_bytes(std::span(host)));
    double loss = 0;
    for (const double of_row : host) loss += of_row;
    return loss;
  }

  void top_tokens(Stream& stream, const Tensor& logits, int64_t n_vocab, const Tensor& ids,
                  const Tensor& log_p) override {
    const int64_t n = logits.rows(), k = ids.cols();
    if (n == 0) return;
    DELTACOME_CHECK(n_vocab <= logits.cols() && k > 0 && k <= n_vocab && k <= kMostTargets);
    DELTACOME_CHECK(ids.rows() == n && log_p.size() == n * k);
    DELTACOME_CUDA_CHECK(launch_top_tokens({.logits = f32(logits),
                                            .n = n,
                                            .width = logits.cols(),
                                            .n_vocab = n_vocab,
                                            .k = static_cast<int>(k),
                                            .ids = i32(ids),
                                            .log_p = f32(log_p)},
                                           on(stream).get()));
  }

  void adam(Stream& stream, const AdamStep& step, const Tensor& p, const Tensor& g, const Tensor& m,
            const Tensor& v) override {
    const int64_t n = p.size();
    DELTACOME_CHECK(g.size() == n && m.size() == n && v.size() == n && step.step >= 1);
    const auto t = static_cast<double>(step.step);
    const double correct1 = 1 - std::pow(static_cast<double>(step.beta1), t);
    const double correct2 = 1 - std::pow(static_cast<double>(step.beta2), t);
    DELTACOME_CUDA_CHECK(
        launch_adam({.beta1 = step.beta1,
                     .beta2 = step.beta2,
                     .epsilon = step.epsilon,
                     .rate = static_cast<float>(static_cast<double>(step.rate) / correct1),
                     .root = static_cast<float>(1 / std::sqrt(correct2)),
                     .n = n,
                     .p = f32(p),
                     .g = f32(g),
                     .m = f32(m),
                     .v = f32(v)},
                    on(stream).get()));
  }

 private:
  CudaStream& on(Stream& stream) {
    context_.activate();
    order_.enter(cuda_stream(stream));
    return cuda_stream(stream);
  }
  Tensor scratch(int64_t n) const { return context_.allocate(DType::kF32, {n}); }

  CudaContext context_;
  StreamOrder& order_;
  Blas blas_;
  DeltaDecoder decoder_;
};

}  // namespace

std::unique_ptr<TrainingOps> create_training_ops(const CudaContext& context, StreamOrder& order) {
  return std::make_unique<CudaTrainingOps>(context, order);
}

}  // namespace deltacome::cuda
