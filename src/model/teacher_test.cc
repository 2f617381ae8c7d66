// SPDX-License-Identifier: Apache-2.0
#include "model/teacher.h"

#include <gtest/gtest.h>

#include <numeric>

#include "model/test_support.h"

namespace deltacome {
namespace {

using testing::TinyModel;

/// Targets against a sort of the model's own logits. Batches give a row the same bits, so that ids
/// are equal and log_p is a rounding to f32 away.
void expect_targets(const TinyModel& tiny, const Variant& variant,
                    const std::vector<std::vector<int32_t>>& sequences, int64_t k,
                    int64_t vocab_limit) {
  const TopTargets got = top_targets(tiny.model, variant, *tiny.stream, sequences, k, vocab_limit);
  const auto width = static_cast<size_t>(tiny.model.config().vocab_size);
  const size_t vocab = vocab_limit > 0 ? std::min(width, static_cast<size_t>(vocab_limit)) : width;
  const std::vector<float> logits = tiny.logits(variant, sequences);
  const size_t n = logits.size() / width, n_top = std::min(vocab, static_cast<size_t>(k));
  ASSERT_EQ(got.k, static_cast<int64_t>(n_top));
  ASSERT_EQ(got.ids.size(), n * n_top);
  ASSERT_EQ(got.log_p.size(), n * n_top);
  for (size_t r = 0; r < n; ++r) {
    const std::span<const float> row = std::span(logits).subspan(r * width, vocab);
    const std::vector<double> log_p = testing::log_softmax(row);
    std::vector<int32_t> order(vocab);
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, std::greater{},
                             [&](int32_t id) { return row[static_cast<size_t>(id)]; });
    for (size_t i = 0; i < n_top; ++i) {
      ASSERT_EQ(got.ids[r * n_top + i], order[i]) << "position " << r << ", place " << i;
      ASSERT_FLOAT_EQ(got.log_p[r * n_top + i],
                      static_cast<float>(log_p[static_cast<size_t>(order[i])]));
    }
  }
}

TEST(TopTargets, AreTheSortedLogSoftmaxOfEveryPosition) {
  const TinyModel tiny("llama3");
  const auto sequences = tiny.random_sequences({33, 1, 17});
  for (const int64_t k : {1, 2, 7, 64, 299, 300, 1000}) {
    SCOPED_TRACE(k);
    expect_targets(tiny, {}, sequences, k, 0);
    expect_targets(tiny, tiny.tuned, sequences, k, 0);
    expect_targets(tiny, tiny.tuned, sequences, k, 193);
    expect_targets(tiny, tiny.tuned, sequences, k, 400);
  }
}

TEST(TopTargets, BatchesKeepTheOrderAndReportProgress) {
  const TinyModel tiny("mistral");
  const auto sequences = tiny.random_sequences({450, 500, 480, 490, 200, 500});
  std::vector<int64_t> progress;
  const TopTargets all = top_targets(tiny.model, {}, *tiny.stream, sequences, 5, 0,
                                     [&](int64_t done) { progress.push_back(done); });
  EXPECT_EQ(progress, (std::vector<int64_t>{4, 6}));
  size_t at = 0;
  for (const auto& sequence : sequences) {
    const TopTargets one = top_targets(tiny.model, {}, *tiny.stream, {&sequence, 1}, 5);
    EXPECT_TRUE(std::ranges::equal(one.ids, std::span(all.ids).subspan(at, one.ids.size())));
    EXPECT_TRUE(std::ranges::equal(one.log_p, std::span(all.log_p).subspan(at, one.ids.size())));
    at += one.ids.size();
  }
  EXPECT_EQ(at, all.ids.size());
}

}  // namespace
}  // namespace deltacome
