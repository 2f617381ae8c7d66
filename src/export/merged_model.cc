// SPDX-License-Identifier: Apache-2.0
#include "export/merged_model.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace deltacome {
namespace {

CombineRule rule_of(const ModelParts& parts) {
  const size_t n = parts.deltas.size();
  if (!parts.weights.empty() && parts.weights.size() != n) {
    fail(ErrorCode::kInvalidArgument, "{} weights are given for {} deltas, expected one for each",
         parts.weights.size(), n);
  }
  for (const double weight : parts.weights) {
    if (!std::isfinite(weight))
      fail(ErrorCode::kInvalidArgument, "a weight is {}, expected a finite number", weight);
  }
  const bool ties = parts.combination == Combination::kTies;
  const double density =
      parts.combination == Combination::kLinear ? 1 : parts.density.value_or(ties ? 0.2 : 0.5);
  if (!(density > 0 && density <= 1))
    fail(ErrorCode::kInvalidArgument, "the density is {}, expected more than 0, at most 1",
         density);
  const double even = ties || n == 0 ? 1 : 1 / static_cast<double>(n);
  return {.combination = parts.combination,
          .weights = parts.weights.empty() ? std::vector<double>(n, even) : parts.weights,
          .density = density,
          .seed = parts.seed};
}

}  // namespace

MergedModel::MergedModel(const ModelParts& parts)
    : backend_(create_cpu_backend(parts.n_threads)),
      stream_(backend_->create_stream()),
      base_(open_dense_base(parts.base, parts.base_deltas, parts.n_threads)),
      rule_(rule_of(parts)),
      config_(base_.config) {
  for (const std::filesystem::path& delta : parts.deltas) {
    finetunes_.push_back(Finetune::open(delta, base_.checkpoint, base_.config));
    const Finetune &first = finetunes_.front(), &last = finetunes_.back();
    if (last.config().vocab_size == first.config().vocab_size) continue;
    fail(ErrorCode::kMismatch,
         "{} has a vocabulary of {} tokens, {} one of {}: fine-tunes that are combined must have "
         "the same",
         first.directory().string(), first.config().vocab_size, last.directory().string(),
         last.config().vocab_size);
  }
  if (!finetunes_.empty()) config_ = finetunes_.front().config();
  tensors_ = expected_tensors(config_);
  for (const ExpectedTensor& tensor : tensors_) base_.checkpoint.at(tensor.name);
}

std::vector<CompanionFile> MergedModel::companions() const {
  const std::filesystem::path& base = base_.checkpoint.directory();
  return finetunes_.empty() ? companion_files(base) : finetunes_.front().companions(base);
}

DType MergedModel::dtype(const ExpectedTensor& tensor) const {
  const HostTensor& base = base_.checkpoint.at(tensor.name);
  return finetunes_.empty() ? base.dtype : finetunes_.front().dtype(base, tensor.name);
}

HostTensor MergedModel::read(const ExpectedTensor& tensor, DType dtype) const {
  const HostTensor& base = base_.checkpoint.at(tensor.name);
  if (finetunes_.empty()) return converted(base, dtype);
  const bool whole = rule_.combination == Combination::kLinear && rule_.weights.front() == 1;
  if (finetunes_.size() == 1 && whole)
    return finetunes_.front().read(*backend_, *stream_, base, tensor, dtype);
  return combined(tensor, dtype);
}

Checkpoint MergedModel::vision() const {
  if (!finetunes_.empty()) return finetunes_.front().vision(*backend_, *stream_, base_.checkpoint);
  std::map<std::string, HostTensor> tensors;
  for (const ExpectedTensor& want : expected_vision_tensors(config_))
    tensors[want.name] = base_.checkpoint.at(want.name);
  return Checkpoint::of(std::move(tensors), base_.checkpoint.directory());
}

HostTensor MergedModel::combined(const ExpectedTensor& tensor, DType dtype) const {
  const HostTensor& base = base_.checkpoint.at(tensor.name);
  const auto n = static_cast<size_t>(element_count(tensor.shape));
  // Rows that the base does not have are not deltas: they are averaged.
  const size_t of_base = std::min(n, static_cast<size_t>(base.size()));
  std::vector<float> out = base.to_float();
  out.resize(n);
  std::vector<std::vector<float>> deltas;
  for (const Finetune& finetune : finetunes_) {
    const std::vector<float> values =
        finetune.read(*backend_, *stream_, base, tensor, DType::kF32).to_float();
    for (size_t i = of_base; i < n; ++i)
      out[i] += values[i] / static_cast<float>(finetunes_.size());
    std::vector<float>& delta = deltas.emplace_back(of_base);
    for (size_t i = 0; i < of_base; ++i) delta[i] = values[i] - out[i];
  }
  const std::vector<float> sum = combine(rule_, tensor.name, deltas);
  for (size_t i = 0; i < of_base; ++i) out[i] += sum[i];
  return converted(HostTensor::of(DType::kF32, tensor.shape, std::move(out)), dtype);
}

}  // namespace deltacome
