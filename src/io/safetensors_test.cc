// SPDX-License-Identifier: Apache-2.0
#include "io/safetensors.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

using test::expect_error;
using test::parse_safetensors;
using test::safetensors_bytes;

void expect_corrupt(const std::string& bytes, const std::string& part) {
  expect_error(ErrorCode::kCorrupt, part, [&] { parse_safetensors(bytes); });
}

/// A file with one tensor "a" of four data bytes.
void expect_corrupt_entry(const std::string& entry, const std::string& part) {
  expect_corrupt(safetensors_bytes("{\"a\":" + entry + "}", "abcd"), part);
}

TEST(Safetensors, ReadsEveryDTypeInAnyOrderAndAlignment) {
  // The data section starts at an odd offset, the names are not in the order of the data.
  const std::string bytes = safetensors_bytes(
      R"({"h":{"dtype":"F16","shape":[1],"data_offsets":[25,27]},)"
      R"("u":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
      R"("l":{"shape":[1,1,1],"dtype":"I64","data_offsets":[1,9]},)"
      R"("d":{"dtype":"F64","shape":[1],"data_offsets":[9,17]},)"
      R"("f":{"dtype":"F32","shape":[],"data_offsets":[17,21]},)"
      R"("i":{"dtype":"I32","shape":[1],"data_offsets":[21,25]},)"
      R"("b":{"dtype":"BF16","shape":[1,2],"data_offsets":[27,31]},)"
      R"("__metadata__":{"format":"pt","k":""}}   )",
      std::string("\x07", 1) + std::string(16, '\0') + std::string("\0\0\x80\x3f", 4) +
          std::string(4, '\0') + std::string("\0\x3c", 2) + std::string("\x80\xbf\0\x40", 4));
  const SafetensorsFile file = parse_safetensors(bytes);
  EXPECT_EQ(file.tensors().size(), 7u);
  EXPECT_EQ(file.at("u").bytes[0], std::byte{7});
  EXPECT_EQ(file.at("f").shape, Shape{});
  EXPECT_EQ(file.at("f").to_float(), std::vector<float>{1.0f});
  EXPECT_EQ(file.at("h").to_float(), std::vector<float>{1.0f});
  EXPECT_EQ(file.at("b").to_float(), (std::vector<float>{-1.0f, 2.0f}));
  EXPECT_EQ(file.at("l").shape, (Shape{1, 1, 1}));
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}, {"k", ""}}));
  EXPECT_EQ(file.header_bytes().size() + 31, bytes.size());
  EXPECT_EQ(file.find("none"), nullptr);
  expect_error(ErrorCode::kNotFound, R"(x.safetensors: there is no tensor "none")",
               [&] { file.at("none"); });
}

TEST(Safetensors, ReadsAFileWithoutTensorsOrWithEmptyOnes) {
  EXPECT_TRUE(parse_safetensors(safetensors_bytes("{}")).tensors().empty());
  const std::string bytes =
      safetensors_bytes(R"({"a":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]},)"
                        R"("b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                        R"("c":{"dtype":"U8","shape":[0],"data_offsets":[2,2]},)"
                        R"("d":{"dtype":"U8","shape":[0],"data_offsets":[2,2]},)"
                        R"("e":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
                        "abcd");
  const SafetensorsFile file = parse_safetensors(bytes);
  EXPECT_EQ(file.at("a").size(), 0);
  EXPECT_TRUE(file.at("a").to_float().empty());
  EXPECT_EQ(file.at("e").bytes[1], std::byte{'d'});
}

