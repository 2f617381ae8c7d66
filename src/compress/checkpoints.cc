// SPDX-License-Identifier: Apache-2.0
#include "compress/checkpoints.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <future>
#include <map>

#include "core/check.h"
#include "delta/base_model.h"
#include "io/same_architecture.h"

namespace deltacome {
namespace {

bool has_vocabulary_rows(const ExpectedTensor& tensor) {
  return tensor.kind == ExpectedTensor::Kind::kEmbedding ||
         tensor.kind == ExpectedTensor::Kind::kHead;
}

/// Tensors that are stored and not read: the buffers of old checkpoints, and the head of a tied
/// model if it is the embedding again.
bool is_ignored(const Checkpoint& checkpoint, const std::string& name, const HostTensor& tensor) {
  if (name.ends_with("rotary_emb.inv_freq")) return true;
  // AutoGPTQ writes biases of zeros for layers that have none.
  if (name.ends_with(".bias") && is_floating(tensor.dtype)) {
    const std::vector<float> values = tensor.to_float();
    return std::ranges::all_of(values, [](float value) { return value == 0; });
  }
  const HostTensor* embedding = checkpoint.find("model.embed_tokens.weight");
  return name == "lm_head.weight" && embedding && equal_values(tensor, *embedding);
}

std::vector<ExpectedTensor> with(std::vector<ExpectedTensor> all,
                                 const std::vector<ExpectedTensor>& more) {
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

void expect_finite(const Checkpoint& checkpoint) {
  std::vector<float> row;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    const int64_t cols = tensor.cols(), row_bytes = cols * dtype_bytes(tensor.dtype);
    if (!is_floating(tensor.dtype)) continue;
    row.resize(static_cast<size_t>(cols));
    for (int64_t r = 0; r < tensor.rows(); ++r) {
      convert_to_float(tensor.bytes.data() + r * row_bytes, tensor.dtype, row);
      const auto bad =
          std::find_if_not(row.begin(), row.end(), [](float x) { return std::isfinite(x); });
      if (bad != row.end()) {
        fail(ErrorCode::kCorrupt, "{}: tensor \"{}\" holds {} at row {}, column {}",
             checkpoint.directory().string(), name, *bad, r, bad - row.begin());
      }
    }
    release_pages(tensor.bytes);
  }
}

}  // namespace

void expect_tensors(const Checkpoint& checkpoint, const std::vector<ExpectedTensor>& expected) {
  std::map<std::string, const ExpectedTensor*> by_name;
  for (const ExpectedTensor& tensor : expected) {
    by_name[tensor.name] = &tensor;
    const HostTensor* got = checkpoint.find(tensor.name);
    if (!got) {
      fail(ErrorCode::kMismatch, "{}: tensor \"{}\" {} is missing", checkpoint.directory().string(),
           tensor.name, to_string(tensor.shape));
    }
    if (got->shape != tensor.shape) {
      fail(ErrorCode::kMismatch, "{}: tensor \"{}\" has shape {}, expected {}",
           checkpoint.directory().string(), tensor.name, to_string(got->shape),
           to_string(tensor.shape));
    }
    if (!is_floating(got->dtype) || got->dtype == DType::kF64) {
      fail(ErrorCode::kUnsupported, "{}: tensor \"{}\" is {}, expected BF16, F16 or F32",
           checkpoint.directory().string(), tensor.name, dtype_name(got->dtype));
    }
  }
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    if (!by_name.contains(name) && !is_ignored(checkpoint, name, tensor)) {
      fail(ErrorCode::kMismatch,
           "{}: tensor \"{}\" {} is not part of the architecture and would be lost",
           checkpoint.directory().string(), name, to_string(tensor.shape));
    }
  }
}

void release_layer(const Checkpoint& checkpoint, const std::vector<ExpectedTensor>& tensors,
                   int64_t layer) {
  for (const ExpectedTensor& tensor : tensors) {
    if (tensor.layer == layer) release_pages(checkpoint.at(tensor.name).bytes);
  }
}

bool equal_values(const HostTensor& a, const HostTensor& b) {
  if (a.shape != b.shape) return false;
  if (a.dtype == b.dtype && a.bytes.size() == b.bytes.size() &&
      std::memcmp(a.bytes.data(), b.bytes.data(), a.bytes.size()) == 0) {
    return true;
  }
  for (int64_t r = 0; r < a.rows(); ++r) {
    if (a.to_float(r, 1) != b.to_float(r, 1)) return false;
  }
  return true;
}

CheckpointPair open_pair(const CompressOptions& options) {
  BaseModel base = open_base(options.base, options.base_deltas, options.n_threads);
  CheckpointPair pair{.base = base.checkpoint.dequantized(),
                      .finetuned = Checkpoint::open(options.finetuned).dequantized(),
                      .base_config = std::move(base.config),
                      .finetuned_config = read_model_config(options.finetuned),
                      .tensors = {},
                      .vision_tensors = {},
                      .base_hash = {},
                      .finetuned_hash = {},
                      .parent = std::move(base.parent),
                      .base_quantization = base.checkpoint.scheme()};
  check_same_architecture(pair.base_config, pair.finetuned_config);
  pair.tensors = expected_tensors(pair.base_config);
  expect_tensors(pair.base, with(pair.tensors, expected_vision_tensors(pair.base_config)));
  std::vector<ExpectedTensor> of_finetuned = pair.tensors;
  for (ExpectedTensor& tensor : of_finetuned) {
    if (has_vocabulary_rows(tensor)) tensor.shape[0] = pair.finetuned_config.vocab_size;
  }
  pair.vision_tensors = expected_vision_tensors(pair.finetuned_config);
  expect_tensors(pair.finetuned, with(std::move(of_finetuned), pair.vision_tensors));
  // Both are read whole, side by side; what is wrong with the base is said first.
  const auto check = [](const Checkpoint& checkpoint) {
    expect_finite(checkpoint);
    return checkpoint.content_hash();
  };
  auto of_other = std::async(std::launch::async, [&] { return check(pair.finetuned); });
  pair.base_hash = check(pair.base);
  pair.finetuned_hash = of_other.get();
  return pair;
}

}  // namespace deltacome
