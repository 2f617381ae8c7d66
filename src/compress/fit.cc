// SPDX-License-Identifier: Apache-2.0
#include "compress/fit.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "compress/codec.h"
#include "compress/svd.h"
#include "core/check.h"
#include "quant/codes.h"
#include "quant/vector_codes.h"

namespace deltacome {
namespace {

constexpr double kDamp = 0.01;        // of the mean diagonal, as in the published GPTQ
constexpr double kSolveDamp = 1e-4;   // of V C V^T when U is solved: V's rows are not orthogonal
constexpr double kScaleDamp = 1e-6;   // of the system of the singular values
constexpr double kLeastDamp = 1e-12;  // of the mean diagonal, for elements that are about 0
constexpr double kMostDamp = 1e-3;    // where it is given up
constexpr double kSmallestGain = 0.5, kLargestGain = 2;

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

std::vector<double> reciprocal(std::vector<double> values) {
  for (double& v : values) v = 1 / v;
  return values;
}

std::vector<double> to_double(const std::vector<uint16_t>& halves) {
  std::vector<double> out;
  for (const uint16_t h : halves) out.push_back(f16_to_float(h));
  return out;
}

/// Allocations and products of one matrix.
class Algebra {
 public:
  Algebra(Backend& backend, Stream& stream)
      : backend_(backend), stream_(stream), ops_(backend.compression()) {}

  Tensor matrix(int64_t rows, int64_t cols) const {
    return backend_.allocate(DType::kF64, {rows, cols});
  }
  Tensor copy(const Tensor& a) const {
    const Tensor out = matrix(a.rows(), a.cols());
    ops_.copy(stream_, a, out);
    return out;
  }
  Tensor product(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b) const {
    const Tensor out = matrix(transpose_a ? a.cols() : a.rows(), transpose_b ? b.rows() : b.cols());
    ops_.matmul(stream_, a, transpose_a, b, transpose_b, out);
    return out;
  }
  Tensor transposed(const Tensor& a) const {
    const Tensor out = matrix(a.cols(), a.rows());
    ops_.transpose(stream_, a, out);
    return out;
  }
  std::vector<double> download(const Tensor& a) const {
    std::vector<double> out(static_cast<size_t>(a.size()));
    backend_.download(stream_, a, std::as_writable_bytes(std::span(out)));
    return out;
  }
  void upload(const std::vector<double>& from, const Tensor& to) const {
    backend_.upload(stream_, std::as_bytes(std::span(from)), to);
  }
  std::vector<double> diagonal(const Tensor& square) const {
    return ops_.diagonal(stream_, square);
  }
  /// b = b (a + D)^-1 for a positive semidefinite a. D is `damp` times the diagonal of a: integers
  /// of 1 and of 8 bits differ by thousands there, and a share of the mean would wipe out the small
  /// ones. At least a tiny share of the mean it has to be, and a larger one where inputs are so
  /// much alike that rounding left a indefinite.
  void solve_damped(const Tensor& a, double damp, const Tensor& b) const {
    const std::vector<double> values = diagonal(a);
    const double mean = sum(values) / static_cast<double>(a.rows());
    for (double share = kLeastDamp;; share *= 100) {
      std::vector<double> added = values;
      for (double& v : added) v = std::max({damp * v, share * mean, 1e-300});
      const Tensor system = copy(a);
      ops_.add_diagonal(stream_, system, added);
      try {
        return ops_.solve_right(stream_, system, b);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kInternal || share > kMostDamp) throw;
      }
    }
  }

  Backend& backend_;
  Stream& stream_;
  CompressionOps& ops_;
};

/// Components of d with the energies s^2 v C v^T of their outputs.
struct Spectrum {
  Tensor v;  // [n, n_in], a component a row, unit norm
  std::vector<double> energies;
};

Spectrum spectrum_of(const Algebra& a, const Tensor& d, const InputFit& input) {
  Svd parts = svd(a.backend_, a.stream_, d, std::min(d.rows(), d.cols()));
  Spectrum out{std::move(parts.v), {}};
  out.energies = a.ops_.row_dots(a.stream_, input.times_c(out.v), out.v);
  for (size_t i = 0; i < out.energies.size(); ++i)
    out.energies[i] = std::max(0.0, out.energies[i]) * parts.s[i] * parts.s[i];
  return out;
}

class FitEncoder {
 public:
  FitEncoder(Backend& backend, Stream& stream, const MatrixFormat& format, InputFit& input)
      : a_(backend, stream),
        format_(format),
        input_(input),
        layout_(layout_of(format)),
        blob_(static_cast<size_t>(layout_.total_bytes)) {
    if (format.col_gain)
      std::fill_n(blob_.begin() + layout_.col_gain.offset, layout_.col_gain.bytes,
                  static_cast<std::byte>(gain_code(1)));
  }

