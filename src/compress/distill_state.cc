// SPDX-License-Identifier: Apache-2.0
#include "compress/distill_state.h"

#include <cstring>
#include <map>
#include <string>

namespace deltacome {
namespace {

CodedTensor raw_floats(const std::string& name, std::vector<float> values) {
  const auto n = static_cast<int64_t>(values.size());
  return encode_raw(name, HostTensor::of(DType::kF32, {n}, std::move(values)));
}

std::vector<float> floats_of(const CodedTensor& raw) {
  std::vector<float> out(static_cast<size_t>(raw.format.shape[0]));
  std::memcpy(out.data(), raw.blob.data(), out.size() * sizeof(float));
  return out;
}

}  // namespace

std::vector<CodedTensor> pack_state(const DistillState& state) {
  std::vector<float> curve;
  for (const DistillPoint& p : state.curve) {
    for (const double x : {static_cast<double>(p.step), p.seconds, p.training_kl, p.held_back_kl})
      curve.push_back(static_cast<float>(x));
  }
  return {raw_floats("values", state.values),
          raw_floats("first_moments", state.first_moments),
          raw_floats("second_moments", state.second_moments),
          raw_floats("best", state.best),
          raw_floats("curve", curve),
          raw_floats("step", {static_cast<float>(state.step), static_cast<float>(state.best_kl)})};
}

DistillState unpack_state(const std::vector<CodedTensor>& tensors) {
  std::map<std::string, std::vector<float>> parts;
  for (const CodedTensor& tensor : tensors) parts[tensor.name] = floats_of(tensor);
  DistillState state{.step = static_cast<int64_t>(parts.at("step")[0]),
                     .values = parts.at("values"),
                     .first_moments = parts.at("first_moments"),
                     .second_moments = parts.at("second_moments"),
                     .best = parts.at("best"),
                     .best_kl = parts.at("step")[1],
                     .curve = {}};
  const std::vector<float>& curve = parts.at("curve");
  for (size_t i = 0; i + 3 < curve.size(); i += 4)
    state.curve.push_back(
        {static_cast<int64_t>(curve[i]), curve[i + 1], curve[i + 2], curve[i + 3]});
  return state;
}

}  // namespace deltacome
