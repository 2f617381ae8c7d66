// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/training_attention.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "backend/cpu/cpu_memory.h"
#include "linalg/dense.h"

namespace deltacome::cpu {
namespace {

using linalg::BlockF32;
using linalg::gemm_f32;

// Queries whose scores are computed at once. At 512 tokens on two cores with AVX2, 128 took 6 %
// longer: more is wasted above the diagonal, and two matrices of scores leave the L2 cache.
constexpr int64_t kQueryBlock = 64;

struct Sequence {
  int64_t first_row = 0;
  int64_t n_rows = 0;
};

/// Some queries of a sequence and the keys that any of them sees.
struct QueryBlock {
  int64_t position = 0;   // of the first query in its sequence
  int64_t row = 0;        // of the first query in the batch
  int64_t n = 0;          // queries
  int64_t first_key = 0;  // position in the sequence
  int64_t key_row = 0;    // row of that key in the batch
  int64_t n_keys = 0;
};

class SequenceAttention {
 public:
  SequenceAttention(const Runtime& runtime, std::span<const int64_t> lengths,
                    const AttentionShape& shape, const AttentionTensors& t)
      : runtime_(runtime), shape_(shape), per_kv_(shape.n_heads / shape.n_kv_heads), t_(t) {
    scale_ = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
    int64_t row = 0;
    for (const int64_t n : lengths) {
      DELTACOME_CHECK(n >= 0);
      if (n > 0) sequences_.push_back({row, n});
      row += n;
    }
    DELTACOME_CHECK(shape.head_dim > 0 && shape.n_heads == per_kv_ * shape.n_kv_heads);
    DELTACOME_CHECK(shape.window >= 0);
    check(t.q, row, shape.n_heads);
    check(t.out, row, shape.n_heads);
    check(t.k, row, shape.n_kv_heads);
    check(t.v, row, shape.n_kv_heads);
    // Long sequences first, so that threads end together.
    std::ranges::stable_sort(sequences_, std::greater{}, &Sequence::n_rows);
  }

  void check(const Tensor& x, int64_t n_rows, int64_t n_heads) const {
    DELTACOME_CHECK(x.rows() == n_rows && x.size() == n_rows * n_heads * shape_.head_dim);
  }

  void forward() const {
    std::vector<QueryBlock> blocks;
    for (const Sequence& s : sequences_) {
      for (int64_t i = 0; i < s.n_rows; i += kQueryBlock) blocks.push_back(block_of(s, i));
    }
    run(static_cast<int64_t>(blocks.size()) * shape_.n_heads, [&](int64_t task) {
      forward_block(blocks[static_cast<size_t>(task / shape_.n_heads)], task % shape_.n_heads);
    });
  }

  /// A task is a kv head of a sequence: its gradients are sums over queries and query heads, taken
  /// in one order.
  void backward(const Tensor& dq, const Tensor& dk, const Tensor& dv) const {
    const int64_t n_kv = shape_.n_kv_heads;
    run(static_cast<int64_t>(sequences_.size()) * n_kv, [&](int64_t task) {
      const Sequence& s = sequences_[static_cast<size_t>(task / n_kv)];
      const int64_t kv_head = task % n_kv;
      clear(head(dk, n_kv, kv_head, s.first_row, s.n_rows));
      clear(head(dv, n_kv, kv_head, s.first_row, s.n_rows));
      for (int64_t h = kv_head * per_kv_; h < (kv_head + 1) * per_kv_; ++h) {
        for (int64_t i = 0; i < s.n_rows; i += kQueryBlock)
          backward_block(block_of(s, i), h, dq, dk, dv);
      }
    });
  }

 private:
  /// Tasks side by side, each with BLAS on its own thread; or, if there are too few of them, one
  /// after another with BLAS on all threads.
  template <class Task>
  void run(int64_t n_tasks, const Task& task) const {
    if (n_tasks < runtime_.pool.n_threads()) {
      for (int64_t i = 0; i < n_tasks; ++i) task(i);
      return;
    }
    const linalg::SerialBlas serial;
    runtime_.pool.parallel_for(n_tasks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) task(i);
    });
  }

