// SPDX-License-Identifier: Apache-2.0
#include "io/peft_adapter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "deltacome/archive.h"
#include "io/peft_config.h"
#include "quant/codes.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

namespace fs = std::filesystem;
using test::expect_error;

constexpr const char* kQ = "model.layers.0.self_attn.q_proj";
constexpr const char* kDown = "model.layers.0.mlp.down_proj";

PeftConfig parse(const std::string& fields) {
  return PeftConfig::parse("{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4" + fields + "}", "c");
}

TEST(PeftConfig, ScaleIsAlphaOverRankOrItsRoot) {
  EXPECT_EQ(parse("").rank(kQ), 2);
  EXPECT_DOUBLE_EQ(parse("").scale(kQ), 2);
  EXPECT_DOUBLE_EQ(parse(",\"use_rslora\":true").scale(kQ), 4 / std::sqrt(2.0));
}

TEST(PeftConfig, PatternsAreNamesEndsOrExpressionsAndTheFirstCounts) {
  const PeftConfig config = parse(
      R"(,"rank_pattern":{"q_proj":8,"model.layers.0.mlp.down_proj":16,"layers\\.[12]\\..*":32},
          "alpha_pattern":{"self_attn.q_proj":1.5,"q_proj":3,"roj":7})");
  EXPECT_EQ(config.rank(kQ), 8);
  EXPECT_EQ(config.rank(kDown), 16);
  EXPECT_EQ(config.rank("model.layers.2.mlp.up_proj"), 32);
  EXPECT_EQ(config.rank("model.layers.3.mlp.up_proj"), 2);
  EXPECT_EQ(config.rank("q_proj"), 8);
  EXPECT_DOUBLE_EQ(config.scale(kQ), 1.5 / 8);      // before "q_proj", which matches too
  EXPECT_DOUBLE_EQ(config.scale(kDown), 4.0 / 16);  // "roj" does not begin behind a dot
  EXPECT_DOUBLE_EQ(parse(R"(,"alpha_pattern":{"z":5,"_proj":1,".*_proj":6,"q_proj":7})").scale(kQ),
                   3);  // in the order of the file, not of the alphabet
}

TEST(PeftConfig, RefusesWhatIsNotPlainLoraByField) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {R"("use_dora":true)", "DoRA"},
      {R"("fan_in_fan_out":true)", "fan_in_fan_out is true"},
      {R"("bias":"all")", "bias is \"all\", expected \"none\""},
      {R"("lora_bias":true)", "lora_bias"},
      {R"("trainable_token_indices":[1])", "trainable_token_indices"},
      {R"("layer_replication":[[0,4],[2,5]])", "layer_replication"},
      {R"("use_qalora":true)", "use_qalora"},
      {R"("alora_invocation_tokens":[1])", "aLoRA"},
      {R"("target_parameters":["w"])", "target_parameters"},
      {R"("init_lora_weights":"pissa_niter_4")", "init_lora_weights is \"pissa_niter_4\""}};
  for (const auto& [field, says] : cases)
    expect_error(ErrorCode::kUnsupported, says, [&, f = field] { parse("," + f); });
  expect_error(ErrorCode::kUnsupported, "peft_type is \"IA3\", expected \"LORA\"",
               [] { PeftConfig::parse(R"({"peft_type":"IA3"})", "c"); });
  parse(R"(,"modules_to_save":null,"use_dora":false,"bias":"none","layer_replication":[],
           "init_lora_weights":true)");
  parse(R"(,"modules_to_save":[],"init_lora_weights":"gaussian","loftq_config":{"a":1})");
}

