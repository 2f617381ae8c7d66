// SPDX-License-Identifier: Apache-2.0
#include "io/vision_config.h"

#include <gtest/gtest.h>

#include "io/model_config.h"
#include "tests/support/expect_error.h"

namespace deltacome {
namespace {

ModelConfig parse(const std::string& json) {
  return parse_model_config(json, "", "m");
}

TEST(VisionNames, AllLayoutsBecomeOne) {
  const std::pair<const char*, const char*> names[] = {
      {"language_model.model.norm.weight", "model.norm.weight"},
      {"language_model.lm_head.weight", "lm_head.weight"},
      {"model.language_model.norm.weight", "model.norm.weight"},
      {"lm_head.weight", "lm_head.weight"},
      {"model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"},
      {"vision_tower.vision_model.pre_layrnorm.bias", "vision_tower.pre_layrnorm.bias"},
      {"vision_tower.pre_layrnorm.bias", "vision_tower.pre_layrnorm.bias"},
      {"model.vision_tower.pre_layrnorm.bias", "vision_tower.pre_layrnorm.bias"},
      {"model.vision_tower.vision_model.pre_layrnorm.bias", "vision_tower.pre_layrnorm.bias"},
      {"model.vision_tower.vision_tower.vision_model.pre_layrnorm.bias",
       "vision_tower.pre_layrnorm.bias"},
      {"model.multi_modal_projector.linear_2.bias", "multi_modal_projector.linear_2.bias"},
      {"model.mm_projector.0.weight", "multi_modal_projector.linear_1.weight"},
      {"model.mm_projector.2.bias", "multi_modal_projector.linear_2.bias"},
      {"model.mm_projector.weight", "multi_modal_projector.linear_1.weight"}};
  for (const auto& [stored, canonical] : names) {
    EXPECT_EQ(canonical_tensor_name(stored), canonical);
    EXPECT_EQ(canonical_tensor_name(stored_vision_model_name(canonical)), canonical);
  }
}

TEST(VisionConfig, DefaultsAreThoseOfTransformers) {
  const ModelConfig config = parse(R"({
    "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava",
    "image_token_index": 32000, "projector_hidden_act": "gelu",
    "text_config": {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064},
    "vision_config": {"model_type": "clip_vision_model", "hidden_size": 1024, "image_size": 336,
      "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24,
      "patch_size": 14}})");
  EXPECT_EQ(config.architecture, "LlamaForCausalLM");
  EXPECT_EQ(config.hidden_size, 4096);
  EXPECT_EQ(config.n_layers, 32);
  EXPECT_EQ(config.vocab_size, 32064);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int64_t>{2}));
  ASSERT_TRUE(config.vision.has_value());
  EXPECT_EQ(config.vision->n_features(), 576);
  EXPECT_EQ(config.vision->feature_layers, 23);
  EXPECT_EQ(config.vision->activation, Gelu::kQuick);
  // Class, patch and position embeddings, 3 norms, 24 layers of 16, the projector.
  EXPECT_EQ(expected_vision_tensors(config).size(), 3u + 4 + 24 * 16 + 4);
  EXPECT_TRUE(expected_vision_tensors(parse(R"({"model_type": "llama", "hidden_size": 8,
      "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 8,
      "max_position_embeddings": 8})"))
                  .empty());
}

TEST(VisionConfig, TheAuthorsFormNamesItsTower) {
  const std::string begin = R"({"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava",
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 320, "max_position_embeddings": 512, "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_vision_tower": )";
  const ModelConfig config = parse(begin + "\"openai/clip-vit-large-patch14-336\"}");
  EXPECT_EQ(config.hidden_size, 64);
  EXPECT_EQ(config.vision->image_size, 336);
  EXPECT_EQ(config.vision->feature_layers, 23);
  EXPECT_EQ(config.vision->image_token_id, 320);
  test::expect_error(ErrorCode::kUnsupported, "mm_vision_tower \"eva\" is not supported",
                     [&] { parse(begin + "\"eva\"}"); });
}

TEST(VisionConfig, WhatDoesNotRunIsRefusedByName) {
  const auto refused = [](ErrorCode code, const std::string& part, const std::string& fields,
                          const std::string& tower) {
    test::expect_error(code, part, [&] {
      parse(R"({"model_type": "llava", "text_config": {"model_type": "llama"}, )" + fields +
            R"("vision_config": {)" + tower + "}}");
    });
  };
  refused(ErrorCode::kUnsupported, "a vision tower of model_type \"siglip_vision_model\"", "",
          R"("model_type": "siglip_vision_model")");
  refused(ErrorCode::kUnsupported, "hidden_act \"relu\" is not supported", "",
          R"("hidden_act": "relu")");
  refused(ErrorCode::kUnsupported, "vision_feature_layer is a list",
          R"("vision_feature_layer": [-2, -5], )", "");
  refused(ErrorCode::kCorrupt, "vision_feature_layer is -14", R"("vision_feature_layer": -14, )",
          "");
  refused(ErrorCode::kCorrupt, "hidden_size is 100, expected a multiple of 12 heads", "",
          R"("hidden_size": 100)");
  refused(ErrorCode::kCorrupt, "image_size is 16 and patch_size 32", "", R"("image_size": 16)");
  refused(ErrorCode::kCorrupt, "image_size is 8000 and patch_size 1", "",
          R"("image_size": 8000, "patch_size": 1)");
  refused(ErrorCode::kUnsupported, "vision_feature_select_strategy \"pool\"",
          R"("vision_feature_select_strategy": "pool", )", "");
}

}  // namespace
}  // namespace deltacome
