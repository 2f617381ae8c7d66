// SPDX-License-Identifier: Apache-2.0
#include "io/model_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "io/safetensors.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

using nlohmann::json;
using test::expect_error;

const std::filesystem::path kData = std::filesystem::path(DELTACOME_SOURCE_DIR) / "tests/data";

/// The smallest valid configuration, with `changes` merged in; a null removes nothing but stays.
json config_json(const json& changes = json::object(), const std::string& type = "llama") {
  json config = {{"architectures", {"LlamaForCausalLM"}},
                 {"model_type", "llama"},
                 {"hidden_size", 64},
                 {"intermediate_size", 160},
                 {"num_hidden_layers", 4},
                 {"num_attention_heads", 4},
                 {"vocab_size", 300},
                 {"max_position_embeddings", 512}};
  if (type == "mistral") config["architectures"] = {"MistralForCausalLM"};
  if (type == "qwen2") config["architectures"] = {"Qwen2ForCausalLM"};
  if (type == "qwen3") config["architectures"] = {"Qwen3ForCausalLM"};
  config["model_type"] = type;
  config.update(changes);
  return config;
}

ModelConfig parse(const json& config, const std::string& generation = "") {
  return parse_model_config(config.dump(), generation, "m");
}

void expect_rejected(ErrorCode code, const json& changes, const std::string& part,
                     const std::string& type = "llama") {
  expect_error(code, part, [&] { parse(config_json(changes, type)); });
}

/// Every tensor that the configuration expects is in the checkpoint, and no other.
void expect_describes(const ModelConfig& config, const Checkpoint& checkpoint) {
  const auto expected = expected_tensors(config);
  EXPECT_EQ(expected.size(), checkpoint.tensors().size());
  for (const ExpectedTensor& tensor : expected) {
    const HostTensor* found = checkpoint.find(tensor.name);
    ASSERT_NE(found, nullptr) << tensor.name;
    EXPECT_EQ(found->shape, tensor.shape) << tensor.name;
  }
}

TEST(ModelConfig, DescribesEveryGoldenCheckpoint) {
  for (const char* name : {"goldens/llama2", "goldens/llama3", "goldens/mistral", "goldens/qwen2",
                           "goldens/qwen3", "models/tiny-base", "models/tiny-math"}) {
    SCOPED_TRACE(name);
    expect_describes(read_model_config(kData / name), Checkpoint::open(kData / name));
  }
}

TEST(ModelConfig, ReadsTheFieldsOfTheGoldens) {
  const ModelConfig llama3 = read_model_config(kData / "goldens/llama3");
  EXPECT_EQ(llama3.architecture, "LlamaForCausalLM");
  EXPECT_EQ(llama3.n_kv_heads, 2);
  EXPECT_EQ(llama3.head_dim, 16);
  EXPECT_TRUE(llama3.tied_embeddings);
  EXPECT_EQ(llama3.rope.type, RopeType::kLlama3);
  EXPECT_EQ(llama3.rope.theta, 500000.0);
  EXPECT_EQ(llama3.rope.factor, 8.0);
  EXPECT_EQ(llama3.rope.original_max_positions, 64.0);
  EXPECT_EQ(llama3.bos_token_id, 1);
  EXPECT_EQ(llama3.eos_token_ids, std::vector<int64_t>{2});

  const ModelConfig mistral = read_model_config(kData / "goldens/mistral");
  EXPECT_EQ(mistral.head_dim, 32);
  EXPECT_EQ(mistral.window(0), 16);
  EXPECT_EQ(mistral.window(1), 16);

  const ModelConfig qwen2 = read_model_config(kData / "goldens/qwen2");
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.o_bias);
  EXPECT_FALSE(qwen2.qk_norm);
  EXPECT_EQ(qwen2.window(1), 0);

  const ModelConfig qwen3 = read_model_config(kData / "goldens/qwen3");
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_FALSE(qwen3.qkv_bias);

  const ModelConfig tiny = read_model_config(kData / "models/tiny-base");  // the earlier RoPE form
  EXPECT_EQ(tiny.rope.type, RopeType::kDefault);
  EXPECT_EQ(tiny.rope.theta, 10000.0);
  EXPECT_EQ(tiny.rms_norm_eps, 1e-5);
  EXPECT_EQ(tiny.max_positions, 2048);
}

