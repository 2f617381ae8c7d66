// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/compression_ops.h"
#include "compress/allocate.h"
#include "io/archive.h"

namespace deltacome {

/// What the matrices that share an input know about it. Of C and its factor, which are the largest
/// things in memory, there is one each at a time: so what is coded as it is comes before what is
/// coded rotated. Without calibration c is empty.
class InputFit {
 public:
  /// c [n_in, n_in] f64: E[x x^T], or empty.
  InputFit(Backend& backend, Stream& stream, Tensor c, int64_t n_in)
      : backend_(backend), stream_(stream), c_(std::move(c)), n_in_(n_in) {}
  /// From now on C is R^T C R, and matrices are to be seen as w R. There is one rotation an input:
  /// the same again does nothing.
  void rotate(const VectorFormat& rotation);
  bool is_rotated() const noexcept { return rotation_.has_value(); }
  /// Made when it is first wanted; null without calibration. Columns with the most energy first, or
  /// in their own order once it is rotated.
  const GptqFactor* factor();
  /// out = a C, or a copy of a without calibration.
  Tensor times_c(const Tensor& a) const;

 private:
  Backend& backend_;
  Stream& stream_;
  Tensor c_;
  int64_t n_in_;
  std::unique_ptr<GptqFactor> factor_;
  std::optional<VectorFormat> rotation_;
};

/// Spectrum and energy of a delta d [n_out, n_in] f64 under its input. d is left alone.
MatrixCurve measure_curve(Backend& backend, Stream& stream, const std::string& name,
                          const Tensor& d, const InputFit& input);

/// Codes d [n_out, n_in] f64 as `format` says, the parts fitted together:
///   kLowRank  components by output energy; V by GPTQ under C; U solved for the quantized V, U* =
///             d C V^T (V C V^T)^-1, then by GPTQ, coarse components first; singular values solved
///             last. No scales but the singular values: codes are integers.
///   kVector   d R by code book entries with error feedback under R^T C R
///   kDense    GPTQ with a scale per row
/// Codes of a rotated delta leave `input` rotated, and the other kinds cannot be made with it then.
/// Tiers have one scale an array, and a dense code one a row. With row gains or scales it ends with
/// the gain that makes rows unbiased, <g q, d>_C = <d, d>_C.
CodedTensor encode_fit(Backend& backend, Stream& stream, const std::string& name,
                       const MatrixFormat& format, const Tensor& d, InputFit& input);

}  // namespace deltacome
