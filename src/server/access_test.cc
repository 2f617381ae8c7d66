// SPDX-License-Identifier: Apache-2.0
// Keys, limits of tenants, and paths.
#include <gtest/gtest.h>

#include <fstream>

#include "server/allowed_paths.h"
#include "server/errors.h"
#include "server/metrics.h"
#include "server/tenants.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace deltacome::server {
namespace {

// echo -n secret | sha256sum
constexpr const char* kSecret = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

int status_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const ApiError& error) {
    return error.status;
  }
  return 200;
}

TEST(Keys, AreFoundByTheirHash) {
  const Keys keys = Keys::parse(
      std::string(R"({"keys": [{"name": "a", "tenant": "t", "weight": 2, "sha256": ")") + kSecret +
          R"(", "variants": ["x", "code-*"], "max_concurrent": 3}]})",
      "file");
  EXPECT_EQ(keys.find("Bearer wrong"), nullptr);
  EXPECT_EQ(keys.find("secret"), nullptr);
  EXPECT_EQ(keys.find(""), nullptr);
  const auto caller = keys.find("Bearer secret");
  ASSERT_NE(caller, nullptr);
  EXPECT_EQ(keys.find("bearer secret"), caller);
  EXPECT_EQ(caller->tenant, "t");
  EXPECT_EQ(caller->weight, 2);
  EXPECT_FALSE(caller->admin);
  EXPECT_TRUE(caller->may_use("x", "base"));
  EXPECT_TRUE(caller->may_use("code-7", "base"));
  EXPECT_FALSE(caller->may_use("xy", "base"));
  EXPECT_FALSE(caller->may_use("", "base"));
  EXPECT_TRUE(Caller{}.may_use("anything", "base"));
}

TEST(Keys, AFaultyFileIsRefusedByEntryAndField) {
  const auto refused = [](const std::string& entry, const std::string& part) {
    test::expect_error(ErrorCode::kCorrupt, part,
                       [&] { Keys::parse("{\"keys\": [" + entry + "]}", "file"); });
  };
  const std::string key = std::string("\"sha256\": \"") + kSecret + "\"";
  refused("{\"name\": \"a\"}", "keys[0].sha256");
  refused("{\"name\": \"a\", \"sha256\": \"12\"}", "64 hexadecimal digits");
  refused("{" + key + "}", "keys[0].name");
  refused("{\"name\": \"a\", " + key + ", \"request_per_minute\": 1}", "unknown field");
  refused("{\"name\": \"a\", " + key + ", \"weight\": 0}", "keys[0].weight");
  refused("{\"name\": \"a\", " + key + "}, {\"name\": \"b\", " + key + "}", "another entry");
  test::expect_error(ErrorCode::kNotFound, "cannot be opened", [] { Keys::load("/nonexistent"); });
}

TEST(Tenants, RequestsPerMinuteFillUpEvenly) {
  Tenants tenants;
  Caller caller{.tenant = "t", .requests_per_minute = 6};
  const Clock::time_point start = Clock::now();
  for (int i = 0; i < 6; ++i) tenants.admit(caller, start);
  try {
    tenants.admit(caller, start);
    FAIL();
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 429);
    EXPECT_EQ(error.retry_after_s, 10);
  }
  EXPECT_NO_THROW(tenants.admit(caller, start + std::chrono::seconds(10)));
  EXPECT_THROW(tenants.admit(caller, start + std::chrono::seconds(10)), ApiError);
}

TEST(Tenants, TokensThatWereOverdrawnAreMadeUpFor) {
  Tenants tenants;
  const Caller caller{.tenant = "t", .tokens_per_minute = 60};
  const Clock::time_point start = Clock::now();
  tenants.admit(caller, start);
  tenants.charge(caller, 90, start);
  EXPECT_THROW(tenants.admit(caller, start + std::chrono::seconds(29)), ApiError);
  EXPECT_NO_THROW(tenants.admit(caller, start + std::chrono::seconds(31)));
}