  CodedTensor encode(const std::string& name, Tensor d) {
    if (format_.codec == Codec::kVector) {
      input_.rotate(format_.vector);
      d = a_.copy(d);
      a_.ops_.rotate_rows(a_.stream_, d, rotation_signs(format_.vector.seed, d.cols()),
                          format_.vector.block);
    }
    DELTACOME_CHECK(input_.is_rotated() == (format_.codec == Codec::kVector));
    Tensor q;
    switch (format_.codec) {
      case Codec::kLowRank:
        q = low_rank(d);
        break;
      case Codec::kVector:
        q = vector(d);
        break;
      case Codec::kDense:
        q = dense(d);
        break;
      case Codec::kRaw:
        DELTACOME_CHECK(false);
    }
    const double whole = sum(a_.ops_.row_dots(a_.stream_, input_.times_c(d), d));
    a_.ops_.subtract(a_.stream_, q, d, q);
    const double rest = sum(a_.ops_.row_dots(a_.stream_, input_.times_c(q), q));
    return {name, format_, std::move(blob_), {.relative_error = whole > 0 ? rest / whole : 0}};
  }

 private:
  /// g with <g q, d>_C = <d, d>_C for each row, within bounds: least squares shrinks a delta, and
  /// the shrinkage of all layers would add up.
  std::vector<double> unbiased_gains(const Tensor& d, const Tensor& d_c, const Tensor& q) const {
    std::vector<double> gains = a_.ops_.row_dots(a_.stream_, d_c, d);
    const std::vector<double> got = a_.ops_.row_dots(a_.stream_, d_c, q);
    for (size_t i = 0; i < gains.size(); ++i) {
      gains[i] = got[i] > 0 ? std::clamp(gains[i] / got[i], kSmallestGain, kLargestGain) : 1;
    }
    return gains;
  }

  void put_half(const Part& part, size_t index, uint16_t bits) {
    std::memcpy(blob_.data() + part.offset + 2 * static_cast<int64_t>(index), &bits, 2);
  }

  /// Codes without scales: the arrays' one scale is 1.
  void put_codes(const ArrayFormat& format, const ArrayLayout& layout, int64_t rows, int64_t cols,
                 std::vector<uint8_t> codes) {
    DELTACOME_CHECK(scale_count(format, rows, cols) == 1);
    pack({.format = format,
          .rows = rows,
          .cols = cols,
          .codes = std::move(codes),
          .scales = {float_to_f16(1)},
          .values = {}},
         layout, blob_);
  }

  /// d is rotated, and so is what comes back.
  Tensor vector(const Tensor& d) {
    VectorQuantized q =
        a_.ops_.quantize_vectors(a_.stream_, d, input_.factor(), format_.vector.dim);
    std::vector<double> gains = unbiased_gains(d, input_.times_c(d), q.values);
    for (size_t i = 0; i < gains.size(); ++i) {
      const float scale = f16_to_float(q.scales[i]);
      const uint16_t bits = float_to_f16(std::min(scale * static_cast<float>(gains[i]), 65504.0F));
      put_half(layout_.row_scale, i, bits);
      gains[i] = f16_to_float(bits) / scale;
    }
    std::memcpy(blob_.data() + layout_.vector_codes.offset, q.codes.data(), q.codes.size());
    a_.ops_.scale(a_.stream_, q.values, gains, {});
    return q.values;
  }

  Tensor dense(const Tensor& d) {
    const CodeSection whole{0, d.cols(), format_.dense};
    Quantized q = a_.ops_.gptq(a_.stream_, d, input_.factor(), {&whole, 1});
    Quantized::Section& section = q.sections[0];
    DELTACOME_CHECK(static_cast<int64_t>(section.scales.size()) == d.rows());
    std::vector<double> gains = unbiased_gains(d, input_.times_c(d), q.values);
    for (size_t i = 0; i < gains.size(); ++i) {
      const float scale = f16_to_float(section.scales[i]);
      section.scales[i] = float_to_f16(std::min(scale * static_cast<float>(gains[i]), 65504.0F));
      gains[i] = f16_to_float(section.scales[i]) / scale;
    }
    a_.ops_.scale(a_.stream_, q.values, gains, {});
    pack({.format = format_.dense,
          .rows = d.rows(),
          .cols = d.cols(),
          .codes = std::move(section.codes),
          .scales = std::move(section.scales),
          .values = {}},
         layout_.dense, blob_);
    return q.values;
  }

