// SPDX-License-Identifier: Apache-2.0
#include "compress/delta_weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/check.h"
#include "io/files.h"
#include "model/given_rows.h"
#include "quant/codes.h"
#include "quant/vector_codes.h"

namespace deltacome {
namespace {

using Kind = ExpectedTensor::Kind;

constexpr int64_t kKeptBytes = int64_t{768} << 20;  // of decoded codes that stay in memory

/// "model.layers.3.self_attn.q_proj.weight" -> "model.layers.3.self_attn.qkv": what shares an
/// input.
std::string input_of(const std::string& name) {
  const std::string kind = tensor_kind(name);
  const std::string prefix = name.substr(0, name.find(kind));
  if (kind == "q_proj" || kind == "k_proj" || kind == "v_proj") return prefix + "qkv";
  if (kind == "gate_proj" || kind == "up_proj") return prefix + "gate_up";
  return prefix + kind;
}

/// A dense code with scales of whole rows, or of all rows together.
bool has_row_scales(const MatrixFormat& format) {
  return format.codec == Codec::kDense && format.dense.bits < 16 && format.dense.scale_rows <= 1;
}

}  // namespace

/// Decoded codes of a delta, gains and singular values folded in: q, or u v if v is there.
struct DeltaWeights::Decoded {
  Tensor q;  // f32 [n_out, n_in]; of low rank u [n_out, rank]
  Tensor v;  // f32 [rank, n_in] or empty
  int64_t bytes() const { return q.bytes() + (v.empty() ? 0 : v.bytes()); }
};

struct DeltaWeights::Matrix {
  enum class Source { kBase, kFinetuned, kDelta } source = Source::kBase;
  Tensor finetuned;  // or empty
  CodedTensor coded;
  Tensor blob;  // its bytes in the backend's memory, once they are wanted
  std::optional<Decoded> decoded;
  // First parameter of each kind; negative = none.
  int64_t rows = -1, cols = -1, s = -1;
  bool one_scale = false;  // the rows have one scale together (bitdelta)
};

struct DeltaWeights::Norm {
  Tensor initial;      // f32 [1, d], the fine-tune's
  Tensor current;      // initial times its factors
  Tensor gradient;     // of current
  int64_t first = -1;  // parameter
};

DeltaWeights::DeltaWeights(const Model& model, Stream& stream, const CheckpointPair& pair,
                           std::shared_ptr<const DeviceVariant> outer, Tensor given)
    : model_(model),
      backend_(model.backend()),
      stream_(stream),
      ops_(model.backend().training()),
      pair_(pair),
      outer_(std::move(outer)),
      given_(std::move(given)) {
  for (size_t slot = 0; slot < pair.tensors.size(); ++slot) {
    const ExpectedTensor& tensor = pair.tensors[slot];
    const int at = static_cast<int>(slot);
    switch (tensor.kind) {
      case Kind::kProjection:
        matrices_[at] = {};
        break;
      case Kind::kNorm: {
        const Tensor initial = f32_of(pair.finetuned.at(tensor.name));
        norms_[at] = {initial.reshaped({1, initial.size()}), initial, {}, -1};
        break;
      }
      case Kind::kBias:
        biases_[at] = f32_of(pair.finetuned.at(tensor.name));
        break;
      case Kind::kEmbedding:
      case Kind::kHead:
      case Kind::kVision:
        break;
    }
  }
}

DeltaWeights::~DeltaWeights() = default;

DeltaWeights::Matrix& DeltaWeights::cleared(int slot) {
  Matrix& matrix = matrices_.at(slot);
  if (matrix.decoded) kept_bytes_ -= matrix.decoded->bytes();
  return matrix = {};
}

void DeltaWeights::use_finetuned(int slot, Tensor weight) {
  Matrix& matrix = cleared(slot);
  matrix.source = Matrix::Source::kFinetuned;
  matrix.finetuned = std::move(weight);
}

void DeltaWeights::use_base(int slot) {
  cleared(slot);
}

void DeltaWeights::use_delta(int slot, const CodedTensor& coded) {
  Matrix& matrix = cleared(slot);
  matrix.source = Matrix::Source::kDelta;
  matrix.coded = coded;
  matrix.one_scale = coded.format.codec == Codec::kDense && coded.format.dense.scale_rows == 0;
}

void DeltaWeights::create_parameters() {
  int64_t n = 0;
  const auto take = [&](int64_t count) {
    n += count;
    return n - count;
  };
  for (auto& [slot, norm] : norms_) norm.first = take(norm.initial.size());
  n_norms_ = n;
  std::map<std::string, int64_t> shared;
  for (auto& [slot, matrix] : matrices_) {
    matrix.rows = matrix.cols = matrix.s = -1;
    if (matrix.source != Matrix::Source::kDelta) continue;
    const MatrixFormat& format = matrix.coded.format;
    // Where no stored number would take them, there are no factors of rows.
    if (format.codec == Codec::kVector || format.row_gain || has_row_scales(format))
      matrix.rows = take(matrix.one_scale ? 1 : format.base_rows);
    if (format.codec == Codec::kLowRank) matrix.s = take(format.rank());
    if (!format.col_gain) continue;
    const auto [it, is_new] = shared.try_emplace(input_of(matrix.coded.name), 0);
    if (is_new) it->second = take(format.n_in());
    matrix.cols = it->second;
  }
  values_ = backend_.allocate(DType::kF32, {n});
  gradients_ = backend_.allocate(DType::kF32, {n});
  const std::vector<float> ones(static_cast<size_t>(n), 1), zeros(static_cast<size_t>(n), 0);
  backend_.upload(stream_, std::as_bytes(std::span(ones)), values_);
  backend_.upload(stream_, std::as_bytes(std::span(zeros)), gradients_);
  for (auto& [slot, norm] : norms_) {
    norm.current = backend_.allocate(DType::kF32, {norm.initial.size()});
    norm.gradient = backend_.allocate(DType::kF32, {norm.initial.size()});
    backend_.upload(stream_,
                    std::as_bytes(std::span(zeros).first(static_cast<size_t>(norm.initial.size()))),
                    norm.gradient);
  }
}

Tensor DeltaWeights::f32_of(const HostTensor& host) const {
  const std::vector<float> values = host.to_float();
  const Tensor out = backend_.allocate(DType::kF32, host.shape);
  backend_.upload(stream_, std::as_bytes(std::span(values)), out);
  return out;
}

std::vector<float> DeltaWeights::download(const Tensor& t) const {
  std::vector<float> out(static_cast<size_t>(t.size()));
  backend_.download(stream_, t, std::as_writable_bytes(std::span(out)));
  return out;
}

Tensor DeltaWeights::scratch(size_t which, int64_t rows, int64_t cols) {
  scratch_.resize(std::max(scratch_.size(), which + 1));
  Tensor& memory = scratch_[which];
  if (memory.empty() || memory.size() < rows * cols)
    memory = backend_.allocate(DType::kF32, {rows * cols});
  return memory.slice(0, rows * cols).reshaped({rows, cols});
}

Tensor DeltaWeights::parameter(const Tensor& all, int64_t first, int64_t count) const {
  return first < 0 || all.empty() ? Tensor{} : all.slice(first, count);
}

DeltaWeights::Decoded DeltaWeights::decoded(Matrix& matrix) {
  if (matrix.decoded) return *matrix.decoded;
  const MatrixFormat& format = matrix.coded.format;
  if (matrix.blob.empty()) {
    const std::vector<std::byte>& bytes = matrix.coded.blob;
    // Not an owner, but as long-lived: a CPU may share the bytes.
    const std::shared_ptr<const void> owner(std::shared_ptr<const void>(), bytes.data());
    matrix.blob =
        backend_.import_weight({DType::kU8, {static_cast<int64_t>(bytes.size())}, bytes, owner});
  }
  const bool low_rank = format.codec == Codec::kLowRank;
  Decoded out;
  out.q =
      backend_.allocate(DType::kF32, {format.base_rows, low_rank ? format.rank() : format.n_in()});
  if (low_rank) out.v = backend_.allocate(DType::kF32, {format.rank(), format.n_in()});
  ops_.decode(stream_, format, matrix.blob, out.q, out.v);
  if (kept_bytes_ + out.bytes() <= kKeptBytes) {
    kept_bytes_ += out.bytes();
    matrix.decoded = out;
  }
  return out;
}

/// The delta [n_out, n_in] before row and column factors, decoded or in scratch 0.
Tensor DeltaWeights::product_of(const Matrix& matrix, const Decoded& decoded) {
  if (decoded.v.empty()) return decoded.q;
  const MatrixFormat& format = matrix.coded.format;
  Tensor u = decoded.q;
  if (matrix.s >= 0) {
    u = scratch(1, format.base_rows, format.rank());
    ops_.compose(stream_, {}, decoded.q, {}, parameter(values_, matrix.s, format.rank()), u);
  }
  const Tensor q = scratch(0, format.base_rows, format.n_in());
  ops_.matmul(stream_, u, false, decoded.v, false, 0, q);
  return q;
}

Tensor DeltaWeights::projection(const LinearWeights& w) {
  Matrix& matrix = matrices_.at(w.weight.slot);
  const std::string& name = pair_.tensors[static_cast<size_t>(w.weight.slot)].name;
  const Tensor& base = w.weight.tensor;
  const Tensor out = scratch(2, base.rows(), base.cols());
  if (matrix.source == Matrix::Source::kFinetuned) {
    const HostTensor& finetuned = pair_.finetuned.at(name);
    const Tensor weight =
        matrix.finetuned.empty() ? backend_.import_weight(finetuned) : matrix.finetuned;
    ops_.compose(stream_, weight, {}, {}, {}, out);
    release_pages(finetuned.bytes);
  } else if (matrix.source == Matrix::Source::kBase) {
    ops_.compose(stream_, base, {}, {}, {}, out);
  } else {
    const Tensor q = product_of(matrix, decoded(matrix));
    Tensor rows;
    if (!matrix.one_scale) rows = parameter(values_, matrix.rows, base.rows());
    Tensor cols = parameter(values_, matrix.cols, base.cols());
    if (matrix.one_scale && matrix.rows >= 0) {  // one factor for all: as a column factor
      const std::vector<float> factor(static_cast<size_t>(base.cols()),
                                      download(parameter(values_, matrix.rows, 1))[0]);
      cols = scratch(4, 1, base.cols()).reshaped({base.cols()});
      backend_.upload(stream_, std::as_bytes(std::span(factor)), cols);
    }
    ops_.compose(stream_, base, q, rows, cols, out);
  }
  release_pages(pair_.base.at(name).bytes);
  return out;
}

Tensor DeltaWeights::bias(const LinearWeights& w) {
  return w.bias.tensor.empty() ? Tensor{} : biases_.at(w.bias.slot);
}

Tensor DeltaWeights::norm(const Weight& w) {
  Norm& norm = norms_.at(w.slot);
  if (norm.first >= 0) {
    const int64_t d = norm.initial.size();
    ops_.compose(stream_, {}, norm.initial, {}, parameter(values_, norm.first, d),
                 norm.current.reshaped({1, d}));
  }
  return norm.current;
}

Tensor DeltaWeights::norm_gradient(const Weight& w) {
  return norms_.at(w.slot).gradient;
}

void DeltaWeights::finish_gradients() {
  for (auto& [slot, norm] : norms_) {
    if (norm.first < 0) continue;
    const int64_t d = norm.initial.size();
    ops_.gain_gradients(stream_, norm.gradient.reshaped({1, d}), norm.initial, {}, {}, {},
                        parameter(gradients_, norm.first, d));
    const std::vector<float> zeros(static_cast<size_t>(d), 0);
    backend_.upload(stream_, std::as_bytes(std::span(zeros)), norm.gradient);
  }
}

Tensor DeltaWeights::head_rows(int64_t first, int64_t count) {
  if (head_.empty() || head_first_ != first || head_.rows() != count) {
    std::vector<int32_t> ids(static_cast<size_t>(count));
    std::iota(ids.begin(), ids.end(), static_cast<int32_t>(first));
    head_ = backend_.allocate(DType::kF32, {count, model_.config().hidden_size});
    head_first_ = first;
    const VariantSegment segment{outer_, count};
    const auto plan = backend_.plan_variants({&segment, 1});
    const Weight& head = model_.weights().head;
    backend_.embed(stream_, *plan, head.slot, ids, head.tensor, head_);
  }
  return head_;
}

int64_t DeltaWeights::vocab_size() {
  return pair_.finetuned_config.vocab_size;
}

void DeltaWeights::embed(Stream& stream, std::span<const int32_t> ids, const Tensor& y) {
  const VariantSegment segment{outer_, static_cast<int64_t>(ids.size())};
  const auto plan = backend_.plan_variants({&segment, 1});
  embed_rows(backend_, stream, *plan, model_.weights().embedding, ids, given_, y);
}

void DeltaWeights::projection_gradient(const LinearWeights& w, const Tensor& x, const Tensor& dy) {
  if (hook_) return hook_(w.weight.slot, x, dy);
  Matrix& matrix = matrices_.at(w.weight.slot);
  if (matrix.rows < 0 && matrix.cols < 0 && matrix.s < 0) return;
  const int64_t n_out = dy.cols(), n_in = x.cols();
  const Tensor dw = scratch(3, n_out, n_in);
  ops_.matmul(stream_, dy, true, x, false, 0, dw);
  const Decoded codes = decoded(matrix);
  const Tensor q = product_of(matrix, codes);
  const Tensor rows = matrix.one_scale ? Tensor{} : parameter(values_, matrix.rows, n_out);
  const Tensor cols = parameter(values_, matrix.cols, n_in);
  const Tensor d_cols = parameter(gradients_, matrix.cols, n_in);
  if (matrix.one_scale && matrix.rows >= 0) {
    const Tensor d_row = parameter(gradients_, matrix.rows, 1);
    ops_.add_row_dots(stream_, dw.reshaped({1, dw.size()}), q.reshaped({1, q.size()}), d_row);
    return;
  }
  ops_.gain_gradients(stream_, dw, q, rows, cols, parameter(gradients_, matrix.rows, n_out),
                      d_cols);
  if (matrix.s < 0) return;
  // s_i: (u^T diag(rows) dW diag(cols)) . v, row by row; u as it was decoded.
  ops_.compose(stream_, {}, dw, rows, cols, dw);
  const MatrixFormat& format = matrix.coded.format;
  const Tensor t = scratch(4, format.rank(), n_in);
  ops_.matmul(stream_, codes.q, true, dw, false, 0, t);
  ops_.add_row_dots(stream_, t, codes.v, parameter(gradients_, matrix.s, format.rank()));
}

CodedTensor DeltaWeights::trained(int slot) const {
  const Matrix& matrix = matrices_.at(slot);
  CodedTensor out = matrix.coded;
  const MatrixFormat& format = out.format;
  const BlobLayout layout = layout_of(format);
  std::byte* blob = out.blob.data();
  const auto scale_gains = [&](const Part& part, const std::vector<float>& by) {
    for (size_t i = 0; i < by.size(); ++i) {
      std::byte& code = blob[static_cast<size_t>(part.offset) + i];
      code = static_cast<std::byte>(gain_code(gain_of(std::to_integer<uint8_t>(code)) * by[i]));
    }
  };
  const auto scale_halves = [&](const Part& part, const std::vector<float>& by, size_t per_factor) {
    for (size_t i = 0; i < by.size() * per_factor; ++i) {
      uint16_t bits;
      std::byte* at = blob + part.offset + 2 * static_cast<int64_t>(i);
      std::memcpy(&bits, at, 2);
      bits = float_to_f16(std::clamp(f16_to_float(bits) * by[i / per_factor], -65504.0F, 65504.0F));
      std::memcpy(at, &bits, 2);
    }
  };
  std::vector<float> rows;
  if (matrix.rows >= 0)
    rows = download(parameter(values_, matrix.rows, matrix.one_scale ? 1 : format.base_rows));
  switch (format.codec) {
    case Codec::kLowRank: {
      scale_gains(layout.row_gain, rows);
      if (matrix.s < 0) break;
      const std::vector<float> s = download(parameter(values_, matrix.s, format.rank()));
      for (size_t i = 0; i < s.size(); ++i) {
        uint16_t bits;
        std::byte* at = blob + layout.s.offset + 2 * static_cast<int64_t>(i);
        std::memcpy(&bits, at, 2);
        bits = float_to_bf16(bf16_to_float(bits) * s[i]);
        std::memcpy(at, &bits, 2);
      }
      break;
    }
    case Codec::kVector:
      scale_halves(layout.row_scale, rows, 1);
      break;
    case Codec::kDense:
      if (rows.empty()) break;
      scale_halves(layout.dense.scales, rows,
                   static_cast<size_t>(layout.dense.scales.bytes) / 2 / rows.size());
      break;
    case Codec::kRaw:
      break;
  }
  if (matrix.cols >= 0)
    scale_gains(layout.col_gain, download(parameter(values_, matrix.cols, format.n_in())));
  return out;
}

CodedTensor DeltaWeights::trained_norm(int slot) const {
  const Norm& norm = norms_.at(slot);
  const std::vector<float> initial = download(norm.initial);
  const std::vector<float> factors = download(parameter(values_, norm.first, norm.initial.size()));
  CodedTensor out;
  out.name = pair_.tensors[static_cast<size_t>(slot)].name;
  out.format = {.codec = Codec::kRaw,
                .shape = {norm.initial.size()},
                .raw_dtype = DType::kF16,
                .base_rows = norm.initial.size(),
                .dense = {},
                .tiers = {}};
  out.blob.resize(static_cast<size_t>(layout_of(out.format).total_bytes));
  for (size_t i = 0; i < initial.size(); ++i) {
    const uint16_t bits = float_to_f16(initial[i] * factors[i]);
    std::memcpy(out.blob.data() + 2 * i, &bits, 2);
  }
  return out;
}

}  // namespace deltacome
