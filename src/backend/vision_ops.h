// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/backend.h"
#include "core/gelu.h"

namespace deltacome {

/// What a vision tower needs besides the ops of inference: f32, row-major, stream-ordered. A
/// backend may have these ops or not (Backend::vision() throws kUnsupported).
class VisionOps {
 public:
  virtual ~VisionOps() = default;

  /// y = (x - mean) / sqrt(variance + eps) * weight + bias over each row. x, y [n, d]; weight,
  /// bias [d] of any floating dtype. y may be x.
  virtual void layer_norm(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias,
                          double eps, const Tensor& y) = 0;
  /// x = gelu(x), in place.
  virtual void gelu(Stream& stream, Gelu form, const Tensor& x) = 0;
  /// softmax(q k / sqrt(head_dim)) v in which every row sees all rows: q, k, v, out
  /// [n, n_heads * head_dim]; no aliases.
  virtual void full_attention(Stream& stream, int64_t n_heads, const Tensor& q, const Tensor& k,
                              const Tensor& v, const Tensor& out) = 0;
};

}  // namespace deltacome
