// SPDX-License-Identifier: Apache-2.0
#include "image/decode.h"

#include <gtest/gtest.h>

#include "image/test_support.h"
#include "tests/support/expect_error.h"

namespace deltacome {
namespace {

using test::decode;
using test::image_file;

class FormatTest : public testing::TestWithParam<const char*> {};

TEST_P(FormatTest, PixelsAreThoseOfPillow) {
  const std::string name = GetParam();
  const Image got = decode(image_file(name)), want = test::read_rgb(name + ".rgb");
  EXPECT_EQ(got.width, want.width);
  EXPECT_EQ(got.height, want.height);
  EXPECT_TRUE(got.rgb == want.rgb);
}

TEST_P(FormatTest, AFileThatEndsTooEarlyIsRefused) {
  const std::string file = image_file(GetParam());
  for (const size_t n : {file.size() / 2, file.size() / 4, size_t{16}, size_t{12}})
    EXPECT_THROW(decode(file.substr(0, n)), Error) << n << " of " << file.size() << " bytes";
}

TEST_P(FormatTest, DamageIsAnErrorOrAPictureOfTheSameSize) {
  const std::string file = image_file(GetParam());
  const Image whole = decode(file);
  for (size_t at = 8; at < file.size(); at += 1 + file.size() / 100) {
    std::string broken = file;
    broken[at] = static_cast<char>(broken[at] ^ 0x41);
    try {
      const Image got = decode(broken, {.max_bytes = 1 << 20, .max_pixels = 1 << 20});
      EXPECT_EQ(static_cast<int64_t>(got.rgb.size()), 3 * got.width * got.height);
    } catch (const Error& error) {
      EXPECT_NE(error.code(), ErrorCode::kInternal) << error.what();
    }
  }
}

TEST_P(FormatTest, TheLimitsAreCheckedBeforeDecoding) {
  const std::string file = image_file(GetParam());
  const Image image = decode(file);
  const int64_t n = image.width * image.height;
  EXPECT_EQ(decode(file, {.max_bytes = file.size(), .max_pixels = n}).rgb, image.rgb);
  test::expect_error(ErrorCode::kInvalidArgument, "expected at most",
                     [&] { decode(file, {.max_pixels = n - 1}); });
  test::expect_error(ErrorCode::kInvalidArgument, "expected at most",
                     [&] { decode(file, {.max_bytes = file.size() - 1}); });
}

INSTANTIATE_TEST_SUITE_P(Files, FormatTest,
                         testing::Values("wide.png", "alpha.png", "grey.png", "bits.png",
                                         "palette.png", "tall.jpg", "progressive.jpg", "grey.jpg",
                                         "lossy.webp", "lossless.webp", "alpha.webp"));

TEST(DecodeImage, ABombOfAFewBytesIsRefusedByItsHeader) {
  std::string png = image_file("grey.png");  // IHDR: width and height at 16 and 20
  for (const size_t at : {size_t{16}, size_t{20}})
    png.replace(at, 4, std::string("\x00\x01\x00\x00", 4));
  png.replace(29, 4, std::string("\x00\x00\x00\x00", 4));  // CRC
  try {
    decode(png);
    FAIL() << "expected an error";
  } catch (const Error& error) {  // the CRC is wrong, which libpng may notice first
    EXPECT_TRUE(error.code() == ErrorCode::kInvalidArgument || error.code() == ErrorCode::kCorrupt);
  }
  std::string jpeg = image_file("tall.jpg");
  size_t frame = jpeg.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  jpeg.replace(frame + 5, 4, "\xff\xdc\xff\xdc");  // 65500 x 65500 pixels
  test::expect_error(ErrorCode::kInvalidArgument,
                     "JPEG picture: it would become 65500 x 65500 pixels, expected at most "
                     "40000000 in all",
                     [&] { decode(jpeg); });
}

TEST(DecodeImage, OtherFilesAreRefusedByName) {
  test::expect_error(ErrorCode::kCorrupt, "picture: the file is empty", [] { decode(""); });
  test::expect_error(ErrorCode::kUnsupported, "none of PNG, JPEG, WebP",
                     [] { decode("GIF89a of one pixel"); });
  test::expect_error(ErrorCode::kUnsupported, "CMYK", [] { decode(image_file("cmyk.jpg")); });
  test::expect_error(ErrorCode::kUnsupported, "animation",
                     [] { decode(image_file("animation.webp")); });
}

}  // namespace
}  // namespace deltacome
