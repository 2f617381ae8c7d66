// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/vision_ops.h"

#include <utility>

#include "backend/cuda/linear.h"
#include "backend/cuda/vision.h"

namespace deltacome::cuda {
namespace {

class CudaVisionOps final : public VisionOps {
 public:
  explicit CudaVisionOps(std::function<CudaStream&(Stream&)> on) : on_(std::move(on)) {}

  void layer_norm(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias,
                  double eps, const Tensor& y) override {
    const int64_t d = weight.size();
    DELTACOME_CHECK(bias.size() == d && x.size() == x.rows() * d && y.size() == x.size());
    DELTACOME_CUDA_CHECK(launch_layer_norm({.x = f32(x),
                                            .y = f32(y),
                                            .weight = bytes_of(weight),
                                            .weight_type = element_of(weight.dtype),
                                            .bias = bytes_of(bias),
                                            .bias_type = element_of(bias.dtype),
                                            .n_rows = x.rows(),
                                            .d = d,
                                            .eps = static_cast<float>(eps)},
                                           on_(stream).get()));
  }

  void gelu(Stream& stream, Gelu form, const Tensor& x) override {
    static_assert(static_cast<int>(Gelu::kExact) == 0 && static_cast<int>(Gelu::kTanh) == 1);
    DELTACOME_CUDA_CHECK(launch_gelu(static_cast<int>(form), f32(x), x.size(), on_(stream).get()));
  }

  void full_attention(Stream& stream, int64_t n_heads, const Tensor& q, const Tensor& k,
                      const Tensor& v, const Tensor& out) override {
    DELTACOME_CHECK(n_heads > 0 && q.cols() % n_heads == 0 && k.shape == q.shape);
    DELTACOME_CHECK(v.shape == q.shape && out.shape == q.shape);
    if (q.rows() > kMaxFullAttentionRows) {
      fail(ErrorCode::kUnsupported,
           "a picture of {} patches on a GPU, expected at most {}; run on the CPU", q.rows(),
           kMaxFullAttentionRows);
    }
    DELTACOME_CUDA_CHECK(launch_full_attention({.q = f32(q),
                                                .k = f32(k),
                                                .v = f32(v),
                                                .out = f32(out),
                                                .n = q.rows(),
                                                .n_heads = n_heads,
                                                .head_dim = q.cols() / n_heads},
                                               on_(stream).get()));
  }

 private:
  std::function<CudaStream&(Stream&)> on_;
};

}  // namespace

std::unique_ptr<VisionOps> create_vision_ops(std::function<CudaStream&(Stream&)> on) {
  return std::make_unique<CudaVisionOps>(std::move(on));
}

}  // namespace deltacome::cuda
