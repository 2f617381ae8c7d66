// SPDX-License-Identifier: Apache-2.0
#include "compress/codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "compress/svd.h"
#include "core/check.h"
#include "quant/codes.h"

namespace deltacome {
namespace {

constexpr double kDamp = 0.01;                  // of the mean diagonal, as in the published GPTQ
constexpr double kLargestGain = 2;              // 2-bit codes of least error shrink by 1.1 to 1.3
constexpr int64_t kErrorRows = 1024;            // of a delta whose error is measured at a time
constexpr int64_t kEmbeddingWeights = 8 << 20;  // of an embedding that are coded at a time

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

void append(std::vector<double>& to, const std::vector<double>& values) {
  to.insert(to.end(), values.begin(), values.end());
}

/// a C a^T for each row a: the energy of the outputs that it makes. C empty = identity.
std::vector<double> row_energies(Backend& backend, Stream& stream, const Tensor& a,
                                 const Tensor& c) {
  CompressionOps& ops = backend.compression();
  if (c.empty()) return ops.row_dots(stream, a, a);
  const Tensor product = backend.allocate(DType::kF64, a.shape);
  ops.matmul(stream, a, false, c, false, product);
  return ops.row_dots(stream, product, a);
}

/// The same, summed; a few rows at a time, so that the product stays small.
double output_energy(Backend& backend, Stream& stream, const Tensor& a, const Tensor& c) {
  std::vector<double> energies;
  for (int64_t first = 0; first < a.rows(); first += kErrorRows) {
    const Tensor rows = a.slice(first, std::min(kErrorRows, a.rows() - first));
    append(energies, row_energies(backend, stream, rows, c));
  }
  return sum(energies);
}

CodedArray array_of(Quantized::Section section, const ArrayFormat& format, int64_t rows,
                    int64_t cols) {
  return {.format = format,
          .rows = rows,
          .cols = cols,
          .codes = std::move(section.codes),
          .scales = std::move(section.scales),
          .values = std::move(section.halves)};
}

template <class T>
std::vector<T> transposed(const std::vector<T>& in, int64_t rows, int64_t cols) {
  std::vector<T> out(in.size());
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) {
      out[static_cast<size_t>(j * rows + i)] = in[static_cast<size_t>(i * cols + j)];
    }
  }
  return out;
}

/// A section of the quantized U [n_out, count] as U^T [count, n_out].
CodedArray transposed_array(const Quantized::Section& section, const ArrayFormat& u_t,
                            int64_t count, int64_t n_out) {
  CodedArray out{
      .format = u_t, .rows = count, .cols = n_out, .codes = {}, .scales = {}, .values = {}};
  if (u_t.bits == 16) {
    out.values = transposed(section.halves, n_out, count);
    return out;
  }
  out.codes = transposed(section.codes, n_out, count);
  const int64_t blocks_per_output =  // scale blocks along the components
      u_t.scale_rows == 0 ? 1 : (count + u_t.scale_rows - 1) / u_t.scale_rows;
  const auto n_scales = static_cast<int64_t>(section.scales.size());
  out.scales = transposed(section.scales, n_scales / blocks_per_output, blocks_per_output);
  return out;
}

/// Encodes one low-rank projection; one object per matrix.
class LowRankEncoder {
 public:
  LowRankEncoder(Backend& backend, Stream& stream, const MatrixFormat& format,
                 const InputStatistics& input)
      : backend_(backend),
        stream_(stream),
        ops_(backend.compression()),
        format_(format),
        input_(input),
        layout_(layout_of(format)),
        blob_(static_cast<size_t>(layout_.total_bytes)) {}

  CodedTensor encode(const std::string& name, const Tensor& d) {
    Svd parts = svd(backend_, stream_, d, format_.rank());
    const double largest = parts.s.front();
    normalize(parts);
    const Tensor v = quantize_v(parts.v);
    unbias(parts.v, v, input_.c);
    parts.v = {};  // frees it
    const Tensor u = quantize_u(parts.u_t, v);
    unbias(parts.u_t, transpose_of(u), {});
    parts.u_t = {};
    store_s();
    const TensorStats stats{relative_error(d, u, v), parts.kept / parts.squared_norm,
                            parts.squared_norm / (largest * largest)};
    return {name, format_, std::move(blob_), stats};
  }