TEST(Tenants, SeatsComeBack) {
  Tenants tenants;
  const Caller caller{.tenant = "t", .max_concurrent = 1};
  {
    const Tenants::Seat seat = tenants.admit(caller, Clock::now());
    EXPECT_THROW(tenants.admit(caller, Clock::now()), ApiError);
    EXPECT_NO_THROW(tenants.admit({.tenant = "u", .max_concurrent = 1}, Clock::now()));
  }
  EXPECT_NO_THROW(tenants.admit(caller, Clock::now()));
}

TEST(AllowedPaths, NothingLeadsOutOfARoot) {
  namespace fs = std::filesystem;
  const test::TempDir directory, outside;
  fs::create_directories(directory / "root/good");
  fs::create_directories(directory / "root/sly");
  fs::create_directories(directory / "rootless");
  std::ofstream(outside / "secret") << "x";
  fs::create_directory_symlink(outside.path(), directory / "root/link");
  fs::create_symlink(outside / "secret", directory / "root/sly/delta.safetensors");
  fs::create_directory_symlink(directory / "root/good", directory / "root/inner");
  const AllowedPaths paths({directory / "root"});
  EXPECT_EQ(paths.resolve("good"), fs::canonical(directory / "root/good"));
  EXPECT_EQ(paths.resolve("inner"), fs::canonical(directory / "root/good"));
  EXPECT_EQ(paths.resolve((directory / "root/good/../good").string()),
            fs::canonical(directory / "root/good"));
  const auto status = [&](const std::string& path) {
    return status_of([&] { paths.resolve(path); });
  };
  EXPECT_EQ(status("../rootless"), 403);
  EXPECT_EQ(status((directory / "rootless").string()), 403);
  EXPECT_EQ(status("link"), 403);
  EXPECT_EQ(status("sly"), 403);
  EXPECT_EQ(status("/etc"), 403);
  EXPECT_EQ(status("/nonexistent"), 403);  // no difference: nobody learns what exists
  EXPECT_EQ(status(""), 403);
  EXPECT_EQ(status("none"), 404);
  EXPECT_EQ(status_of([] { AllowedPaths({}).resolve("good"); }), 403);
}

TEST(VariantNames, AreTextWithoutTricks) {
  for (const char* name : {"a", "org/model-7B", "\xC3\xA4", "a b"})
    EXPECT_NO_THROW(check_variant_name(name, "name")) << name;
  for (const std::string name : {"", "/a", "a/", "a//b", "..", "a/../b", ".", " a", "a\n", "\xff"})
    EXPECT_EQ(status_of([&] { check_variant_name(name, "name"); }), 400) << name;
  EXPECT_EQ(status_of([] { check_variant_name(std::string(129, 'a'), "name"); }), 400);
}

TEST(Metrics, AreInPrometheusForm) {
  Histogram values({1, 2.5});
  for (const double v : {0.5, 1., 2., 9.}) values.observe(v);
  CounterFamily counts;
  counts.add({{"name", "a\"b\\c\nd"}});
  counts.add({{"name", "a\"b\\c\nd"}}, 2);
  MetricsText out;
  out.histogram("h", "Help", {{"l", "x"}}, values);
  counts.print(out, "c_total", "Count");
  EXPECT_EQ(out.take(),
            "# HELP h Help\n# TYPE h histogram\n"
            "h_bucket{l=\"x\",le=\"1\"} 2\nh_bucket{l=\"x\",le=\"2.5\"} 3\n"
            "h_bucket{l=\"x\",le=\"+Inf\"} 4\nh_sum{l=\"x\"} 12.5\nh_count{l=\"x\"} 4\n"
            "# HELP c_total Count\n# TYPE c_total counter\nc_total{name=\"a\\\"b\\\\c\\nd\"} 3\n");
}

TEST(Metrics, LabelSetsAreBounded) {
  CounterFamily counts;
  for (int i = 0; i < 1500; ++i) counts.add({{"n", std::to_string(i)}});
  MetricsText out;
  counts.print(out, "c", "C");
  EXPECT_NE(out.take().find("c{n=\"other\"} 500\n"), std::string::npos);
}

}  // namespace
}  // namespace deltacome::server
