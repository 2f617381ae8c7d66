// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/training_attention.h"

#include <algorithm>
#include <cmath>

#include "backend/cuda/training_kernels.h"

namespace deltacome::cuda {
namespace {

constexpr int64_t kQueries =
    256;  // more waste products above the diagonal, fewer are more launches

/// Some queries of a sequence and the keys that any of them sees; rows are the batch's.
struct QueryBlock {
  int64_t row = 0, key_row = 0;
  Scores scores;
};

template <class Body>
void for_each_block(const SequenceAttention& a, const Body& body) {
  const AttentionShape& shape = a.shape;
  DELTACOME_CHECK(shape.head_dim > 0 && shape.n_kv_heads > 0 && shape.window >= 0);
  DELTACOME_CHECK(shape.n_heads % shape.n_kv_heads == 0);
  int64_t first_row = 0;
  for (const int64_t n_rows : a.lengths) {
    for (int64_t position = 0; position < n_rows; position += kQueries) {
      QueryBlock b;
      Scores& s = b.scores;
      s.n_heads = shape.n_heads;
      s.n_queries = std::min(kQueries, n_rows - position);
      s.position = position;
      s.window = shape.window;
      s.first_key = shape.window == 0 ? 0 : std::max<int64_t>(0, position - shape.window + 1);
      s.n_keys = position + s.n_queries - s.first_key;
      s.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(shape.head_dim)));
      b.row = first_row + position;
      b.key_row = first_row + s.first_key;
      body(b);
    }
    first_row += n_rows;
  }
  const auto check = [&](const Tensor& x, int64_t n_heads) {
    DELTACOME_CHECK(x.rows() == first_row && x.size() == first_row * n_heads * shape.head_dim);
  };
  check(a.q, shape.n_heads);
  check(a.out, shape.n_heads);
  check(a.k, shape.n_kv_heads);
  check(a.v, shape.n_kv_heads);
}

/// Products over all kv heads at once, for each of the query heads that share one in turn.
class HeadProducts {
 public:
  HeadProducts(const SequenceAttention& a, const QueryBlock& block)
      : a_(a), block_(block), per_kv_(a.shape.n_heads / a.shape.n_kv_heads) {}

  /// Rows of queries, of query heads `i` of each kv head.
  Blas::Batch queries(const Tensor& x, int64_t i) const {
    const int64_t width = a_.shape.n_heads * a_.shape.head_dim;
    return {{f32(x) + block_.row * width + i * a_.shape.head_dim, block_.scores.n_queries,
             a_.shape.head_dim, width},
            per_kv_ * a_.shape.head_dim};
  }
  Blas::Batch keys(const Tensor& x) const {
    const int64_t width = a_.shape.n_kv_heads * a_.shape.head_dim;
    return {{f32(x) + block_.key_row * width, block_.scores.n_keys, a_.shape.head_dim, width},
            a_.shape.head_dim};
  }
  Blas::Batch scores(const Tensor& x, int64_t i) const {
    const Scores& s = block_.scores;
    const int64_t of_head = s.n_queries * s.n_keys;
    return {{f32(x) + i * of_head, s.n_queries, s.n_keys, s.n_keys}, per_kv_ * of_head};
  }
  Tensor make_scores() const {
    const Scores& s = block_.scores;
    return a_.context.allocate(DType::kF32, {s.n_heads, s.n_queries, s.n_keys});
  }
  int64_t per_kv() const noexcept { return per_kv_; }
  void multiply(const Blas::Batch& a, bool transpose_a, const Blas::Batch& b, bool transpose_b,
                const Blas::Batch& c, float beta = 0) const {
    a_.blas.gemm(a_.stream, a_.shape.n_kv_heads, a, transpose_a, b, transpose_b, c, beta);
  }

 private:
  const SequenceAttention& a_;
  const QueryBlock& block_;
  int64_t per_kv_;
};

}  // namespace

void SequenceAttention::forward() const {
  for_each_block(*this, [&](const QueryBlock& block) {
    const HeadProducts heads(*this, block);
    const Tensor p = heads.make_scores();
    for (int64_t i = 0; i < heads.per_kv(); ++i)
      heads.multiply(heads.queries(q, i), false, heads.keys(k), true, heads.scores(p, i));
    DELTACOME_CUDA_CHECK(launch_softmax(block.scores, f32(p), stream.get()));
    for (int64_t i = 0; i < heads.per_kv(); ++i)
      heads.multiply(heads.scores(p, i), false, heads.keys(v), false, heads.queries(out, i));
  });
}

void SequenceAttention::backward(const Tensor& dq, const Tensor& dk, const Tensor& dv) const {
  DELTACOME_CHECK(dq.size() == q.size() && dk.size() == k.size() && dv.size() == v.size());
  for (const Tensor* sums : {&dk, &dv})
    DELTACOME_CUDA_CHECK(
        cudaMemsetAsync(bytes_of(*sums), 0, static_cast<size_t>(sums->bytes()), stream.get()));
  for_each_block(*this, [&](const QueryBlock& block) {
    const HeadProducts heads(*this, block);
    const Tensor p = heads.make_scores(), ds = heads.make_scores();
    for (int64_t i = 0; i < heads.per_kv(); ++i) {
      heads.multiply(heads.queries(q, i), false, heads.keys(k), true, heads.scores(p, i));
      heads.multiply(heads.queries(out, i), false, heads.keys(v), true, heads.scores(ds, i));
    }
    DELTACOME_CUDA_CHECK(launch_softmax_backward(block.scores, f32(p), f32(ds), stream.get()));
    for (int64_t i = 0; i < heads.per_kv(); ++i) {
      heads.multiply(heads.scores(ds, i), false, heads.keys(k), false, heads.queries(dq, i));
      heads.multiply(heads.scores(ds, i), true, heads.queries(q, i), false, heads.keys(dk), 1);
      heads.multiply(heads.scores(p, i), true, heads.queries(out, i), false, heads.keys(dv), 1);
    }
  });
}

}  // namespace deltacome::cuda