TEST(PeftConfig, RefusesFieldsThatMakeNoSense) {
  const auto whole = [](const char* text) { return [text] { PeftConfig::parse(text, "c"); }; };
  expect_error(ErrorCode::kCorrupt, "c: r is missing", whole(R"({"peft_type":"LORA"})"));
  expect_error(ErrorCode::kCorrupt, "c: lora_alpha is \"x\"",
               whole(R"({"peft_type":"LORA","r":1,"lora_alpha":"x"})"));
  expect_error(ErrorCode::kCorrupt, "not valid JSON", whole("{"));
  expect_error(ErrorCode::kCorrupt, "rank_pattern: q is 0",
               [] { parse(R"(,"rank_pattern":{"q":0})"); });
  expect_error(ErrorCode::kCorrupt, "alpha_pattern is 3", [] { parse(R"(,"alpha_pattern":3)"); });
  for (const char* names : {"3", "[1]", "[\"\"]", "\"lm_head\""}) {
    expect_error(ErrorCode::kCorrupt, "modules_to_save is",
                 [&] { parse(R"(,"modules_to_save":)" + std::string(names)); });
  }
  expect_error(ErrorCode::kCorrupt, "regular expression",
               [] { parse(R"(,"rank_pattern":{"(q":1})"); });
  expect_error(ErrorCode::kCorrupt, "backtracks", [] {
    parse(R"(,"rank_pattern":{"(a+)+$":1})").rank("model." + std::string(60, 'a') + "b");
  });
}

TEST(PeftConfig, ModulesToSaveAreEndsOfNamesWithAllThatIsInside) {
  const PeftConfig config = parse(R"(,"modules_to_save":["lm_head","layers.1.mlp"])");
  EXPECT_TRUE(config.is_saved_whole("lm_head"));
  EXPECT_TRUE(config.is_saved_whole("model.layers.1.mlp.down_proj"));
  EXPECT_FALSE(config.is_saved_whole("model.layers.2.mlp.down_proj"));
  EXPECT_FALSE(config.is_saved_whole("model.embed_tokens"));
  EXPECT_FALSE(parse("").is_saved_whole("lm_head"));
}

/// A matrix of a test: the stored values are i-th = first + step * i.
struct Stored {
  std::string name;
  Shape shape;
  DType dtype = DType::kF32;
  float first = 0.5f, step = 0.25f;

  std::vector<float> values() const {
    std::vector<float> out;
    for (int64_t i = 0; i < element_count(shape); ++i)
      out.push_back(first + step * static_cast<float>(i % 13));
    return out;
  }
};

std::string name_of(const std::string& module, const char* part) {
  return "base_model.model." + module + "." + part;
}

/// q_proj [6, 4] of rank 2 and down_proj [4, 5] of rank 1, and a base that they fit.
class PeftAdapterTest : public testing::Test {
 protected:
  PeftAdapter open() {
    fs::create_directories(path_);
    write_file_atomically(path_ / "adapter_config.json", config_);
    std::vector<TensorSpec> specs;
    for (const Stored& s : tensors_) specs.push_back({s.name, s.dtype, s.shape});
    SafetensorsWriter writer(path_ / "adapter_model.safetensors", specs);
    for (const Stored& s : tensors_) {
      const std::vector<float> values = s.values();
      const auto width = static_cast<size_t>(dtype_bytes(s.dtype));
      std::vector<std::byte> bytes(width * values.size());
      if (is_floating(s.dtype)) convert_from_float(values, s.dtype, bytes.data());
      writer.append(bytes);
    }
    writer.finish();
    return PeftAdapter::open(path_);
  }
  void refused(ErrorCode code, const std::string& says) {
    expect_error(code, says, [&] { open().encode(base_); });
  }
  void add(const std::string& name) { tensors_.push_back({.name = name, .shape = {2}}); }

  const test::TempDir directory_;
  const fs::path path_ = directory_.path() / "adapter";
  std::string config_ =
      R"({"peft_type":"LORA","r":2,"lora_alpha":4,"rank_pattern":{"down_proj":1},
          "base_model_name_or_path":"some/base"})";
  std::vector<Stored> tensors_{{.name = name_of(kQ, "lora_A.weight"), .shape = {2, 4}},
                               {.name = name_of(kQ, "lora_B.weight"), .shape = {6, 2}},
                               {.name = name_of(kDown, "lora_A.weight"), .shape = {1, 5}},
                               {.name = name_of(kDown, "lora_B.weight"), .shape = {4, 1}}};
  std::vector<ExpectedTensor> base_{{.name = "model.embed_tokens.weight",
                                     .shape = {9, 4},
                                     .kind = ExpectedTensor::Kind::kEmbedding},
                                    {.name = std::string(kQ) + ".weight",
                                     .shape = {6, 4},
                                     .kind = ExpectedTensor::Kind::kProjection},
                                    {.name = std::string(kDown) + ".weight",
                                     .shape = {4, 5},
                                     .kind = ExpectedTensor::Kind::kProjection}};
};

