// SPDX-License-Identifier: Apache-2.0
#include "image/preprocess.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "image/resize.h"
#include "image/test_support.h"
#include "io/safetensors.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

using test::decode;
using test::image_file;

/// Only the geometry: values stay those of the pixels.
ImagePreprocessing only_square(int64_t edge) {
  return {.shortest_edge = edge,
          .crop_height = edge,
          .crop_width = edge,
          .rescale = 1,
          .mean = {0, 0, 0},
          .std = {1, 1, 1}};
}

TEST(Preprocess, ResizingAndCroppingAreWithinALevelOfPillow) {
  for (const std::string name : {"wide.png", "tall.jpg"}) {
    for (const int64_t edge : {7, 32, 100}) {
      const std::string golden = name.substr(0, 4) + "_" + std::to_string(edge) + ".rgb";
      const Image want = test::read_rgb(golden);
      const std::vector<float> got = preprocess(decode(image_file(name)), only_square(edge));
      ASSERT_EQ(got.size(), want.rgb.size());
      float worst = 0;
      for (int64_t channel = 0; channel < 3; ++channel) {
        for (int64_t i = 0; i < edge * edge; ++i) {
          const float off = got[static_cast<size_t>(channel * edge * edge + i)] -
                            static_cast<float>(want.rgb[static_cast<size_t>(3 * i + channel)]);
          worst = std::max(worst, std::abs(off));
        }
      }
      EXPECT_LE(worst, 1) << golden;
      RecordProperty("levels_off_" + golden, std::to_string(worst));
    }
  }
}

TEST(Preprocess, OfItsOwnSizeAPictureIsOnlyRescaledAndNormalized) {
  Image image{3, 3, {}};
  for (int i = 0; i < 27; ++i) image.rgb.push_back(static_cast<uint8_t>(9 * i));
  ImagePreprocessing how;
  how.shortest_edge = how.crop_height = how.crop_width = 3;
  const std::vector<float> got = preprocess(image, how);
  for (size_t channel = 0; channel < 3; ++channel) {
    for (size_t i = 0; i < 9; ++i) {
      const double want =
          (image.rgb[3 * i + channel] / 255.0 - how.mean[channel]) / how.std[channel];
      EXPECT_NEAR(static_cast<double>(got[9 * channel + i]), want, 1e-6);
    }
  }
}

TEST(Preprocess, ACropThatIsLargerThanThePictureHasZerosAround) {
  const Image image{2, 1, {10, 20, 30, 40, 50, 60}};
  ImagePreprocessing how = only_square(0);
  how.resize = false;
  how.crop_width = 5;
  how.crop_height = 3;
  const std::vector<float> got = preprocess(image, how);
  // As transformers: ceil((new - old) / 2) before the picture.
  const std::vector<float> red = {0, 0, 0, 0, 0, 0, 0, 10, 40, 0, 0, 0, 0, 0, 0};
  EXPECT_EQ(std::vector<float>(got.begin(), got.begin() + 15), red);
}

TEST(Preprocess, AThinPictureCostsNoMoreThanItsCrop) {
  Image image{1, 4'000'000, std::vector<uint8_t>(12'000'000, 128)};
  image.rgb[0] = 255;
  const std::vector<float> got = preprocess(image, only_square(64));  // 64 x 256,000,000 pixels
  ASSERT_EQ(got.size(), 3u * 64 * 64);
  for (const float x : got) ASSERT_EQ(x, 128);
  ImagePreprocessing square = only_square(64);
  square.pad_to_square = true;
  test::expect_error(ErrorCode::kInvalidArgument, "as a square it would be 4000000 x 4000000",
                     [&] { preprocess(image, square); });
}

TEST(Preprocess, ASquareIsMadeWithTheMeanColour) {
  const Image image{1, 3, {9, 9, 9, 9, 9, 9, 9, 9, 9}};
  ImagePreprocessing how = only_square(3);
  how.pad_to_square = true;
  how.mean = {0.5, 0.25, 1};
  const std::vector<float> got = preprocess(image, how);
  EXPECT_EQ(got[0], 127 - 0.5F);
  EXPECT_EQ(got[1], 9 - 0.5F);
  EXPECT_EQ(got[9], 63 - 0.25F);
}

TEST(Preprocess, TheTestBedsPixelsAreThoseOfTransformers) {
  const char* set = std::getenv("DELTACOME_SHARED");
  const std::filesystem::path shared =
      set != nullptr ? std::filesystem::path(set)
                     : std::filesystem::path(DELTACOME_SOURCE_DIR) / ".." / "shared";
  const auto path = shared / "goldens" / "tiny-vision" / "golden.safetensors";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no " << path;
  const SafetensorsFile golden = SafetensorsFile::open(path);
  const HostTensor& pixels = golden.at("pixels_u8");
  Image image{pixels.shape[1], pixels.shape[0], {}};
  for (const std::byte b : pixels.bytes) image.rgb.push_back(static_cast<uint8_t>(b));
  const VisionConfig tower{.image_size = 64, .patch_size = 8};
  const std::vector<float> got = preprocess(
      image, read_image_preprocessing(shared / "testbed" / "models" / "tiny-vision", tower));
  const std::vector<float> want = golden.at("pixel_values").to_float();
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-5) << i;
}

class ImageConfigTest : public testing::Test {
 protected:
  ImagePreprocessing read(const std::string& name, const std::string& json) {
    test::TempDir dir;
    write_file_atomically(dir.path() / name, json);
    return read_image_preprocessing(dir.path(), {.image_size = 336, .patch_size = 14});
  }
};

TEST_F(ImageConfigTest, ReadsAllFormsOfSizes) {
  const ImagePreprocessing none = read("other.json", "{}");
  EXPECT_EQ(none.shortest_edge, 336);
  EXPECT_EQ(none.crop_width, 336);
  const ImagePreprocessing numbers =
      read("preprocessor_config.json", R"({"size": 400, "crop_size": 336, "do_normalize": false})");
  EXPECT_EQ(numbers.shortest_edge, 400);
  EXPECT_EQ(numbers.std[1], 1);
  const ImagePreprocessing fixed =
      read("processor_config.json",
           R"({"image_processor": {"size": {"height": 336, "width": 336}, "do_center_crop": false,
          "image_mean": [0.5, 0.5, 0.5], "rescale_factor": 1}})");
  EXPECT_EQ(fixed.shortest_edge, 0);
  EXPECT_EQ(fixed.width, 336);
  EXPECT_EQ(fixed.mean[2], 0.5);
  EXPECT_EQ(fixed.rescale, 1);
}

TEST_F(ImageConfigTest, RefusesWhatDoesNotFitTheTower) {
  const std::string name = "preprocessor_config.json";
  test::expect_error(ErrorCode::kMismatch,
                     "pictures become 224 x 224, expected the vision tower's 336",
                     [&] { read(name, R"({"crop_size": 224})"); });
  test::expect_error(ErrorCode::kMismatch, "of no fixed size",
                     [&] { read(name, R"({"do_center_crop": false})"); });
  test::expect_error(ErrorCode::kUnsupported, "resample 2 is not supported",
                     [&] { read(name, R"({"resample": 2})"); });
  test::expect_error(ErrorCode::kCorrupt, "image_std is [1,0,1]",
                     [&] { read(name, R"({"image_std": [1, 0, 1]})"); });
  test::expect_error(ErrorCode::kCorrupt, "crop_size: width is missing",
                     [&] { read(name, R"({"crop_size": {"height": 336}})"); });
}

}  // namespace
}  // namespace deltacome
