// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/vision.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <vector>

#include "backend/cpu/cpu_memory.h"

namespace deltacome::cpu {
namespace {

constexpr int64_t kElements = 1 << 12;  // of gelu(), to one thread at a time
constexpr int64_t kQueryBlock = 16;     // queries that share a reading of the keys

float gelu_of(Gelu form, float x) {
  switch (form) {
    case Gelu::kExact:
      return 0.5F * x * (1 + std::erf(x * std::numbers::sqrt2_v<float> / 2));
    case Gelu::kTanh: {
      const float root = std::sqrt(2 * std::numbers::inv_pi_v<float>);
      return 0.5F * x * (1 + std::tanh(root * (x + 0.044715F * x * x * x)));
    }
    case Gelu::kQuick:
      return x / (1 + std::exp(-1.702F * x));
  }
  return x;
}

std::vector<float> values_of(const Tensor& tensor) {
  std::vector<float> out(static_cast<size_t>(tensor.size()));
  convert_to_float(bytes_of(tensor), tensor.dtype, out);
  return out;
}

class CpuVisionOps final : public VisionOps {
 public:
  explicit CpuVisionOps(const Runtime& runtime) : runtime_(runtime) {}

  void layer_norm(Stream&, const Tensor& x, const Tensor& weight, const Tensor& bias, double eps,
                  const Tensor& y) override {
    const int64_t n = x.rows(), d = weight.size();
    DELTACOME_CHECK(bias.size() == d && x.size() == n * d && y.size() == x.size());
    const std::vector<float> w = values_of(weight), b = values_of(bias);
    runtime_.pool.parallel_for(n, grain_of(n, n * d), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const float* in = f32(x) + row * d;
        float* out = f32(y) + row * d;
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < d; ++i) sum += static_cast<double>(in[i]);
        const double mean = sum / static_cast<double>(d);
        for (int64_t i = 0; i < d; ++i) {
          const double off = static_cast<double>(in[i]) - mean;
          squares += off * off;
        }
        const double by = 1 / std::sqrt(squares / static_cast<double>(d) + eps);
        for (int64_t i = 0; i < d; ++i) {
          const auto at = static_cast<size_t>(i);
          out[i] = static_cast<float>((static_cast<double>(in[i]) - mean) * by) * w[at] + b[at];
        }
      }
    });
  }

  void gelu(Stream&, Gelu form, const Tensor& x) override {
    float* values = f32(x);
    runtime_.pool.parallel_for(x.size(), kElements, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) values[i] = gelu_of(form, values[i]);
    });
  }

  void full_attention(Stream&, int64_t n_heads, const Tensor& q, const Tensor& k, const Tensor& v,
                      const Tensor& out) override {
    const int64_t n = q.rows(), width = q.cols();
    DELTACOME_CHECK(n_heads > 0 && width % n_heads == 0 && k.shape == q.shape);
    DELTACOME_CHECK(v.shape == q.shape && out.shape == q.shape);
    if (n == 0) return;
    const int64_t n_blocks = ceil_div(n, kQueryBlock);
    runtime_.pool.parallel_for(n_heads * n_blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task % n_blocks * kQueryBlock;
        attend(task / n_blocks, width / n_heads, first, std::min(kQueryBlock, n - first),
               {q, k, v, out});
      }
    });
  }

 private:
  struct Tensors {
    const Tensor &q, &k, &v, &out;
  };

  /// Queries [first, first + count) of one head.
  void attend(int64_t head, int64_t head_dim, int64_t first, int64_t count,
              const Tensors& t) const {
    const int64_t n = t.q.rows(), width = t.q.cols(), column = head * head_dim;
    const std::span<float> scores = thread_scratch(count * n);
    std::array<const float*, kQueryBlock> queries{};
    std::array<float*, kQueryBlock> rows{}, outs{};
    for (int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<size_t>(i);
      queries[at] = f32(t.q) + (first + i) * width;
      rows[at] = scores.data() + i * n;
      outs[at] = f32(t.out) + (first + i) * width;
      std::fill_n(outs[at] + column, head_dim, 0.0F);
    }
    runtime_.kernels.dot({.x = queries.data(),
                          .x_offset = column,
                          .n_rows = count,
                          .w = f32(t.k) + column,
                          .w_stride = width,
                          .n_out = n,
                          .k = head_dim,
                          .y = rows.data()});
    const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim)));
    for (int64_t i = 0; i < count; ++i) {
      float* row = rows[static_cast<size_t>(i)];
      const float by = 1 / runtime_.kernels.softmax(row, n, scale);
      for (int64_t j = 0; j < n; ++j) row[j] *= by;
    }
    runtime_.kernels.accumulate({.z = rows.data(),
                                 .n_rows = count,
                                 .u = f32(t.v) + column,
                                 .u_stride = width,
                                 .n_terms = n,
                                 .n_cols = head_dim,
                                 .y = outs.data(),
                                 .y_offset = column});
  }

  Runtime runtime_;
};

}  // namespace

std::unique_ptr<VisionOps> create_vision_ops(const Runtime& runtime) {
  return std::make_unique<CpuVisionOps>(runtime);
}

}  // namespace deltacome::cpu
