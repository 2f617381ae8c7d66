// SPDX-License-Identifier: Apache-2.0
// Whole models on the GPU: what has the same bits in every run, and in any batch.
#include <gtest/gtest.h>

#include <filesystem>

#include "model/model.h"
#include "tests/golden/raw_variant.h"
#include "tests/golden/side_by_side.h"

namespace deltacome {
namespace {

namespace fs = std::filesystem;

const fs::path kModels = fs::path(DELTACOME_SOURCE_DIR) / "tests" / "data" / "models";
constexpr int kSteps = 6;      // of one token, after the prompt
constexpr size_t kTexts = 20;  // more than a launch of the own products takes

class CudaBits : public ::testing::Test {
 protected:
  void open(bool deterministic, WeightFormat format, DType kv_dtype) {
    try {
      gpu_ = create_cuda_backend(0, deterministic);
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
    stream_ = gpu_->create_stream();
    const fs::path dir = kModels / "tiny-base";
    config_ = read_model_config(dir);
    model_ = std::make_unique<Model>(*gpu_, Checkpoint::open(dir), config_, format, kv_dtype);
    const Checkpoint tuned = Checkpoint::open(kModels / "tiny-math");
    variant_ = {test::raw_variant(*gpu_, *stream_, tuned, expected_tensors(config_)), 0};
  }

  /// Texts differ in length and, every third, in who answers.
  static std::vector<int32_t> prompt_of(size_t text) {
    std::vector<int32_t> ids;
    for (size_t t = 0; t < 3 + 7 * text; ++t)
      ids.push_back(static_cast<int32_t>((text * 97 + t * 31) % 2048));
    return ids;
  }
  /// Logits of the last token of the prompt and of each one after it, by text. Prompts go `chunk`
  /// tokens at a time.
  std::vector<std::vector<float>> run(const std::vector<size_t>& texts, size_t chunk,
                                      bool with_variant) {
    KvCache cache(*gpu_, config_, config_.n_layers, 256, model_->kv_dtype());
    std::vector<Sequence> sequences(texts.size());
    std::vector<std::vector<int32_t>> ids;
    std::vector<size_t> done(texts.size(), 0);
    for (const size_t text : texts) {
      ids.push_back(prompt_of(text));
      for (int step = 0; step < kSteps; ++step)
        ids.back().push_back(static_cast<int32_t>(text * 7 + static_cast<size_t>(step)));
    }
    std::vector<std::vector<float>> out(texts.size());
    for (bool any = true; any;) {
      std::vector<BatchItem> items;
      std::vector<size_t> wanted;
      for (size_t i = 0; i < texts.size(); ++i) {
        const size_t n_prompt = ids[i].size() - kSteps;
        if (done[i] == ids[i].size()) continue;
        const size_t n = done[i] < n_prompt ? std::min(chunk, n_prompt - done[i]) : 1;
        const bool is_last = done[i] + n >= n_prompt;
        const Variant variant = with_variant && texts[i] % 3 != 1 ? variant_ : Variant{};
        items.push_back({std::span(ids[i]).subspan(done[i], n), &sequences[i], variant,
                         is_last ? BatchItem::Rows::kLast : BatchItem::Rows::kNone});
        done[i] += n;
        if (is_last) wanted.push_back(i);
      }
      any = !items.empty();
      if (!any) break;
      const HiddenRows rows = model_->forward(*stream_, items, cache);
      const auto n = static_cast<int64_t>(wanted.size());
      if (n == 0) continue;
      const auto width = static_cast<size_t>(rows.vocab_size);
      std::vector<float> part(wanted.size() * width);
      gpu_->download(*stream_, model_->logits(*stream_, rows, 0, n),
                     std::as_writable_bytes(std::span(part)));
      for (size_t i = 0; i < wanted.size(); ++i) {
        const auto row = part.begin() + static_cast<std::ptrdiff_t>(i * width);
        out[wanted[i]].insert(out[wanted[i]].end(), row,
                              row + static_cast<std::ptrdiff_t>(config_.vocab_size));
      }
    }
    return out;
  }
  static std::vector<size_t> all() {
    std::vector<size_t> texts(kTexts);
    for (size_t i = 0; i < kTexts; ++i) texts[i] = i;
    return texts;
  }

  ModelConfig config_;
  std::unique_ptr<Backend> gpu_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Model> model_;
  Variant variant_;
};

TEST_F(CudaBits, ADeterministicBackendGivesARowItsBitsInAnyBatch) {
  for (const WeightFormat format :
       {WeightFormat::kStored, WeightFormat::kInt8, WeightFormat::kInt4}) {
    for (const DType kv_dtype : {DType::kBf16, DType::kU8}) {
      open(true, format, kv_dtype);
      if (IsSkipped()) return;
      const std::vector<std::vector<float>> together = run(all(), 1000, true);
      EXPECT_TRUE(run(all(), 1000, true) == together);
      for (const size_t text : {size_t{0}, size_t{1}, size_t{7}, size_t{19}}) {
        EXPECT_TRUE(run({text}, 1000, true).front() == together[text]) << text;
        EXPECT_TRUE(run({text, 5}, 10, true).front() == together[text]) << text;
      }
    }
  }
}

TEST_F(CudaBits, TheBaseAloneHasTheSameBitsInEveryRun) {
  open(false, WeightFormat::kStored, DType::kBf16);
  if (IsSkipped()) return;
  const std::vector<std::vector<float>> once = run(all(), 64, false);
  for (int again = 0; again < 3; ++again) EXPECT_TRUE(run(all(), 64, false) == once);
}

}  // namespace
}  // namespace deltacome