  int64_t first_key(int64_t position) const {
    return shape_.window == 0 ? 0 : std::max<int64_t>(0, position - shape_.window + 1);
  }
  QueryBlock block_of(const Sequence& s, int64_t position) const {
    QueryBlock b;
    b.position = position;
    b.row = s.first_row + position;
    b.n = std::min(kQueryBlock, s.n_rows - position);
    b.first_key = first_key(position);
    b.key_row = s.first_row + b.first_key;
    b.n_keys = position + b.n - b.first_key;
    return b;
  }
  BlockF32 head(const Tensor& x, int64_t n_heads, int64_t h, int64_t row, int64_t n_rows) const {
    const int64_t width = n_heads * shape_.head_dim;
    return {f32(x) + row * width + h * shape_.head_dim, n_rows, shape_.head_dim, width};
  }
  BlockF32 queries(const Tensor& x, const QueryBlock& b, int64_t h) const {
    return head(x, shape_.n_heads, h, b.row, b.n);
  }
  BlockF32 keys(const Tensor& x, const QueryBlock& b, int64_t h) const {
    return head(x, shape_.n_kv_heads, h / per_kv_, b.key_row, b.n_keys);
  }
  static void clear(const BlockF32& x) {
    for (int64_t i = 0; i < x.rows; ++i) std::fill_n(x.data + i * x.stride, x.cols, 0.0f);
  }

  /// Keys that query i of the block sees, counted from the block's first.
  struct Range {
    int64_t begin, end;
  };
  Range seen(const QueryBlock& b, int64_t i) const {
    return {first_key(b.position + i) - b.first_key, b.position + i + 1 - b.first_key};
  }
  static void clear_unseen(float* row, const Range& keys, int64_t n_keys) {
    std::fill(row, row + keys.begin, 0.0f);
    std::fill(row + keys.end, row + n_keys, 0.0f);
  }

  void forward_block(const QueryBlock& b, int64_t h) const {
    const BlockF32 s{thread_scratch(b.n * b.n_keys).data(), b.n, b.n_keys, b.n_keys};
    gemm_f32(queries(t_.q, b, h), false, keys(t_.k, b, h), true, s);
    float inverse[kQueryBlock];
    for (int64_t i = 0; i < b.n; ++i) {
      const Range r = seen(b, i);
      float* row = s.data + i * s.stride;
      clear_unseen(row, r, b.n_keys);
      inverse[i] = 1.0f / runtime_.kernels.softmax(row + r.begin, r.end - r.begin, scale_);
    }
    const BlockF32 out = queries(t_.out, b, h);
    gemm_f32(s, false, keys(t_.v, b, h), false, out);
    for (int64_t i = 0; i < b.n; ++i) {
      for (int64_t d = 0; d < out.cols; ++d) out.data[i * out.stride + d] *= inverse[i];
    }
  }

  void backward_block(const QueryBlock& b, int64_t h, const Tensor& dq, const Tensor& dk,
                      const Tensor& dv) const {
    float* scratch = thread_scratch(2 * b.n * b.n_keys).data();
    const BlockF32 p{scratch, b.n, b.n_keys, b.n_keys};
    const BlockF32 ds{scratch + b.n * b.n_keys, b.n, b.n_keys, b.n_keys};
    const BlockF32 q = queries(t_.q, b, h), d_out = queries(t_.out, b, h);
    const BlockF32 k = keys(t_.k, b, h);
    gemm_f32(q, false, k, true, p);
    gemm_f32(d_out, false, keys(t_.v, b, h), true, ds);
    for (int64_t i = 0; i < b.n; ++i) {
      const Range r = seen(b, i);
      float *weights = p.data + i * p.stride, *gradients = ds.data + i * ds.stride;
      clear_unseen(weights, r, b.n_keys);
      clear_unseen(gradients, r, b.n_keys);
      const int64_t n = r.end - r.begin;
      const float sum = runtime_.kernels.softmax(weights + r.begin, n, scale_);
      runtime_.kernels.softmax_backward(weights + r.begin, 1.0f / sum, n, scale_,
                                        gradients + r.begin);
    }
    gemm_f32(ds, false, k, false, queries(dq, b, h));
    gemm_f32(ds, true, q, false, keys(dk, b, h), 1, 1);
    gemm_f32(p, true, d_out, false, keys(dv, b, h), 1, 1);
  }

  Runtime runtime_;
  AttentionShape shape_;
  int64_t per_kv_;  // query heads of a kv head
  AttentionTensors t_;
  float scale_ = 0;
  std::vector<Sequence> sequences_;
};

}  // namespace

void sequence_attention(const Runtime& runtime, std::span<const int64_t> lengths,
                        const AttentionShape& shape, const AttentionTensors& tensors) {
  SequenceAttention(runtime, lengths, shape, tensors).forward();
}

void sequence_attention_backward(const Runtime& runtime, std::span<const int64_t> lengths,
                                 const AttentionShape& shape, const AttentionTensors& tensors,
                                 const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  const SequenceAttention attention(runtime, lengths, shape, tensors);
  attention.check(dq, tensors.q.rows(), shape.n_heads);
  attention.check(dk, tensors.q.rows(), shape.n_kv_heads);
  attention.check(dv, tensors.q.rows(), shape.n_kv_heads);
  attention.backward(dq, dk, dv);
}

}  // namespace deltacome::cpu
