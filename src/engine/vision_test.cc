// SPDX-License-Identifier: Apache-2.0
// Requests with pictures: a small vision-language base (32 x 32 pixels, 16 features a picture).
#include <gtest/gtest.h>

#include "backend/backend.h"
#include "delta/load_variant.h"
#include "deltacome/engine.h"
#include "engine/test_support.h"
#include "engine/vision_assets.h"
#include "model/generate.h"
#include "model/pictures.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

namespace fs = std::filesystem;

constexpr int32_t kImageToken = 300;

fs::path llava() {
  return fs::path(DELTACOME_SOURCE_DIR) / "tests/data/goldens/llava";
}

std::string image_file(const std::string& name) {
  return read_text_file(fs::path(DELTACOME_SOURCE_DIR) / "tests/data/images" / name);
}

EngineOptions options(int64_t step_tokens = 64) {
  return {.base = llava(),
          .n_threads = 2,
          .kv_cache_bytes = 16 << 20,
          .max_sequences = 8,
          .step_tokens = step_tokens};
}

/// A prompt that shows n_images among other tokens.
std::vector<int32_t> prompt_with(int64_t n_images, uint32_t seed) {
  std::vector<int32_t> prompt = testing::random_prompt(20, seed, 299);
  for (int64_t i = 0; i < n_images; ++i) prompt.insert(prompt.begin() + 3 + 5 * i, kImageToken);
  return prompt;
}

EngineRequest asking(std::vector<std::string> images, uint32_t seed = 1) {
  EngineRequest r{.prompt = prompt_with(static_cast<int64_t>(images.size()), seed),
                  .images = std::move(images),
                  .max_tokens = 12,
                  .ignore_eos = true};
  r.sampling.temperature = 0;
  return r;
}

/// What the model says without an engine.
std::vector<int32_t> alone(const EngineRequest& request, const fs::path& variant = {}) {
  const Checkpoint checkpoint = Checkpoint::open(llava());
  ModelConfig config = read_model_config(llava());
  const auto backend = create_cpu_backend(2);
  const auto stream = backend->create_stream();
  const Model model(*backend, checkpoint, config);
  GenerationRequest plain;
  PictureReader pictures = PictureReader::open(*backend, checkpoint, config, llava());
  if (!variant.empty()) {
    OpenedVariant opened = open_variant(*backend, *stream, variant, checkpoint, config);
    plain.variant = {opened.device, opened.config.vocab_size};
    pictures = PictureReader::open(*backend, opened.vision, opened.config, opened.vision_directory);
  }
  plain.given = pictures.features(*backend, *stream, request.images);
  plain.prompt = place_pictures(expand_image_tokens(request.prompt, *config.vision), *config.vision,
                                static_cast<int64_t>(request.images.size()));
  plain.max_tokens = request.max_tokens;
  return generate(model, *stream, {&plain, 1})[0].tokens;
}

TEST(EngineVision, GivesTheTokensOfThePlainGeneratorForAnyChunks) {
  const EngineRequest one = asking({image_file("wide.png")});
  const EngineRequest other = asking({image_file("tall.jpg")});
  const EngineRequest two = asking({image_file("wide.png"), image_file("lossless.webp")}, 2);
  ASSERT_NE(alone(one), alone(other)) << "the picture does not matter";
  for (const int64_t step_tokens : {8, 13, 64}) {
    Engine engine(options(step_tokens));
    testing::Collector first, second, third;
    engine.submit(one, first.handler());
    engine.submit(other, second.handler());
    engine.submit(two, third.handler());
    EXPECT_EQ(testing::tokens_of(first.wait()), alone(one));
    EXPECT_EQ(testing::tokens_of(second.wait()), alone(other));
    EXPECT_EQ(testing::tokens_of(third.wait()), alone(two));
    EXPECT_EQ(first.wait().back().prompt_tokens, 20 + 16);
    EXPECT_EQ(third.wait().back().prompt_tokens, 20 + 2 * 16);
  }
}

