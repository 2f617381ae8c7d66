// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "io/fused_projections.h"
#include "io/peft_adapter.h"
#include "io/peft_tensors.h"
#include "quant/codes.h"

namespace deltacome {
namespace {

using Kind = ExpectedTensor::Kind;

// fp16: exponents of the largest power of two that may be rounded up, and of the smallest normal.
constexpr int kMaxExponent = 14;
constexpr int kMinExponent = -14;

/// The power of two that brings a component's values into the range of fp16: the largest to [1, 2),
/// and further up as far as the smallest is below the normal numbers then.
int shift_of(std::span<const float> values) {
  float largest = 0, smallest = std::numeric_limits<float>::max();
  for (const float value : values) {
    const float magnitude = std::abs(value);
    if (magnitude == 0) continue;
    largest = std::max(largest, magnitude);
    smallest = std::min(smallest, magnitude);
  }
  if (largest == 0) return 0;
  const int top = std::ilogb(largest);
  return std::clamp(kMinExponent - std::ilogb(smallest), -top, kMaxExponent - top);
}

/// Appends one component as fp16 and returns the power of two that its values were moved by.
int append_component(std::span<const float> values, std::vector<uint16_t>& out) {
  const int shift = shift_of(values);
  for (const float value : values) out.push_back(float_to_f16(std::ldexp(value, shift)));
  return shift;
}

CodedTensor encode_module(const LoraModule& module, const std::string& where) {
  const int64_t rank = module.rank(), n_in = module.a.cols(), n_out = module.b.rows();
  CodedTensor out{.name = module.name,
                  .format = {.codec = Codec::kLowRank,
                             .shape = module.shape(),
                             .base_rows = n_out,
                             .dense = {},
                             .tiers = {{.rank = rank, .v = {}, .u = {}}}},
                  .blob = {},
                  .stats = {}};
  const BlobLayout layout = layout_of(out.format);
  out.blob.resize(static_cast<size_t>(layout.total_bytes));
  CodedArray v{.format = {}, .rows = rank, .cols = n_in, .codes = {}, .scales = {}, .values = {}};
  CodedArray u_t{
      .format = {}, .rows = rank, .cols = n_out, .codes = {}, .scales = {}, .values = {}};
  // s is bf16: what of the scale it cannot hold goes into U, which has three bits more.
  int exponent = 0;
  const double mantissa = std::frexp(module.scale, &exponent);
  const auto narrow = static_cast<float>(mantissa);
  const bool exact = static_cast<double>(bf16_to_float(float_to_bf16(narrow))) == mantissa;
  const double of_s = exact ? mantissa : 0.5, of_u = exact ? 1 : 2 * mantissa;

  const std::vector<float> b = module.b.to_float();
  std::vector<float> column(static_cast<size_t>(n_out));
  for (int64_t k = 0; k < rank; ++k) {
    for (int64_t i = 0; i < n_out; ++i) {
      column[static_cast<size_t>(i)] =
          static_cast<float>(of_u * static_cast<double>(b[static_cast<size_t>(i * rank + k)]));
    }
    const int shift =
        append_component(module.a.to_float(k, 1), v.values) + append_component(column, u_t.values);
    const auto s = static_cast<float>(std::ldexp(of_s, exponent - shift));
    const uint16_t bits = float_to_bf16(s);
    if (!std::isfinite(bf16_to_float(bits))) {
      fail(ErrorCode::kCorrupt, "{}: component {} of {} is beyond the range of float", where, k,
           quote(module.prefix));
    }
    std::memcpy(out.blob.data() + layout.s.offset + 2 * k, &bits, sizeof bits);
  }
  pack(v, layout.tiers[0].v, out.blob);
  pack(u_t, layout.tiers[0].u, out.blob);
  return out;
}

/// A module of fused projections as modules of each, which share A; others as they are.
std::vector<LoraModule> apart(const LoraModule& module, const std::vector<ExpectedTensor>& base,
                              const std::string& where) {
  const std::vector<std::string> parts = fused_parts(module.name);
  if (parts.empty()) return {module};
  std::vector<LoraModule> out;
  const auto row_bytes = static_cast<size_t>(module.b.cols() * dtype_bytes(module.b.dtype));
  int64_t rows = 0;
  for (const std::string& part : parts) {
    const auto own = std::ranges::find(base, part, &ExpectedTensor::name);
    const int64_t n_rows = own == base.end() ? 0 : own->shape.front();
    LoraModule& one = out.emplace_back(module);
    one.name = part;
    one.b.shape[0] = n_rows;
    if (rows + n_rows <= module.b.rows()) {
      one.b.bytes = module.b.bytes.subspan(static_cast<size_t>(rows) * row_bytes,
                                           static_cast<size_t>(n_rows) * row_bytes);
    }
    rows += n_rows;
  }
  if (rows != module.b.rows()) {
    fail_peft_shape(where, fmt::format("{}{}", module.prefix, kLoraB), module.b.shape,
                    {rows, module.rank()}, ", the rows of the base's projections");
  }
  return out;
}

/// Checks a module against the base's tensor of its name; null if the base has no such projection.
void check_fit(const LoraModule& module, const ExpectedTensor* base, const std::string& where) {
  const std::string name_of_a = fmt::format("{}{}", module.prefix, kLoraA);
  if (base == nullptr) {
    fail(ErrorCode::kMismatch,
         "{}: tensor {} adapts {}, which is neither a projection nor the head of the base", where,
         quote(name_of_a), quote(module.name));
  }
  const int64_t n_out = base->shape[0], n_in = base->shape[1];
  const std::string because = fmt::format(": the base's is {}", to_string(base->shape));
  if (module.a.cols() != n_in)
    fail_peft_shape(where, name_of_a, module.a.shape, {module.rank(), n_in}, because);
  if (module.b.rows() != n_out) {
    fail_peft_shape(where, fmt::format("{}{}", module.prefix, kLoraB), module.b.shape,
                    {n_out, module.rank()}, because);
  }
  if (module.rank() > std::min(n_in, n_out)) {
    fail(ErrorCode::kUnsupported,
         "{}: tensor {} has rank {}, expected at most {}, the matrix's own", where,
         quote(name_of_a), module.rank(), std::min(n_in, n_out));
  }
}

/// Over a base that ties its head to its embeddings an adapter must do so too: a head of its own is
/// taken out of `wholes` if it is the same as the embeddings, else refused.
void check_tied(std::map<std::string, const WholeTensor*>& wholes, bool embeddings_alone,
                const std::string& where) {
  const auto embeddings = wholes.find("model.embed_tokens.weight");
  const auto head = wholes.find("lm_head.weight");
  if (head == wholes.end() && (embeddings == wholes.end() || !embeddings_alone)) return;
  if (head != wholes.end() && embeddings != wholes.end()) {
    const HostTensor &a = embeddings->second->tensor, &b = head->second->tensor;
    if (a.dtype == b.dtype && std::ranges::equal(a.bytes, b.bytes)) {
      wholes.erase(head);
      return;
    }
  }
  const WholeTensor& apart = *(head != wholes.end() ? head : embeddings)->second;
  fail(ErrorCode::kUnsupported,
       "{}: tensor {} makes head and embeddings differ, expected the same for both: the base ties "
       "them",
       where, quote(apart.stored_name));
}

/// Whether the base has it; rows of a vocabulary may be more or fewer.
void check_fit(const WholeTensor& whole, const ExpectedTensor* base, const std::string& where) {
  if (base == nullptr) {
    fail(ErrorCode::kMismatch, "{}: tensor {} replaces {}, which the base does not have", where,
         quote(whole.stored_name), quote(whole.name));
  }
  Shape want = base->shape;
  if (base->kind == Kind::kEmbedding || base->kind == Kind::kHead)
    want.front() = whole.tensor.rows();
  if (whole.tensor.shape == want) return;
  fail_peft_shape(where, whole.stored_name, whole.tensor.shape, base->shape,
                  ", as the base has it");
}

}  // namespace

std::vector<CodedTensor> PeftAdapter::encode(const std::vector<ExpectedTensor>& base) const {
  const std::string where = file_.directory().string();
  std::map<std::string, LoraModule> modules;
  std::map<std::string, const WholeTensor*> wholes;
  for (const LoraModule& module : modules_) {
    for (LoraModule& one : apart(module, base, where)) modules[one.name] = std::move(one);
  }
  for (const WholeTensor& whole : wholes_) wholes[whole.name] = &whole;
  if (std::ranges::none_of(base, [](const ExpectedTensor& t) { return t.kind == Kind::kHead; }))
    check_tied(wholes, embeddings_alone_, where);
  std::vector<CodedTensor> out;
  for (const ExpectedTensor& tensor : base) {
    if (const auto it = wholes.find(tensor.name); it != wholes.end()) {
      check_fit(*it->second, &tensor, where);
      out.push_back(encode_raw(tensor.name, it->second->tensor));
      wholes.erase(it);
    }
    const auto it = modules.find(tensor.name);
    if (it == modules.end() || (tensor.kind != Kind::kProjection && tensor.kind != Kind::kHead))
      continue;
    check_fit(it->second, &tensor, where);
    out.push_back(encode_module(it->second, where));
    modules.erase(it);
  }
  if (!modules.empty()) check_fit(modules.begin()->second, nullptr, where);
  if (!wholes.empty()) check_fit(*wholes.begin()->second, nullptr, where);
  return out;
}

}  // namespace deltacome
