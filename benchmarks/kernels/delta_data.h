// SPDX-License-Identifier: Apache-2.0
// Random deltas of a layer, as delta_bench measures them.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "core/host_tensor.h"
#include "quant/format.h"
#include "quant/vector_codes.h"

namespace deltacome::bench {

struct MatrixShape {
  int64_t n_out, n_in;
};
/// Of the layer: Llama-2-7B's, or as --hidden says, the MLP in proportion.
inline int64_t hidden_size = 4096, inner_size = 11008;
inline std::vector<MatrixShape> layer_matrices;
/// Which of them are multiplied in one call: they share an input.
inline const std::vector<std::vector<int>> kCalls = {{0, 1, 2}, {3}, {4, 5}, {6}};

inline void set_hidden_size(int64_t hidden) {
  hidden_size = hidden;
  inner_size = hidden * 11008 / 4096;
  const MatrixShape square{hidden_size, hidden_size}, up{inner_size, hidden_size},
      down{hidden_size, inner_size};
  layer_matrices = {square, square, square, square, up, up, down};
}

inline uint64_t random_bits() {  // xorshift64*
  static uint64_t state = 0x9e3779b97f4a7c15;
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return state * 0x2545f4914f6cdd1d;
}
inline std::vector<std::byte> random_bytes(int64_t n) {
  std::vector<std::byte> out(static_cast<size_t>((n + 7) / 8 * 8));
  for (size_t i = 0; i < out.size(); i += 8) {
    const uint64_t bits = random_bits();
    std::memcpy(out.data() + i, &bits, 8);
  }
  out.resize(static_cast<size_t>(n));
  return out;
}
inline std::vector<float> random_values(int64_t n) {
  std::vector<float> out(static_cast<size_t>(n));
  for (float& v : out)
    v = static_cast<float>(static_cast<double>(random_bits() >> 40) / (1 << 23) - 1);
  return out;
}

inline int64_t rank_of(const MatrixShape& m) {  // of the published mix: one bit a weight
  return (m.n_out == m.n_in ? 1002 : 1462) * hidden_size / 4096;
}

/// "come": 2 components of 8 bits, 32 of 3, the rest of 2, scales of 128. "auto": 2 bits, one
/// scale, gains. "vector": codes of 8 weights. "dense1": one bit, a scale a row. "lora": rank 16,
/// fp16.
inline MatrixFormat format_of(const std::string& kind, const MatrixShape& m) {
  MatrixFormat f;
  f.shape = {m.n_out, m.n_in};
  f.base_rows = m.n_out;
  f.codec = Codec::kLowRank;
  if (kind == "come") {
    f.tiers = {{2, {8, 1, 128}, {8, 1, 128}},
               {32, {3, 1, 128}, {3, 1, 128}},
               {rank_of(m) - 34, {2, 1, 128}, {2, 128, 1}}};
  } else if (kind == "auto") {
    const int64_t rank = m.n_out * m.n_in / (2 * (m.n_out + m.n_in)) / 8 * 8;
    f.tiers = {{rank, {2, 0, 0}, {2, 0, 0}}};
    f.row_gain = f.col_gain = true;
  } else if (kind == "lora") {
    f.tiers = {{16, {16, 1, 0}, {16, 1, 0}}};
  } else if (kind == "vector") {
    f.codec = Codec::kVector;
    f.vector = {.dim = 8, .block = rotation_block(m.n_in), .seed = 7};
  } else {
    f.codec = Codec::kDense;
    f.dense = {1, 1, 0};
  }
  return f;
}

inline HostTensor blob_of(const MatrixFormat& f) {
  const BlobLayout layout = layout_of(f);
  std::vector<std::byte> blob = random_bytes(layout.total_bytes);
  const auto fill = [&](const Part& part, DType dtype, float value) {
    const std::vector<float> values(static_cast<size_t>(part.bytes / dtype_bytes(dtype)), value);
    convert_from_float(values, dtype, blob.data() + part.offset);
  };
  const auto array = [&](const ArrayFormat& of, const ArrayLayout& at) {
    fill(of.bits == 16 ? at.codes : at.scales, DType::kF16, 1e-3F);
  };
  array(f.dense, layout.dense);
  for (size_t i = 0; i < layout.tiers.size(); ++i) {
    array(f.tiers[i].v, layout.tiers[i].v);
    array(f.tiers[i].u, layout.tiers[i].u);
  }
  fill(layout.s, DType::kBf16, 1e-2F);
  fill(layout.row_scale, DType::kF16, 1e-3F);
  return HostTensor::of(DType::kU8, {layout.total_bytes}, std::move(blob));
}

}  // namespace deltacome::bench