TEST(EngineVision, PrefixesAreSharedByEqualPicturesOnly) {
  Engine engine(options());
  const auto cached = [&](const std::string& file) {
    return engine.generate(asking({image_file(file)}))[0].events.back().cached_tokens;
  };
  EXPECT_EQ(cached("wide.png"), 0);
  EXPECT_EQ(cached("wide.png"), 32);
  EXPECT_EQ(cached("tall.jpg"), 0);
  EXPECT_EQ(cached("lossless.webp"), 32);  // the same pixels in another format
  EXPECT_EQ(engine.generate(asking({image_file("wide.png")}))[0].tokens,
            alone(asking({image_file("wide.png")})));
}

TEST(EngineVision, AnswersOfOneRequestShareItsPictures) {
  Engine engine(options());
  EngineRequest r = asking({image_file("wide.png")});
  r.n = 3;
  for (const Answer& answer : engine.generate(r)) EXPECT_EQ(answer.tokens, alone(r));
}

TEST(EngineVision, AVariantWithoutATowerOfItsOwnSeesWithTheBases) {
  const test::TempDir directory;
  testing::write_archive(directory / "v", 7, llava());
  Engine engine(options());
  engine.load("v", directory / "v");
  EngineRequest r = asking({image_file("wide.png")});
  const std::vector<int32_t> of_base = alone(r);
  r.variant = "v";
  EXPECT_EQ(engine.generate(r)[0].tokens, alone(r, directory / "v"));
  EXPECT_NE(engine.generate(r)[0].tokens, of_base);
}

TEST(EngineVision, WhatCannotBeSeenIsRefusedAtOnce) {
  Engine engine(options());
  const auto refused = [&](ErrorCode code, const std::string& part, EngineRequest r) {
    test::expect_error(code, part, [&] { engine.submit(std::move(r), {}); });
  };
  EngineRequest fewer = asking({image_file("wide.png")});
  fewer.images.push_back(image_file("tall.jpg"));
  refused(ErrorCode::kInvalidArgument, "the prompt has 1 image tokens (id 300), expected 32 for 2",
          fewer);
  refused(ErrorCode::kCorrupt, "PNG picture", asking({image_file("wide.png").substr(0, 100)}));
  refused(ErrorCode::kUnsupported, "none of PNG, JPEG, WebP", asking({"text"}));
  EngineRequest long_one = asking({image_file("wide.png")});
  long_one.prompt.resize(500, 5);
  refused(ErrorCode::kInvalidArgument, "the prompt has 515 tokens", long_one);
  EngineRequest unknown = asking({image_file("wide.png")});
  unknown.variant = "nobody";
  refused(ErrorCode::kNotFound, "there is no variant \"nobody\"", unknown);

  EngineOptions text_only = options();
  text_only.base = testing::tiny_base();
  Engine blind(text_only);
  test::expect_error(ErrorCode::kInvalidArgument, "the base takes no pictures",
                     [&] { blind.submit(asking({image_file("wide.png")}), {}); });
}

TEST(VisionCache, EqualWeightsAreOneTowerAndGoWithTheirLastVariant) {
  const ModelConfig config = read_model_config(llava());
  const Checkpoint one = Checkpoint::open(llava()), again = Checkpoint::open(llava());
  std::map<std::string, HostTensor> changed = one.tensors();
  HostTensor& bias = changed.at("multi_modal_projector.linear_1.bias");
  bias = HostTensor::of(DType::kF32, bias.shape, std::vector<float>(64, 0.5F));
  VisionCache cache;
  const auto a = cache.share(one, config), b = cache.share(again, config);
  auto c = cache.share(Checkpoint::of(changed, "changed"), config);
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
  ModelConfig other = config;
  other.vision->class_feature = true;
  EXPECT_NE(cache.share(one, other), a);

  const auto backend = create_cpu_backend(1);
  Towers towers(*backend);
  const auto tower = towers.of(a);
  EXPECT_EQ(towers.of(b), tower);
  std::weak_ptr<const VisionTower> of_c = towers.of(c);
  EXPECT_FALSE(of_c.expired());
  c.reset();
  EXPECT_EQ(towers.of(a), tower);
  EXPECT_TRUE(of_c.expired());
  changed.erase("vision_tower.pre_layrnorm.bias");
  test::expect_error(ErrorCode::kNotFound, "vision_tower.pre_layrnorm.bias",
                     [&] { cache.share(Checkpoint::of(changed, "less"), config); });
}

}  // namespace
}  // namespace deltacome
