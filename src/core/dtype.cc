// SPDX-License-Identifier: Apache-2.0
#include "core/dtype.h"

#include <array>
#include <cmath>
#include <cstring>

#include "core/check.h"

namespace deltacome {
namespace {

struct Info {
  DType dtype;
  std::string_view name;
  int64_t bytes;
};
constexpr std::array<Info, 9> kInfos{{{DType::kF64, "F64", 8},
                                      {DType::kF32, "F32", 4},
                                      {DType::kF16, "F16", 2},
                                      {DType::kBf16, "BF16", 2},
                                      {DType::kI64, "I64", 8},
                                      {DType::kI32, "I32", 4},
                                      {DType::kU8, "U8", 1},
                                      {DType::kI8, "I8", 1},
                                      {DType::kF8E4m3, "F8_E4M3", 1}}};

template <class T>
T load(const std::byte* p, size_t i) {
  T value;
  std::memcpy(&value, p + i * sizeof(T), sizeof(T));
  return value;
}

template <class T>
void store(std::byte* p, size_t i, T value) {
  std::memcpy(p + i * sizeof(T), &value, sizeof(T));
}

}  // namespace

int64_t dtype_bytes(DType dtype) noexcept {
  return kInfos[static_cast<size_t>(dtype)].bytes;
}

std::string_view dtype_name(DType dtype) noexcept {
  return kInfos[static_cast<size_t>(dtype)].name;
}

std::optional<DType> dtype_from_name(std::string_view name) noexcept {
  for (const Info& info : kInfos) {
    if (info.name == name) return info.dtype;
  }
  return std::nullopt;
}

uint16_t float_to_bf16(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40u);  // keep it quiet
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float f16_to_float(uint16_t bits) noexcept {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u) {  // infinity and NaN
    return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  }
  // Normal and subnormal alike: shift the fields into place, then correct the exponent bias.
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(scaled));
}

uint16_t float_to_f16(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds past 65504
  if (magnitude < 0x38800000u) {  // subnormal half: let the adder round at 2^-24
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(aligned) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

void convert_to_float(const void* source, DType dtype, std::span<float> out) {
  const auto* p = static_cast<const std::byte*>(source);
  switch (dtype) {
    case DType::kF64:
      for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(load<double>(p, i));
      return;
    case DType::kF32:
      if (!out.empty()) std::memcpy(out.data(), p, out.size_bytes());  // null is not for memcpy
      return;
    case DType::kF16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = f16_to_float(load<uint16_t>(p, i));
      return;
    case DType::kBf16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = bf16_to_float(load<uint16_t>(p, i));
      return;
    case DType::kI64:
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kF8E4m3:
      fail(ErrorCode::kUnsupported, "cannot read {} as a tensor of floating point values",
           dtype_name(dtype));
  }
}

void convert_from_float(std::span<const float> in, DType dtype, void* destination) {
  auto* p = static_cast<std::byte*>(destination);
  switch (dtype) {
    case DType::kF64:
      for (size_t i = 0; i < in.size(); ++i) store(p, i, static_cast<double>(in[i]));
      return;
    case DType::kF32:
      if (!in.empty()) std::memcpy(p, in.data(), in.size_bytes());
      return;
    case DType::kF16:
      for (size_t i = 0; i < in.size(); ++i) store(p, i, float_to_f16(in[i]));
      return;
    case DType::kBf16:
      for (size_t i = 0; i < in.size(); ++i) store(p, i, float_to_bf16(in[i]));
      return;
    case DType::kI64:
    case DType::kI32:
    case DType::kU8:
    case DType::kI8:
    case DType::kF8E4m3:
      fail(ErrorCode::kUnsupported, "cannot store floating point values as {}", dtype_name(dtype));
  }
}

}  // namespace deltacome
