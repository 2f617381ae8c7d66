// SPDX-License-Identifier: Apache-2.0
#include "io/gguf_writer.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <filesystem>

#include "core/dtype.h"
#include "deltacome/error.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

using test::TempDir;

TEST(GgufWriter, WritesTheseBytes) {
  const TempDir dir;
  const std::filesystem::path path = dir / "m.gguf";
  GgufWriter writer(path);
  writer.add("a", "xy");
  writer.add_u32("b", 7);
  writer.add_tensor("t", {1, 2}, GgufType::kF32);
  writer.add_tensor("u", {2}, GgufType::kF16);
  const std::array<float, 2> values{1, -2};
  writer.append(gguf_bytes(values, GgufType::kF32));
  EXPECT_FALSE(std::filesystem::exists(path));  // whole or not at all
  writer.append(gguf_bytes(values, GgufType::kF16));
  const int64_t size = writer.finish();

  using namespace std::string_literals;
  const std::string zeros(8, '\0');
  std::string want = "GGUF\3\0\0\0\2\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0"s;
  want += "\1\0\0\0\0\0\0\0a\10\0\0\0\2\0\0\0\0\0\0\0xy"s;
  want += "\1\0\0\0\0\0\0\0b\4\0\0\0\7\0\0\0"s;
  want += "\1\0\0\0\0\0\0\0t\2\0\0\0\2\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0"s + zeros;
  want += "\1\0\0\0\0\0\0\0u\1\0\0\0\2\0\0\0\0\0\0\0\1\0\0\0\40\0\0\0\0\0\0\0"s;
  want.resize((want.size() + 31) / 32 * 32, '\0');
  want += "\0\0\x80\x3f\0\0\0\xc0"s + std::string(24, '\0');
  want += "\0\x3c\0\xc0"s + std::string(28, '\0');
  EXPECT_EQ(read_text_file(path), want);
  EXPECT_EQ(size, static_cast<int64_t>(want.size()));
}

TEST(GgufWriter, Q8BlocksDecodeWithinHalfAStep) {
  std::vector<float> values(64);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = (i % 2 == 0 ? 1.0f : -1.0f) * static_cast<float>(i * i) / 100;
  const std::vector<std::byte> bytes = gguf_bytes(values, GgufType::kQ8_0);
  ASSERT_EQ(bytes.size(), 68u);
  for (size_t i = 0; i < values.size(); ++i) {
    const std::byte* block = bytes.data() + i / 32 * 34;
    uint16_t bits = 0;
    std::memcpy(&bits, block, 2);
    const float scale = f16_to_float(bits);
    const auto code = static_cast<int8_t>(block[2 + i % 32]);
    // Half a step of rounding, and what fp16 takes from the scale times the largest code.
    EXPECT_NEAR(scale * code, values[i], scale * (0.5 + 127 * 0x1p-11) + 1e-7) << i;
  }
  const std::vector<float> zeros(32);
  EXPECT_EQ(gguf_bytes(zeros, GgufType::kQ8_0), std::vector<std::byte>(34));
}

TEST(GgufWriter, LeavesNothingIfItIsAbandoned) {
  const TempDir dir;
  {
    GgufWriter writer(dir.path() / "m.gguf");
    writer.add_tensor("t", {2}, GgufType::kF32);
    const std::array<float, 3> wrong{};
    EXPECT_THROW(writer.append(gguf_bytes(wrong, GgufType::kF32)), Error);
    EXPECT_THROW(writer.finish(), Error);
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

}  // namespace
}  // namespace deltacome
