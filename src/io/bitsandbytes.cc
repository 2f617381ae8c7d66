// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"
#include "io/quantized_formats.h"

namespace deltacome {
namespace {

using nlohmann::json;

constexpr const char* kState = ".weight.quant_state.bitsandbytes__";

/// The JSON of a quant_state tensor.
struct QuantState {
  Shape shape;
  int64_t block = 64;        // weights that share an absmax
  int64_t nested_block = 0;  // absmax that share a nested one; 0 = absmax are f32
  float nested_offset = 0;
  DType dtype = DType::kBf16;
};

QuantState parse_state(const HostTensor& tensor, const std::string& where) {
  const std::string_view text(reinterpret_cast<const char*>(tensor.bytes.data()),
                              tensor.bytes.size());
  const json object = parse_json_object(text, where);
  const ConfigFields fields(object, where);
  QuantState state;
  const json& shape = fields.require("shape");
  if (!shape.is_array() || shape.size() != 2) fields.reject("shape", shape, "a list of two sizes");
  for (const json& extent : shape)
    state.shape.push_back(fields.check_integer("shape", extent, 1, 1 << 28));
  state.block = fields.integer("blocksize", 1, 1 << 20);
  state.nested_block = fields.integer_or("nested_blocksize", 0, 1, 1 << 20);
  state.nested_offset = static_cast<float>(fields.number_or("nested_offset", 0, -1e6, 1e6));
  const std::string dtype = fields.text_or("dtype", "bfloat16");
  if (dtype != "bfloat16" && dtype != "float16" && dtype != "float32") {
    fail(ErrorCode::kUnsupported, "{}: dtype {}, expected bfloat16, float16 or float32", where,
         quote(dtype));
  }
  state.dtype = dtype == "bfloat16" ? DType::kBf16 : dtype == "float16" ? DType::kF16 : DType::kF32;
  if (state.shape[1] % state.block != 0) {
    fail(ErrorCode::kUnsupported,
         "{}: rows of {} weights, expected a multiple of the {} of a block", where, state.shape[1],
         state.block);
  }
  return state;
}

/// All tensors of one 4-bit weight.
struct FourBit {
  QuantState state;
  HostTensor codes;   // [n / 2], the first of two weights in the high bits
  HostTensor levels;  // [16]
  HostTensor absmax;  // [n_blocks]
  std::optional<HostTensor> nested_levels, nested_absmax;
};

void expect_size(const QuantizedTensors& tensors, const std::string& name, const HostTensor& tensor,
                 int64_t want) {
  if (tensor.size() != want) tensors.expect_shape(name, tensor, {want});
}

FourBit take_four_bit(const std::string& prefix, const std::string& state_name,
                      QuantizedTensors& tensors) {
  const std::string name = prefix + ".weight";
  const HostTensor state = tensors.take(state_name, {DType::kU8});
  FourBit out{.state = parse_state(state, fmt::format("{}: {}", tensors.where(), state_name)),
              .codes = tensors.take(name, {DType::kU8}),
              .levels = tensors.take(name + ".quant_map", {DType::kF32}),
              .absmax = tensors.take(name + ".absmax", {DType::kF32, DType::kU8}),
              .nested_levels = {},
              .nested_absmax = {}};
  const int64_t n = element_count(out.state.shape), n_blocks = n / out.state.block;
  expect_size(tensors, name, out.codes, (n + 1) / 2);
  expect_size(tensors, name + ".quant_map", out.levels, 16);
  expect_size(tensors, name + ".absmax", out.absmax, n_blocks);
  if (out.absmax.dtype == DType::kF32) return out;
  if (out.state.nested_block == 0) {
    fail(ErrorCode::kCorrupt, "{}: {}: nested_blocksize is missing", tensors.where(), state_name);
  }
  out.nested_levels = tensors.take(name + ".nested_quant_map", {DType::kF32});
  out.nested_absmax = tensors.take(name + ".nested_absmax", {DType::kF32});
  expect_size(tensors, name + ".nested_quant_map", *out.nested_levels, 256);
  expect_size(tensors, name + ".nested_absmax", *out.nested_absmax,
              (n_blocks + out.state.nested_block - 1) / out.state.nested_block);
  return out;
}

QuantizedMatrix read_four_bit(const FourBit& parts, const std::string& name) {
  QuantizedMatrix matrix;
  matrix.n_out = parts.state.shape[0];
  matrix.n_in = parts.state.shape[1];
  matrix.group = parts.state.block;
  matrix.bits = 4;
  matrix.dtype = parts.state.dtype;
  matrix.levels = finite_values(parts.levels, name + ".quant_map");
  matrix.codes.resize(static_cast<size_t>(matrix.n_out * matrix.n_in));
  for (size_t i = 0; i < matrix.codes.size(); ++i) {
    const auto byte = std::to_integer<uint8_t>(parts.codes.bytes[i / 2]);
    matrix.codes[i] = i % 2 == 0 ? byte >> 4 : byte & 15;
  }
  if (parts.absmax.dtype == DType::kF32) {
    matrix.scales = finite_values(parts.absmax, name + ".absmax");
    return matrix;
  }
  const std::vector<float> levels = finite_values(*parts.nested_levels, name + ".nested_quant_map");
  const std::vector<float> nested = finite_values(*parts.nested_absmax, name + ".nested_absmax");
  for (size_t i = 0; i < parts.absmax.bytes.size(); ++i) {
    const float of_block = nested[i / static_cast<size_t>(parts.state.nested_block)];
    const float product = levels[std::to_integer<size_t>(parts.absmax.bytes[i])] * of_block;
    matrix.scales.push_back(product + parts.state.nested_offset);
  }
  return matrix;
}

/// LLM.int8(): I8 [n_out, n_in] and the largest magnitude of each row.
void take_eight_bit(QuantizedTensors& tensors, QuantizedWeights& out) {
  for (const std::string& prefix : tensors.modules(".SCB")) {
    const std::string name = prefix + ".weight";
    const HostTensor codes = tensors.take(name, {DType::kI8});
    const HostTensor largest = tensors.take(prefix + ".SCB", {DType::kF32});
    const auto format = tensors.take_if(prefix + ".weight_format", {DType::kU8});
    if (codes.shape.size() != 2 || codes.size() == 0) {
      fail(ErrorCode::kCorrupt, "{}: tensor {} has shape {}, expected a matrix", tensors.where(),
           quote(name), to_string(codes.shape));
    }
    if (format && (format->size() != 1 || format->bytes[0] != std::byte{0})) {
      fail(ErrorCode::kUnsupported, "{}: {}.weight_format is not 0, row by row", tensors.where(),
           prefix);
    }
    expect_size(tensors, prefix + ".SCB", largest, codes.rows());
    out[name] = {
        .shape = codes.shape,
        .dtype = tensors.dtype(),
        .scheme = "bitsandbytes, int8, a scale per row",
        .read = [=, dtype = tensors.dtype()] {
          QuantizedMatrix matrix;
          matrix.n_out = codes.shape[0];
          matrix.n_in = matrix.group = codes.shape[1];
          matrix.bits = 8;
          matrix.dtype = dtype;
          for (const std::byte byte : codes.bytes)
            matrix.codes.push_back(static_cast<uint8_t>(std::to_integer<uint8_t>(byte) ^ 0x80));
          for (const float value : finite_values(largest, prefix + ".SCB"))
            matrix.scales.push_back(value / 127.0f);
          matrix.zeros.assign(matrix.scales.size(), 128.0f);
          return matrix;
        }};
  }
}

}  // namespace

QuantizedWeights take_bitsandbytes(const ConfigFields& config, QuantizedTensors& tensors) {
  QuantizedWeights out;
  for (const char* type : {"nf4", "fp4"}) {
    for (const std::string& prefix : tensors.modules(fmt::format("{}{}", kState, type))) {
      const std::string name = prefix + ".weight";
      const FourBit parts =
          take_four_bit(prefix, fmt::format("{}{}{}", prefix, kState, type), tensors);
      out[name] = {
          .shape = parts.state.shape,
          .dtype = parts.state.dtype,
          .scheme = fmt::format("bitsandbytes, {}, blocks of {}{}", type, parts.state.block,
                                parts.nested_absmax ? ", quantized scales" : ""),
          .read = [=] { return read_four_bit(parts, name); }};
    }
  }
  take_eight_bit(tensors, out);
  if (out.empty()) {
    fail(ErrorCode::kUnsupported,
         "{}: quant_method bitsandbytes, but {} has no weights of nf4, fp4 or int8", config.where(),
         tensors.where());
  }
  return out;
}

}  // namespace deltacome
