// SPDX-License-Identifier: Apache-2.0
#include "io/base_relation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "deltacome/archive.h"
#include "io/model_config.h"
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

/// A model of one layer, in bf16 and with int8 projections.
class BaseRelationTest : public ::testing::Test {
 protected:
  BaseRelationTest() {
    config_ = json{{"architectures", {"LlamaForCausalLM"}},
                   {"hidden_size", 8},
                   {"intermediate_size", 16},
                   {"num_hidden_layers", 1},
                   {"num_attention_heads", 2},
                   {"vocab_size", 12},
                   {"max_position_embeddings", 32},
                   {"dtype", "bfloat16"}};
    fs::create_directory(full_);
    fs::create_directory(quantized_);
    const ModelConfig config = parse_model_config(config_.dump(), "", "m");
    uint32_t state = 1;
    for (const ExpectedTensor& tensor : expected_tensors(config)) {
      std::vector<float> values;
      for (int64_t i = 0; i < element_count(tensor.shape); ++i) {
        state = state * 1664525 + 1013904223;
        values.push_back(static_cast<float>(state >> 8) / 0x1p24F - 0.5F);
      }
      std::vector<std::byte> bytes(2 * values.size());
      convert_from_float(values, DType::kBf16, bytes.data());
      whole_[tensor.name] = HostTensor::of(DType::kBf16, tensor.shape, bytes);
      codes_[tensor.name] = whole_[tensor.name];
      if (tensor.kind == ExpectedTensor::Kind::kProjection) quantize(tensor.name);
    }
    write(full_, config_, whole_);
    write_quantized();
  }

  void quantize(const std::string& name) {
    const HostTensor& full = whole_[name];
    std::vector<uint8_t> codes;
    for (const float value : full.to_float())
      codes.push_back(static_cast<uint8_t>(std::lround(value * 254)));
    codes_[name] = HostTensor::of(DType::kI8, full.shape, codes);
    codes_[name + "_scale"] =
        HostTensor::of(DType::kF32, {full.rows(), 1},
                       std::vector<float>(static_cast<size_t>(full.rows()), 1.0F / 254));
  }

  void write_quantized() {
    json config = config_;
    config["quantization_config"] = {
        {"quant_method", "compressed-tensors"},
        {"format", "int-quantized"},
        {"config_groups",
         {{"group_0", {{"weights", {{"num_bits", 8}, {"strategy", "channel"}}}}}}}};
    write(quantized_, config, codes_);
  }

  static void write(const fs::path& directory, const json& config,
                    const std::map<std::string, HostTensor>& tensors) {
    write_bytes(directory / "config.json", config.dump());
    std::vector<TensorSpec> specs;
    for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.dtype, tensor.shape});
    SafetensorsWriter writer(directory / "model.safetensors", specs);
    for (const auto& [name, tensor] : tensors) writer.append(tensor.bytes);
    writer.finish();
  }

  std::optional<std::string> related() const {
    return related_base(quantized_, Checkpoint::open(quantized_).content_hash());
  }

  TempDir dir_;
  fs::path full_ = dir_ / "full", quantized_ = dir_ / "quantized";
  json config_;
  std::map<std::string, HostTensor> whole_, codes_;
};

TEST_F(BaseRelationTest, IsRecordedAfterComparing) {
  EXPECT_FALSE(related());
  const BaseRelation relation = relate_bases(quantized_, full_);
  EXPECT_EQ(relation.scheme, "compressed-tensors, int8, strategy channel");
  EXPECT_GT(relation.largest_error, 0);
  EXPECT_LT(relation.largest_error, 0.01);
  EXPECT_EQ(related(), Checkpoint::open(full_).content_hash());
}

TEST_F(BaseRelationTest, OtherWeightsAreRefusedByName) {
  codes_["model.norm.weight"] = HostTensor::of(DType::kBf16, {8}, std::vector<uint16_t>(8, 0x3f80));
  write_quantized();
  expect_error(ErrorCode::kMismatch, "tensor \"model.norm.weight\" is not that of",
               [&] { relate_bases(quantized_, full_); });
  codes_["model.norm.weight"] = whole_["model.norm.weight"];
  const std::string up = "model.layers.0.mlp.up_proj.weight";
  codes_[up] = HostTensor::of(DType::kI8, {16, 8}, std::vector<uint8_t>(128, 100));
  write_quantized();
  expect_error(ErrorCode::kMismatch, "tensor \"" + up + "\" differs from that of",
               [&] { relate_bases(quantized_, full_); });
  EXPECT_FALSE(related());  // nothing was recorded
}

TEST_F(BaseRelationTest, BothSidesMustBeWhatTheyAreCalled) {
  expect_error(ErrorCode::kInvalidArgument, "has no quantized weights",
               [&] { relate_bases(full_, full_); });
  expect_error(ErrorCode::kInvalidArgument, "is quantized",
               [&] { relate_bases(quantized_, quantized_); });
}

TEST_F(BaseRelationTest, ARecordOfOtherWeightsIsRefused) {
  relate_bases(quantized_, full_);
  codes_["model.norm.weight"] = HostTensor::of(DType::kBf16, {8}, std::vector<uint16_t>(8, 0x3f80));
  write_quantized();
  expect_error(ErrorCode::kMismatch, "was written for weights with content hash",
               [&] { related(); });
}

}  // namespace
}  // namespace deltacome
