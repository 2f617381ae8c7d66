// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "io/safetensors.h"
#include "tests/support/expect_error.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::TempDir;
using test::write_bytes;

constexpr const char* kIndex = "model.safetensors.index.json";

using Bytes = std::map<std::string, std::string>;  // tensor -> its U8 data

void write_tensors(const fs::path& path, const Bytes& tensors) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, data] : tensors) {
    specs.push_back({name, DType::kU8, {static_cast<int64_t>(data.size())}});
  }
  SafetensorsWriter writer(path, specs);
  for (const auto& [name, data] : tensors) writer.append(std::as_bytes(std::span(data)));
  writer.finish();
}

void write_index(const fs::path& directory, const std::string& weight_map) {
  write_bytes(directory / kIndex,
              R"({"metadata":{"total_size":1},"weight_map":)" + weight_map + "}");
}

void expect_open_fails(ErrorCode code, const fs::path& directory, const std::string& part) {
  expect_error(code, part, [&] { Checkpoint::open(directory); });
}

TEST(Checkpoint, OpensASingleFile) {
  const TempDir dir;
  write_tensors(dir / "model.safetensors", {{"a", "xy"}, {"b", "z"}});
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  EXPECT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_EQ(checkpoint.total_bytes(), 3);
  EXPECT_EQ(checkpoint.at("b").bytes[0], std::byte{'z'});
  EXPECT_EQ(checkpoint.find("c"), nullptr);
  expect_error(ErrorCode::kNotFound, "there is no tensor \"c\"", [&] { checkpoint.at("c"); });
}

TEST(Checkpoint, HashIsThatOfTheDocumentedLines) {
  const TempDir dir;
  write_tensors(dir / "model.safetensors", {{"b", ""}, {"a", "abc"}});
  const std::string lines =
      "a\tU8\t[3]\tba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"
      "b\tU8\t[0]\te3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n";
  EXPECT_EQ(Checkpoint::open(dir.path()).content_hash(),
            sha256_hex(std::as_bytes(std::span(lines))));
}

TEST(Checkpoint, HashDoesNotDependOnShardingButOnEveryByte) {
  const std::string large(5u << 20, 'L');  // more than one piece of the hash
  const TempDir single;
  write_tensors(single / "model.safetensors", {{"a", "xy"}, {"b", large}, {"c", ""}});
  const TempDir sharded;
  write_tensors(sharded / "s2.safetensors", {{"a", "xy"}, {"c", ""}});
  write_tensors(sharded / "s1.safetensors", {{"b", large}});
  write_index(sharded.path(),
              R"({"a":"s2.safetensors","b":"s1.safetensors","c":"s2.safetensors"})");
  const std::string hash = Checkpoint::open(single.path()).content_hash();
  EXPECT_EQ(Checkpoint::open(sharded.path()).content_hash(), hash);
  EXPECT_EQ(Checkpoint::open(sharded.path()).tensors().size(), 3u);

  write_tensors(single / "model.safetensors", {{"a", "xz"}, {"b", large}, {"c", ""}});
  EXPECT_NE(Checkpoint::open(single.path()).content_hash(), hash);
  write_tensors(single / "model.safetensors", {{"a", "xy"}, {"bb", large}, {"c", ""}});
  EXPECT_NE(Checkpoint::open(single.path()).content_hash(), hash);
}

TEST(Checkpoint, SaysWhatADirectoryWithoutSafetensorsHas) {
  const TempDir dir;
  expect_open_fails(ErrorCode::kNotFound, dir.path(), "the directory has no weights");
  write_bytes(dir / "model.gguf", "x");
  expect_open_fails(ErrorCode::kNotFound, dir.path(), "the directory has \"model.gguf\"");
  expect_open_fails(ErrorCode::kNotFound, dir / "none", "no such model directory");
}

TEST(Checkpoint, RejectsAnIndexThatDisagreesWithItsShards) {
  const TempDir dir;
  write_tensors(dir / "s1.safetensors", {{"a", "x"}});
  write_tensors(dir / "s2.safetensors", {{"a", "x"}, {"b", "y"}});
  const auto expect_corrupt = [&](const std::string& weight_map, const std::string& part) {
    write_index(dir.path(), weight_map);
    expect_open_fails(ErrorCode::kCorrupt, dir.path(), part);
  };
  expect_corrupt(R"({"a":"s1.safetensors","c":"s1.safetensors"})",
                 R"(tensor "c" is not in shard "s1.safetensors")");
  expect_corrupt(R"({"b":"s1.safetensors"})", R"(tensor "b" is not in shard "s1.safetensors")");
  // "a" of the second shard is not listed, yet it is a second "a".
  expect_corrupt(R"({"a":"s1.safetensors","b":"s2.safetensors"})",
                 R"(tensor "a" is in two shards, "s1.safetensors" and "s2.safetensors")");
  write_index(dir.path(), R"({"a":"s3.safetensors"})");
  expect_open_fails(ErrorCode::kNotFound, dir.path(), "s3.safetensors: no such file");
}

TEST(Checkpoint, RejectsShardNamesThatLeaveTheDirectory) {
  const TempDir dir;
  write_tensors(dir / "s.safetensors", {{"a", "x"}});
  fs::create_directory(dir / "m");
  for (const std::string name : {"../s.safetensors", "/etc/passwd", "m/../s", "..", ".", "",
                                 "a\\\\b", "s.safetensors\\u0000"}) {
    write_index(dir / "m", "{\"a\":\"" + name + "\"}");
    expect_open_fails(ErrorCode::kCorrupt, dir / "m", "expected a plain file name");
  }
}

TEST(Checkpoint, RejectsAMalformedIndex) {
  const TempDir dir;
  const auto expect_corrupt = [&](const std::string& text, const std::string& part) {
    write_bytes(dir / kIndex, text);
    expect_open_fails(ErrorCode::kCorrupt, dir.path(), part);
  };
  expect_corrupt("", "not valid JSON");
  expect_corrupt("[]", "expected an object");
  expect_corrupt("{}", "weight_map is missing");
  expect_corrupt(R"({"weight_map":7})", "weight_map is 7");
  expect_corrupt(R"({"weight_map":{"a":7}})", "the shard of tensor \"a\" is 7");
  expect_corrupt(R"({"weight_map":{"a":"x","a":"y"}})", "\"a\" occurs twice");
}

}  // namespace
}  // namespace deltacome
