// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/compression_ops.h"
#include "compress/allocate.h"
#include "io/archive.h"

namespace deltacome {

/// What the matrices that share an input know about it; factors are made when they are first
/// wanted. Without calibration c is empty.
class InputFit {
 public:
  /// c [n_in, n_in] f64: E[x x^T], or empty.
  InputFit(Backend& backend, Stream& stream, Tensor c, int64_t n_in)
      : backend_(backend), stream_(stream), c_(std::move(c)), n_in_(n_in) {}
  const Tensor& c() const noexcept { return c_; }
  /// Columns with the most energy first; null without calibration.
  const GptqFactor* factor();
  /// Of R^T C R for this rotation, columns in their own order; null without calibration. Valid
  /// until another rotation is asked for.
  const GptqFactor* rotated_factor(const VectorFormat& rotation);
  /// out = a C, or a copy of a without calibration.
  Tensor times_c(const Tensor& a) const;

 private:
  Backend& backend_;
  Stream& stream_;
  Tensor c_;
  int64_t n_in_;
  std::unique_ptr<GptqFactor> factor_, rotated_;
  uint64_t rotated_seed_ = 0;  // of rotated_
  int64_t rotated_block_ = 0;
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
/// Tiers have one scale an array, and a dense code one a row. With row gains or scales it ends with
/// the gain that makes rows unbiased, <g q, d>_C = <d, d>_C.
CodedTensor encode_fit(Backend& backend, Stream& stream, const std::string& name,
                       const MatrixFormat& format, const Tensor& d, InputFit& input);

}  // namespace deltacome
