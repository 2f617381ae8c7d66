// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "io/config_fields.h"
#include "io/quantized_weights.h"

namespace deltacome {

/// The tensors of a checkpoint while a format takes its own out of them.
class QuantizedTensors {
 public:
  QuantizedTensors(std::map<std::string, HostTensor>& tensors, DType dtype, std::string where)
      : tensors_(tensors), dtype_(dtype), where_(std::move(where)) {}

  DType dtype() const noexcept { return dtype_; }
  const std::string& where() const noexcept { return where_; }

  /// What is before `suffix` in the names that end with it.
  std::vector<std::string> modules(const std::string& suffix) const;
  const HostTensor* find(const std::string& name) const;
  /// Throws kCorrupt if there is no such tensor, or if it has none of these types.
  HostTensor take(const std::string& name, std::initializer_list<DType> types);
  std::optional<HostTensor> take_if(const std::string& name, std::initializer_list<DType> types);
  /// Throws kCorrupt if the shape is another.
  void expect_shape(const std::string& name, const HostTensor& tensor, const Shape& want) const;

 private:
  std::map<std::string, HostTensor>& tensors_;
  DType dtype_;
  std::string where_;
};

/// Formats: take what is theirs; `config` is quantization_config.
QuantizedWeights take_gptq(const ConfigFields& config, QuantizedTensors& tensors);
QuantizedWeights take_awq(const ConfigFields& config, QuantizedTensors& tensors);
QuantizedWeights take_compressed_tensors(const ConfigFields& config, QuantizedTensors& tensors);
QuantizedWeights take_bitsandbytes(const ConfigFields& config, QuantizedTensors& tensors);
QuantizedWeights take_block_fp8(const ConfigFields& config, QuantizedTensors& tensors);

/// Element i of an I32 tensor, as bits.
inline uint32_t word_at(const HostTensor& tensor, int64_t i) {
  uint32_t word;
  std::memcpy(&word, tensor.bytes.data() + 4 * i, sizeof word);
  return word;
}

/// Values of a scale tensor; throws kCorrupt for one that is not finite. `name` for the message.
std::vector<float> finite_values(const HostTensor& tensor, const std::string& name);

/// Puts the columns of a matrix, still in the order of the checkpoint, so that each group of
/// `group` is contiguous; groups [n_in] tells each column's. Throws kCorrupt for groups beyond the
/// scales', kUnsupported if their sizes differ.
void sort_columns(QuantizedMatrix& matrix, const HostTensor& groups, const std::string& name);

/// The values of the 256 codes of F8_E4M3: 4 bits of exponent with bias 7, no infinities.
const std::vector<float>& e4m3_levels();

}  // namespace deltacome