/// Element (i, j) of what a coded tensor stands for.
double element(const DecodedDelta& d, int64_t rank, int64_t n_in, int64_t i, int64_t j) {
  double sum = 0;
  for (int64_t k = 0; k < rank; ++k) {
    const auto u = static_cast<size_t>(i * rank + k), v = static_cast<size_t>(k * n_in + j);
    sum += double{d.u[u]} * double{d.s[static_cast<size_t>(k)]} * double{d.v[v]};
  }
  return sum;
}

/// The greatest difference between the coded q_proj and scale * B A of the stored values, relative
/// to sum |b a|.
double worst_error(const std::vector<Stored>& stored, const CodedTensor& coded, double scale) {
  const Stored &of_a = stored[0], &of_b = stored[1];
  const auto rounded = [](const Stored& s) {
    std::vector<float> out(s.values().size());
    std::vector<std::byte> bytes(out.size() * static_cast<size_t>(dtype_bytes(s.dtype)));
    convert_from_float(s.values(), s.dtype, bytes.data());
    convert_to_float(bytes.data(), s.dtype, out);
    return out;
  };
  const std::vector<float> a = rounded(of_a), b = rounded(of_b);
  const int64_t rank = of_a.shape[0], n_in = of_a.shape[1];
  const DecodedDelta decoded = decode_delta(coded.format, coded.blob);
  double worst = 0;
  for (int64_t i = 0; i < of_b.shape[0]; ++i) {
    for (int64_t j = 0; j < n_in; ++j) {
      double want = 0, magnitude = 0;
      for (int64_t k = 0; k < rank; ++k) {
        const double product = scale * double{b[static_cast<size_t>(i * rank + k)]} *
                               double{a[static_cast<size_t>(k * n_in + j)]};
        want += product;
        magnitude += std::abs(product);
      }
      const double got = element(decoded, rank, n_in, i, j);
      if (magnitude > 0) worst = std::max(worst, std::abs(got - want) / magnitude);
    }
  }
  return worst;
}

TEST_F(PeftAdapterTest, EncodesInTheBasesOrderAsOneTierOf16Bits) {
  const PeftAdapter adapter = open();
  EXPECT_TRUE(is_peft_adapter(path_));
  EXPECT_FALSE(is_peft_adapter(directory_.path()));
  EXPECT_EQ(adapter.base_name(), "some/base");
  const std::vector<CodedTensor> coded = adapter.encode(base_);
  ASSERT_EQ(coded.size(), 2u);
  EXPECT_EQ(coded[0].name, std::string(kQ) + ".weight");
  EXPECT_EQ(coded[0].format.shape, (Shape{6, 4}));
  EXPECT_EQ(coded[0].format.tiers, (std::vector<TierFormat>{{.rank = 2, .v = {}, .u = {}}}));
  EXPECT_EQ(coded[1].format.rank(), 1);
  for (const CodedTensor& tensor : coded) validate(tensor.format, tensor.name);
  EXPECT_EQ(worst_error(tensors_, coded[0], 2), 0);  // short values, and s holds 2 exactly
}

TEST_F(PeftAdapterTest, Bf16AndF16StayExactAtAnyMagnitude) {
  // 1e-30 and 1e30 are far outside of fp16; their product is not.
  for (const auto& [dtype, of_a, of_b] : {std::tuple{DType::kBf16, 1e-30f, 3e29f},
                                          {DType::kBf16, 7e30f, 1e-31f},
                                          {DType::kF16, 6e-8f, 1e-3f},
                                          {DType::kF16, 5e4f, 1e-5f}}) {
    tensors_[0] = {.name = tensors_[0].name,
                   .shape = {2, 4},
                   .dtype = dtype,
                   .first = of_a,
                   .step = of_a / 64};
    tensors_[1] = {.name = tensors_[1].name,
                   .shape = {6, 2},
                   .dtype = dtype,
                   .first = of_b,
                   .step = -of_b / 4};
    EXPECT_EQ(worst_error(tensors_, open().encode(base_)[0], 2), 0) << of_a << " " << of_b;
  }
}

TEST_F(PeftAdapterTest, ASmallValueBesideALargeOneKeepsItsBits) {
  // 2^-20 and 2: 21 binary orders apart, 7 more than fp16 has below 1.
  const float small = std::ldexp(1.0f + 1.0f / 128, -20);
  tensors_[0] = {.name = tensors_[0].name,
                 .shape = {2, 4},
                 .dtype = DType::kBf16,
                 .first = small,
                 .step = 1.0f};
  EXPECT_EQ(worst_error(tensors_, open().encode(base_)[0], 2), 0);
}

