// SPDX-License-Identifier: Apache-2.0
#include "compress/report.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <iterator>
#include <limits>
#include <span>
#include <string_view>

#include "compress/report_chart.h"
#include "compress/report_html.h"
#include "io/files.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::TempDir;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// A report with all sections, of `n_layers` layers with seven kinds of matrix.
ReportData full_report(int64_t n_layers) {
  ReportData data{.title = "math over base",
                  .facts = {{"base", "Base-8B"}, {"size", "1.02 GiB"}},
                  .spectra = {},
                  .matrices = {},
                  .methods = {{"come", 1.0, 1.1e9, 0.031, true},
                              {"lowrank", 1.0, 1.1e9, 0.052, false},
                              {"bitdelta", 1.0, 1.2e9, 0.12, false}},
                  .curve = {},
                  .choices = {{"q_proj", "lowrank", 0.01, 0.02}, {"up_proj", "vector", 0.03, -1}},
                  .notes = {"Embeddings are equal."}};
  const char* const kinds[] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                               "gate_proj", "up_proj", "down_proj"};
  for (int k = 0; k < 7; ++k) {
    ReportData::Spectrum spectrum{kinds[k], {}};
    for (int i = 1; i <= 512; ++i) spectrum.energy.push_back(std::pow(i / 512.0, 0.2 + 0.1 * k));
    data.spectra.push_back(spectrum);
  }
  for (int64_t layer = 0; layer < n_layers; ++layer) {
    for (int k = 0; k < 7; ++k) {
      const auto wave = std::sin(static_cast<double>(layer) * 0.4 + k);
      data.matrices.push_back({layer, kinds[k], 1 + 0.2 * wave, 0.3 + 0.1 * wave, "come"});
    }
  }
  for (int step = 0; step <= 300; ++step) {
    data.curve.push_back(
        {step, 0.5 * step, 0.1 * std::exp(-0.01 * step), step % 50 == 0 ? 0.05 : -1});
  }
  return data;
}

/// The first fault of a document's tags, or "": each element must end where it began, only void
/// ones as "<br/>", attributes in double quotes.
std::string tag_fault(std::string_view html) {
  std::vector<std::string> open;
  for (size_t at = html.find('<'); at != std::string_view::npos; at = html.find('<', at)) {
    const size_t end = html.find('>', at);
    if (end == std::string_view::npos) return "unfinished tag";
    const std::string_view tag = html.substr(at + 1, end - at - 1);
    at = end;
    if (tag.starts_with("!doctype")) continue;
    const size_t name_at = tag.starts_with("/") ? 1 : 0;
    size_t name_end = name_at;
    while (name_end < tag.size() && std::isalnum(static_cast<unsigned char>(tag[name_end])) != 0) {
      ++name_end;
    }
    const std::string name(tag.substr(name_at, name_end - name_at));
    if (name.empty()) return "no name in <" + std::string(tag) + ">";
    if (tag.find('<') != std::string_view::npos) return "'<' within <" + std::string(tag) + ">";
    if (std::count(tag.begin(), tag.end(), '"') % 2 != 0) return "quotes of " + std::string(tag);
    if (name_at == 1) {
      if (open.empty() || open.back() != name) return "</" + name + "> ends another element";
      open.pop_back();
    } else if (!tag.ends_with("/")) {
      open.push_back(name);
    }
  }
  return open.empty() ? "" : "<" + open.back() + "> has no end";
}

