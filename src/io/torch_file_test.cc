// SPDX-License-Identifier: Apache-2.0
#include "io/torch_file.h"

#include <gtest/gtest.h>

#include <cstring>

#include "io/files.h"
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

const fs::path kFormats = fs::path(DELTACOME_SOURCE_DIR) / "tests/data/formats";

std::string little(uint64_t value, int n) {
  std::string out;
  for (int i = 0; i < n; ++i, value >>= 8) out.push_back(static_cast<char>(value & 0xff));
  return out;
}

struct ZipEntry {
  std::string name, data;
  int method = 0;
};

/// A ZIP file; with `zip64` every size and offset is in the fields of 64 bits.
std::string zip(const std::vector<ZipEntry>& entries, bool zip64 = false) {
  std::string out, directory;
  for (const ZipEntry& e : entries) {
    const uint64_t offset = out.size(), n = e.data.size();
    out += "PK\x03\x04" + little(0, 4) + little(static_cast<uint64_t>(e.method), 2) + little(0, 8) +
           little(n, 4) + little(n, 4) + little(e.name.size(), 2) + little(0, 2) + e.name + e.data;
    const std::string extra =
        zip64 ? little(1, 2) + little(24, 2) + little(n, 8) + little(n, 8) + little(offset, 8) : "";
    const uint64_t small = zip64 ? 0xffffffff : n;
    directory += "PK\x01\x02" + little(0, 6) + little(static_cast<uint64_t>(e.method), 2) +
                 little(0, 8) + little(small, 4) + little(small, 4) + little(e.name.size(), 2) +
                 little(extra.size(), 2) + little(0, 2) + little(0, 8) +
                 little(zip64 ? 0xffffffff : offset, 4) + e.name + extra;
  }
  const uint64_t at = out.size(), n = entries.size();
  out += directory;
  if (zip64) {
    const uint64_t end = out.size();
    out += "PK\x06\x06" + little(44, 8) + little(0, 12) + little(n, 8) + little(n, 8) +
           little(directory.size(), 8) + little(at, 8);
    out += "PK\x06\x07" + little(0, 4) + little(end, 8) + little(1, 4);
  }
  return out + "PK\x05\x06" + little(0, 4) + little(zip64 ? 0xffff : n, 2) +
         little(zip64 ? 0xffff : n, 2) + little(directory.size(), 4) +
         little(zip64 ? 0xffffffff : at, 4) + little(0, 2);
}

std::string text(const std::string& value) {
  return "X" + little(value.size(), 4) + value;
}
std::string number(uint32_t value) {
  return "J" + little(value, 4);
}
std::string tuple(const std::string& items) {
  return "(" + items + "t";
}

/// The pickle of {"w": view} of float storage "0" with 4 elements.
std::string view(const std::string& shape, const std::string& strides, uint32_t offset = 0,
                 uint32_t elements = 4) {
  const std::string storage = tuple(text("storage") + "ctorch\nFloatStorage\n" + text("0") +
                                    text("cpu") + number(elements)) +
                              "Q";
  return "ctorch._utils\n_rebuild_tensor_v2\n" +
         tuple(storage + number(offset) + tuple(shape) + tuple(strides) +
               "\x89"
               "ccollections\nOrderedDict\n)R") +
         "R";
}
std::string dict(const std::string& value) {
  return "\x80\x02}(" + text("w") + value + "u.";
}

const std::string kFloats = little(0x3f800000, 4) + little(0x40000000, 4) + little(0x40400000, 4) +
                            little(0x40800000, 4);  // 1, 2, 3, 4

std::map<std::string, HostTensor> parse(const std::string& bytes) {
  return parse_torch_file(std::as_bytes(std::span(bytes)), nullptr, "x.bin");
}
std::map<std::string, HostTensor> parse_pickle(const std::string& pickle) {
  static std::string bytes;  // outlives the tensors
  bytes = zip({{"m/data.pkl", pickle}, {"m/data/0", kFloats}});
  return parse(bytes);
}
void expect_pickle(ErrorCode code, const std::string& part, const std::string& pickle) {
  expect_error(code, part, [&] { parse_pickle(pickle); });
}