  Tensor low_rank(const Tensor& d) {
    const Tensor v = quantize_v(d);
    const Tensor d_c = input_.times_c(d);
    Tensor v_c_v = a_.product(input_.times_c(v), false, v, true);
    const Tensor exact_u = a_.product(d_c, false, v, true);
    a_.solve_damped(v_c_v, kSolveDamp, exact_u);
    const Tensor u_t = quantize_u(exact_u, v_c_v);
    solve_s(u_t, v, d_c, v_c_v);
    v_c_v = {};
    a_.ops_.scale(a_.stream_, u_t, s_, {});
    const Tensor q = a_.product(u_t, true, v, false);
    if (!format_.row_gain) return q;
    std::vector<double> gains = unbiased_gains(d, d_c, q);
    for (size_t i = 0; i < gains.size(); ++i) {
      const uint8_t code = gain_code(gains[i]);
      blob_[static_cast<size_t>(layout_.row_gain.offset) + i] = static_cast<std::byte>(code);
      gains[i] = gain_of(code);
    }
    a_.ops_.scale(a_.stream_, q, gains, {});
    return q;
  }

  /// The components of most output energy, tier by tier, as integers [rank, n_in].
  Tensor quantize_v(const Tensor& d) {
    Spectrum spectrum = spectrum_of(a_, d, input_);
    const std::vector<int64_t> order = largest_first(spectrum.energies);
    const int64_t rank = format_.rank();
    const Tensor v = a_.matrix(rank, format_.n_in());
    int64_t first = 0;
    for (size_t t = 0; t < format_.tiers.size(); ++t) {
      const TierFormat& tier = format_.tiers[t];
      const Tensor part = v.slice(first, tier.rank);
      a_.ops_.gather_rows(
          a_.stream_, spectrum.v,
          std::span(order).subspan(static_cast<size_t>(first), static_cast<size_t>(tier.rank)),
          part);
      // Unit root mean square, so that fp16 scales are exact enough.
      a_.ops_.scale(a_.stream_, part,
                    std::vector<double>(static_cast<size_t>(tier.rank),
                                        std::sqrt(static_cast<double>(format_.n_in()))),
                    {});
      const CodeSection whole{0, format_.n_in(), {tier.v.bits, 1, 0}};
      Quantized q = a_.ops_.gptq(a_.stream_, part, input_.factor(), {&whole, 1});
      a_.ops_.scale(a_.stream_, q.values, reciprocal(to_double(q.sections[0].scales)), {});
      a_.ops_.copy(a_.stream_, q.values, part);
      put_codes(tier.v, layout_.tiers[t].v, tier.rank, format_.n_in(),
                std::move(q.sections[0].codes));
      first += tier.rank;
    }
    return v;
  }

