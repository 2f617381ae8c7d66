// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <filesystem>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "deltacome/engine.h"
#include "io/archive.h"
#include "io/model_config.h"
#include "io/safetensors.h"
#include "quant/codes.h"

namespace deltacome::testing {

/// A tiny model without a tokenizer: 2 layers, 300 tokens.
inline std::filesystem::path tiny_base() {
  return std::filesystem::path(DELTACOME_SOURCE_DIR) / "tests/data/goldens/llama3";
}
/// A small one with a tokenizer.
inline std::filesystem::path small_base() {
  return std::filesystem::path(DELTACOME_SOURCE_DIR) / "tests/data/models/tiny-base";
}

/// Blob of random codes whose values are of the size of `scale`.
inline std::vector<std::byte> random_blob(const MatrixFormat& format, float scale,
                                          std::mt19937& rng) {
  std::normal_distribution<float> normal(0, scale);
  const BlobLayout layout = layout_of(format);
  std::vector<std::byte> blob(static_cast<size_t>(layout.total_bytes));
  const auto fill = [&](const Part& part, DType dtype, float factor) {
    std::vector<float> values(static_cast<size_t>(part.bytes / dtype_bytes(dtype)));
    for (float& v : values) v = factor * normal(rng);
    convert_from_float(values, dtype, blob.data() + part.offset);
  };
  const auto coded = [&](const ArrayFormat& array, int64_t rows, int64_t cols,
                         const ArrayLayout& at, float factor) {
    CodedArray codes;
    codes.format = array;
    codes.rows = rows;
    codes.cols = cols;
    std::uniform_int_distribution<int> code(0, (1 << array.bits) - 1);
    for (int64_t i = 0; i < rows * cols; ++i)
      codes.codes.push_back(static_cast<uint8_t>(code(rng)));
    const int64_t n_scales = scale_count(array, rows, cols);
    codes.scales.assign(static_cast<size_t>(n_scales),
                        float_to_f16(factor * scale / code_center(array.bits)));
    pack(codes, at, blob);
  };
  switch (format.codec) {
    case Codec::kRaw:
      fill(layout.raw, format.raw_dtype, 1);
      break;
    case Codec::kDense:
      coded(format.dense, format.base_rows, format.n_in(), layout.dense, 1);
      break;
    case Codec::kLowRank:
      fill(layout.s, DType::kBf16, 1 / scale);
      for (size_t i = 0; i < format.tiers.size(); ++i) {
        const TierFormat& tier = format.tiers[i];
        coded(tier.v, tier.rank, format.n_in(), layout.tiers[i].v, 1);
        coded(tier.u, tier.rank, format.base_rows, layout.tiers[i].u, 1 / scale);
      }
      break;
    case Codec::kVector:
      break;
  }
  return blob;
}

/// Writes an archive for `base` that changes its projections, in several codecs, and its norms, by
/// random numbers of `seed`. Its files depend on the arguments alone. If the configuration in
/// `companions` has a larger vocabulary, the embedding has the new rows.
inline void write_archive(const std::filesystem::path& directory, uint32_t seed,
                          const std::filesystem::path& base = tiny_base(),
                          std::filesystem::path companions = {}) {
  if (companions.empty()) companions = base;
  const int64_t vocab_size = read_model_config(companions).vocab_size;
  const Checkpoint checkpoint = Checkpoint::open(base);
  ArchiveConfig config;
  config.created_by = "test";
  config.method = "come";
  config.architecture = "LlamaForCausalLM";
  config.base_name = "tiny";
  config.base_hash = checkpoint.content_hash();
  config.finetuned_name = std::to_string(seed);
  config.finetuned_hash = std::string(64, 'b');
  config.finetuned_parameters = 1000;
  config.projection_weights = 1000;
  config.requested_bits = 1;
  std::mt19937 rng(seed);
  ArchiveWriter writer(config);
  int n = 0;
  for (const ExpectedTensor& tensor : expected_tensors(read_model_config(base))) {
    MatrixFormat format{
        .shape = tensor.shape, .base_rows = tensor.shape[0], .dense = {}, .tiers = {}};
    std::vector<std::byte> blob;
    if (tensor.kind == ExpectedTensor::Kind::kNorm) {
      format.raw_dtype = DType::kF32;
      std::vector<float> values = checkpoint.at(tensor.name).to_float();
      std::normal_distribution<float> normal(1, 0.1f);
      for (float& v : values) v *= normal(rng);
      blob.resize(4 * values.size());
      convert_from_float(values, DType::kF32, blob.data());
    } else if (tensor.kind == ExpectedTensor::Kind::kProjection) {
      const auto scale = static_cast<float>(0.5 / std::sqrt(static_cast<double>(tensor.shape[1])));
      switch (n++ % 3) {
        case 0:
          format.codec = Codec::kLowRank;
          format.tiers = {{2, {8, 1, 16}, {8, 1, 0}}, {6, {2, 1, 16}, {3, 1, 0}}};
          break;
        case 1:
          format.codec = Codec::kDense;
          format.dense = {4, 1, 16};
          break;
        default:
          format.codec = Codec::kDense;
          format.dense = {1, 1, 0};
      }
      blob = random_blob(format, scale, rng);
    } else if (tensor.shape[0] != vocab_size) {
      format.shape[0] = format.base_rows = vocab_size;
      format.raw_dtype = DType::kF32;
      std::vector<float> values = checkpoint.at(tensor.name).to_float();
      values.resize(static_cast<size_t>(element_count(format.shape)), 0.01f);
      blob.resize(4 * values.size());
      convert_from_float(values, DType::kF32, blob.data());
    } else {
      continue;
    }
    writer.add(CodedTensor{tensor.name, format, std::move(blob), {}});
  }
  writer.write(directory, companions);
}

/// Writes a LoRA adapter of tiny_base() in PEFT's layout, of rank 4 on one matrix.
inline void write_adapter(const std::filesystem::path& directory, int alpha) {
  const std::string module = "base_model.model.model.layers.0.mlp.down_proj.";
  const Shape a{4, 160}, b{64, 4};
  std::filesystem::create_directory(directory);
  write_file_atomically(directory / "adapter_config.json",
                        "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": " +
                            std::to_string(alpha) + ", \"target_modules\": [\"down_proj\"]}");
  SafetensorsWriter writer(
      directory / "adapter_model.safetensors",
      {{module + "lora_A.weight", DType::kF32, a}, {module + "lora_B.weight", DType::kF32, b}});
  std::mt19937 rng(3);
  std::normal_distribution<float> normal(0, 0.2f);
  for (const Shape& shape : {a, b}) {
    std::vector<float> values(static_cast<size_t>(element_count(shape)));
    for (float& v : values) v = normal(rng);
    writer.append(std::as_bytes(std::span(values)));
  }
  writer.finish();
}

inline int64_t archive_bytes(const std::filesystem::path& directory) {
  return Archive::open(directory).tensor_bytes();
}

/// Flips one bit of a file.
inline void corrupt(const std::filesystem::path& file, int64_t from_end = 1) {
  std::string bytes = read_text_file(file);
  bytes[bytes.size() - static_cast<size_t>(from_end)] ^= 4;
  write_file_atomically(file, bytes);
}

inline std::vector<int32_t> random_prompt(int64_t n, uint32_t seed, int32_t vocab = 300) {
  std::mt19937 rng(seed);
  std::uniform_int_distribution<int32_t> id(3, vocab - 1);
  std::vector<int32_t> prompt(static_cast<size_t>(n));
  for (int32_t& token : prompt) token = id(rng);
  return prompt;
}

/// Collects the events of a request, and waits for them. The handler may outlive it.
class Collector {
 public:
  Engine::EventHandler handler() {
    return [state = state_](const TokenEvent& event) {
      const std::lock_guard lock(state->mutex);
      state->events.push_back(event);
      if (event.finish != FinishReason::kNone) ++state->n_finished;
      state->changed.notify_all();
    };
  }
  std::vector<TokenEvent> wait(int n = 1) {
    std::unique_lock lock(state_->mutex);
    state_->changed.wait(lock, [&] { return state_->n_finished >= n; });
    return state_->events;
  }
  void wait_for_events(size_t n) {
    std::unique_lock lock(state_->mutex);
    state_->changed.wait(lock, [&] { return state_->events.size() >= n; });
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<TokenEvent> events;
    int n_finished = 0;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

/// The prompt's log probabilities, and the likeliest tokens' beside them.
inline std::vector<double> prompt_logprobs_of(const std::vector<TokenEvent>& events) {
  std::vector<double> out;
  for (const TokenEvent& event : events) {
    for (const Logprobs& each : event.prompt_logprobs) {
      out.push_back(each.chosen);
      for (const TokenLogprob& top : each.top) out.push_back(top.logprob);
    }
  }
  return out;
}

inline std::vector<int32_t> tokens_of(const std::vector<TokenEvent>& events, int choice = 0) {
  std::vector<int32_t> out;
  for (const TokenEvent& event : events)
    if (event.choice == choice && event.token) out.push_back(*event.token);
  return out;
}

}  // namespace deltacome::testing