TEST_F(PeftAdapterTest, AScaleThatBf16CannotHoldGoesIntoU) {
  config_ = R"({"peft_type":"LORA","r":2,"lora_alpha":5.1,"rank_pattern":{"down_proj":1},
                "use_rslora":true})";
  // One rounding of each U to 11 bits, in double but for that.
  EXPECT_LE(worst_error(tensors_, open().encode(base_)[0], 5.1 / std::sqrt(2.0)),
            std::ldexp(1.0, -11) * 1.001);
}

TEST_F(PeftAdapterTest, ZeroFactorsGiveAZeroDelta) {
  tensors_[1].first = tensors_[1].step = 0;
  const CodedTensor coded = open().encode(base_)[0];
  const DecodedDelta decoded = decode_delta(coded.format, coded.blob);
  for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(element(decoded, 2, 4, i, 1), 0);
}

TEST_F(PeftAdapterTest, InspectSaysWhatIsKnownWithoutTheBase) {
  const PeftAdapter adapter = open();
  const ArchiveInfo info = inspect_archive(path_);
  EXPECT_EQ(info.method, "lora");
  EXPECT_EQ(info.finetuned_name, "adapter");
  EXPECT_EQ(info.finetuned_hash, adapter.content_hash());
  EXPECT_EQ(info.projection_bytes, 4 * (8 + 12 + 5 + 4));
  EXPECT_EQ(info.all_in_bytes, adapter.file_bytes());
  EXPECT_LT(info.bits_per_weight, 0);
  ASSERT_EQ(info.tensors.size(), 2u);
  EXPECT_EQ(info.tensors[0].kind, "down_proj");
  EXPECT_EQ(info.tensors[1].rank, 2);
  EXPECT_EQ(info.tensors[1].tiers[0].v_bits, 32);
  expect_error(ErrorCode::kUnsupported, "is a LoRA adapter", [&] { Archive::open(path_); });
}

constexpr const char* kEmbeddings = "base_model.model.model.embed_tokens.weight";
constexpr const char* kHead = "base_model.model.lm_head.weight";

void save_modules(std::string& config, const std::string& names) {
  config.insert(1, R"("modules_to_save":)" + names + ",");
}

TEST_F(PeftAdapterTest, ModulesToSaveReplaceTheBasesTensors) {
  const std::string norm = "model.layers.0.input_layernorm.weight";
  base_.push_back({.name = norm, .shape = {4}, .kind = ExpectedTensor::Kind::kNorm});
  base_.push_back({.name = "lm_head.weight", .shape = {9, 4}, .kind = ExpectedTensor::Kind::kHead});
  save_modules(config_, R"(["lm_head","input_layernorm"])");
  tensors_.push_back({.name = kHead, .shape = {9, 4}, .dtype = DType::kBf16});
  tensors_.push_back({.name = "base_model.model." + norm, .shape = {4}});
  const PeftAdapter adapter = open();
  ASSERT_EQ(adapter.wholes().size(), 2u);
  const std::vector<CodedTensor> coded = adapter.encode(base_);
  ASSERT_EQ(coded.size(), 4u);  // in the base's order
  EXPECT_EQ(coded[2].name, norm);
  EXPECT_EQ(coded[3].name, "lm_head.weight");
  EXPECT_EQ(coded[3].format.codec, Codec::kRaw);
  EXPECT_EQ(coded[3].format.raw_dtype, DType::kBf16);
  for (const CodedTensor& tensor : coded) validate(tensor.format, tensor.name);
  std::vector<float> values(36);
  convert_to_float(coded[3].blob.data(), DType::kBf16, values);
  EXPECT_EQ(values, tensors_[4].values());
  const ArchiveInfo info = inspect_archive(path_);
  ASSERT_EQ(info.tensors.size(), 4u);
  EXPECT_EQ(info.embedding_bytes, 9 * 4 * 2);
  EXPECT_EQ(info.other_bytes, 4 * 4);
}

TEST_F(PeftAdapterTest, TheHeadIsAdaptedAsAProjection) {
  base_[1].kind = ExpectedTensor::Kind::kHead;
  EXPECT_EQ(open().encode(base_)[0].format.rank(), 2);
}

