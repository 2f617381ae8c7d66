// SPDX-License-Identifier: Apache-2.0
#include "core/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace deltacome {
namespace {

TEST(DType, EveryHalfAndBf16RoundTripsThroughFloat) {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    if (std::isnan(f16_to_float(half))) {
      EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(f16_to_float(half)))));
    } else {
      EXPECT_EQ(float_to_f16(f16_to_float(half)), half);
    }
    if (std::isnan(bf16_to_float(half))) {
      EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(bf16_to_float(half)))));
    } else {
      EXPECT_EQ(float_to_bf16(bf16_to_float(half)), half);
    }
  }
}

TEST(DType, HalfRoundsToNearestEvenAlsoBelowTheNormalRange) {
  for (uint32_t bits = 1; bits < 0x7bffu;
       bits += 7) {  // between neighbours: ties go to the even one
    const float low = f16_to_float(static_cast<uint16_t>(bits));
    const float high = f16_to_float(static_cast<uint16_t>(bits + 1));
    const float middle = 0.5f * (low + high);
    EXPECT_EQ(float_to_f16(middle), (bits & 1u) ? bits + 1 : bits);
    EXPECT_EQ(float_to_f16(std::nextafter(middle, 0.0f)), bits);
    EXPECT_EQ(float_to_f16(std::nextafter(middle, 1e9f)), bits + 1);
  }
  EXPECT_EQ(float_to_f16(65519.0f), 0x7bffu);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00u);
  EXPECT_EQ(float_to_f16(-std::numeric_limits<float>::infinity()), 0xfc00u);
}

TEST(DType, ConvertsNothingFromAndToNullPointers) {  // an empty tensor; memcpy must not see them
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBf16}) {
    EXPECT_NO_THROW(convert_to_float(nullptr, dtype, {}));
    EXPECT_NO_THROW(convert_from_float({}, dtype, nullptr));
  }
}

TEST(DType, NamesAreThoseOfSafetensors) {
  for (const char* name : {"F64", "F32", "F16", "BF16", "I64", "I32", "U8", "I8", "F8_E4M3"}) {
    ASSERT_TRUE(dtype_from_name(name).has_value());
    EXPECT_EQ(dtype_name(*dtype_from_name(name)), name);
  }
  EXPECT_FALSE(dtype_from_name("F8_E5M2").has_value());
}

}  // namespace
}  // namespace deltacome