TEST(TorchFile, TensorsAreThoseThatTorchSaved) {
  const SafetensorsFile expected = SafetensorsFile::open(kFormats / "torch.safetensors");
  for (const char* name : {"torch.bin", "torch-protocol-4.bin"}) {
    const auto tensors = read_torch_file(kFormats / name);
    EXPECT_EQ(tensors.size(), expected.tensors().size());
    for (const auto& [key, want] : expected.tensors()) {
      const auto got = tensors.find(key);
      ASSERT_NE(got, tensors.end()) << key;
      EXPECT_EQ(got->second.dtype, want.dtype) << key;
      EXPECT_EQ(got->second.shape, want.shape) << key;
      EXPECT_TRUE(std::ranges::equal(got->second.bytes, want.bytes)) << key;
    }
  }
}

TEST(TorchFile, CheckpointsOfBothFormsAreOpened) {
  const TempDir dir;
  fs::copy_file(kFormats / "torch.bin", dir / "pytorch_model.bin");
  const Checkpoint whole = Checkpoint::open(dir.path());
  EXPECT_EQ(whole.content_hash(),
            content_hash(SafetensorsFile::open(kFormats / "torch.safetensors").tensors()));
  fs::remove(dir / "pytorch_model.bin");
  write_bytes(dir / "a.bin",
              zip({{"m/data.pkl", dict(view(number(4), number(1)))}, {"m/data/0", kFloats}}));
  write_bytes(dir / "pytorch_model.bin.index.json", R"({"weight_map":{"w":"a.bin"}})");
  EXPECT_EQ(Checkpoint::open(dir.path()).at("w").to_float(), (std::vector<float>{1, 2, 3, 4}));
  write_bytes(dir / "pytorch_model.bin.index.json", R"({"weight_map":{"v":"a.bin"}})");
  expect_error(ErrorCode::kCorrupt, "tensor \"v\" is not in shard \"a.bin\"",
               [&] { Checkpoint::open(dir.path()); });
}

TEST(TorchFile, Zip64AndPlainFieldsSayTheSame) {
  for (const bool zip64 : {false, true}) {
    const std::string bytes =
        zip({{"m/data.pkl", dict(view(number(4), number(1)))}, {"m/data/0", kFloats}}, zip64);
    EXPECT_EQ(parse(bytes).at("w").to_float(), (std::vector<float>{1, 2, 3, 4}));
  }
}

TEST(TorchFile, ViewsAreStrided) {
  EXPECT_EQ(
      parse_pickle(dict(view(number(2) + number(2), number(1) + number(2)))).at("w").to_float(),
      (std::vector<float>{1, 3, 2, 4}));
  EXPECT_EQ(parse_pickle(dict(view(number(2), number(1), 2))).at("w").to_float(),
            (std::vector<float>{3, 4}));
  EXPECT_EQ(parse_pickle(dict(view("", ""))).at("w").to_float(), (std::vector<float>{1}));
}

TEST(TorchFile, ViewsBeyondTheirStorageAreRefused) {
  const auto refused = [](const std::string& pickle, const std::string& part) {
    expect_pickle(ErrorCode::kCorrupt, part, dict(pickle));
  };
  refused(view(number(5), number(1)), "leaves its storage of 4");
  refused(view(number(4), number(1), 1), "leaves its storage of 4");
  refused(view(number(2), number(4)), "leaves its storage of 4");
  refused(view(number(1u << 30) + number(1u << 30) + number(1u << 30),
               number(0) + number(0) + number(0)),
          "overflows");
  refused(view(number(1u << 30), number(0)), "views that repeat elements");
  refused(view(number(4), number(1), 0, 5), "has 16 bytes, expected 5 elements of 4");
  refused(view(number(4), ""), "1 extents and 0 strides");
  refused(view(number(0xffffffff), number(1)), "expected integers from 0");
}

