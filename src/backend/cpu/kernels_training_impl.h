// SPDX-License-Identifier: Apache-2.0
// The kernels of training: the second half of kernels_impl.h, which includes it, under its rules.
#pragma once

namespace deltacome::cpu {
namespace {

float exp_sum(float* s, int64_t n, float shift) {
  F sum = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const F e = exp_lanes(load(s + i) - shift);
    store(s + i, e);
    sum += e;
  }
  if (i < n) {
    store_part(s + i, exp_lanes(load_part(s + i, n - i) - shift), n - i);
    sum += load_part(s + i, n - i);  // the other lanes are 0 again
  }
  return reduce(sum);
}

float sum_products(const float* a, const float* b, const float* c, int64_t n) {
  F sum = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const F ab = load(a + i) * load(b + i);
    sum += c == nullptr ? ab : ab * load(c + i);
  }
  if (i < n) {
    const F ab = load_part(a + i, n - i) * load_part(b + i, n - i);
    sum += c == nullptr ? ab : ab * load_part(c + i, n - i);
  }
  return reduce(sum);
}

void softmax_backward(float* p, float normalize, int64_t n, float scale, float* dp) {
  F sum = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const F v = load(p + i) * normalize;
    store(p + i, v);
    sum += v * load(dp + i);
  }
  if (i < n) {
    const F v = load_part(p + i, n - i) * normalize;
    store_part(p + i, v, n - i);
    sum += v * load_part(dp + i, n - i);
  }
  const float mean = reduce(sum);
  for (i = 0; i + kLanes <= n; i += kLanes)
    store(dp + i, load(p + i) * (load(dp + i) - mean) * scale);
  if (i < n) {
    const int64_t rest = n - i;
    store_part(dp + i, load_part(p + i, rest) * (load_part(dp + i, rest) - mean) * scale, rest);
  }
}

void rms_norm_backward(const RmsBackwardArgs& a) {
  int64_t i = 0;
  for (; i + kLanes <= a.n; i += kLanes) {
    const F x = load(a.x + i), dy = load(a.dy + i) * a.by;
    if (a.dw != nullptr) store(a.dw + i, load(a.dw + i) + dy * x);
    store(a.dx + i, load(a.w + i) * dy - x * a.minus);
  }
  if (i < a.n) {
    const int64_t n = a.n - i;
    const F x = load_part(a.x + i, n), dy = load_part(a.dy + i, n) * a.by;
    if (a.dw != nullptr) store_part(a.dw + i, load_part(a.dw + i, n) + dy * x, n);
    store_part(a.dx + i, load_part(a.w + i, n) * dy - x * a.minus, n);
  }
}

struct SiluGradient {
  F gate, up;
};
DELTACOME_INLINE SiluGradient silu_gradient(F gate, F up, F d_out) {
  const F e = exp_lanes(-gate);
  const F sigmoid = 1.0f / (1.0f + e);
  // 1 - sigmoid = e * sigmoid, without cancellation.
  return {d_out * up * sigmoid * (1.0f + gate * (e * sigmoid)), d_out * gate * sigmoid};
}

void silu_mul_backward(const SiluBackwardArgs& a) {
  int64_t i = 0;
  for (; i + kLanes <= a.n; i += kLanes) {
    const SiluGradient d = silu_gradient(load(a.gate + i), load(a.up + i), load(a.d_out + i));
    store(a.d_gate + i, d.gate);
    store(a.d_up + i, d.up);
  }
  if (i < a.n) {
    const int64_t n = a.n - i;
    const SiluGradient d =
        silu_gradient(load_part(a.gate + i, n), load_part(a.up + i, n), load_part(a.d_out + i, n));
    store_part(a.d_gate + i, d.gate, n);
    store_part(a.d_up + i, d.up, n);
  }
}

void compose(const ComposeArgs& a) {
  int64_t i = 0;
  for (; i + kLanes <= a.n; i += kLanes) {
    F v = load(a.q + i) * a.by;
    if (a.cols != nullptr) v *= load(a.cols + i);
    store(a.out + i, a.w == nullptr ? v : load(a.w + i) + v);
  }
  if (i < a.n) {
    const int64_t n = a.n - i;
    F v = load_part(a.q + i, n) * a.by;
    if (a.cols != nullptr) v *= load_part(a.cols + i, n);
    store_part(a.out + i, a.w == nullptr ? v : load_part(a.w + i, n) + v, n);
  }
}

void adam(const AdamArgs& a) {
  float* __restrict p = a.p;
  float* __restrict g = a.g;
  float* __restrict m = a.m;
  float* __restrict v = a.v;
  const float beta1 = a.beta1, beta2 = a.beta2, rate = a.rate, root = a.root, epsilon = a.epsilon;
  for (int64_t i = 0; i < a.n; ++i) {  // the compiler vectorizes it, which gives it the root
    const float gradient = g[i];
    m[i] = beta1 * m[i] + (1.0f - beta1) * gradient;
    v[i] = beta2 * v[i] + (1.0f - beta2) * gradient * gradient;
    p[i] -= rate * m[i] / (__builtin_sqrtf(v[i]) * root + epsilon);
    g[i] = 0;
  }
}

}  // namespace
}  // namespace deltacome::cpu
