// SPDX-License-Identifier: Apache-2.0
#include "io/quantized_weights.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>

#include "io/files.h"
#include "io/safetensors.h"
#include "tests/support/expect_error.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::expect_error;
using test::TempDir;
using test::write_bytes;

const fs::path kFormats = fs::path(DELTACOME_SOURCE_DIR) / "tests/data/formats";
constexpr const char* kModule = "model.layers.0.mlp.up_proj";
const std::string kWeight = std::string(kModule) + ".weight";

/// The cases of tools/make_format_goldens.py.
class QuantizedGolden : public ::testing::TestWithParam<std::string> {};

TEST_P(QuantizedGolden, ValuesAreThoseOfTheFormula) {
  const Checkpoint checkpoint = Checkpoint::open(kFormats / GetParam());
  EXPECT_TRUE(checkpoint.tensors().empty());  // every part belongs to the weight
  ASSERT_EQ(checkpoint.quantized().size(), 1u);
  const QuantizedWeight* weight = checkpoint.find_quantized(kWeight);
  ASSERT_NE(weight, nullptr);
  const HostTensor expected =
      SafetensorsFile::open(kFormats / GetParam() / "expected.safetensors").at(kWeight);
  EXPECT_EQ(weight->shape, expected.shape);
  const QuantizedMatrix matrix = weight->read();
  EXPECT_EQ(matrix.order.empty(), GetParam() != "gptq-act-order");
  std::vector<float> row(static_cast<size_t>(matrix.n_in));
  for (int64_t o = 0; o < matrix.n_out; ++o) {
    matrix.decode_row(o, row);
    EXPECT_EQ(row, expected.to_float(o, 1)) << "row " << o;  // to the bit
  }
  // In the type of the checkpoint: the same values, rounded once.
  const Checkpoint plain = checkpoint.dequantized();
  const HostTensor& dense = plain.at(kWeight);
  EXPECT_EQ(dense.dtype, weight->dtype);
  std::vector<std::byte> rounded(dense.bytes.size());
  convert_from_float(expected.to_float(), dense.dtype, rounded.data());
  EXPECT_TRUE(std::ranges::equal(dense.bytes, rounded));
  EXPECT_EQ(plain.content_hash(), checkpoint.content_hash());
}