TEST_F(PeftAdapterTest, FusedProjectionsAreTakenApartByRows) {
  const std::string layer = "model.layers.0.self_attn.";
  base_[1].shape = {3, 4};
  for (const char* name : {"k_proj.weight", "v_proj.weight"}) {
    base_.push_back(
        {.name = layer + name, .shape = {2, 4}, .kind = ExpectedTensor::Kind::kProjection});
  }
  for (Stored& s : tensors_) {
    if (const size_t at = s.name.find(".q_proj."); at != std::string::npos)
      s.name.replace(at, 8, ".qkv_proj.");
  }
  refused(ErrorCode::kMismatch, "lora_B.weight\" has shape [6, 2], expected [7, 2], the rows of");
  tensors_[1].shape = {7, 2};
  const std::vector<CodedTensor> coded = open().encode(base_);
  ASSERT_EQ(coded.size(), 4u);  // q, down, k, v
  const std::vector<float> a = tensors_[0].values(), b = tensors_[1].values();
  const auto expect_row = [&](const CodedTensor& tensor, int64_t i, size_t row) {
    const DecodedDelta decoded = decode_delta(tensor.format, tensor.blob);
    for (size_t j = 0; j < 4; ++j) {
      const double want = 2.0 * (b[2 * row] * a[j] + b[2 * row + 1] * a[4 + j]);
      EXPECT_DOUBLE_EQ(element(decoded, 2, 4, i, static_cast<int64_t>(j)), want) << tensor.name;
    }
  };
  expect_row(coded[0], 2, 2);
  EXPECT_EQ(coded[2].name, layer + "k_proj.weight");
  expect_row(coded[2], 0, 3);
  expect_row(coded[3], 1, 6);
}

TEST_F(PeftAdapterTest, EmbeddingsThatWereResizedAreReadWithoutBeingNamed) {
  tensors_.push_back({.name = kEmbeddings, .shape = {11, 4}});
  EXPECT_EQ(open().encode(base_)[0].format.shape, (Shape{11, 4}));
  tensors_.back().shape = {9, 5};
  refused(ErrorCode::kMismatch, "embed_tokens.weight\" has shape [9, 5], expected [9, 4]");
}

TEST_F(PeftAdapterTest, ATiedHeadMustBeTheEmbeddings) {
  const std::string alone = config_;
  save_modules(config_, R"(["embed_tokens"])");
  tensors_.push_back({.name = kEmbeddings, .shape = {9, 4}});
  refused(ErrorCode::kUnsupported, "embed_tokens.weight\" makes head and embeddings differ");
  config_.insert(1, R"("ensure_weight_tying":true,)");
  EXPECT_EQ(open().encode(base_).size(), 3u);
  config_ = alone;
  save_modules(config_, R"(["embed_tokens","lm_head"])");
  tensors_.push_back({.name = kHead, .shape = {9, 4}});
  EXPECT_EQ(open().encode(base_).size(), 3u);  // the same values: one tensor
  tensors_.back().first = 2;
  refused(ErrorCode::kUnsupported, "lm_head.weight\" makes head and embeddings differ");
}

TEST_F(PeftAdapterTest, RefusesModulesToSaveThatContradictTheTensors) {
  const std::string alone = config_;
  save_modules(config_, R"(["lm_head"])");
  refused(ErrorCode::kMismatch, "no tensor is of \"lm_head\", which modules_to_save");
  config_ = alone;
  save_modules(config_, R"(["score"])");
  tensors_.push_back({.name = "base_model.model.score.weight", .shape = {9, 4}});
  refused(ErrorCode::kMismatch, "replaces \"score.weight\", which the base does not have");
  config_ = alone;
  save_modules(config_, R"(["q_proj"])");
  tensors_.back() = {.name = name_of(kQ, "weight"), .shape = {6, 4}};
  refused(ErrorCode::kMismatch, "is stored whole, but base_model.model.");
  tensors_.erase(tensors_.begin(), tensors_.begin() + 2);
  EXPECT_EQ(open().encode(base_)[0].format.codec, Codec::kRaw);
  tensors_.back().first = std::numeric_limits<float>::infinity();
  refused(ErrorCode::kCorrupt, "q_proj.weight\" holds inf");
}

