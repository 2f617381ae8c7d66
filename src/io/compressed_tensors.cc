// SPDX-License-Identifier: Apache-2.0
// compressed-tensors (pack-quantized, int-quantized, float-quantized) and block-wise fp8: scales
// that cover a matrix, rows, groups of a row or blocks.
#include <algorithm>
#include <array>

#include "core/check.h"
#include "io/quantized_formats.h"

namespace deltacome {
namespace {

using nlohmann::json;

constexpr std::initializer_list<DType> kScaleTypes = {DType::kF16, DType::kBf16, DType::kF32};

/// Rows and columns that share a scale; 0 = all.
struct Block {
  int64_t rows = 1, cols = 0;
};

/// What config_groups says of weights.
struct WeightScheme {
  int bits = 4;
  bool symmetric = true;
  Block block;
  std::string name;
};

Block read_block(const ConfigFields& fields, const char* key) {
  const json& value = fields.require(key);
  if (!value.is_array() || value.size() != 2) fields.reject(key, value, "a list of two sizes");
  return {fields.check_integer(key, value[0], 1, 1 << 24),
          fields.check_integer(key, value[1], 1, 1 << 24)};
}

Block block_of(const ConfigFields& weights) {
  const std::string strategy = weights.text_or("strategy", "tensor");
  if (strategy == "tensor") return {0, 0};
  if (strategy == "channel") return {1, 0};
  if (strategy == "group") return {1, weights.integer("group_size", 1, 1 << 24)};
  if (strategy == "block") return read_block(weights, "block_structure");
  fail(ErrorCode::kUnsupported, "{}: strategy {}, expected tensor, channel, group or block",
       weights.where(), quote(strategy));
}

WeightScheme read_scheme(const ConfigFields& config) {
  const json& groups = config.require("config_groups");
  if (!groups.is_object() || groups.empty())
    config.reject("config_groups", groups, "an object of groups");
  const json& first = *groups.begin();
  for (const json& group : groups) {
    if (!group.is_object() || !group.contains("weights") || !group["weights"].is_object())
      config.reject("config_groups", groups, "groups with weights");
    if (group["weights"] == first["weights"]) continue;
    fail(ErrorCode::kUnsupported,
         "{}: config_groups has groups with different weights, expected "
         "one scheme for all",
         config.where());
  }
  const ConfigFields weights(first["weights"], config.where() + ": weights");
  const std::string type = weights.text_or("type", "int");
  if (type != "int" && type != "float") {
    fail(ErrorCode::kUnsupported, "{}: type {}, expected int or float", weights.where(),
         quote(type));
  }
  WeightScheme scheme;
  scheme.bits = static_cast<int>(weights.integer_or("num_bits", 8, 1, 16));
  if (scheme.bits != 8 && (scheme.bits != 4 || type == "float")) {
    fail(ErrorCode::kUnsupported, "{}: num_bits is {} of type {}, expected 4 or 8 (float: 8)",
         weights.where(), scheme.bits, type);
  }
  scheme.symmetric = weights.flag_or("symmetric", true);
  scheme.block = block_of(weights);
  scheme.name = fmt::format("compressed-tensors, {}{}, strategy {}", type, scheme.bits,
                            weights.text_or("strategy", "tensor"));
  return scheme;
}

/// The matrix's groups and scales [n_out, n_groups] of a tensor that has one for each block.
void expand_scales(const Block& block, const HostTensor& tensor, const std::string& name,
                   QuantizedMatrix& matrix) {
  const std::vector<float> values = finite_values(tensor, name);
  const int64_t rows = block.rows == 0 ? matrix.n_out : block.rows;
  matrix.group = block.cols == 0 ? matrix.n_in : block.cols;
  const int64_t n_groups = matrix.n_groups();
  for (int64_t o = 0; o < matrix.n_out; ++o) {
    for (int64_t g = 0; g < n_groups; ++g)
      matrix.scales.push_back(values[static_cast<size_t>(o / rows * n_groups + g)]);
  }
}

/// As many elements as there are blocks; the format writes [n, 1], [n] and [] for one column.
void expect_blocks(const QuantizedTensors& tensors, const Block& block, const std::string& name,
                   const HostTensor& tensor, const Shape& shape) {
  const auto blocks = [](int64_t n, int64_t size) { return size == 0 ? 1 : (n + size - 1) / size; };
  const int64_t want = blocks(shape[0], block.rows) * blocks(shape[1], block.cols);
  if (tensor.size() == want) return;
  fail(ErrorCode::kCorrupt, "{}: tensor {} has shape {}, expected {} scales for {}",
       tensors.where(), quote(name), to_string(tensor.shape), want, to_string(shape));
}

void drop_activation_scales(const std::string& prefix, QuantizedTensors& tensors) {
  for (const char* name : {".input_scale", ".output_scale", ".k_scale", ".v_scale", ".q_scale"})
    tensors.take_if(prefix + name, kScaleTypes);
  tensors.take_if(prefix + ".input_zero_point", {DType::kI8, DType::kI32, DType::kF8E4m3});
}

/// weight_packed [n_out, ceil(n_in / per_word)]: codes of a row, lowest bits first.
void unpack_rows(const HostTensor& packed, int bits, QuantizedMatrix& matrix) {
  const int64_t per_word = 32 / bits, n_words = packed.cols();
  matrix.codes.resize(static_cast<size_t>(matrix.n_out * matrix.n_in));
  for (int64_t o = 0; o < matrix.n_out; ++o) {
    for (int64_t i = 0; i < matrix.n_in; ++i) {
      const uint32_t word = word_at(packed, o * n_words + i / per_word);
      matrix.codes[static_cast<size_t>(o * matrix.n_in + i)] =
          static_cast<uint8_t>(word >> (bits * (i % per_word)) & ((1u << bits) - 1));
    }
  }
}

/// Zero points as codes are, [n_out, n_groups]: signed bytes, or packed along the outputs.
void read_zeros(const std::optional<HostTensor>& tensor, int bits, QuantizedMatrix& matrix) {
  const int64_t n_groups = matrix.n_groups(), half = int64_t{1} << (bits - 1);
  matrix.zeros.assign(matrix.scales.size(), static_cast<float>(half));
  if (!tensor) return;
  const int64_t per_word = 32 / bits;
  for (int64_t o = 0; o < matrix.n_out; ++o) {
    for (int64_t g = 0; g < n_groups; ++g) {
      const int64_t at = o * n_groups + g;
      float& zero = matrix.zeros[static_cast<size_t>(at)];
      if (tensor->dtype == DType::kI8) {
        zero += static_cast<float>(static_cast<int8_t>(tensor->bytes[static_cast<size_t>(at)]));
      } else {
        const uint32_t word = word_at(*tensor, o / per_word * n_groups + g);
        zero = static_cast<float>(word >> (bits * (o % per_word)) & ((1u << bits) - 1));
      }
    }
  }
}

int64_t groups_of(const Block& block, int64_t n_in) {
  return block.cols == 0 ? 1 : (n_in + block.cols - 1) / block.cols;
}

std::optional<HostTensor> take_zeros(const std::string& name, const Block& block, int bits,
                                     const Shape& shape, QuantizedTensors& tensors) {
  auto zeros = tensors.take_if(name, {DType::kI8, DType::kI32});
  if (!zeros) return zeros;
  const int64_t n_groups = groups_of(block, shape[1]), per_word = 32 / bits;
  if (block.rows != 1) {
    fail(ErrorCode::kUnsupported, "{}: tensor {}: zero points of blocks are not supported",
         tensors.where(), quote(name));
  }
  const int64_t rows = zeros->dtype == DType::kI8 ? shape[0] : (shape[0] + per_word - 1) / per_word;
  if (zeros->size() != rows * n_groups) tensors.expect_shape(name, *zeros, {rows, n_groups});
  return zeros;
}

void take_packed(const WeightScheme& scheme, QuantizedTensors& tensors, QuantizedWeights& out) {
  for (const std::string& prefix : tensors.modules(".weight_packed")) {
    const HostTensor packed = tensors.take(prefix + ".weight_packed", {DType::kI32});
    const HostTensor size = tensors.take(prefix + ".weight_shape", {DType::kI64, DType::kI32});
    const HostTensor scales = tensors.take(prefix + ".weight_scale", kScaleTypes);
    const auto g_idx = tensors.take_if(prefix + ".weight_g_idx", {DType::kI32});
    tensors.expect_shape(prefix + ".weight_shape", size, {2});
    const int64_t width = dtype_bytes(size.dtype) / 4;  // words: extents below 2^31
    const Shape shape{word_at(size, 0), word_at(size, width)};
    const int64_t per_word = 32 / scheme.bits;
    if (shape[0] == 0 || shape[1] == 0) tensors.expect_shape(prefix + ".weight", packed, shape);
    tensors.expect_shape(prefix + ".weight_packed", packed,
                         {shape[0], (shape[1] + per_word - 1) / per_word});
    expect_blocks(tensors, scheme.block, prefix + ".weight_scale", scales, shape);
    if (g_idx) tensors.expect_shape(prefix + ".weight_g_idx", *g_idx, {shape[1]});
    const auto zeros =
        take_zeros(prefix + ".weight_zero_point", scheme.block, scheme.bits, shape, tensors);
    drop_activation_scales(prefix, tensors);
    out[prefix + ".weight"] = {.shape = shape,
                               .dtype = tensors.dtype(),
                               .scheme = scheme.name,
                               .read = [=, dtype = tensors.dtype()] {
                                 QuantizedMatrix matrix;
                                 matrix.n_out = shape[0];
                                 matrix.n_in = shape[1];
                                 matrix.bits = scheme.bits;
                                 matrix.dtype = dtype;
                                 unpack_rows(packed, scheme.bits, matrix);
                                 expand_scales(scheme.block, scales, prefix + ".weight_scale",
                                               matrix);
                                 read_zeros(zeros, scheme.bits, matrix);
                                 // -1 stands for columns in their own order.
                                 const bool ordered = g_idx && word_at(*g_idx, 0) != ~uint32_t{0};
                                 if (ordered)
                                   sort_columns(matrix, *g_idx, prefix + ".weight_g_idx");
                                 return matrix;
                               }};
  }
}

/// A matrix of bytes, I8 or F8_E4M3, with its scales.
QuantizedMatrix read_bytes(const HostTensor& weight, const HostTensor& scales,
                           const std::optional<HostTensor>& zeros, const Block& block, DType dtype,
                           const std::string& prefix) {
  QuantizedMatrix matrix;
  matrix.n_out = weight.shape[0];
  matrix.n_in = weight.shape[1];
  matrix.bits = 8;
  matrix.dtype = dtype;
  const bool integers = weight.dtype == DType::kI8;
  for (const std::byte byte : weight.bytes) {
    const auto code = std::to_integer<uint8_t>(byte);
    if (!integers && (code & 0x7f) == 0x7f) {
      fail(ErrorCode::kCorrupt, "tensor {}.weight holds NaN, expected finite values",
           quote(prefix));
    }
    matrix.codes.push_back(integers ? static_cast<uint8_t>(code ^ 0x80) : code);
  }
  expand_scales(block, scales, prefix + ".weight_scale", matrix);
  if (integers) {
    read_zeros(zeros, 8, matrix);
  } else {
    matrix.levels = e4m3_levels();
  }
  return matrix;
}

void take_bytes(const WeightScheme& scheme, const char* scale_name, QuantizedTensors& tensors,
                QuantizedWeights& out) {
  for (const std::string& prefix : tensors.modules(scale_name)) {
    const std::string name = prefix + ".weight";
    const HostTensor weight = tensors.take(name, {DType::kI8, DType::kF8E4m3});
    const HostTensor scales = tensors.take(prefix + scale_name, kScaleTypes);
    if (weight.shape.size() != 2 || weight.size() == 0) {
      fail(ErrorCode::kCorrupt, "{}: tensor {} has shape {}, expected a matrix", tensors.where(),
           quote(name), to_string(weight.shape));
    }
    expect_blocks(tensors, scheme.block, prefix + scale_name, scales, weight.shape);
    std::optional<HostTensor> zeros;
    if (weight.dtype == DType::kI8)
      zeros = take_zeros(prefix + ".weight_zero_point", scheme.block, 8, weight.shape, tensors);
    tensors.take_if(prefix + ".weight_zero_point", {DType::kF8E4m3});
    drop_activation_scales(prefix, tensors);
    out[name] = {.shape = weight.shape,
                 .dtype = tensors.dtype(),
                 .scheme = scheme.name,
                 .read = [=, block = scheme.block, dtype = tensors.dtype()] {
                   return read_bytes(weight, scales, zeros, block, dtype, prefix);
                 }};
  }
}

}  // namespace

QuantizedWeights take_compressed_tensors(const ConfigFields& config, QuantizedTensors& tensors) {
  constexpr std::array kFormats{"pack-quantized", "int-quantized", "float-quantized",
                                "naive-quantized"};
  const std::string format = config.text_or("format", "");
  if (std::find(kFormats.begin(), kFormats.end(), format) == kFormats.end()) {
    fail(ErrorCode::kUnsupported,
         "{}: format {}, expected pack-quantized, int-quantized, float-quantized or "
         "naive-quantized",
         config.where(), quote(format));
  }
  for (const char* key : {"sparsity_config", "transform_config"}) {
    const json* value = config.find(key);
    if (value == nullptr || value->empty() ||
        (value->is_object() && value->value("format", json()) == "dense"))
      continue;
    fail(ErrorCode::kUnsupported, "{}: {} is {}, expected none", config.where(), key,
         describe(*value));
  }
  const WeightScheme scheme = read_scheme(config);
  QuantizedWeights out;
  take_packed(scheme, tensors, out);
  take_bytes(scheme, ".weight_scale", tensors, out);
  return out;
}

QuantizedWeights take_block_fp8(const ConfigFields& config, QuantizedTensors& tensors) {
  WeightScheme scheme;
  scheme.bits = 8;
  scheme.block = read_block(config, "weight_block_size");
  scheme.name = fmt::format("fp8, blocks of {} x {}", scheme.block.rows, scheme.block.cols);
  QuantizedWeights out;
  take_bytes(scheme, ".weight_scale_inv", tensors, out);
  return out;
}

}  // namespace deltacome