INSTANTIATE_TEST_SUITE_P(All, QuantizedGolden,
                         ::testing::Values("gptq", "gptq-asymmetric-g64", "gptq-act-order",
                                           "gptq-8-bits-rows", "gptq-v2", "awq", "pack-4",
                                           "pack-4-asymmetric", "pack-8-rows", "int8", "fp8",
                                           "fp8-block", "nf4", "nf4-double", "bnb-int8"),
                         [](const auto& golden) {
                           std::string name = golden.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

/// A golden with changes to its configuration and tensors.
class Changed {
 public:
  explicit Changed(const std::string& name) {
    config_ = json::parse(read_text_file(kFormats / name / "config.json"));
    tensors_ = SafetensorsFile::open(kFormats / name / "model.safetensors").tensors();
  }
  json& quantization() { return config_["quantization_config"]; }
  std::map<std::string, HostTensor>& tensors() { return tensors_; }

  void expect(ErrorCode code, const std::string& part) {
    const TempDir dir;
    write_bytes(dir / "config.json", config_.dump());
    std::vector<TensorSpec> specs;
    for (const auto& [name, tensor] : tensors_) specs.push_back({name, tensor.dtype, tensor.shape});
    SafetensorsWriter writer(dir / "model.safetensors", specs);
    for (const auto& [name, tensor] : tensors_) writer.append(tensor.bytes);
    writer.finish();
    expect_error(code, part, [&] { Checkpoint::open(dir.path()).dequantized(); });
  }

 private:
  json config_;
  std::map<std::string, HostTensor> tensors_;
};

void expect_setting(const std::string& name, const std::string& key, const json& value,
                    ErrorCode code, const std::string& part) {
  Changed changed(name);
  changed.quantization()[key] = value;
  changed.expect(code, part);
}

TEST(QuantizedWeights, SettingsThatAreNotReadAreNamed) {
  constexpr ErrorCode kNo = ErrorCode::kUnsupported;
  expect_setting("gptq", "quant_method", "hqq", kNo, "quant_method \"hqq\" is not supported");
  expect_setting("gptq", "bits", 3, kNo, "bits is 3, expected 2, 4 or 8");
  expect_setting("gptq", "checkpoint_format", "marlin", kNo, "checkpoint_format \"marlin\"");
  expect_setting("gptq", "dynamic", {{"x", {{"bits", 8}}}}, kNo, "dynamic is an object");
  expect_setting("gptq", "group_size", 0, ErrorCode::kCorrupt, "group_size is 0");
  expect_setting("awq", "version", "gemv", kNo, "version \"gemv\", expected gemm");
  expect_setting("pack-4", "format", "marlin-24", kNo, "format \"marlin-24\"");
  expect_setting("pack-4", "sparsity_config", {{"format", "sparse-24"}}, kNo, "sparsity_config");
  expect_setting("pack-4", "transform_config", {{"R1", 1}}, kNo, "transform_config");
  expect_setting("fp8-block", "weight_block_size", 128, ErrorCode::kCorrupt,
                 "weight_block_size is 128, expected a list");
}

TEST(QuantizedWeights, PartsThatDoNotFitAreNamed) {
  for (const char* part : {".qzeros", ".scales"}) {
    Changed changed("gptq");
    changed.tensors().erase(std::string(kModule) + part);
    changed.expect(ErrorCode::kCorrupt, std::string(part) + "\" is missing");
  }
  expect_setting("gptq", "group_size", 64, ErrorCode::kCorrupt,
                 "up_proj.scales\" has shape [2, 8], expected [4, 8]");
  Changed type("gptq");
  type.tensors().at(std::string(kModule) + ".qweight").dtype = DType::kF32;
  type.expect(ErrorCode::kCorrupt, "qweight\" is F32, expected I32");
  Changed scale("awq");
  scale.tensors().at(std::string(kModule) + ".scales") =
      HostTensor::of(DType::kF16, {2, 8}, std::vector<uint16_t>(16, 0x7c00));
  scale.expect(ErrorCode::kCorrupt, "up_proj.scales\" holds inf at element 0");
  Changed nan("fp8");
  nan.tensors().at(kWeight) =
      HostTensor::of(DType::kF8E4m3, {8, 256}, std::vector<uint8_t>(8 * 256, 0x7f));
  nan.expect(ErrorCode::kCorrupt, "holds NaN");
}

TEST(QuantizedWeights, GroupsOfActivationOrderAreChecked) {
  const std::string name = std::string(kModule) + ".g_idx";
  std::vector<int32_t> groups(256, 0);
  Changed uneven("gptq-act-order");
  uneven.tensors().at(name) = HostTensor::of(DType::kI32, {256}, groups);
  uneven.expect(ErrorCode::kUnsupported, "group 0 does not have 128 columns");
  for (const int32_t bad : {2, -1}) {
    for (size_t i = 0; i < 256; ++i) groups[i] = static_cast<int32_t>(i / 128);
    groups[bad < 0 ? 0 : 255] = bad;
    Changed changed("gptq-act-order");
    changed.tensors().at(name) = HostTensor::of(DType::kI32, {256}, groups);
    changed.expect(ErrorCode::kCorrupt, "is of group " + std::to_string(bad));
  }
}

TEST(QuantizedWeights, AStateOfBitsandbytesIsChecked) {
  const std::string name = kWeight + ".quant_state.bitsandbytes__nf4";
  const auto changed = [&](const std::string& key, const json& value, ErrorCode code,
                           const std::string& part) {
    Changed golden("nf4-double");
    const HostTensor& stored = golden.tensors().at(name);
    json state =
        json::parse(reinterpret_cast<const char*>(stored.bytes.data()),
                    reinterpret_cast<const char*>(stored.bytes.data()) + stored.bytes.size());
    state[key] = value;
    const std::string text = state.dump();
    const std::vector<uint8_t> bytes(text.begin(), text.end());
    golden.tensors().at(name) =
        HostTensor::of(DType::kU8, {static_cast<int64_t>(bytes.size())}, bytes);
    golden.expect(code, part);
  };
  changed("shape", {8, 512}, ErrorCode::kCorrupt, "expected [2048]");
  changed("shape", {64, 32}, ErrorCode::kUnsupported, "rows of 32 weights");
  changed("blocksize", 128, ErrorCode::kCorrupt, "absmax\" has shape [32], expected [16]");
  changed("nested_blocksize", 8, ErrorCode::kCorrupt,
          "nested_absmax\" has shape [1], expected [4]");
  changed("dtype", "int8", ErrorCode::kUnsupported, "dtype \"int8\"");
}

TEST(QuantizedWeights, AnOldGptqConfigurationIsRead) {
  const TempDir dir;
  fs::copy_file(kFormats / "gptq" / "model.safetensors", dir / "model.safetensors");
  write_bytes(dir / "config.json", R"({"torch_dtype":"float16"})");
  EXPECT_TRUE(Checkpoint::open(dir.path()).quantized().empty());
  write_bytes(dir / "quantize_config.json", R"({"bits":4,"group_size":128,"desc_act":false})");
  EXPECT_EQ(Checkpoint::open(dir.path()).scheme(), "GPTQ, 4 bits, groups of 128");
}

}  // namespace
}  // namespace deltacome
