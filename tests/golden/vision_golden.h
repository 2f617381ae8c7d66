// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "model/generate.h"
#include "model/given_rows.h"
#include "model/model.h"
#include "model/vision_tower.h"

namespace deltacome::test {

/// A vision-language model and what transformers computes for it; both are beside the checkout
/// where `shared`.
struct VisionGolden {
  std::string name;
  bool shared = false;

  std::filesystem::path model_dir() const {
    return shared ? shared_dir() / "testbed" / "models" / name : data() / "goldens" / name;
  }
  std::filesystem::path results() const {
    return (shared ? shared_dir() : data()) / "goldens" / name / "golden.safetensors";
  }
  /// What of it there is not, though it may be missing; empty: nothing.
  std::filesystem::path missing() const {
    for (const std::filesystem::path& path : {model_dir(), results()}) {
      if (shared && !std::filesystem::exists(path)) return path;
    }
    return {};
  }

 private:
  static std::filesystem::path data() {
    return std::filesystem::path(DELTACOME_SOURCE_DIR) / "tests" / "data";
  }
  static std::filesystem::path shared_dir() {
    const char* set = std::getenv("DELTACOME_SHARED");
    return set != nullptr ? std::filesystem::path(set)
                          : std::filesystem::path(DELTACOME_SOURCE_DIR) / ".." / "shared";
  }
};

inline std::ostream& operator<<(std::ostream& out, const VisionGolden& golden) {
  return out << golden.name;
}
inline std::string golden_name(const ::testing::TestParamInfo<VisionGolden>& info) {
  std::string name = info.param.name;
  std::ranges::replace(name, '-', '_');
  return name;
}

inline std::vector<int32_t> read_ids(const HostTensor& tensor) {
  std::vector<int64_t> wide(static_cast<size_t>(tensor.size()));
  std::memcpy(wide.data(), tensor.bytes.data(), tensor.bytes.size());
  return {wide.begin(), wide.end()};
}

inline float largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  float worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const float off = std::abs(a[i] - b[i]);
    if (!(off <= worst)) worst = off;
  }
  return worst;
}

/// The model on a backend, with the features of the golden's picture and its prompt.
class VisionRun {
 public:
  std::vector<int32_t> ids;  // of the prompt; rows of the picture are given

  VisionRun(Backend& backend, const Checkpoint& checkpoint, const ModelConfig& config,
            const SafetensorsFile& results)
      : ids(read_ids(results.at("input_ids"))),
        backend_(backend),
        stream_(backend.create_stream()),
        model_(backend, checkpoint, config),
        tower_(backend, checkpoint, config),
        features_(tower_.features(*stream_, results.at("pixel_values").to_float())) {
    int64_t row = 0;
    for (int32_t& id : ids) {
      if (id == config.vision->image_token_id) id = given_id(row++);
    }
    EXPECT_EQ(row, config.vision->n_features());
  }

  std::vector<float> features() const { return download(features_); }
  int64_t n_features() const { return features_.rows(); }

  /// Logits of all positions, the prompt fed `chunk` tokens at a time.
  std::vector<float> logits(int64_t chunk) {
    KvCache cache(backend_, model_.config(), model_.config().n_layers, 64);
    Sequence sequence;
    std::vector<float> out;
    const auto n = static_cast<int64_t>(ids.size());
    for (int64_t first = 0; first < n; first += chunk) {
      const auto part = std::span(ids).subspan(static_cast<size_t>(first),
                                               static_cast<size_t>(std::min(chunk, n - first)));
      const BatchItem item{part, &sequence, {}, BatchItem::Rows::kAll, features_};
      const HiddenRows rows = model_.forward(*stream_, {&item, 1}, cache);
      const std::vector<float> logits =
          download(model_.logits(*stream_, rows, 0, rows.hidden.rows()));
      out.insert(out.end(), logits.begin(), logits.end());
    }
    return out;
  }
  std::vector<float> logits() { return logits(static_cast<int64_t>(ids.size())); }

  /// The greedy continuation, of each of three equal requests.
  std::vector<std::vector<int32_t>> greedy(int64_t n) {
    GenerationRequest request{
        .prompt = ids, .variant = {}, .stop_ids = {}, .sampling = {}, .given = features_};
    request.max_tokens = n;
    const std::vector<GenerationRequest> requests(3, request);
    std::vector<std::vector<int32_t>> out;
    for (const Generation& result : generate(model_, *stream_, requests, 2))
      out.push_back(result.tokens);
    return out;
  }

 private:
  std::vector<float> download(const Tensor& tensor) const {
    std::vector<float> out(static_cast<size_t>(tensor.size()));
    backend_.download(*stream_, tensor, std::as_writable_bytes(std::span(out)));
    return out;
  }

  Backend& backend_;
  std::unique_ptr<Stream> stream_;
  Model model_;
  VisionTower tower_;
  Tensor features_;
};

}  // namespace deltacome::test