TEST(TorchFile, WhatIsNotOnTheListsIsNamedAndNotRun) {
  expect_pickle(ErrorCode::kUnsupported, "byte 2 of the pickle: the global \"posix.system\"",
                "\x80\x02"
                "cposix\nsystem\n" +
                    tuple(text("true")) + "R.");
  expect_pickle(ErrorCode::kUnsupported, "the global \"torch.load\"",
                "\x80\x02"
                "ctorch\nload\n.");
  expect_pickle(ErrorCode::kUnsupported, "opcode 0x81", "\x80\x02))\x81.");
  expect_pickle(ErrorCode::kUnsupported, "\"w\" is an integer, expected a tensor", dict(number(3)));
  expect_pickle(ErrorCode::kUnsupported, "holds a list, expected a dict", "\x80\x02].");
  expect_pickle(ErrorCode::kUnsupported, "protocol 1", "\x80\x01].");
  expect_pickle(ErrorCode::kUnsupported, "a call of \"collections.OrderedDict\"",
                "\x80\x02"
                "ccollections\nOrderedDict\n" +
                    tuple(number(1)) + "R.");
}

TEST(TorchFile, BrokenPicklesAreRefused) {
  for (const auto& [pickle, part] : std::vector<std::pair<std::string, std::string>>{
           {"\x80\x02}", "0 bytes are left of 1"},
           {"\x80\x02.", "0 values are left"},
           {"\x80\x02NN.", "2 values are left"},
           {"\x80\x02}Ns.", "items for what is not a dict"},
           {"\x80\x02Na.", "items for what is not a list"},
           {"\x80\x02(\x85.", "a value is missing"},
           {"\x80\x02}u.", "there is no mark"},
           {"\x80\x02}(Nu.", "a key has no value"},
           {"\x80\x02h\x01.", "value 1 was not remembered"},
           {"\x80\x02q\x01.", "nothing to remember"},
           {"\x80\x02X" + little(0xffffffff, 4) + ".", "a text of 4294967295 bytes"},
           {"\x80\x02" + std::string(1, '\x8a') + "\x09", "an integer of 9 bytes"},
           {"\x80\x02"
            "c" +
                std::string(5000, 'a'),
            "a line of more than 4096"}}) {
    expect_pickle(ErrorCode::kCorrupt, part, pickle);
  }
}

TEST(TorchFile, BrokenContainersAreRefused) {
  const std::string pickle = dict(view(number(4), number(1)));
  const std::string good = zip({{"m/data.pkl", pickle}, {"m/data/0", kFloats}});
  const auto refused = [](ErrorCode code, const std::string& part, const std::string& bytes) {
    expect_error(code, part, [&] { parse(bytes); });
  };
  refused(ErrorCode::kCorrupt, "does not start as a ZIP", "");
  refused(ErrorCode::kUnsupported, "legacy format", "\x80\x02\x8a\x0a" + std::string(40, 'x'));
  refused(ErrorCode::kCorrupt, "no end-of-directory record", good.substr(0, good.size() - 30));
  refused(ErrorCode::kCorrupt, "without NAME/data.pkl", zip({{"m/data/0", kFloats}}));
  refused(ErrorCode::kCorrupt, "two data.pkl",
          zip({{"m/data.pkl", pickle}, {"n/data.pkl", pickle}}));
  refused(ErrorCode::kCorrupt, "is there twice",
          zip({{"m/data.pkl", pickle}, {"m/data.pkl", pickle}}));
  refused(ErrorCode::kCorrupt, "its storage \"0\" is not in the file",
          zip({{"m/data.pkl", pickle}}));
  refused(ErrorCode::kUnsupported, "compressed by method 8",
          zip({{"m/data.pkl", pickle, 8}, {"m/data/0", kFloats}}));
  refused(ErrorCode::kUnsupported, "byte order \"big\"",
          zip({{"m/data.pkl", pickle}, {"m/data/0", kFloats}, {"m/byteorder", "big"}}));
  for (size_t cut = 1; cut < good.size(); ++cut) {
    const std::string part = good.substr(0, good.size() - cut);
    EXPECT_THROW(parse(part), Error) << cut;
  }
  for (size_t i = 0; i < good.size(); ++i) {  // any byte wrong: read or refused, never more
    for (const int bit : {0, 4, 7}) {
      std::string bytes = good;
      bytes[i] = static_cast<char>(bytes[i] ^ 1 << bit);
      try {
        for (const auto& [name, tensor] : parse(bytes)) {
          EXPECT_EQ(static_cast<int64_t>(tensor.bytes.size()),
                    tensor.size() * dtype_bytes(tensor.dtype));
        }
      } catch (const Error&) {
      }
    }
  }
}

}  // namespace
}  // namespace deltacome
