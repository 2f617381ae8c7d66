// SPDX-License-Identifier: Apache-2.0
#include "io/quantized_weights.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <system_error>

#include "core/check.h"
#include "io/files.h"
#include "io/quantized_formats.h"

namespace deltacome {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr const char* kKey = "quantization_config";
constexpr const char* kOldGptqName = "quantize_config.json";

/// The type that a model computes in, by the name of transformers.
DType compute_dtype(const ConfigFields& fields) {
  const std::string name = fields.text_or("dtype", fields.text_or("torch_dtype", "float16"));
  if (name == "float16") return DType::kF16;
  if (name == "bfloat16") return DType::kBf16;
  if (name == "float32") return DType::kF32;
  fail(ErrorCode::kUnsupported, "{}: dtype {}, expected float16, bfloat16 or float32",
       fields.where(), quote(name));
}

QuantizedWeights take_by_method(const ConfigFields& config, QuantizedTensors& tensors) {
  const std::string method = config.text_or("quant_method", "");
  if (method == "gptq") return take_gptq(config, tensors);
  if (method == "awq") return take_awq(config, tensors);
  if (method == "compressed-tensors") return take_compressed_tensors(config, tensors);
  if (method == "bitsandbytes") return take_bitsandbytes(config, tensors);
  if (method == "fp8") return take_block_fp8(config, tensors);
  fail(ErrorCode::kUnsupported,
       "{}: quant_method {} is not supported; supported are gptq, awq, compressed-tensors, "
       "bitsandbytes, fp8",
       config.where(), quote(method));
}

}  // namespace

std::vector<std::string> QuantizedTensors::modules(const std::string& suffix) const {
  std::vector<std::string> out;
  for (const auto& [name, tensor] : tensors_) {
    if (name.ends_with(suffix)) out.push_back(name.substr(0, name.size() - suffix.size()));
  }
  return out;
}

const HostTensor* QuantizedTensors::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

std::optional<HostTensor> QuantizedTensors::take_if(const std::string& name,
                                                    std::initializer_list<DType> types) {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return std::nullopt;
  if (std::find(types.begin(), types.end(), found->second.dtype) == types.end()) {
    std::string expected;
    for (const DType type : types)
      expected += fmt::format("{}{}", expected.empty() ? "" : " or ", dtype_name(type));
    fail(ErrorCode::kCorrupt, "{}: tensor {} is {}, expected {}", where_, quote(name),
         dtype_name(found->second.dtype), expected);
  }
  HostTensor tensor = found->second;
  tensors_.erase(found);
  return tensor;
}

HostTensor QuantizedTensors::take(const std::string& name, std::initializer_list<DType> types) {
  std::optional<HostTensor> tensor = take_if(name, types);
  if (!tensor) fail(ErrorCode::kCorrupt, "{}: tensor {} is missing", where_, quote(name));
  return *std::move(tensor);
}

void QuantizedTensors::expect_shape(const std::string& name, const HostTensor& tensor,
                                    const Shape& want) const {
  if (tensor.shape == want) return;
  fail(ErrorCode::kCorrupt, "{}: tensor {} has shape {}, expected {}", where_, quote(name),
       to_string(tensor.shape), to_string(want));
}

std::vector<float> finite_values(const HostTensor& tensor, const std::string& name) {
  std::vector<float> values(static_cast<size_t>(tensor.size()));
  convert_to_float(tensor.bytes.data(), tensor.dtype, values);
  const auto bad = std::find_if_not(values.begin(), values.end(),
                                    [](float value) { return std::isfinite(value); });
  if (bad != values.end()) {
    fail(ErrorCode::kCorrupt, "tensor {} holds {} at element {}, expected finite values",
         quote(name), *bad, bad - values.begin());
  }
  return values;
}

void sort_columns(QuantizedMatrix& matrix, const HostTensor& groups, const std::string& name) {
  const auto n_in = static_cast<size_t>(matrix.n_in);
  const auto group_of = [&](int32_t column) {
    return static_cast<int32_t>(word_at(groups, column));
  };
  std::vector<int32_t> order(n_in);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return group_of(a) < group_of(b); });
  for (size_t i = 0; i < n_in; ++i) {
    const int64_t want = static_cast<int64_t>(i) / matrix.group, got = group_of(order[i]);
    if (got < 0 || got >= matrix.n_groups()) {
      fail(ErrorCode::kCorrupt, "tensor {}: column {} is of group {}, expected 0 to {}",
           quote(name), order[i], got, matrix.n_groups() - 1);
    }
    if (got != want) {
      fail(ErrorCode::kUnsupported, "tensor {}: group {} does not have {} columns", quote(name),
           std::min(got, want), matrix.group);
    }
  }
  if (std::is_sorted(order.begin(), order.end())) return;
  std::vector<uint8_t> row(n_in);
  for (int64_t o = 0; o < matrix.n_out; ++o) {
    uint8_t* codes = matrix.codes.data() + o * matrix.n_in;
    for (size_t i = 0; i < n_in; ++i) row[i] = codes[order[i]];
    std::copy(row.begin(), row.end(), codes);
  }
  matrix.order = std::move(order);
}

const std::vector<float>& e4m3_levels() {
  static const std::vector<float> kLevels = [] {
    std::vector<float> levels(256);
    for (int code = 0; code < 256; ++code) {
      const int exponent = (code >> 3) & 15, mantissa = code & 7;
      float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                  : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
      if ((code & 0x7f) == 0x7f) value = std::numeric_limits<float>::quiet_NaN();
      levels[static_cast<size_t>(code)] = code >= 128 ? -value : value;
    }
    return levels;
  }();
  return kLevels;
}

QuantizedWeights take_quantized_weights(const fs::path& directory,
                                        std::map<std::string, HostTensor>& tensors) {
  std::error_code error;
  const fs::path path = directory / "config.json";
  if (!fs::exists(path, error)) return {};
  const json object = parse_json_object(read_text_file(path), path.string());
  const ConfigFields fields(object, path.string());
  json config;
  std::string where = fmt::format("{}: {}", path.string(), kKey);
  if (const json* found = fields.find(kKey)) {
    if (!found->is_object()) fields.reject(kKey, *found, "an object");
    config = *found;
  } else if (const fs::path old = directory / kOldGptqName; fs::exists(old, error)) {
    where = old.string();
    config = parse_json_object(read_text_file(old), where);
    if (!config.contains("quant_method")) config["quant_method"] = "gptq";
  } else {
    return {};
  }
  QuantizedTensors parts(tensors, compute_dtype(fields), directory.string());
  QuantizedWeights weights = take_by_method(ConfigFields(config, where), parts);
  for (auto& [name, weight] :
       weights) {  // what is wrong inside of tensors shows when they are read
    weight.read = [read = std::move(weight.read), place = directory.string()] {
      try {
        return read();
      } catch (const Error& inside) {
        throw Error(inside.code(), fmt::format("{}: {}", place, inside.what()));
      }
    };
  }
  return weights;
}

}  // namespace deltacome
