// SPDX-License-Identifier: Apache-2.0
#include "io/peft_adapter.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/check.h"
#include "io/json.h"
#include "io/peft_config.h"
#include "io/same_architecture.h"
#include "io/torch_file.h"
#include "quant/codes.h"

namespace deltacome {
namespace fs = std::filesystem;
namespace {

constexpr const char* kConfigName = "adapter_config.json";
constexpr const char* kTensorsName = "adapter_model.safetensors";
constexpr const char* kTorchName = "adapter_model.bin";
constexpr const char* kTokenizerName = "tokenizer.json";
constexpr size_t kMaxConfigBytes = 4u << 20;
constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kA = ".lora_A.weight";
constexpr std::string_view kB = ".lora_B.weight";

// fp16: exponents of the largest power of two that may be rounded up, and of the smallest normal.
constexpr int kMaxExponent = 14;
constexpr int kMinExponent = -14;

/// Why a tensor that is neither A nor B is refused.
std::string_view foreign(const std::string& name) {
  if (name.find("lora_magnitude_vector") != std::string::npos) return "DoRA is not supported";
  if (name.find("lora_embedding") != std::string::npos)
    return "adapters of embeddings are not supported";
  if (name.ends_with(".bias")) return "adapters with biases are not supported";
  return "other tensors are not supported";
}

void check_values(const std::string& name, const HostTensor& tensor, const std::string& where) {
  if (tensor.dtype != DType::kF32 && tensor.dtype != DType::kF16 && tensor.dtype != DType::kBf16) {
    fail(ErrorCode::kUnsupported, "{}: tensor {} is {}, expected F32, F16 or BF16", where,
         quote(name), dtype_name(tensor.dtype));
  }
  if (tensor.shape.size() != 2 || tensor.size() == 0) {
    fail(ErrorCode::kCorrupt, "{}: tensor {} has shape {}, expected a matrix", where, quote(name),
         to_string(tensor.shape));
  }
  for (int64_t r = 0; r < tensor.rows(); ++r) {
    const std::vector<float> row = tensor.to_float(r, 1);
    const auto bad =
        std::find_if_not(row.begin(), row.end(), [](float x) { return std::isfinite(x); });
    if (bad == row.end()) continue;
    fail(ErrorCode::kCorrupt, "{}: tensor {} holds {} at row {}, column {}", where, quote(name),
         *bad, r, bad - row.begin());
  }
}

[[noreturn]] void fail_shape(const std::string& where, const std::string& name, const Shape& got,
                             const Shape& want, std::string_view because) {
  fail(ErrorCode::kMismatch, "{}: tensor {} has shape {}, expected {}{}", where, quote(name),
       to_string(got), to_string(want), because);
}

/// The matrix of one A, with its B.
LoraModule pair_up(const Checkpoint& file, const std::string& name_of_a, const PeftConfig& config,
                   const std::string& where) {
  const std::string prefix = name_of_a.substr(0, name_of_a.size() - kA.size());
  const std::string module = prefix.substr(kPrefix.size());
  const std::string name_of_b = fmt::format("{}{}", prefix, kB);
  const HostTensor& a = file.at(name_of_a);
  const HostTensor* b = file.find(name_of_b);
  if (b == nullptr) {
    fail(ErrorCode::kMismatch, "{}: tensor {} is there, but {} is missing", where, quote(name_of_a),
         quote(name_of_b));
  }
  check_values(name_of_a, a, where);
  check_values(name_of_b, *b, where);
  const int64_t rank = config.rank(module);
  if (a.rows() != rank) {
    fail_shape(where, name_of_a, a.shape, {rank, a.cols()}, fmt::format(" by {}", kConfigName));
  }
  if (b->cols() != rank)
    fail_shape(where, name_of_b, b->shape, {b->rows(), rank}, " by the rank of its lora_A");
  return {
      .name = module + ".weight", .prefix = prefix, .a = a, .b = *b, .scale = config.scale(module)};
}

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

/// Checks a module against the base's tensor of its name; null if the base has no such projection.
void check_fit(const LoraModule& module, const ExpectedTensor* base, const std::string& where) {
  const std::string name_of_a = fmt::format("{}{}", module.prefix, kA);
  if (base == nullptr) {
    fail(ErrorCode::kMismatch, "{}: tensor {} adapts {}, which is not a projection of the base",
         where, quote(name_of_a), quote(module.name));
  }
  const int64_t n_out = base->shape[0], n_in = base->shape[1];
  const std::string because = fmt::format(": the base's is {}", to_string(base->shape));
  if (module.a.cols() != n_in)
    fail_shape(where, name_of_a, module.a.shape, {module.rank(), n_in}, because);
  if (module.b.rows() != n_out) {
    fail_shape(where, fmt::format("{}{}", module.prefix, kB), module.b.shape,
               {n_out, module.rank()}, because);
  }
  if (module.rank() > std::min(n_in, n_out)) {
    fail(ErrorCode::kUnsupported,
         "{}: tensor {} has rank {}, expected at most {}, the matrix's own", where,
         quote(name_of_a), module.rank(), std::min(n_in, n_out));
  }
}

}  // namespace

bool is_peft_adapter(const fs::path& directory) {
  std::error_code ignored;
  return fs::exists(directory / kConfigName, ignored) &&
         !fs::exists(directory / "delta_config.json", ignored);
}

PeftAdapter PeftAdapter::open(const fs::path& directory) {
  const fs::path path = directory / kConfigName;
  const PeftConfig config = PeftConfig::parse(read_text_file(path, kMaxConfigBytes), path.string());
  PeftAdapter adapter;
  adapter.directory_ = directory;
  adapter.base_name_ = config.base_name();
  std::error_code ignored;
  const bool torch =
      !fs::exists(directory / kTensorsName, ignored) && fs::exists(directory / kTorchName, ignored);
  const fs::path tensors = directory / (torch ? kTorchName : kTensorsName);
  const std::string where = tensors.string();
  adapter.file_ = Checkpoint::of(
      torch ? read_torch_file(tensors) : SafetensorsFile::open(tensors).tensors(), tensors);
  for (const auto& [name, tensor] : adapter.file_.tensors()) {
    const bool prefixed = name.starts_with(kPrefix);
    if (prefixed && name.ends_with(kA)) {
      adapter.modules_.push_back(pair_up(adapter.file_, name, config, where));
      continue;
    }
    if (!prefixed || !name.ends_with(kB)) {
      fail(ErrorCode::kUnsupported, "{}: tensor {} {}, expected names {}<module>{} and {}: {}",
           where, quote(name), to_string(tensor.shape), kPrefix, kA, kB, foreign(name));
    }
    const std::string name_of_a = fmt::format("{}{}", name.substr(0, name.size() - kB.size()), kA);
    if (adapter.file_.find(name_of_a) == nullptr) {
      fail(ErrorCode::kMismatch, "{}: tensor {} is there, but {} is missing", where, quote(name),
           quote(name_of_a));
    }
  }
  if (adapter.modules_.empty()) fail(ErrorCode::kCorrupt, "{}: holds no tensors", where);
  return adapter;
}

std::string PeftAdapter::content_hash() const {
  return deltacome::content_hash(file_.tensors());
}

int64_t PeftAdapter::file_bytes() const {
  return static_cast<int64_t>(fs::file_size(directory_ / kConfigName) +
                              fs::file_size(file_.directory()));
}

int64_t PeftAdapter::tokenizer_bytes() const {
  int64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(directory_)) {
    if (is_tokenizer_file(entry.path().filename().string()))
      bytes += static_cast<int64_t>(entry.file_size());
  }
  return bytes;
}