size_t count(std::string_view text, std::string_view part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

bool has_word(const std::string& html, const std::string& word) {
  for (size_t at = html.find(word); at != std::string::npos; at = html.find(word, at + 1)) {
    const auto letter = [&](size_t i) {
      return i < html.size() && std::isalpha(static_cast<unsigned char>(html[i])) != 0;
    };
    if (!letter(at - 1) && !letter(at + word.size())) return true;
  }
  return false;
}

/// Expects well-formed HTML that refers to nothing and has no value that is no number.
void expect_sound(const std::string& html) {
  EXPECT_EQ(tag_fault(html), "");
  for (const char* part :
       {"http", "<script", "<link", "<img", "url(", "@import", "src=", "href="}) {
    EXPECT_EQ(html.find(part), std::string::npos) << part;
  }
  for (const char* word : {"nan", "inf", "NaN", "Infinity"})
    EXPECT_FALSE(has_word(html, word)) << word;
}

TEST(TagFault, FindsWhatIsNotBalanced) {
  EXPECT_EQ(tag_fault("<!doctype html><p class=\"a\">x<br/></p>"), "");
  EXPECT_EQ(tag_fault("<p><b></p></b>"), "</p> ends another element");
  EXPECT_EQ(tag_fault("<p>"), "<p> has no end");
  EXPECT_EQ(tag_fault("a < b"), "unfinished tag");
}

TEST(Report, HasEverySectionAtAnyNumberOfLayers) {
  for (const int64_t n_layers : {1, 8, 32}) {
    const std::string html = render_report(full_report(n_layers));
    expect_sound(html);
    EXPECT_EQ(html.find("class=\"absent\""), std::string::npos);
    EXPECT_EQ(count(html, "<figure>"), 5u);
    EXPECT_EQ(count(html, "role=\"img\""), 5u);
    EXPECT_NE(html.find("<title>math over base</title>"), std::string::npos);
    for (const char* part : {"Base-8B", "Embeddings are equal.", "come (chosen)", "prefers-color-",
                             "All ", "step 300, 150 s: training KL 0.004979",
                             "layer 0, q_proj (come): 0.3", "q_proj: 512 of 512 components"}) {
      EXPECT_NE(html.find(part), std::string::npos) << part;
    }
    EXPECT_EQ(count(html, "<tr>"), 2u + 3u + 3u + 1u + static_cast<size_t>(7 * n_layers));
  }
}

TEST(Report, SaysWhatWasNotMeasured) {
  const std::string html = render_report({});
  expect_sound(html);
  EXPECT_EQ(count(html, "<p class=\"absent\">"), 9u) << "five charts and four panels";
  EXPECT_EQ(count(html, "<svg"), 0u);
  EXPECT_EQ(html.find("<details>"), std::string::npos);
}

TEST(Report, EscapesHostileTexts) {
  const std::string evil = "</title><script>alert(\"x\")</script>'&\x01\xFF";
  ReportData data = full_report(2);
  data.title = data.facts[0].name = data.facts[0].value = data.notes[0] = evil;
  data.spectra[0].kind = data.methods[0].method = data.methods[1].method = evil;
  data.matrices[0].kind = data.matrices[0].codec = evil;
  data.choices[0].kind = data.choices[0].codec = evil;
  const std::string html = render_report(data);
  expect_sound(html);
  EXPECT_EQ(count(html, "</title><script"), 0u);
  EXPECT_EQ(escape_html(evil),
            "&lt;/title&gt;&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&#39;&amp;"
            "\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST(Report, ShowsNoValueThatIsNoNumber) {
  const double awkward[] = {kNaN,   kInfinity, -kInfinity, 0,     -0.0,   -1,   1,
                            1e-320, 5e-324,    1e-31,      1e308, -1e308, 1e29, 0.5};
  for (const double a : awkward) {
    for (const double b : awkward) {
      ReportData data = full_report(1);
      data.spectra = {{"q_proj", {a, b}}, {"empty", {}}};
      data.matrices = {{0, "q_proj", a, b, "c"},
                       {-1, "embedding", b, a, "c"},
                       {std::numeric_limits<int64_t>::max(), "q_proj", b, a, "c"}};
      data.methods = {{"m", a, b, a, true}, {"n", b, a, b, false}};
      data.curve = {{0, a, b, a}, {1, b, a, b}};
      data.choices = {{"q_proj", "c", a, b}};
      expect_sound(render_report(data));
      if (HasFailure()) FAIL() << a << " and " << b;
    }
  }
}

TEST(Chart, CountsTheValuesThatALogarithmicAxisLeavesOut) {
  const Chart chart{.title = "t",
                    .caption = "",
                    .x = {.label = "x"},
                    .y = {.label = "y", .log = true},
                    .series = {{.name = "s",
                                .style = 0,
                                .line = true,
                                .points = {{0, 0, "", ""},
                                           {1, -1, "", ""},
                                           {2, kNaN, "", ""},
                                           {3, 0.001, "", ""},
                                           {4, 1, "", ""}}}}};
  const std::string html = render_chart(chart);
  EXPECT_NE(html.find("no place for them: 3 values"), std::string::npos) << html;
  for (const char* tick : {">0.001<", ">0.01<", ">0.1<", ">1<"}) {
    EXPECT_NE(html.find(tick), std::string::npos) << tick;
  }
}

TEST(Chart, HasTicksThatDifferAndNoNoiseInThem) {
  const Chart chart{.title = "t",
                    .caption = "",
                    .x = {.label = "x"},
                    .y = {.label = "y"},
                    .series = {{.name = "s",
                                .style = 0,
                                .line = true,
                                .points = {{972.7001, 0, "", ""}, {972.7006, 0.5, "", ""}}}}};
  const std::string html = render_chart(chart);
  for (const char* tick : {">972.7001<", ">972.7002<", ">972.7006<", ">0.1<", ">0.3<", ">0<"}) {
    EXPECT_EQ(count(html, tick), 1u) << tick << " in " << html;
  }
}

TEST(Chart, LeavesOutLabelsThatWouldOverlap) {
  Chart chart{.title = "t", .caption = "", .x = {.label = "x"}, .y = {.label = "y"}, .series = {}};
  chart.series.push_back({.name = "s", .style = 0, .line = false, .points = {}});
  for (int i = 0; i < 200; ++i) chart.series[0].points.push_back({1, 1, "", "a method"});
  const std::string html = render_chart(chart);
  EXPECT_GE(count(html, ">a method<"), 1u);
  EXPECT_LE(count(html, ">a method<"), 9u) << "as many as there are places around one point";
}

TEST(WriteReport, MakesTheDirectoryAndReplacesAnOlderReport) {
  const TempDir dir;
  const fs::path target = dir / "a" / "b";
  ReportData data = full_report(1);
  write_report(target, data);
  const auto first = MappedFile::open(target / "report.html");
  const std::string first_text = render_report(data);
  data.title = "second";
  write_report(target, data);
  EXPECT_TRUE(std::ranges::equal(first->bytes(), std::as_bytes(std::span(first_text))))
      << "who reads the older one still sees it whole";
  EXPECT_EQ(read_text_file(target / "report.html"), render_report(data));
  EXPECT_EQ(std::distance(fs::directory_iterator(target), fs::directory_iterator()), 1)
      << "no temporary file stays";
}

TEST(WriteReport, RefusesAPlaceItCannotWriteTo) {
  const TempDir dir;
  write_file_atomically(dir / "file", "x");
  expect_error(ErrorCode::kIo, "cannot create the report's directory",
               [&] { write_report(dir / "file", full_report(1)); });
  expect_error(ErrorCode::kIo, "cannot create the report's directory",
               [&] { write_report(dir / "file" / "below", full_report(1)); });
  fs::create_directories(dir / "d" / "report.html");
  expect_error(ErrorCode::kIo, "report.html", [&] { write_report(dir / "d", full_report(1)); });
  EXPECT_EQ(std::distance(fs::directory_iterator(dir / "d"), fs::directory_iterator()), 1)
      << "a failed write leaves nothing";
  EXPECT_EQ(read_text_file(dir / "file"), "x");
}

TEST(WriteReport, RefusesADirectoryWithoutPermission) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  const TempDir dir;
  fs::permissions(dir.path(), fs::perms::owner_read | fs::perms::owner_exec);
  expect_error(ErrorCode::kIo, "Permission denied",
               [&] { write_report(dir.path(), full_report(1)); });
}

}  // namespace
}  // namespace deltacome
