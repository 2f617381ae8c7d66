// SPDX-License-Identifier: Apache-2.0
#include "quant/quantized_matrix.h"

#include <utility>

namespace deltacome {

void QuantizedMatrix::decode_row(int64_t o, std::span<float> out) const {
  const uint8_t* row = codes.data() + o * n_in;
  const auto first = static_cast<size_t>(o * n_groups());
  for (int64_t i = 0; i < n_in; ++i) {
    const size_t g = first + static_cast<size_t>(i / group);
    const float level = is_uniform() ? static_cast<float>(row[i]) : levels[row[i]];
    const size_t to = static_cast<size_t>(order.empty() ? i : order[static_cast<size_t>(i)]);
    out[to] = scales[g] * (level - (zeros.empty() ? 0.0f : zeros[g]));
  }
}

HostTensor QuantizedMatrix::dequantize() const {
  std::vector<float> row(static_cast<size_t>(n_in));
  const int64_t row_bytes = n_in * dtype_bytes(dtype);
  std::vector<std::byte> bytes(static_cast<size_t>(n_out * row_bytes));
  for (int64_t o = 0; o < n_out; ++o) {
    decode_row(o, row);
    convert_from_float(row, dtype, bytes.data() + o * row_bytes);
  }
  return HostTensor::of(dtype, {n_out, n_in}, std::move(bytes));
}

}  // namespace deltacome