 private:
  /// Scales the vectors to a root mean square of 1, so that fp16 scales are in their normal range;
  /// the singular values make up for it.
  void normalize(const Svd& parts) {
    const double rms_u = std::sqrt(static_cast<double>(format_.base_rows));
    const double rms_v = std::sqrt(static_cast<double>(format_.n_in()));
    ops_.scale(stream_, parts.u_t, std::vector<double>(parts.s.size(), rms_u), {});
    ops_.scale(stream_, parts.v, std::vector<double>(parts.s.size(), rms_v), {});
    for (const double s : parts.s) s_.push_back(s / (rms_u * rms_v));
  }

  /// s_i *= <w_i, w_i>_C / <q_i, w_i>_C for the rows w of the exact and q of the quantized vectors:
  /// the scales of least error shrink every vector, and the shrinkage of all layers would add up.
  void unbias(const Tensor& exact, const Tensor& quantized, const Tensor& c) {
    Tensor weighted = exact;
    if (!c.empty()) {
      weighted = backend_.allocate(DType::kF64, exact.shape);
      ops_.matmul(stream_, exact, false, c, false, weighted);
    }
    const std::vector<double> want = ops_.row_dots(stream_, weighted, exact);
    const std::vector<double> got = ops_.row_dots(stream_, weighted, quantized);
    for (size_t i = 0; i < s_.size(); ++i) {
      // A vector that its code hardly resembles is left alone: amplifying noise helps nobody.
      if (got[i] * kLargestGain > want[i]) s_[i] *= std::max(want[i] / got[i], 1 / kLargestGain);
    }
  }

  void store_s() {
    for (size_t i = 0; i < s_.size(); ++i) {
      const uint16_t bits = float_to_bf16(static_cast<float>(s_[i]));
      std::memcpy(blob_.data() + layout_.s.offset + 2 * static_cast<int64_t>(i), &bits, 2);
      s_[i] = bf16_to_float(bits);
    }
  }

  /// V tier by tier: rows are independent given C, so one factor serves all widths.
  Tensor quantize_v(const Tensor& v) {
    const Tensor out = backend_.allocate(DType::kF64, v.shape);
    int64_t first = 0;
    for (size_t t = 0; t < format_.tiers.size(); ++t) {
      const TierFormat& tier = format_.tiers[t];
      const CodeSection whole{0, v.cols(), tier.v};
      Quantized q = ops_.gptq(stream_, v.slice(first, tier.rank), input_.factor.get(), {&whole, 1});
      pack(array_of(std::move(q.sections[0]), tier.v, tier.rank, v.cols()), layout_.tiers[t].v,
           blob_);
      ops_.copy(stream_, q.values, out.slice(first, tier.rank));
      first += tier.rank;
    }
    return out;
  }

  Tensor transpose_of(const Tensor& a) {
    const Tensor out = backend_.allocate(DType::kF64, {a.cols(), a.rows()});
    ops_.transpose(stream_, a, out);
    return out;
  }