TEST(ModelConfig, HasTheDefaultsOfTransformers) {
  const ModelConfig config = parse(config_json());
  EXPECT_EQ(config.n_kv_heads, 4);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_EQ(config.rope.theta, 10000.0);
  EXPECT_FALSE(config.tied_embeddings);
  EXPECT_EQ(config.window(3), 0);
  EXPECT_FALSE(config.bos_token_id.has_value());
  EXPECT_TRUE(config.eos_token_ids.empty());
  EXPECT_EQ(parse(config_json({{"head_dim", nullptr}}, "qwen3")).head_dim, 16);
  EXPECT_EQ(parse(config_json(json::object(), "qwen3")).head_dim, 128);
}

TEST(ModelConfig, ReadsBothRopeFormsAlike) {
  const json scaling = {{"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 8192}};
  json earlier = scaling;
  earlier["rope_type"] = "llama3";
  json later = earlier;
  later["rope_theta"] = 5e5;
  for (const json& changes :
       {json{{"rope_theta", 5e5}, {"rope_scaling", earlier}}, json{{"rope_parameters", later}}}) {
    const RopeConfig rope = parse(config_json(changes)).rope;
    EXPECT_EQ(rope.type, RopeType::kLlama3);
    EXPECT_EQ(rope.theta, 5e5);
    EXPECT_EQ(rope.factor, 8.0);
    EXPECT_EQ(rope.low_freq_factor, 1.0);
    EXPECT_EQ(rope.high_freq_factor, 4.0);
    EXPECT_EQ(rope.original_max_positions, 8192.0);
  }
  const auto rope_of = [](const json& value) {
    return parse(config_json({{"rope_scaling", value}, {"rope_theta", 7}})).rope;
  };
  EXPECT_EQ(rope_of(nullptr).type, RopeType::kDefault);
  EXPECT_EQ(rope_of({{"rope_type", "default"}}).type, RopeType::kDefault);
  EXPECT_EQ(rope_of({{"rope_type", "default"}}).theta, 7.0);
  EXPECT_EQ(rope_of({{"type", "linear"}, {"factor", 2}}).type, RopeType::kLinear);
  EXPECT_EQ(rope_of({{"type", "linear"}, {"factor", 2}}).factor, 2.0);
}

TEST(ModelConfig, RejectsOtherRopeTypesListingTheSupportedOnes) {
  for (const char* type : {"yarn", "dynamic", "longrope", "mrope", "su"}) {
    for (const char* key : {"type", "rope_type"}) {
      expect_rejected(ErrorCode::kUnsupported, {{"rope_scaling", {{key, type}, {"factor", 2.0}}}},
                      "supported are default, linear, llama3");
      expect_rejected(ErrorCode::kUnsupported, {{"rope_parameters", {{key, type}}}},
                      fmt::format("m/config.json: rope_parameters: rope type \"{}\"", type));
    }
  }
  expect_rejected(ErrorCode::kUnsupported,
                  {{"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}},
                  "set by \"full_attention\"");
  expect_rejected(ErrorCode::kUnsupported, {{"partial_rotary_factor", 0.5}},
                  "partial_rotary_factor 0.5 is not supported");
}

TEST(ModelConfig, RejectsRopeFieldsOutOfRange) {
  const auto reject = [](const json& scaling, const std::string& part) {
    expect_rejected(ErrorCode::kCorrupt, {{"rope_scaling", scaling}}, part);
  };
  reject({{"type", "linear"}}, "rope_scaling: factor is missing");
  reject({{"type", "linear"}, {"factor", 0.5}}, "factor is 0.5, expected a number from 1");
  reject({{"type", "linear"}, {"factor", "2"}}, "factor is \"2\"");
  reject({{"factor", 2.0}}, "rope_type is missing");
  reject({{"type", 3}}, "type is 3, expected a string");
  reject(7, "rope_scaling is 7, expected an object");
  reject({{"rope_type", "llama3"}, {"factor", 8.0}}, "low_freq_factor is missing");
  reject({{"rope_type", "llama3"},
          {"factor", 8.0},
          {"low_freq_factor", 4.0},
          {"high_freq_factor", 4.0},
          {"original_max_position_embeddings", 64}},
         "high_freq_factor is 4, expected more than low_freq_factor 4");
  expect_rejected(ErrorCode::kCorrupt, {{"rope_theta", 0}}, "rope_theta is 0");
}

TEST(ModelConfig, KnowsTheArchitectureByClassOrModelType) {
  EXPECT_EQ(parse(config_json({{"architectures", nullptr}}, "qwen3")).architecture,
            "Qwen3ForCausalLM");
  EXPECT_EQ(parse(config_json({{"architectures", json::array()}}, "mistral")).architecture,
            "MistralForCausalLM");
  EXPECT_EQ(parse(config_json({{"model_type", nullptr}})).model_type, "llama");
  const std::string classes =
      "supported are LlamaForCausalLM, MistralForCausalLM, Phi3ForCausalLM, Qwen2ForCausalLM, "
      "Qwen3ForCausalLM";
  expect_rejected(ErrorCode::kUnsupported, {{"architectures", {"BloomForCausalLM"}}},
                  "architecture \"BloomForCausalLM\" is not supported; " + classes);
  expect_rejected(
      ErrorCode::kUnsupported, {{"architectures", nullptr}, {"model_type", "gemma"}},
      "model_type \"gemma\" is not supported; supported are llama, mistral, phi3, qwen2");
  expect_rejected(ErrorCode::kCorrupt, {{"architectures", nullptr}, {"model_type", nullptr}},
                  "architectures and model_type are missing");
  expect_rejected(ErrorCode::kCorrupt, {{"model_type", "mistral"}},
                  "model_type is \"mistral\", expected \"llama\"");
  expect_rejected(ErrorCode::kCorrupt, {{"architectures", {7}}}, "expected a list of class names");
}

TEST(ModelConfig, NamesAMissingOrBadField) {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "vocab_size", "max_position_embeddings"}) {
    expect_rejected(ErrorCode::kCorrupt, {{key, nullptr}}, fmt::format("{} is missing", key));
    for (const json& bad : {json(0), json(-1), json(1.5), json("64"), json(true), json(INT64_MAX),
                            json(UINT64_MAX), json::array(), json::object()}) {
      expect_rejected(ErrorCode::kCorrupt, {{key, bad}}, fmt::format("m/config.json: {} is ", key));
    }
  }
  expect_rejected(ErrorCode::kCorrupt, {{"num_key_value_heads", 3}}, "expected a multiple of");
  expect_rejected(ErrorCode::kCorrupt, {{"num_key_value_heads", 8}}, "expected a multiple of");
  expect_rejected(ErrorCode::kCorrupt, {{"num_attention_heads", 3}}, "hidden_size is 64");
  expect_rejected(ErrorCode::kCorrupt, {{"head_dim", 15}}, "head_dim is 15, expected an even");
  expect_rejected(ErrorCode::kCorrupt, {{"tie_word_embeddings", 1}}, "expected true or false");
  expect_rejected(ErrorCode::kCorrupt, {{"rms_norm_eps", -1e-6}}, "rms_norm_eps is ");
  expect_rejected(ErrorCode::kUnsupported, {{"hidden_act", "gelu"}},
                  "hidden_act \"gelu\" is not supported; supported are silu, swish");
  expect_error(ErrorCode::kCorrupt, "m/config.json: not valid JSON",
               [] { parse_model_config("{", "", "m"); });
}

TEST(ModelConfig, ReadsTheWindowOfMistral) {
  EXPECT_EQ(parse(config_json({{"sliding_window", 32}}, "mistral")).window(0), 32);
  EXPECT_EQ(parse(config_json({{"sliding_window", nullptr}}, "mistral")).window(0), 0);
  EXPECT_EQ(parse(config_json(json::object(), "mistral")).window(0), 4096);
  EXPECT_EQ(parse(config_json({{"sliding_window", 32}})).window(0), 0);  // Llama has none
  expect_rejected(ErrorCode::kCorrupt, {{"sliding_window", 0}}, "sliding_window is 0", "mistral");
}

TEST(ModelConfig, ReadsTheWindowsOfQwenPerLayer) {
  const auto windows = [](const json& changes) {
    const ModelConfig config = parse(config_json(changes, "qwen2"));
    std::vector<int64_t> out;
    for (int64_t i = 0; i < config.n_layers; ++i) out.push_back(config.window(i));
    return out;
  };
  using Windows = std::vector<int64_t>;
  const json on = {{"use_sliding_window", true}, {"sliding_window", 8}, {"max_window_layers", 3}};
  EXPECT_EQ(windows(on), (Windows{0, 0, 0, 8}));
  json off = on;
  off["use_sliding_window"] = false;
  EXPECT_EQ(windows(off), (Windows{0, 0, 0, 0}));
  json mixed = on;
  mixed["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention",
                          "full_attention"};
  EXPECT_EQ(windows(mixed), (Windows{8, 0, 8, 0}));

  json bad = mixed;
  bad["use_sliding_window"] = false;
  expect_rejected(ErrorCode::kCorrupt, bad, "layer 0 is sliding_attention, but no", "qwen2");
  bad["layer_types"] = {"full_attention"};
  expect_rejected(ErrorCode::kCorrupt, bad, "layer_types has 1 entries", "qwen2");
  bad["layer_types"] = {"full_attention", "full_attention", "full_attention", "linear_attention"};
  expect_rejected(ErrorCode::kUnsupported, bad, "layer type \"linear_attention\"", "qwen2");
}

TEST(ModelConfig, TakesTheEndTokensOfTheGenerationConfigFirst) {
  const json config = config_json({{"eos_token_id", {2, 3}}, {"bos_token_id", 1}});
  using Ids = std::vector<int64_t>;
  EXPECT_EQ(parse(config).eos_token_ids, (Ids{2, 3}));
  EXPECT_EQ(parse(config, R"({"eos_token_id": [7, 9]})").eos_token_ids, (Ids{7, 9}));
  EXPECT_EQ(parse(config, R"({"eos_token_id": 7})").eos_token_ids, (Ids{7}));
  EXPECT_EQ(parse(config, R"({"eos_token_id": null})").eos_token_ids, (Ids{2, 3}));
  EXPECT_EQ(parse(config).bos_token_id, 1);
  expect_error(ErrorCode::kCorrupt, "m/generation_config.json: eos_token_id is -1",
               [&] { parse(config, R"({"eos_token_id": -1})"); });
  expect_error(ErrorCode::kCorrupt, "m/generation_config.json: not valid JSON",
               [&] { parse(config, "x"); });
}

TEST(ModelConfig, ReadsADirectoryWithoutGenerationConfig) {
  const test::TempDir dir;
  expect_error(ErrorCode::kNotFound, "config.json: no such file",
               [&] { read_model_config(dir.path()); });
  write_file_atomically(dir / "config.json", config_json({{"eos_token_id", 5}}).dump());
  EXPECT_EQ(read_model_config(dir.path()).eos_token_ids, std::vector<int64_t>{5});
  write_file_atomically(dir / "generation_config.json", "");
  expect_error(ErrorCode::kCorrupt, "the file is empty", [&] { read_model_config(dir.path()); });
}

TEST(ExpectedTensors, ComeInTheOrderOfTheForwardPassWithAllBiases) {
  const ModelConfig config = parse(config_json({{"attention_bias", true},
                                                {"mlp_bias", true},
                                                {"num_key_value_heads", 2},
                                                {"num_hidden_layers", 1}}));
  std::vector<std::string> names;
  for (const ExpectedTensor& tensor : expected_tensors(config)) names.push_back(tensor.name);
  const std::string attn = "model.layers.0.self_attn.";
  const std::string mlp = "model.layers.0.mlp.";
  const std::vector<std::string> expected{"model.embed_tokens.weight",
                                          "model.layers.0.input_layernorm.weight",
                                          attn + "q_proj.weight",
                                          attn + "q_proj.bias",
                                          attn + "k_proj.weight",
                                          attn + "k_proj.bias",
                                          attn + "v_proj.weight",
                                          attn + "v_proj.bias",
                                          attn + "o_proj.weight",
                                          attn + "o_proj.bias",
                                          "model.layers.0.post_attention_layernorm.weight",
                                          mlp + "gate_proj.weight",
                                          mlp + "gate_proj.bias",
                                          mlp + "up_proj.weight",
                                          mlp + "up_proj.bias",
                                          mlp + "down_proj.weight",
                                          mlp + "down_proj.bias",
                                          "model.norm.weight",
                                          "lm_head.weight"};
  EXPECT_EQ(names, expected);
  const auto tensors = expected_tensors(config);
  EXPECT_EQ(tensors[4].shape, (std::vector<int64_t>{32, 64}));
  EXPECT_EQ(tensors[4].kind, ExpectedTensor::Kind::kProjection);
  EXPECT_EQ(tensors[4].layer, 0);
  EXPECT_EQ(tensors.back().kind, ExpectedTensor::Kind::kHead);
  EXPECT_EQ(tensors.back().layer, -1);
}

}  // namespace
}  // namespace deltacome
