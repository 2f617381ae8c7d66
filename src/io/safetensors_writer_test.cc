// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>

#include "io/safetensors.h"
#include "tests/support/expect_error.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::TempDir;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

TEST(SafetensorsWriter, WritesTheseBytes) {
  const TempDir dir;
  SafetensorsWriter writer(dir / "m.safetensors",
                           {{.name = "b", .dtype = DType::kU8, .shape = {3}},
                            {.name = "a\"", .dtype = DType::kF32, .shape = {}}},
                           {{"format", "pt"}});
  writer.append(bytes_of("xyz1"));
  writer.append(bytes_of("234"));
  writer.finish();
  std::string header = R"({"__metadata__":{"format":"pt"},)"
                       R"("b":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                       R"("a\"":{"dtype":"F32","shape":[],"data_offsets":[3,7]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  EXPECT_EQ(read_text_file(dir / "m.safetensors"), test::safetensors_bytes(header, "xyz1234"));
}

TEST(SafetensorsWriter, RoundTripsTensorsOfEveryDTypeAndShape) {
  const TempDir dir;
  std::vector<TensorSpec> specs;
  std::vector<std::string> contents;
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBf16, DType::kI64,
                            DType::kI32, DType::kU8}) {
    for (const Shape& shape : {Shape{}, Shape{0}, Shape{5, 0}, Shape{193}, Shape{2, 3, 7}}) {
      specs.push_back({.name = fmt::format("t{}", specs.size()), .dtype = dtype, .shape = shape});
      contents.emplace_back(static_cast<size_t>(element_count(shape) * dtype_bytes(dtype)),
                            static_cast<char>(specs.size()));
    }
  }
  SafetensorsWriter writer(dir / "m.safetensors", specs);
  for (const std::string& content : contents) writer.append(bytes_of(content));
  writer.finish();

  const SafetensorsFile file = SafetensorsFile::open(dir / "m.safetensors");
  EXPECT_TRUE(file.metadata().empty());
  EXPECT_EQ(file.header_bytes().size() % 8, 0u);
  ASSERT_EQ(file.tensors().size(), specs.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    const HostTensor& tensor = file.at(specs[i].name);
    EXPECT_EQ(tensor.dtype, specs[i].dtype);
    EXPECT_EQ(tensor.shape, specs[i].shape);
    ASSERT_EQ(tensor.bytes.size(), contents[i].size());
    EXPECT_EQ(std::memcmp(tensor.bytes.data(), contents[i].data(), contents[i].size()), 0);
  }
}

TEST(SafetensorsWriter, LeavesNothingWhenAbandonedOrIncomplete) {
  const TempDir dir;
  {
    SafetensorsWriter writer(dir / "m.safetensors",
                             {{.name = "a", .dtype = DType::kU8, .shape = {3}}});
    writer.append(bytes_of("ab"));
    expect_error(ErrorCode::kInternal, "2 bytes of tensor data, expected 3",
                 [&] { writer.finish(); });
    expect_error(ErrorCode::kInternal, "4 bytes of tensor data, expected 3",
                 [&] { writer.append(bytes_of("cd")); });
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(SafetensorsWriter, RefusesSpecsThatNoReaderWouldTake) {
  const TempDir dir;
  const auto refuse = [&](const std::string& part, std::vector<TensorSpec> specs) {
    expect_error(ErrorCode::kInvalidArgument, part,
                 [&] { SafetensorsWriter writer(dir / "m.safetensors", std::move(specs)); });
  };
  refuse("two tensors are named \"a\"", {{"a", DType::kU8, {1}}, {"a", DType::kU8, {1}}});
  refuse("not a tensor name", {{"__metadata__", DType::kU8, {1}}});
  refuse("not a tensor name", {{"", DType::kU8, {1}}});
  refuse("not a tensor name", {{"a\tb", DType::kU8, {1}}});
  refuse("not UTF-8", {{"\xff", DType::kU8, {1}}});
  refuse("overflows", {{"a", DType::kF32, {int64_t{1} << 61}}});
  refuse("overflows", {{"a", DType::kU8, {-1}}});
  refuse("overflows", {{"a", DType::kU8, {INT64_MAX}}, {"b", DType::kU8, {1}}});
  EXPECT_TRUE(fs::is_empty(dir.path()));
  expect_error(ErrorCode::kIo, "No such file",
               [&] { SafetensorsWriter writer(dir / "none/m.safetensors", {}); });
}

}  // namespace
}  // namespace deltacome
