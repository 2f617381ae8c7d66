// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>

#include "deltacome/error.h"
#include "tests/support/safetensors_bytes.h"

namespace deltacome {
namespace {

std::string valid_file() {
  return test::safetensors_bytes(
      R"({"__metadata__":{"format":"pt"},)"
      R"("model.embed":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},)"
      R"("model.norm":{"dtype":"F32","shape":[3],"data_offsets":[12,24]},)"
      R"("model.ids":{"dtype":"I64","shape":[],"data_offsets":[24,32]}})",
      "0123456789abcdefghijklmnopqrstuv");
}

/// Parses a copy of exactly these bytes, so that a sanitizer sees a read past their end. True if
/// it is a valid file, whose tensors must then lie inside; only Error may be thrown.
bool parses(const std::string& bytes) {
  const std::vector<char> copy(bytes.begin(), bytes.end());
  const auto view = std::as_bytes(std::span(copy));
  try {
    const SafetensorsFile file = SafetensorsFile::parse(view, nullptr, "x");
    uint64_t total = file.header_bytes().size();
    for (const auto& [name, tensor] : file.tensors()) {
      EXPECT_EQ(static_cast<int64_t>(tensor.bytes.size()),
                tensor.size() * dtype_bytes(tensor.dtype));
      total += tensor.bytes.size();
      unsigned sum = 0;
      for (const std::byte byte : tensor.bytes) sum += std::to_integer<unsigned>(byte);
      EXPECT_GE(sum, 0u);
    }
    EXPECT_EQ(total, bytes.size());
    return true;
  } catch (const Error& error) {
    EXPECT_EQ(std::strchr(error.what(), '\n'), nullptr) << error.what();
    return false;
  }
}

TEST(SafetensorsFault, EveryTruncationIsAnError) {
  const std::string bytes = valid_file();
  ASSERT_TRUE(parses(bytes));
  for (size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(parses(bytes.substr(0, n))) << n;
  EXPECT_FALSE(parses(bytes + "x"));
}

TEST(SafetensorsFault, EveryFlippedBitOfTheHeaderIsAnErrorOrAnotherValidFile) {
  const std::string bytes = valid_file();
  int valid = 0;
  for (size_t i = 0; i < (bytes.size() - 32) * 8; ++i) {
    std::string flipped = bytes;
    flipped[i / 8] = static_cast<char>(flipped[i / 8] ^ (1 << (i % 8)));
    valid += parses(flipped) ? 1 : 0;
  }
  EXPECT_GT(valid, 0);  // a letter of a name
}

TEST(SafetensorsFault, EveryByteOfTheHeaderMayBecomeAnyStructuralCharacter) {
  const std::string bytes = valid_file();
  for (size_t i = 0; i + 32 < bytes.size(); ++i) {
    for (const char c : std::string("{}[],:\"\\0-9e. \0\xff", 16)) {
      std::string changed = bytes;
      changed[i] = c;
      parses(changed);
    }
  }
}

}  // namespace
}  // namespace deltacome