TEST(Safetensors, TensorsKeepTheFileMapped) {
  const test::TempDir dir;
  test::write_bytes(
      dir / "m.safetensors",
      safetensors_bytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x"));
  HostTensor tensor;
  {
    const SafetensorsFile file = SafetensorsFile::open(dir / "m.safetensors");
    tensor = file.at("a");
  }
  EXPECT_EQ(tensor.bytes[0], std::byte{'x'});
  expect_error(ErrorCode::kNotFound, "no such file",
               [&] { SafetensorsFile::open(dir / "none.safetensors"); });
}

TEST(Safetensors, RejectsABadHeaderSize) {
  expect_corrupt("", "x.safetensors: 0 bytes, expected at least the 8");
  expect_corrupt("1234567", "7 bytes");
  expect_corrupt(safetensors_bytes("{}", "", 3), "header size 3, but only 2 bytes follow");
  expect_corrupt(safetensors_bytes("{}", "", 100'000'001), "expected at most 100000000");
  expect_corrupt(safetensors_bytes("{}", "", UINT64_MAX), "expected at most 100000000");
  expect_corrupt(safetensors_bytes("{}", "", 0), "does not start with '{'");
  expect_corrupt(safetensors_bytes("{}", "", 1), "not valid JSON");
}

TEST(Safetensors, RejectsAHeaderThatIsNotOneJsonObject) {
  expect_corrupt(safetensors_bytes(" {}"), "does not start with '{'");
  expect_corrupt(safetensors_bytes("\xef\xbb\xbf{}"), "does not start with '{'");
  expect_corrupt(safetensors_bytes("[]"), "does not start with '{'");
  expect_corrupt(safetensors_bytes("{}x"), "not valid JSON");
  expect_corrupt(safetensors_bytes(std::string("{}\0", 3)), "a zero byte");
  expect_corrupt(safetensors_bytes("{\"\xff\xfe\":1}"), "not valid JSON");
  expect_corrupt(safetensors_bytes("{\"a\":" + std::string(10000, '[')), "nested more than");
}

TEST(Safetensors, RejectsDuplicatesAndNamesThatAreNotText) {
  const std::string entry = R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  expect_corrupt(safetensors_bytes("{\"a\":" + entry + ",\"a\":" + entry + "}"), "occurs twice");
  expect_corrupt(safetensors_bytes("{\"\":" + entry + "}"), "tensor name \"\" is empty");
  expect_corrupt(safetensors_bytes("{\"a\\nb\":" + entry + "}"), "control character");
  expect_corrupt_entry(R"({"dtype":"U8","shape":[4],"shape":[4],"data_offsets":[0,4]})",
                       "\"shape\" occurs twice");
}

TEST(Safetensors, RejectsEntriesOfTheWrongForm) {
  expect_corrupt_entry("7", R"(x.safetensors: tensor "a": got 7, expected an object)");
  expect_corrupt_entry(R"({"shape":[4],"data_offsets":[0,4]})", "dtype is missing");
  expect_corrupt_entry(R"({"dtype":"U8","data_offsets":[0,4]})", "shape is missing");
  expect_corrupt_entry(R"({"dtype":"U8","shape":[4]})", "data_offsets is missing");
  expect_corrupt_entry(R"({"dtype":1,"shape":[4],"data_offsets":[0,4]})", "dtype is 1, expected");
  expect_corrupt_entry(R"({"dtype":"U8","shape":4,"data_offsets":[0,4]})", "shape is 4, expected");
  expect_corrupt_entry(R"({"dtype":"U8","shape":["4"],"data_offsets":[0,4]})", "shape has \"4\"");
  expect_corrupt_entry(R"({"dtype":"U8","shape":[4.0],"data_offsets":[0,4]})", "shape has 4.0");
  expect_corrupt_entry(R"({"dtype":"U8","shape":[-4],"data_offsets":[0,4]})", "shape has -4");
  expect_corrupt_entry(R"({"dtype":"U8","shape":[4],"data_offsets":[0]})", "has 1 numbers");
  expect_corrupt_entry(R"({"dtype":"U8","shape":[4],"data_offsets":[0,4,4]})", "has 3 numbers");
  expect_corrupt_entry(R"({"dtype":"U8","shape":[4],"data_offsets":[0,null]})", "has null");
  expect_corrupt_entry(R"({"dtype":"U8","shape":[4],"data_offsets":{"0":0}})", "expected an array");
}

TEST(Safetensors, RejectsSizesThatOverflow) {
  const auto entry = [](const std::string& shape) {
    return R"({"dtype":"F32","shape":)" + shape + R"(,"data_offsets":[0,4]})";
  };
  expect_corrupt_entry(entry("[9223372036854775807]"), "the size of its shape overflows");
  expect_corrupt_entry(entry("[4294967296,4294967296]"), "overflows");  // wraps to 0
  expect_corrupt_entry(entry("[4294967296,4294967296,0]"), "overflows");
  expect_corrupt_entry(entry("[9223372036854775808]"), "shape has 9223372036854775808");
  expect_corrupt_entry(entry("[18446744073709551617]"), "shape has");
  expect_corrupt_entry(R"({"dtype":"U8","shape":[4],"data_offsets":[18446744073709551612,4]})",
                       "data_offsets has 18446744073709551612");
}

TEST(Safetensors, RejectsOffsetsThatDoNotFitTheShape) {
  expect_corrupt_entry(R"({"dtype":"U8","shape":[4],"data_offsets":[4,0]})", "run backwards");
  expect_corrupt_entry(R"({"dtype":"U8","shape":[3],"data_offsets":[0,4]})",
                       "span 4 bytes, expected 3 for U8 [3]");
  expect_corrupt_entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})", "expected 8");
}

