// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "core/check.h"
#include "core/dtype.h"
#include "core/shape.h"

namespace deltacome {

/// How a projection of the base is held.
enum class WeightFormat : uint8_t {
  kStored,  // as the checkpoint has it; f32 inputs
  kBf16,    // bf16, and inputs rounded to bf16 where the device multiplies bf16
  kInt8,    // 8 bits and a scale per row
  kInt4,    // 4 bits and a scale per group of 128 inputs
};

/// The format of --base-dtype: "auto" (as stored), "bf16", "int8" or "int4". Throws
/// kInvalidArgument for another name.
inline WeightFormat parse_weight_format(const std::string& name) {
  if (name == "auto") return WeightFormat::kStored;
  if (name == "bf16") return WeightFormat::kBf16;
  if (name == "int8") return WeightFormat::kInt8;
  if (name == "int4") return WeightFormat::kInt4;
  fail(ErrorCode::kInvalidArgument,
       "weights of the base as \"{}\", expected auto, bf16, int8 or int4", name);
}

/// The type of --kv-dtype: "f32", "bf16" or "int8" (a code a value and a scale a
/// head). Throws kInvalidArgument for another name.
inline DType parse_kv_dtype(const std::string& name) {
  if (name == "f32") return DType::kF32;
  if (name == "bf16") return DType::kBf16;
  if (name == "int8") return DType::kU8;
  fail(ErrorCode::kInvalidArgument, "a KV cache of \"{}\", expected f32, bf16 or int8", name);
}

/// Bytes of a matrix [n_out, n_in] of `stored` type in a format: codes and scales, without what a
/// backend pads them with.
inline int64_t weight_bytes(WeightFormat format, DType stored, const Shape& shape) {
  const int64_t n_out = shape[0], n_in = element_count(shape) / n_out;
  switch (format) {
    case WeightFormat::kStored:
      return n_out * n_in * dtype_bytes(stored);
    case WeightFormat::kBf16:
      return n_out * n_in * 2;
    case WeightFormat::kInt8:
      return n_out * (n_in + 4);
    case WeightFormat::kInt4:
      return n_out * ((n_in + 1) / 2 + (n_in + 127) / 128 * 2);
  }
  return 0;
}

}  // namespace deltacome