bool PeftAdapter::has_tokenizer() const {
  std::error_code ignored;
  return fs::exists(directory_ / kTokenizerName, ignored);
}

bool PeftAdapter::has_type(DType dtype) const noexcept {
  return std::any_of(modules_.begin(), modules_.end(), [&](const LoraModule& module) {
    return module.a.dtype == dtype || module.b.dtype == dtype;
  });
}

std::vector<CodedTensor> PeftAdapter::encode(const std::vector<ExpectedTensor>& base) const {
  const std::string where = file_.directory().string();
  std::map<std::string, const LoraModule*> by_name;
  for (const LoraModule& module : modules_) by_name[module.name] = &module;
  std::vector<CodedTensor> out;
  for (const ExpectedTensor& tensor : base) {
    const auto it = by_name.find(tensor.name);
    if (it == by_name.end() || tensor.kind != ExpectedTensor::Kind::kProjection) continue;
    check_fit(*it->second, &tensor, where);
    out.push_back(encode_module(*it->second, where));
    by_name.erase(it);
  }
  if (!by_name.empty()) check_fit(*by_name.begin()->second, nullptr, where);
  return out;
}

ModelConfig PeftAdapter::model_config(const fs::path& base_directory,
                                      const ModelConfig& base) const {
  ModelConfig config = read_model_config(directory_, base_directory);
  check_same_architecture(base, config);
  if (config.vocab_size != base.vocab_size) {
    fail(ErrorCode::kMismatch, "{}: vocab_size is {}, expected the base's {}",
         (directory_ / "config.json").string(), config.vocab_size, base.vocab_size);
  }
  return config;
}

}  // namespace deltacome