TEST_F(PeftAdapterTest, NamesOfModelsThatSeePicturesAreTheirLanguageModels) {
  for (Stored& s : tensors_)
    s.name.replace(0, std::string("base_model.model.model.").size(),
                   "base_model.model.model.language_model.");
  EXPECT_EQ(open().encode(base_)[0].name, std::string(kQ) + ".weight");
}

TEST_F(PeftAdapterTest, RefusesOtherTensorsByName) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {name_of(kQ, "lora_magnitude_vector"), "DoRA"},
      {name_of("model.embed_tokens", "lora_embedding_A"), "embeddings"},
      {name_of(kQ, "lora_B.bias"), "biases"},
      {name_of(kQ, "weight"), "modules_to_save does not name it"},
      {std::string(kQ) + ".lora_A.weight", "modules_to_save does not name it"}};
  for (const auto& [name, says] : cases) {
    add(name);
    refused(ErrorCode::kUnsupported, name + "\" [2]");
    refused(ErrorCode::kUnsupported, says);
    tensors_.pop_back();
  }
}

TEST_F(PeftAdapterTest, RefusesHalfAPair) {
  const Stored b = tensors_[1];
  tensors_.erase(tensors_.begin() + 1);
  refused(ErrorCode::kMismatch, "q_proj.lora_B.weight\" is missing");
  tensors_[0] = b;
  refused(ErrorCode::kMismatch, "q_proj.lora_A.weight\" is missing");
  tensors_.clear();
  refused(ErrorCode::kCorrupt, "holds no tensors");
}

TEST_F(PeftAdapterTest, RefusesShapesThatContradictTheConfigurationOrEachOther) {
  tensors_[0].shape = {3, 4};
  refused(ErrorCode::kMismatch,
          "lora_A.weight\" has shape [3, 4], expected [2, 4] by adapter_config.json");
  tensors_[0].shape = {2, 4};
  tensors_[1].shape = {6, 3};
  refused(ErrorCode::kMismatch, "lora_B.weight\" has shape [6, 3], expected [6, 2]");
  tensors_[1].shape = {12};
  refused(ErrorCode::kCorrupt, "has shape [12], expected a matrix");
}

TEST_F(PeftAdapterTest, RefusesWhatDoesNotFitTheBase) {
  tensors_[0].shape = {2, 5};
  refused(ErrorCode::kMismatch, "lora_A.weight\" has shape [2, 5], expected [2, 4]");
  tensors_[0].shape = {2, 4};
  tensors_[1].shape = {7, 2};
  refused(ErrorCode::kMismatch, "lora_B.weight\" has shape [7, 2], expected [6, 2]");
  tensors_[1].shape = {6, 2};
  base_[1].kind = ExpectedTensor::Kind::kNorm;
  refused(ErrorCode::kMismatch,
          "q_proj.weight\", which is neither a projection nor the head of the base");
  base_.erase(base_.begin() + 1);
  refused(ErrorCode::kMismatch,
          "q_proj.weight\", which is neither a projection nor the head of the base");
}

TEST_F(PeftAdapterTest, RefusesARankAboveTheMatrix) {
  config_ = R"({"peft_type":"LORA","r":5,"lora_alpha":4,"rank_pattern":{"down_proj":1}})";
  tensors_[0].shape = {5, 4};
  tensors_[1].shape = {6, 5};
  refused(ErrorCode::kUnsupported, "has rank 5, expected at most 4");
}

TEST_F(PeftAdapterTest, RefusesValuesThatAreNoNumbers) {
  tensors_[1].first = std::numeric_limits<float>::quiet_NaN();
  refused(ErrorCode::kCorrupt, "q_proj.lora_B.weight\" holds nan at row 0, column 0");
  tensors_[1].first = 0.5f;
  tensors_[2].first = -std::numeric_limits<float>::infinity();
  refused(ErrorCode::kCorrupt, "down_proj.lora_A.weight\" holds -inf");
  tensors_[2].first = tensors_[3].first = 3e38f;
  tensors_[2].step = tensors_[3].step = 0;
  refused(ErrorCode::kCorrupt, "beyond the range of float");
}

TEST_F(PeftAdapterTest, RefusesOtherTypes) {
  tensors_[0].dtype = DType::kI32;
  refused(ErrorCode::kUnsupported, "is I32, expected F32, F16 or BF16");
  tensors_[0].dtype = DType::kF64;
  refused(ErrorCode::kUnsupported, "is F64");
}

}  // namespace
}  // namespace deltacome