  /// U [n_out, rank] on what the quantized V gives. Coarse columns go first: their error is taken
  /// over by precise ones.
  Tensor quantize_u(const Tensor& u_t, const Tensor& v) {
    const int64_t n_out = u_t.cols();
    const Tensor u = transpose_of(u_t);
    std::vector<CodeSection> sections;
    std::vector<int> bits;
    for (const TierFormat& tier : format_.tiers) {
      sections.push_back({static_cast<int64_t>(bits.size()),
                          tier.rank,
                          {tier.u.bits, tier.u.scale_cols, tier.u.scale_rows}});
      bits.insert(bits.end(), static_cast<size_t>(tier.rank), tier.u.bits);
    }
    std::unique_ptr<GptqFactor> factor;
    if (input_.factor) {
      const Tensor h = hessian_of_u(v);
      std::vector<int64_t> order = largest_first(ops_.diagonal(stream_, h));
      std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        return bits[static_cast<size_t>(a)] < bits[static_cast<size_t>(b)];
      });
      factor = ops_.gptq_factor(stream_, h, order, kDamp);
    }
    const Quantized q = ops_.gptq(stream_, u, factor.get(), sections);
    for (size_t t = 0; t < format_.tiers.size(); ++t) {
      pack(transposed_array(q.sections[t], format_.tiers[t].u, format_.tiers[t].rank, n_out),
           layout_.tiers[t].u, blob_);
    }
    return q.values;
  }

  /// diag(s) V C V^T diag(s)
  Tensor hessian_of_u(const Tensor& v) {
    const Tensor vc = backend_.allocate(DType::kF64, v.shape);
    ops_.matmul(stream_, v, false, input_.c, false, vc);
    const Tensor h = backend_.allocate(DType::kF64, {v.rows(), v.rows()});
    ops_.matmul(stream_, vc, false, v, true, h);
    ops_.scale(stream_, h, s_, s_);
    return h;
  }

  /// |(d - U diag(s) V) x|^2 over |d x|^2. u is overwritten.
  double relative_error(const Tensor& d, const Tensor& u, const Tensor& v) {
    const double whole = output_energy(backend_, stream_, d, input_.c);
    ops_.scale(stream_, u, {}, s_);
    std::vector<double> energies;
    for (int64_t first = 0; first < d.rows(); first += kErrorRows) {
      const int64_t count = std::min(kErrorRows, d.rows() - first);
      const Tensor rest = backend_.allocate(DType::kF64, {count, d.cols()});
      ops_.matmul(stream_, u.slice(first, count), false, v, false, rest);
      ops_.subtract(stream_, rest, d.slice(first, count), rest);
      append(energies, row_energies(backend_, stream_, rest, input_.c));
    }
    return whole > 0 ? sum(energies) / whole : 0;
  }

  Backend& backend_;
  Stream& stream_;
  CompressionOps& ops_;
  const MatrixFormat& format_;
  const InputStatistics& input_;
  BlobLayout layout_;
  std::vector<std::byte> blob_;
  std::vector<double> s_;
};

/// sign(d) times the mean magnitude: value = scale * (code - 1/2), so the scale is twice the mean.
CodedTensor encode_sign(Backend& backend, Stream& stream, const std::string& name,
                        const MatrixFormat& format, const Tensor& d, const InputStatistics& input) {
  CompressionOps& ops = backend.compression();
  const CodeSection whole{0, d.cols(), format.dense};
  Quantized q = ops.gptq(stream, d, nullptr, {&whole, 1});
  const BlobLayout layout = layout_of(format);
  CodedTensor out{
      name, format, std::vector<std::byte>(static_cast<size_t>(layout.total_bytes)), {}};
  pack(array_of(std::move(q.sections[0]), format.dense, d.rows(), d.cols()), layout.dense,
       out.blob);
  const double energy = output_energy(backend, stream, d, input.c);
  ops.subtract(stream, q.values, d, q.values);
  out.stats.relative_error =
      energy > 0 ? output_energy(backend, stream, q.values, input.c) / energy : 0;
  return out;
}

}  // namespace

std::vector<int64_t> largest_first(const std::vector<double>& values) {
  std::vector<int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return values[static_cast<size_t>(a)] > values[static_cast<size_t>(b)];
  });
  return order;
}

InputStatistics make_statistics(Backend& backend, Stream& stream, Tensor c) {
  InputStatistics out;
  const std::vector<int64_t> order = largest_first(backend.compression().diagonal(stream, c));
  out.factor = backend.compression().gptq_factor(stream, c, order, kDamp);
  out.c = std::move(c);
  return out;
}

