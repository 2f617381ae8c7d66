// SPDX-License-Identifier: Apache-2.0
#include "io/fused_projections.h"

#include <gtest/gtest.h>

#include <numeric>

#include "io/safetensors.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

using test::expect_error;

constexpr const char* kQkv = "model.layers.0.self_attn.qkv_proj.weight";
constexpr const char* kGateUp = "model.layers.0.mlp.gate_up_proj.weight";

/// 4 heads of 2 with 2 heads of keys: rows 8 + 4 + 4 of width 8; gate and up of 5 rows each.
class FusedProjectionsTest : public testing::Test {
 protected:
  void write_config(const std::string& type = "phi3") {
    write_file_atomically(directory_ / "config.json",
                          R"({"model_type":")" + type +
                              R"(","hidden_size":8,"intermediate_size":5,"num_hidden_layers":1,
                "num_attention_heads":4,"num_key_value_heads":2,"vocab_size":3,
                "max_position_embeddings":16})");
  }
  void add(const std::string& name, const Shape& shape) {
    std::vector<float> values(static_cast<size_t>(element_count(shape)));
    std::iota(values.begin(), values.end(), 0.0f);
    tensors_[name] = HostTensor::of(DType::kF32, shape, std::move(values));
  }
  void refused(ErrorCode code, const std::string& says) {
    expect_error(code, says, [&] { split_fused_projections(tensors_, directory_.path()); });
  }

  const test::TempDir directory_;
  std::map<std::string, HostTensor> tensors_;
};

TEST_F(FusedProjectionsTest, RowsBecomeTheTensorsThatTheArchitectureHas) {
  write_config();
  add(kQkv, {16, 8});
  add(kGateUp, {10, 8});
  add("model.norm.weight", {8});
  split_fused_projections(tensors_, directory_.path());
  ASSERT_EQ(tensors_.size(), 6u);
  const auto expect_rows = [&](const char* name, float first, int64_t rows) {
    const HostTensor& tensor = tensors_.at(std::string("model.layers.0.") + name);
    EXPECT_EQ(tensor.shape, (Shape{rows, 8})) << name;
    EXPECT_EQ(tensor.to_float().front(), first * 8) << name;
    EXPECT_EQ(tensor.to_float().back(), (first + static_cast<float>(rows)) * 8 - 1) << name;
  };
  expect_rows("self_attn.q_proj.weight", 0, 8);
  expect_rows("self_attn.k_proj.weight", 8, 4);
  expect_rows("self_attn.v_proj.weight", 12, 4);
  expect_rows("mlp.gate_proj.weight", 0, 5);
  expect_rows("mlp.up_proj.weight", 5, 5);
}

TEST_F(FusedProjectionsTest, OtherArchitecturesKeepTheirTensors) {
  add("model.norm.weight", {8});
  split_fused_projections(tensors_, directory_.path());  // no configuration is needed for this
  write_config("llama");
  add(kQkv, {16, 8});
  split_fused_projections(tensors_, directory_.path());
  EXPECT_TRUE(tensors_.contains(kQkv));
}

TEST_F(FusedProjectionsTest, RefusesRowsThatTheConfigurationDoesNotHave) {
  write_config();
  add(kQkv, {15, 8});
  refused(ErrorCode::kMismatch, "qkv_proj.weight\" has shape [15, 8], expected 16 rows");
  add(kQkv, {128});
  refused(ErrorCode::kMismatch, "has shape [128], expected 16 rows");
  tensors_.clear();
  add("model.layers.1.mlp.gate_up_proj.weight", {10, 8});
  refused(ErrorCode::kMismatch, "is of a layer that the configuration does not have");
  tensors_.clear();
  add("model.layers.0.mlp.gate_up_proj.qweight", {1, 10});
  refused(ErrorCode::kUnsupported, "gate_up_proj.qweight\" is F32, expected a weight in F32, F16");
  tensors_.clear();
  add(kGateUp, {10, 8});
  tensors_[kGateUp].dtype = DType::kI32;
  refused(ErrorCode::kUnsupported, "gate_up_proj.weight\" is I32, expected a weight");
  add(kGateUp, {10, 8});
  add("model.layers.0.mlp.up_proj.weight", {5, 8});
  refused(ErrorCode::kCorrupt, "up_proj.weight\" is there alone and as a part of");
}

TEST_F(FusedProjectionsTest, StoredTensorsAreThoseOfTheCheckpoint) {
  write_config();
  const ModelConfig config = read_model_config(directory_.path());
  const std::vector<ExpectedTensor> all = expected_tensors(config);
  size_t n_parts = 0;
  for (const StoredTensor& stored : stored_tensors(config)) {
    int64_t rows = 0;
    for (const size_t part : stored.parts) {
      EXPECT_EQ(part, n_parts++);  // each once, in order
      rows += all[part].shape[0];
    }
    EXPECT_EQ(stored.shape[0], rows) << stored.name;
    const size_t want = stored.name == kQkv ? 3 : stored.name == kGateUp ? 2 : 1;
    EXPECT_EQ(stored.parts.size(), want) << stored.name;
  }
  EXPECT_EQ(n_parts, all.size());
  write_config("llama");
  const ModelConfig llama = read_model_config(directory_.path());
  const std::vector<ExpectedTensor> apart = expected_tensors(llama);
  const std::vector<StoredTensor> stored = stored_tensors(llama);
  ASSERT_EQ(stored.size(), apart.size());
  for (size_t i = 0; i < stored.size(); ++i) EXPECT_EQ(stored[i].name, apart[i].name);
}

}  // namespace
}  // namespace deltacome