  /// U [n_out, rank] under diag(norms) V C V^T diag(norms); returns U^T as integers.
  Tensor quantize_u(const Tensor& u, const Tensor& v_c_v) {
    const int64_t rank = format_.rank(), n_out = format_.base_rows;
    std::vector<double> norms;
    {
      const Tensor u_t = a_.transposed(u);
      norms = a_.ops_.row_dots(a_.stream_, u_t, u_t);
    }
    for (double& norm : norms) norm = std::max(std::sqrt(norm / static_cast<double>(n_out)), 1e-30);
    a_.ops_.scale(a_.stream_, u, {}, reciprocal(norms));
    const Tensor h = a_.copy(v_c_v);
    a_.ops_.scale(a_.stream_, h, norms, norms);
    const std::vector<double> weights = a_.diagonal(h);
    std::vector<int> bits;
    std::vector<CodeSection> sections;
    for (const TierFormat& tier : format_.tiers) {
      sections.push_back({static_cast<int64_t>(bits.size()), tier.rank, {tier.u.bits, 0, 1}});
      bits.insert(bits.end(), static_cast<size_t>(tier.rank), tier.u.bits);
    }
    // Coarse components first: the precise ones take over their errors.
    std::vector<int64_t> order(static_cast<size_t>(rank));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t x, int64_t y) {
      const auto i = static_cast<size_t>(x), j = static_cast<size_t>(y);
      return bits[i] != bits[j] ? bits[i] < bits[j] : weights[i] > weights[j];
    });
    const auto factor = a_.ops_.gptq_factor(a_.stream_, h, order, kDamp);
    Quantized q = a_.ops_.gptq(a_.stream_, u, factor.get(), sections);
    std::vector<double> scales;
    for (size_t t = 0; t < sections.size(); ++t) {
      const std::vector<double> of_tier = to_double(q.sections[t].scales);
      scales.insert(scales.end(), of_tier.begin(), of_tier.end());
      const auto n = static_cast<size_t>(sections[t].count), rows = static_cast<size_t>(n_out);
      std::vector<uint8_t> transposed(n * rows);
      for (size_t o = 0; o < rows; ++o) {
        for (size_t i = 0; i < n; ++i) transposed[i * rows + o] = q.sections[t].codes[o * n + i];
      }
      put_codes(format_.tiers[t].u, layout_.tiers[t].u, sections[t].count, n_out,
                std::move(transposed));
    }
    a_.ops_.scale(a_.stream_, q.values, {}, reciprocal(scales));
    return a_.transposed(q.values);
  }

  /// s of least |(U diag(s) V - d) x|^2: ((U^T U) o (V C V^T)) s = diag(U^T d C V^T).
  void solve_s(const Tensor& u_t, const Tensor& v, const Tensor& d_c, const Tensor& v_c_v) {
    const int64_t rank = u_t.rows();
    const Tensor system = a_.product(u_t, false, u_t, true);
    a_.ops_.multiply(a_.stream_, system, v_c_v, system);
    const Tensor s = a_.matrix(1, rank);
    a_.upload(a_.ops_.row_dots(a_.stream_, a_.product(u_t, false, d_c, false), v), s);
    a_.solve_damped(system, kScaleDamp, s);
    s_ = a_.download(s);
    for (size_t i = 0; i < s_.size(); ++i) {
      const uint16_t bits = float_to_bf16(static_cast<float>(s_[i]));
      put_half(layout_.s, i, bits);
      s_[i] = bf16_to_float(bits);
    }
  }

  Algebra a_;
  const MatrixFormat& format_;
  InputFit& input_;
  BlobLayout layout_;
  std::vector<std::byte> blob_;
  std::vector<double> s_;
};

}  // namespace

void InputFit::rotate(const VectorFormat& rotation) {
  if (is_rotated()) {
    DELTACOME_CHECK(rotation.seed == rotation_->seed && rotation.block == rotation_->block);
    return;
  }
  rotation_ = rotation;
  if (c_.empty()) return;
  factor_.reset();
  const Algebra a(backend_, stream_);
  const std::vector<float> signs = rotation_signs(rotation.seed, n_in_);
  Tensor half = a.copy(c_);
  c_ = {};  // frees it, unless it is kept elsewhere
  a.ops_.rotate_rows(stream_, half, signs, rotation.block);  // C R
  c_ = a.transposed(half);                                   // R^T C
  half = {};
  a.ops_.rotate_rows(stream_, c_, signs, rotation.block);
}

const GptqFactor* InputFit::factor() {
  if (c_.empty()) return nullptr;
  if (!factor_) {
    std::vector<int64_t> order(static_cast<size_t>(n_in_));
    std::iota(order.begin(), order.end(), 0);
    if (!is_rotated()) order = largest_first(Algebra(backend_, stream_).diagonal(c_));
    factor_ = backend_.compression().gptq_factor(stream_, c_, order, kDamp);
  }
  return factor_.get();
}

Tensor InputFit::times_c(const Tensor& a) const {
  const Algebra algebra(backend_, stream_);
  return c_.empty() ? algebra.copy(a) : algebra.product(a, false, c_, false);
}

MatrixCurve measure_curve(Backend& backend, Stream& stream, const std::string& name,
                          const Tensor& d, const InputFit& input) {
  const Algebra a(backend, stream);
  MatrixCurve out;
  out.name = name;
  out.shape = d.shape;
  out.energy = sum(a.ops_.row_dots(stream, input.times_c(d), d));
  out.components = spectrum_of(a, d, input).energies;
  std::sort(out.components.begin(), out.components.end(), std::greater<>());
  return out;
}

CodedTensor encode_fit(Backend& backend, Stream& stream, const std::string& name,
                       const MatrixFormat& format, const Tensor& d, InputFit& input) {
  return FitEncoder(backend, stream, format, input).encode(name, d);
}

}  // namespace deltacome