CodedTensor encode_projection(Backend& backend, Stream& stream, const std::string& name,
                              const MatrixFormat& format, const Tensor& d,
                              const InputStatistics& input) {
  if (format.codec == Codec::kDense) return encode_sign(backend, stream, name, format, d, input);
  DELTACOME_CHECK(format.codec == Codec::kLowRank);
  return LowRankEncoder(backend, stream, format, input).encode(name, d);
}

CodedTensor encode_embedding(Backend& backend, Stream& stream, const std::string& name,
                             const MatrixFormat& format, const HostTensor& finetuned,
                             const HostTensor& base) {
  CompressionOps& ops = backend.compression();
  const int64_t cols = format.n_in();
  const auto rows_of = [&](HostTensor tensor, int64_t first, int64_t count) {
    const int64_t row_bytes = cols * dtype_bytes(tensor.dtype);
    tensor.shape[0] = count;
    tensor.bytes = tensor.bytes.subspan(static_cast<size_t>(first * row_bytes),
                                        static_cast<size_t>(count * row_bytes));
    return tensor;
  };
  // Vocabularies are large, and their rows share no scales: in pieces.
  DELTACOME_CHECK(format.dense.scale_rows == 1);
  const CodeSection whole{0, cols, format.dense};
  const int64_t piece = std::max<int64_t>(1, kEmbeddingWeights / cols);
  Quantized::Section coded;
  coded.codes.reserve(static_cast<size_t>(format.base_rows * cols));
  std::vector<double> energies, errors;
  for (int64_t first = 0; first < format.base_rows; first += piece) {
    const int64_t count = std::min(piece, format.base_rows - first);
    const Tensor d = backend.allocate(DType::kF64, {count, cols});
    const HostTensor of_finetuned = rows_of(finetuned, first, count);
    const HostTensor of_base = rows_of(base, first, count);
    ops.subtract(stream, backend.import_weight(of_finetuned), backend.import_weight(of_base), d);
    release_pages(of_finetuned.bytes);
    release_pages(of_base.bytes);
    const Quantized q = ops.gptq(stream, d, nullptr, {&whole, 1});
    const Quantized::Section& section = q.sections[0];
    coded.codes.insert(coded.codes.end(), section.codes.begin(), section.codes.end());
    coded.scales.insert(coded.scales.end(), section.scales.begin(), section.scales.end());
    append(energies, ops.row_dots(stream, d, d));
    ops.subtract(stream, q.values, d, d);
    append(errors, ops.row_dots(stream, d, d));
  }
  const BlobLayout layout = layout_of(format);
  CodedTensor out{
      name, format, std::vector<std::byte>(static_cast<size_t>(layout.total_bytes)), {}};
  pack(array_of(std::move(coded), format.dense, format.base_rows, cols), layout.dense, out.blob);
  if (format.added_rows() > 0) {
    DELTACOME_CHECK(format.raw_dtype == finetuned.dtype);
    std::memcpy(
        out.blob.data() + layout.added.offset,
        finetuned.bytes.data() + finetuned.bytes.size() - static_cast<size_t>(layout.added.bytes),
        static_cast<size_t>(layout.added.bytes));
  }
  const double energy = sum(energies);
  out.stats.relative_error = energy > 0 ? sum(errors) / energy : 0;
  return out;
}

CodedTensor encode_vision(Backend& backend, Stream& stream, const std::string& name,
                          const MatrixFormat& format, const HostTensor& finetuned,
                          const HostTensor* base) {
  HostTensor matrix = finetuned;
  matrix.shape = format.shape;
  if (format.codec == Codec::kRaw) return encode_raw(name, matrix);
  HostTensor from;
  if (base != nullptr) {
    from = *base;
    from.shape = format.shape;
  } else {
    const auto n = static_cast<size_t>(finetuned.size());
    from = HostTensor::of(DType::kF32, format.shape, std::vector<float>(n, 0.0F));
  }
  return encode_embedding(backend, stream, name, format, matrix, from);
}

}  // namespace deltacome
