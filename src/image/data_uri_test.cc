// SPDX-License-Identifier: Apache-2.0
#include "image/data_uri.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace deltacome {
namespace {

TEST(DataUri, GivesTheBytes) {
  EXPECT_EQ(decode_data_uri("data:image/png;base64,"), "");
  EXPECT_EQ(decode_data_uri("data:image/png;base64,/w=="), "\xff");
  EXPECT_EQ(decode_data_uri("data:image/jpeg;base64,YWI="), "ab");
  EXPECT_EQ(decode_data_uri("data:image/svg+xml;charset=utf-8;base64,YWJj"), "abc");
}

TEST(DataUri, RefusesOtherUrisAndBrokenBase64) {
  for (const char* uri : {"", "http://example.org/a.png", "data:image/png,abcd",
                          "data:text/plain;base64,YWJj", "data:image/png;base64"}) {
    test::expect_error(ErrorCode::kInvalidArgument, "expected data:image/<type>;base64,<base64>",
                       [&] { decode_data_uri(uri); });
  }
  test::expect_error(ErrorCode::kInvalidArgument, "has 3 characters, expected a multiple of 4",
                     [] { decode_data_uri("data:image/png;base64,YWJ"); });
  test::expect_error(ErrorCode::kInvalidArgument, "character 2 of its base64 is no base64 digit",
                     [] { decode_data_uri("data:image/png;base64,Y JjYWJj"); });
}

}  // namespace
}  // namespace deltacome
