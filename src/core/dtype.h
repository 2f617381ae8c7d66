// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace deltacome {

/// Element types of stored tensors; the names are those of safetensors. kI8 and kF8E4m3 are codes
/// of quantized checkpoints: io/quantized_checkpoint.h reads them, nothing else computes with them.
enum class DType : uint8_t { kF64, kF32, kF16, kBf16, kI64, kI32, kU8, kI8, kF8E4m3 };

int64_t dtype_bytes(DType dtype) noexcept;
std::string_view dtype_name(DType dtype) noexcept;                     // "BF16"
std::optional<DType> dtype_from_name(std::string_view name) noexcept;  // nullopt if not supported
inline bool is_floating(DType d) noexcept {
  return d == DType::kF64 || d == DType::kF32 || d == DType::kF16 || d == DType::kBf16;
}

/// bfloat16 bits -> float, exact.
inline float bf16_to_float(uint16_t bits) noexcept {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
/// float -> bfloat16 bits, round to nearest even; NaN stays NaN.
uint16_t float_to_bf16(float value) noexcept;
/// IEEE half bits -> float, exact.
float f16_to_float(uint16_t bits) noexcept;
/// float -> IEEE half bits, round to nearest even; overflow gives infinity.
uint16_t float_to_f16(float value) noexcept;

/// Converts out.size() elements of a floating dtype to float; `source` need not be aligned.
/// Throws kUnsupported for integer types.
void convert_to_float(const void* source, DType dtype, std::span<float> out);
/// Converts to a floating dtype, round to nearest even. Throws kUnsupported for integer types.
void convert_from_float(std::span<const float> in, DType dtype, void* destination);

}  // namespace deltacome
