// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace deltacome {

/// Columns [first, first + count) of a matrix that is quantized, and how: scale blocks of `format`
/// count rows and columns of the section.
struct CodeSection {
  int64_t first = 0;
  int64_t count = 0;
  ArrayFormat format;
};

/// A quantized matrix [rows, n]: what it decodes to, and per section its codes and scales.
struct Quantized {
  Tensor values;  // f64 [rows, n]
  struct Section {
    std::vector<uint8_t> codes;    // [rows, count]; empty for 16 bits
    std::vector<uint16_t> scales;  // fp16, row-major blocks
    std::vector<uint16_t> halves;  // 16 bits: the elements themselves
  };
  std::vector<Section> sections;
};

/// A matrix [rows, n] coded by entries of a code book.
struct VectorQuantized {
  Tensor values;                 // f64 [rows, n]: what it decodes to
  std::vector<uint8_t> codes;    // [rows, ceil(n / dim)]
  std::vector<uint16_t> scales;  // fp16 [rows]
};

/// What gptq() needs of a Hessian H = E[x x^T], factored once for all matrices that share it.
class GptqFactor {
 public:
  virtual ~GptqFactor() = default;
};

/// The dense operations of compression, in float64 unless said; all matrices row-major,
/// stream-ordered. A backend may have them or not (Backend::compression() throws kUnsupported).
class CompressionOps {
 public:
  virtual ~CompressionOps() = default;

  /// out [n, d] f64 = a - b, exact for the checkpoint types; a, b any floating dtype of equal
  /// shape.
  virtual void subtract(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& out) = 0;
  /// c [d, d] += x^T x, c symmetric; x [n, d] f32. Products in f32, sums over pieces of 4096 rows
  /// in f64.
  virtual void gram(Stream& stream, const Tensor& x, const Tensor& c) = 0;
  /// c = op(a) op(b), op transposes where asked.
  virtual void matmul(Stream& stream, const Tensor& a, bool transpose_a, const Tensor& b,
                      bool transpose_b, const Tensor& c) = 0;
  /// Eigenvectors of the symmetric a [n, n] replace a, one a row, largest eigenvalue first;
  /// eigenvalues to the host. Throws kInternal if the solver does not converge.
  virtual std::vector<double> eigh(Stream& stream, const Tensor& a) = 0;
  /// Row i of a times rows[i] and column j times cols[j]; empty = 1.
  virtual void scale(Stream& stream, const Tensor& a, std::span<const double> rows,
                     std::span<const double> cols) = 0;
  /// Sums over each row of a * b, to the host. a, b [n, d].
  virtual std::vector<double> row_dots(Stream& stream, const Tensor& a, const Tensor& b) = 0;
  /// out = a, of equal size and dtype.
  virtual void copy(Stream& stream, const Tensor& a, const Tensor& out) = 0;
  /// out = a^T.
  virtual void transpose(Stream& stream, const Tensor& a, const Tensor& out) = 0;
  /// a = 0.
  virtual void clear(Stream& stream, const Tensor& a) = 0;
  /// out = a * b, element by element; out may be a or b.
  virtual void multiply(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& out) = 0;
  /// Row i of out = row rows[i] of a.
  virtual void gather_rows(Stream& stream, const Tensor& a, std::span<const int64_t> rows,
                           const Tensor& out) = 0;
  /// The diagonal of a square matrix, to the host.
  virtual std::vector<double> diagonal(Stream& stream, const Tensor& square) = 0;
  /// Adds values[i] to element i of the diagonal.
  virtual void add_diagonal(Stream& stream, const Tensor& square,
                            std::span<const double> values) = 0;

  /// Factors h [n, n] + damp * mean(diag) * I for gptq(), columns taken in `order`. A column of
  /// zeros (an input that is never active) is allowed. Throws kInternal if h is not positive
  /// definite.
  virtual std::unique_ptr<GptqFactor> gptq_factor(Stream& stream, const Tensor& h,
                                                  std::span<const int64_t> order, double damp) = 0;
  /// Quantizes w [rows, n] under a factored Hessian: column by column, the error of a column is fed
  /// forward into those not yet done. Scales are fixed before (static groups), each with the least
  /// error weighted by the Hessian's diagonal. Without a factor: round to nearest. w is left
  /// alone. Ref: Frantar et al., GPTQ, arXiv:2210.17323.
  virtual Quantized gptq(Stream& stream, const Tensor& w, const GptqFactor* factor,
                         std::span<const CodeSection> sections) = 0;
  /// The same with the code book of `dim` (quant/vector_codes.h) and a scale per row, its root mean
  /// square: `dim` columns at a time take the entry that is nearest in their own metric, and their
  /// errors are fed forward together. The factor's columns must be in their own order.
  /// Ref: Chee et al., QuIP, arXiv:2307.13304 (LDLQ); Tseng et al., QuIP#, arXiv:2402.04396.
  virtual VectorQuantized quantize_vectors(Stream& stream, const Tensor& w,
                                           const GptqFactor* factor, int dim) = 0;
  /// b [m, n] becomes b a^-1; a [n, n] symmetric positive definite, overwritten. Throws kInternal
  /// if it is not, and leaves b alone.
  virtual void solve_right(Stream& stream, const Tensor& a, const Tensor& b) = 0;
  /// Every row w of a becomes w R, R the rotation of quant/vector_codes.h.
  virtual void rotate_rows(Stream& stream, const Tensor& a, std::span<const float> signs,
                           int64_t block) = 0;
};

}  // namespace deltacome
