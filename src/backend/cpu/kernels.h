// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

namespace deltacome::cpu {

struct PackedKernels;
struct Bf16Kernels;

/// Element type of the weights of dot(); each has its own instance of the kernel.
enum class WeightType : uint8_t { kF32, kBf16, kF16 };

/// y[r][y_offset + o] = sum over i < k of x[r][x_offset + i] * w[o * w_stride + i], or += if `add`.
struct DotArgs {
  const float* const* x = nullptr;  // [n_rows] pointers to rows
  int64_t x_offset = 0;
  int64_t n_rows = 0;
  const void* w = nullptr;  // [n_out, w_stride], need not be aligned
  WeightType type = WeightType::kF32;
  int64_t w_stride = 0;  // elements
  int64_t n_out = 0;
  int64_t k = 0;
  float* const* y = nullptr;  // [n_rows] pointers to rows
  int64_t y_offset = 0;
  bool add = false;
};

/// y[r][y_offset + j] += sum over c < n_terms of z[r][z_offset + c] * u[c * u_stride + j], j <
/// n_cols. The sum is taken from 0 in the order of c, then added.
struct AccumulateArgs {
  const float* const* z = nullptr;  // [n_rows] pointers to rows
  int64_t z_offset = 0;
  int64_t n_rows = 0;
  const void* u = nullptr;  // [n_terms, u_stride], need not be aligned
  WeightType type = WeightType::kF32;
  int64_t u_stride = 0;  // elements
  int64_t n_terms = 0;
  int64_t n_cols = 0;
  float* const* y = nullptr;  // [n_rows] pointers to rows
  int64_t y_offset = 0;
};

/// out[i] = (code[i] - center) * scale, scale = scales[i], or `scale` if scales is null. Codes as
/// in ArrayFormat, from the first bit of `low` on; bits 1, 2, 3, 4 or 8.
struct DecodeArgs {
  int bits = 0;
  const uint8_t* low = nullptr;   // the plane; of 3 bits the 2-bit plane
  const uint8_t* high = nullptr;  // of 3 bits the 1-bit plane
  int64_t n = 0;
  float scale = 1;
  const float* scales = nullptr;  // [n] or null
  float* out = nullptr;           // [n]
};

struct RmsBackwardArgs {
  const float* x = nullptr;  // all [n]
  const float* w = nullptr;
  const float* dy = nullptr;
  int64_t n = 0;
  float by = 0;
  float minus = 0;
  float* dx = nullptr;
  float* dw = nullptr;
};

struct SiluBackwardArgs {
  const float* gate = nullptr;  // all [n]
  const float* up = nullptr;
  const float* d_out = nullptr;
  int64_t n = 0;
  float* d_gate = nullptr;
  float* d_up = nullptr;
};

struct ComposeArgs {
  const float* w = nullptr;  // all [n]
  const float* q = nullptr;
  const float* cols = nullptr;
  float by = 1;
  int64_t n = 0;
  float* out = nullptr;
};

/// One step of Adam: m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, p -= rate * m /
/// (sqrt(v) * root + epsilon), g = 0. rate and root hold the bias corrections.
struct AdamArgs {
  float beta1 = 0, beta2 = 0, epsilon = 0;
  float rate = 0;
  float root = 0;
  int64_t n = 0;
  float* p = nullptr;  // all [n], no aliases
  float* g = nullptr;
  float* m = nullptr;
  float* v = nullptr;
};

/// The inner loops of the CPU backend for one instruction set. Pointers need not be aligned unless
/// their type says so. What is computed for one row never depends on the other rows of a call, nor
/// on how many there are.
struct Kernels {
  const char* name;  // "AVX-512"
  /// From this many rows on it pays to convert weights to f32 once instead of in dot(). Measured on
  /// a Zen 5: never where the instruction set converts.
  int64_t convert_from_rows;
  void (*dot)(const DotArgs&);
  void (*accumulate)(const AccumulateArgs&);
  void (*decode)(const DecodeArgs&);
  /// x [n] becomes R^T x as rotate() of quant gives it, bit by bit.
  void (*rotate)(float* x, const float* signs, int64_t n, int64_t block);
  /// out[i] = in[i] as float; type kBf16 or kF16.
  void (*convert)(WeightType type, const void* in, int64_t n, float* out);
  /// Returns the scale, largest |x[i]| / 127, of the codes of x [n]; values that are not finite
  /// make it so.
  float (*encode_int8)(const float* x, int64_t n, int8_t* codes);
  /// out[i] = scale * codes[i]
  void (*decode_int8)(const int8_t* codes, int64_t n, float scale, float* out);
  /// s[i] = exp(scale * s[i] - max), returns the sum. n >= 1.
  float (*softmax)(float* s, int64_t n, float scale);
  float (*sum_squares)(const float* x, int64_t n);
  /// y[i] = x[i] * by * w[i]; y may be x.
  void (*scale)(const float* x, float by, const float* w, int64_t n, float* y);
  /// out[i] = gate[i] / (1 + exp(-gate[i])) * up[i]; out may be gate.
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);

  // Of training; kernels_training_impl.h.
  /// The largest of x[0, n), n >= 1.
  float (*max)(const float* x, int64_t n);
  /// s[i] = exp(s[i] - shift), returns the sum.
  float (*exp_sum)(float* s, int64_t n, float shift);
  /// sum of a[i] * b[i] * c[i]; c null = 1.
  float (*sum_products)(const float* a, const float* b, const float* c, int64_t n);
  /// With p[i] *= normalize, then dp[i] = p[i] * (dp[i] - sum of p dp) * scale.
  void (*softmax_backward)(float* p, float normalize, int64_t n, float scale, float* dp);
  /// dw[i] += by * dy[i] * x[i] unless dw is null; then dx[i] = by * w[i] * dy[i] - minus * x[i].
  /// dx may be dy.
  void (*rms_norm_backward)(const RmsBackwardArgs&);
  /// d_gate[i], d_up[i] of out = silu(gate) * up; they may be gate and up.
  void (*silu_mul_backward)(const SiluBackwardArgs&);
  /// out[i] = w[i] + by * q[i] * cols[i]; w null = 0, cols null = 1; out may be q.
  void (*compose)(const ComposeArgs&);
  void (*adam)(const AdamArgs&);

  const PackedKernels* packed;        // packed_kernels.h
  const Bf16Kernels* bf16 = nullptr;  // null: bf16 is widened to f32
};

/// Instances that this machine can run, best first; the last is the baseline of the architecture.
/// An instruction set is added by one more translation unit and one line in kernels.cc.
std::span<const Kernels* const> available_kernels();

}  // namespace deltacome::cpu