TEST(Safetensors, RejectsGapsOverlapsAndTrailingBytes) {
  const auto two = [](const std::string& first, const std::string& second) {
    return safetensors_bytes(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":)" + first +
                                 R"(},"b":{"dtype":"U8","shape":[2],"data_offsets":)" + second +
                                 "}}",
                             "abcd");
  };
  EXPECT_NO_THROW(parse_safetensors(two("[2,4]", "[0,2]")));
  expect_corrupt(two("[0,2]", "[1,3]"), R"(tensor "b": data begins at 1, expected 2 (overlap))");
  expect_corrupt(two("[0,2]", "[0,2]"), "overlap");
  expect_corrupt(two("[0,2]", "[3,5]"), "data begins at 3, expected 2 (gap)");
  expect_corrupt(two("[1,3]", "[3,5]"), "data begins at 1, expected 0 (gap)");
  const std::string head = R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})";
  expect_corrupt(safetensors_bytes(head, "abcde"), "1 bytes follow the last tensor");
  expect_corrupt(safetensors_bytes(head, "abc"), "data ends at 4, but the data section has 3");
  expect_corrupt(safetensors_bytes("{}", "a"), "1 bytes follow");
  expect_corrupt(  // an empty tensor inside another
      safetensors_bytes(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                        R"("b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
                        "abcd"),
      "overlap");
}

TEST(Safetensors, TellsAnUnsupportedDTypeFromJunk) {
  for (const std::string dtype : {"F8_E5M2", "BOOL", "I16", "U32", "U64", "F4"}) {
    const std::string bytes = safetensors_bytes(
        R"({"w":{"dtype":")" + dtype + R"(","shape":[4],"data_offsets":[0,4]}})", "abcd");
    expect_error(ErrorCode::kUnsupported, "tensor \"w\": dtype \"" + dtype + "\" is not supported",
                 [&] { parse_safetensors(bytes); });
  }
  expect_corrupt_entry(R"({"dtype":"f32","shape":[1],"data_offsets":[0,4]})",
                       "dtype \"f32\" is not known; supported are F64, F32, F16, BF16");
}

TEST(Safetensors, RejectsMetadataThatIsNotStrings) {
  expect_corrupt(safetensors_bytes(R"({"__metadata__":[]})"), "expected an object of strings");
  expect_corrupt(safetensors_bytes(R"({"__metadata__":{"a":1}})"), "\"a\" is 1, expected a string");
}

}  // namespace
}  // namespace deltacome
