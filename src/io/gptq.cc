// SPDX-License-Identifier: Apache-2.0
// GPTQ (AutoGPTQ, GPTQModel) and AWQ's GEMM layout: both pack codes and zero points of several
// outputs or inputs into int32 words.
#include <algorithm>
#include <array>

#include "core/check.h"
#include "io/quantized_formats.h"

namespace deltacome {
namespace {

/// Shared checks of the two layouts.
struct Words {
  int bits = 4;
  int per_word = 8;
  int64_t n_out = 0, n_in = 0, group = 0;

  int64_t n_groups() const noexcept { return (n_in + group - 1) / group; }
  uint8_t code(uint32_t word, int64_t place) const noexcept {
    return static_cast<uint8_t>(word >> (bits * place) & ((1u << bits) - 1));
  }
};

int64_t read_group(const ConfigFields& config, const char* key) {
  const int64_t group = config.integer_or(key, 128, -1, 1 << 24);
  if (group == 0)
    fail(ErrorCode::kCorrupt, "{}: {} is 0, expected -1 or more", config.where(), key);
  return group;
}

std::string scheme_of(const char* method, const Words& words, bool whole_rows, const char* more) {
  return whole_rows
             ? fmt::format("{}, {} bits, a scale per row{}", method, words.bits, more)
             : fmt::format("{}, {} bits, groups of {}{}", method, words.bits, words.group, more);
}

/// scales [n_groups, n_out] as a matrix's [n_out, n_groups].
std::vector<float> transposed_scales(const HostTensor& scales, const std::string& name) {
  const std::vector<float> values = finite_values(scales, name);
  const int64_t n_groups = scales.rows(), n_out = scales.cols();
  std::vector<float> out(values.size());
  for (int64_t g = 0; g < n_groups; ++g) {
    for (int64_t o = 0; o < n_out; ++o)
      out[static_cast<size_t>(o * n_groups + g)] = values[static_cast<size_t>(g * n_out + o)];
  }
  return out;
}

QuantizedMatrix empty_matrix(const Words& words, DType dtype) {
  QuantizedMatrix matrix;
  matrix.n_out = words.n_out;
  matrix.n_in = words.n_in;
  matrix.group = words.group;
  matrix.bits = words.bits <= 4 ? 4 : 8;
  matrix.dtype = dtype;
  matrix.codes.resize(static_cast<size_t>(words.n_out * words.n_in));
  matrix.zeros.resize(static_cast<size_t>(words.n_out * words.n_groups()));
  return matrix;
}

/// qweight [n_in / per_word, n_out]: a word has inputs; qzeros [n_groups, n_out / per_word].
QuantizedMatrix read_gptq(const Words& words, DType dtype, const HostTensor& qweight,
                          const HostTensor& qzeros, const HostTensor& scales, int zero_offset,
                          const std::string& prefix) {
  QuantizedMatrix matrix = empty_matrix(words, dtype);
  constexpr int64_t kOutputs = 64;  // at a time: a few cache lines of words, rows of codes
  for (int64_t first = 0; first < words.n_out; first += kOutputs) {
    const int64_t end = std::min(first + kOutputs, words.n_out);
    for (int64_t k = 0; k < qweight.rows(); ++k) {
      for (int64_t o = first; o < end; ++o) {
        const uint32_t word = word_at(qweight, k * words.n_out + o);
        uint8_t* to = matrix.codes.data() + o * words.n_in + k * words.per_word;
        for (int64_t j = 0; j < words.per_word; ++j) to[j] = words.code(word, j);
      }
    }
  }
  const int64_t n_groups = words.n_groups(), zero_words = words.n_out / words.per_word;
  for (int64_t g = 0; g < n_groups; ++g) {
    for (int64_t o = 0; o < words.n_out; ++o) {
      const uint32_t word = word_at(qzeros, g * zero_words + o / words.per_word);
      const int stored = words.code(word, o % words.per_word);
      // AutoGPTQ adds 1 within the bits of a code: a stored 15 stands for 0.
      const int zero = (stored + zero_offset) & ((1 << words.bits) - 1);
      matrix.zeros[static_cast<size_t>(o * n_groups + g)] = static_cast<float>(zero);
    }
  }
  matrix.scales = transposed_scales(scales, prefix + ".scales");
  return matrix;
}

/// qweight [n_in, n_out / 8] and qzeros [n_groups, n_out / 8]: place j of a word has output
/// kPlaces[j] of its eight.
QuantizedMatrix read_awq(const Words& words, DType dtype, const HostTensor& qweight,
                         const HostTensor& qzeros, const HostTensor& scales,
                         const std::string& prefix) {
  constexpr std::array<int64_t, 8> kPlaces{0, 2, 4, 6, 1, 3, 5, 7};
  QuantizedMatrix matrix = empty_matrix(words, dtype);
  const int64_t n_words = words.n_out / words.per_word, n_groups = words.n_groups();
  for (int64_t i = 0; i < words.n_in; ++i) {
    for (int64_t k = 0; k < n_words; ++k) {
      const uint32_t word = word_at(qweight, i * n_words + k);
      for (int64_t j = 0; j < words.per_word; ++j) {
        const int64_t o = k * words.per_word + kPlaces[static_cast<size_t>(j)];
        matrix.codes[static_cast<size_t>(o * words.n_in + i)] = words.code(word, j);
      }
    }
  }
  for (int64_t g = 0; g < n_groups; ++g) {
    for (int64_t k = 0; k < n_words; ++k) {
      const uint32_t word = word_at(qzeros, g * n_words + k);
      for (int64_t j = 0; j < words.per_word; ++j) {
        const int64_t o = k * words.per_word + kPlaces[static_cast<size_t>(j)];
        matrix.zeros[static_cast<size_t>(o * n_groups + g)] = words.code(word, j);
      }
    }
  }
  matrix.scales = transposed_scales(scales, prefix + ".scales");
  return matrix;
}

void expect_matrix(const QuantizedTensors& tensors, const std::string& name,
                   const HostTensor& tensor) {
  if (tensor.shape.size() == 2 && tensor.size() > 0) return;
  fail(ErrorCode::kCorrupt, "{}: tensor {} has shape {}, expected a matrix", tensors.where(),
       quote(name), to_string(tensor.shape));
}

}  // namespace

QuantizedWeights take_gptq(const ConfigFields& config, QuantizedTensors& tensors) {
  const int64_t bits = config.integer("bits", 1, 16);
  if (bits != 2 && bits != 4 && bits != 8) {
    fail(ErrorCode::kUnsupported, "{}: bits is {}, expected 2, 4 or 8", config.where(), bits);
  }
  const std::string format = config.text_or("checkpoint_format", "gptq");
  if (format != "gptq" && format != "gptq_v2") {
    fail(ErrorCode::kUnsupported, "{}: checkpoint_format {}, expected gptq or gptq_v2",
         config.where(), quote(format));
  }
  if (const auto* dynamic = config.find("dynamic"); dynamic != nullptr && !dynamic->empty()) {
    fail(ErrorCode::kUnsupported, "{}: dynamic is {}, expected none: modules with own settings",
         config.where(), describe(*dynamic));
  }
  const int64_t group = read_group(config, "group_size");
  QuantizedWeights out;
  for (const std::string& prefix : tensors.modules(".qweight")) {
    const HostTensor qweight = tensors.take(prefix + ".qweight", {DType::kI32});
    const HostTensor qzeros = tensors.take(prefix + ".qzeros", {DType::kI32});
    const HostTensor scales =
        tensors.take(prefix + ".scales", {DType::kF16, DType::kBf16, DType::kF32});
    const auto g_idx = tensors.take_if(prefix + ".g_idx", {DType::kI32});
    expect_matrix(tensors, prefix + ".qweight", qweight);
    Words words{.bits = static_cast<int>(bits), .per_word = 32 / static_cast<int>(bits)};
    words.n_out = qweight.cols();
    words.n_in = qweight.rows() * words.per_word;
    words.group = group < 0 ? words.n_in : group;
    tensors.expect_shape(prefix + ".scales", scales, {words.n_groups(), words.n_out});
    tensors.expect_shape(prefix + ".qzeros", qzeros,
                         {words.n_groups(), words.n_out / words.per_word});
    if (words.n_out % words.per_word != 0) {
      fail(ErrorCode::kCorrupt, "{}: {} has {} outputs, expected a multiple of {}", tensors.where(),
           quote(prefix), words.n_out, words.per_word);
    }
    if (g_idx) tensors.expect_shape(prefix + ".g_idx", *g_idx, {words.n_in});
    const int offset = format == "gptq" ? 1 : 0;
    out[prefix + ".weight"] = {
        .shape = {words.n_out, words.n_in},
        .dtype = tensors.dtype(),
        .scheme = scheme_of("GPTQ", words, group < 0,
                            config.flag_or("desc_act", false) ? ", act-order" : ""),
        .read = [=, dtype = tensors.dtype()] {
          QuantizedMatrix matrix = read_gptq(words, dtype, qweight, qzeros, scales, offset, prefix);
          if (g_idx) sort_columns(matrix, *g_idx, prefix + ".g_idx");
          return matrix;
        }};
  }
  return out;
}

QuantizedWeights take_awq(const ConfigFields& config, QuantizedTensors& tensors) {
  if (const int64_t bits = config.integer("bits", 1, 16); bits != 4) {
    fail(ErrorCode::kUnsupported, "{}: bits is {}, expected 4", config.where(), bits);
  }
  if (const std::string version = config.text_or("version", "gemm");
      version != "gemm" && version != "GEMM") {
    fail(ErrorCode::kUnsupported, "{}: version {}, expected gemm", config.where(), quote(version));
  }
  const int64_t group = read_group(config, "group_size");
  QuantizedWeights out;
  for (const std::string& prefix : tensors.modules(".qweight")) {
    const HostTensor qweight = tensors.take(prefix + ".qweight", {DType::kI32});
    const HostTensor qzeros = tensors.take(prefix + ".qzeros", {DType::kI32});
    const HostTensor scales =
        tensors.take(prefix + ".scales", {DType::kF16, DType::kBf16, DType::kF32});
    expect_matrix(tensors, prefix + ".qweight", qweight);
    Words words{.n_out = qweight.cols() * 8, .n_in = qweight.rows()};
    words.group = group < 0 ? words.n_in : group;
    tensors.expect_shape(prefix + ".scales", scales, {words.n_groups(), words.n_out});
    tensors.expect_shape(prefix + ".qzeros", qzeros, {words.n_groups(), words.n_out / 8});
    out[prefix + ".weight"] = {.shape = {words.n_out, words.n_in},
                               .dtype = tensors.dtype(),
                               .scheme = scheme_of("AWQ", words, group < 0, ""),
                               .read = [=, dtype = tensors.dtype()] {
                                 return read_awq(words, dtype, qweight, qzeros, scales, prefix);
                               }};
  }
  return out;
}

}  // namespace deltacome
